"""Compare tuili with transformers on models of which one setting is changed, for each setting and each class.

    python tests/compare_fields.py [CLASS …] [--cases N] [--fields FIELD …] [--list OUTCOME]

Every case of architecture_table.py, encoder_models.py and seq2seq_models.py is taken with each setting that
its class has, or that anybody asks for, at other values (field_values.py). With the same weights,
transformers then computes something else or not, of a whole prompt and of tokens behind kept ones, and tuili
must follow it to 1e-4 of the range of each row, or refuse with an error of its own. How many of a case's
changes

    followed   have an effect that tuili has, too
    nothing    have none with either
    refused    have an effect, and tuili refuses them
    needless   have none, and tuili refuses them
    theirs     are refused by transformers
    torn       give transformers two answers: of a whole prompt, which is tuili's, and behind kept tokens
    wrong      are none of these: a line each says how far the two are apart

--fields names the settings to change, "unasked" all that transformers' code asks for and tuili does not;
--list an outcome whose changes are printed, too. Exit status 1 if one is wrong. Needs torch and
transformers.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import sys
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import architecture_table
import encoder_models
import seq2seq_models
import tuili
from architecture_files import token_ids
from field_values import Asked, Values, changes, compared_strings, names_of
from oracle.table import Table
from seq2seq_models import N_NEW, source_ids, target_ids
from tiny_core import How, run
from tiny_files import build_tokenizer
from tiny_models import TinyModel
from tuili import _core
from tuili.errors import TuiliError
from tuili.loading.model import load, plan_model
from tuili.tasks.head import last_row

LIMIT = 1e-4
OUTCOMES = ("followed", "nothing", "refused", "needless", "theirs", "torn", "wrong")
SEARCH: Values = {"num_beams": 3, "length_penalty": 0.8}
N_BEFORE = 20  # tokens that transformers has kept before it reads the others one by one
Rows = list[np.ndarray]


def made(case: Any, config: Values, folder: Path) -> Any:
    """transformers' model of a config.json, whose weights depend on their names alone."""
    import torch
    import transformers

    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = transformers.AutoConfig.from_pretrained(folder)
    decoder = isinstance(case, architecture_table.Case)
    if decoder:
        attention = "sdpa" if config.get("alibi") else "eager"  # see oracle/architectures.py
        model = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation=attention)
    else:
        model = getattr(transformers, config["architectures"][0])._from_config(settings)
    model = model.float().eval()
    stored = model.state_dict()
    weights = {name: x for name, x in model.named_parameters() if x.requires_grad}  # no sinusoids
    weights |= {
        name: x
        for name, x in model.named_buffers()
        if name in stored and x.is_floating_point() and not x.any()
    }
    with torch.no_grad():
        for name, weight in weights.items():
            gain = weight.ndim == 1 and float(weight.mean()) > 0.5
            random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            size = 0.15 if weight.ndim < 2 else min(0.15, 1.2 * weight.shape[-1] ** -0.5)
            weight.copy_(torch.randn(weight.shape, generator=random) * size + (1.0 if gain else 0.0))
    return model


def theirs(case: Any, config: Values, folder: Path) -> Rows:
    """What transformers computes; the folder is then its own."""
    import torch

    model = made(case, config, folder)
    ids = getattr(case, "ids", None) or token_ids()
    inputs = {"input_ids": torch.tensor([ids])}
    if getattr(case, "types", None) is not None:
        inputs["token_type_ids"] = torch.tensor([case.types])
    if config["architectures"][0].endswith("ForMultipleChoice"):
        inputs = {name: rows[None] for name, rows in inputs.items()}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    encodes = isinstance(case, encoder_models.Case)
    if isinstance(case, seq2seq_models.Case):
        inputs = {
            "input_ids": torch.tensor([source_ids()]),
            "decoder_input_ids": torch.tensor([target_ids(case)]),
        }
    with torch.no_grad():
        got = model(**inputs, **({"output_hidden_states": True} if encodes else {}), return_dict=True)
    found = [got.hidden_states[-1][0]] if encodes else []
    if "start_logits" in got:
        found.append(torch.stack([got.start_logits[0], got.end_logits[0]], dim=1))
    elif "prediction_logits" in got:
        found.append(got.prediction_logits[0])
    elif "logits" in got:
        found.append(got.logits[0])
    if isinstance(case, architecture_table.Case):  # OpenAI's first GPT keeps nothing
        keeps = hasattr(got, "past_key_values")
        found.append(cached(model, inputs["input_ids"]) if keeps else found[0][N_BEFORE:])
    if isinstance(case, seq2seq_models.Case):
        options: Values = {"max_new_tokens": N_NEW, "return_dict_in_generate": True, "output_scores": True}
        best = model.generate(inputs["input_ids"], **options, **SEARCH)
        found += searched(best.sequences[0, 1:].tolist(), float(best.sequences_scores[0]))
    model.save_pretrained(folder)
    build_tokenizer(TinyModel("", {"model_type": "llama"}, {}, {})).save(str(folder / "tokenizer.json"))
    return [np.asarray(x, np.float32).reshape(-1, x.shape[-1]) for x in found]


