"""Compare tuili with transformers on encoder-decoders that transformers itself has written, with random
weights.

    python tests/compare_seq2seq.py [CASE …] [--seed N]

For every case of seq2seq_models.py: a model from its settings, saved by transformers, loaded by tuili, which
must warn of nothing. A row passes if every position's logits agree to 1e-4 of their range, and so do the
tokens and scores of a beam search. Exit status 1 if a row fails. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tuili
from oracle.table import Table
from seq2seq_models import CASES, Case, source_ids, target_ids
from tiny_files import build_tokenizer
from tiny_models import TinyModel
from tuili.loading.architectures.class_defaults import CLASS_DEFAULTS

LIMIT = 1e-4
SEARCH: dict[str, Any] = {"num_beams": 4, "length_penalty": 0.8, "no_repeat_ngram_size": 3}


def saved(case: Case, folder: Path, seed: int) -> tuple[np.ndarray, list[int], float]:
    """Writes the folder; returns transformers' logits [n_tokens, n_vocab], and the best of a beam search."""
    import torch
    import transformers

    (folder / "config.json").write_text(json.dumps(case.config), encoding="utf-8")
    settings = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, case.architecture)._from_config(settings).float().eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" in name and parameter.requires_grad is False:
                continue
            gain = parameter.ndim == 1 and float(parameter.mean()) > 0.5
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (1.0 if gain else 0.0))
        source = torch.tensor([source_ids()])
        logits = model(input_ids=source, decoder_input_ids=torch.tensor([target_ids(case)])).logits[0].numpy()
        found = model.generate(
            source, max_new_tokens=12, return_dict_in_generate=True, output_scores=True, **SEARCH
        )
    model.save_pretrained(folder)
    build_tokenizer(TinyModel("", {"model_type": "llama"}, {}, {})).save(str(folder / "tokenizer.json"))
    return logits, found.sequences[0, 1:].tolist(), float(found.sequences_scores[0])


def wrong_defaults() -> list[str]:
    """The settings in class_defaults.py that transformers' classes fill in otherwise."""
    from transformers import CONFIG_MAPPING

    wrong = []
    for case in CASES:
        fields = dataclasses.fields(CONFIG_MAPPING[case.config["model_type"]])
        theirs = {field.name: field.default for field in fields}
        ours = CLASS_DEFAULTS[case.architecture]
        wrong += [f"{case.architecture}.{key}" for key, value in ours.items() if theirs[key] != value]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="part of a name, such as Marian")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if wrong := wrong_defaults():
        print(f"class_defaults.py is not what transformers' classes have: {wrong}")
        return 1
    table = Table(case=60, worst_error=11, same_tokens=11, score_error=11, warnings=8)
    for case in CASES:
        if arguments.cases and not any(text in case.name for text in arguments.cases):
            continue
        with tempfile.TemporaryDirectory() as folder:
            wanted, tokens, score = saved(case, Path(folder), arguments.seed)
            with tuili.LLM(folder, compute="float32", packed_cache=False) as llm:
                logits = llm.logits(source_ids(), target_ids(case))
                best = llm.generate(source_ids(), max_tokens=12, **SEARCH).outputs[0]
                warnings = llm.config["warnings"]
        error = (abs(logits - wanted).max(axis=1) / np.ptp(wanted, axis=1)).max()
        same, score_error = best.token_ids == tokens, abs(best.score - score)
        passed = bool(error <= LIMIT) and same and score_error <= LIMIT and not warnings
        row = [case.name, f"{error:.1e}", "yes" if same else "no", f"{score_error:.1e}", len(warnings)]
        table.row(row, passed=passed)
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