def cached(model: Any, ids: Any) -> Any:
    """transformers' logits of the last tokens, one by one behind what it has kept of those before."""
    import torch

    rows, kept = [], None
    with torch.no_grad():
        for begin, end in [(0, N_BEFORE), *((i, i + 1) for i in range(N_BEFORE, ids.shape[1]))]:
            got = model(ids[:, begin:end], past_key_values=kept, use_cache=True, return_dict=True)
            kept = got.past_key_values
            rows.append(got.logits[0])
    return torch.cat(rows[1:])


def searched(tokens: list[int], score: float) -> Rows:
    """What a beam search finds, as rows."""
    return [np.array([tokens + [0] * (N_NEW - len(tokens))]), np.array([[score, 0.0]])]


def ours(case: Any, folder: Path) -> list[Rows]:
    """What tuili computes: of a decoder the whole text, then token by token."""
    if isinstance(case, seq2seq_models.Case):
        with tuili.LLM(folder, compute="float32", packed_cache=False, num_threads=1) as llm:
            best = llm.generate(source_ids(), max_tokens=N_NEW, **SEARCH).outputs[0]
            assert best.score is not None
            return [[llm.logits(source_ids(), target_ids(case)), *searched(best.token_ids, best.score)]]
    loaded = load(plan_model(folder, compute="float32"))
    if not isinstance(case, encoder_models.Case):
        ids = np.array(token_ids(), np.int32)
        found = [run(loaded.model, ids, how).logits() for how in (How(), How(chunk=1))]
        return [[logits, logits[N_BEFORE:]] for logits in found]
    types = None if case.types is None else np.array(case.types, np.int32)
    one = _core.Sequence(np.array(case.ids, np.int32), token_type_ids=types, collect_hidden=True)
    runner = _core.Runner(loaded.model, num_threads=1)
    if loaded.head is None:
        runner.encode([one], "mean", False)
        return [[one.hidden_states()[-1]]]
    row = loaded.head.row
    by_row = row is not None and row.kind != "mean"
    answer = runner.answer([one], [[last_row(row, case.ids)]] if by_row else None)
    if row is not None and row.kind == "mean":
        answer = _core.ops.mean_rows(answer)[None]
    return [[one.hidden_states()[-1], answer.reshape(-1, answer.shape[-1])]]


def distance(got: Rows, wanted: Rows) -> float:
    """The largest difference, in shares of the range of a row (of short ones, of all and zero)."""
    if [x.shape for x in got] != [x.shape for x in wanted]:
        return float("inf")
    worst = 0.0
    for one, other in zip(got, wanted, strict=True):
        span = np.ptp(other, axis=1, keepdims=True) if other.shape[1] > 8 else np.ptp([0.0, *other.flat])
        worst = max(worst, float(np.max(abs(one - other) / np.maximum(span, 1e-3))))
    return worst


def in_two(case: Any, rows: Rows) -> bool:
    """Whether transformers' logits behind kept tokens are not those of the whole text."""
    return isinstance(case, architecture_table.Case) and distance([rows[0][N_BEFORE:]], rows[1:]) > LIMIT


def outcome(case: Any, config: Values, usual: Rows) -> tuple[str, str]:
    """One of OUTCOMES, and what there is to say about it. usual: of the case as it is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            wanted = theirs(case, config, folder)
        except Exception as error:  # of any kind, for settings that do not go together
            return "theirs", f"{type(error).__name__}: {str(error)[:200]}"
        if not all(np.isfinite(x).all() for x in wanted):
            return "theirs", "not finite"
        if torn := in_two(case, wanted):
            wanted, usual = wanted[:1], usual[:1]
        change = distance(wanted, usual)
        refusal = ""
        for which, text in (("saved", (folder / "config.json").read_text()), ("written", json.dumps(config))):
            (folder / "config.json").write_text(text, encoding="utf-8")
            try:
                found = [rows[: len(wanted)] for rows in ours(case, folder)]
            except TuiliError as error:
                refusal = f"{type(error).__name__}: {error}"
                continue
            except Exception as error:  # which no file may bring about
                return "wrong", f"{type(error).__name__}: {error}"
            far = max(distance(got, wanted) for got in found)
            if not far <= LIMIT:
                read = "ignored" if distance(found[-1], usual) <= LIMIT else "read otherwise"
                return "wrong", f"{far:.1e} as {which}, {read}; transformers' change is {change:.1e}"
    if refusal:
        return ("needless" if change <= LIMIT and not torn else "refused"), refusal
    if torn:
        return "torn", ""
    return ("nothing" if change <= LIMIT else "followed"), ""


def all_outcomes(case: Any, fields: list[str], listed: str) -> collections.Counter[str]:
    """How many of a case's changes have each outcome; prints those that are wrong or `listed`.

    fields  those that are changed: all if empty; "unasked" are those that transformers alone asks for
    """
    import transformers

    asked = Asked()
    with tempfile.TemporaryDirectory() as name, asked.listening():
        folder = Path(name)
        usual = theirs(case, case.config, folder)
        (got, *_) = ours(case, folder)
    n = 1 if in_two(case, usual) else len(usual)
    assert distance(got[:n], usual[:n]) <= LIMIT, f"{case.name}: {distance(got, usual)} as it is"
    settings = transformers.CONFIG_MAPPING[case.config["model_type"]](**case.config)
    decoders = transformers.AutoModelForCausalLM._model_mapping
    computes = getattr(transformers, case.config["architectures"][0], None) or decoders[type(settings)]
    strings = compared_strings(type(settings), computes)
    names = names_of(settings, asked.ours | asked.theirs)
    if fields:
        unasked = asked.theirs - asked.ours if "unasked" in fields else set()
        names = [name for name in names if name in {*fields, *unasked}]
    counts: collections.Counter[str] = collections.Counter()
    for what, config in changes(case.config, settings, names, strings):
        found, said = outcome(case, config, usual)
        counts[found] += 1
        if found in ("wrong", listed):
            print(f"{case.name}: {what}: {found}: {said}", flush=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classes", nargs="*", metavar="CLASS")
    parser.add_argument("--cases", type=int, default=1, metavar="N", help="of each class, the first N")
    parser.add_argument("--fields", nargs="+", default=[], metavar="FIELD")
    parser.add_argument("--list", choices=OUTCOMES, default="wrong")
    arguments = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    logging.disable()
    table = Table(case=60, **dict.fromkeys(OUTCOMES, 9))
    taken: collections.Counter[str] = collections.Counter()
    for case in (*architecture_table.CASES, *encoder_models.CASES.values(), *seq2seq_models.CASES):
        name = case.config["architectures"][0]
        if getattr(case, "verified", "transformers") != "transformers" or (
            "n_embd" in case.config and name.startswith("Nomic")
        ):
            continue
        if (arguments.classes and name not in arguments.classes) or taken[name] == arguments.cases:
            continue
        taken[name] += 1
        try:
            counts = all_outcomes(case, arguments.fields, arguments.list)
        except Exception as error:
            print(case.name, "ERR", type(error).__name__, str(error)[:150], flush=True)
            continue
        table.row([case.name, *(counts[found] for found in OUTCOMES)], passed=not counts["wrong"])
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
