"""Compare tuili with transformers on folders that transformers itself has written, with random weights.

    python tests/compare_architectures.py [CASE …] [--seed N]

For every entry of architecture_table.py that transformers has code for: a model from its settings, saved by
transformers, loaded by tuili, which must warn of nothing. A row passes if every position's logits agree to
1e-4 of their range. The settings that tuili fills in must be those of transformers' classes. Exit status 1 if
a row fails. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from architecture_files import token_ids
from architecture_table import CASES, N_VOCAB, Case
from oracle.table import Table
from tiny_core import run
from tiny_files import build_tokenizer
from tiny_models import TinyModel
from tuili.loading.architectures.class_defaults import CLASS_DEFAULTS, EOS_OF_CLASS
from tuili.loading.model import load, plan_model

LIMIT = 1e-4


def saved(case: Case, folder: Path, seed: int) -> np.ndarray:
    """Writes the folder; returns transformers' logits [n_tokens, n_vocab]."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    (folder / "config.json").write_text(json.dumps(case.config), encoding="utf-8")
    settings = AutoConfig.from_pretrained(folder)
    attention = "sdpa" if case.config.get("alibi") else "eager"  # see oracle/architectures.py
    model = AutoModelForCausalLM.from_config(settings, attn_implementation=attention).float().eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad:  # a table of positions that is computed
                continue
            gain = parameter.ndim == 1 and float(parameter.mean()) > 0.5
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (1.0 if gain else 0.0))
        logits = model(torch.tensor([token_ids()])).logits[0].numpy()
    model.save_pretrained(folder)
    build_tokenizer(TinyModel("", {"model_type": "llama"}, {}, {})).save(str(folder / "tokenizer.json"))
    return logits


def wrong_defaults(case: Case) -> list[str]:
    """The settings in class_defaults.py that transformers' class of the case's model fills in otherwise, or
    the end of texts that it writes down and that is not there."""
    from transformers import CONFIG_MAPPING

    fields = dataclasses.fields(CONFIG_MAPPING[case.config["model_type"]])
    theirs = {field.name: field.default for field in fields}
    ours = CLASS_DEFAULTS.get(case.architecture, {})
    ends = theirs.get("eos_token_id") or ()
    ends = (ends,) if isinstance(ends, int) else tuple(ends)
    unknown = max(ends, default=0) >= N_VOCAB and ends != EOS_OF_CLASS.get(case.config["model_type"])
    return [key for key, value in ours.items() if theirs.get(key) != value] + ["eos_token_id"] * unknown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="part of a name, such as Qwen2")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    table = Table(case=70, worst_error=11, warnings=8)
    for case in CASES:
        chosen = not arguments.cases or any(text in case.name for text in arguments.cases)
        if case.verified != "transformers" or not chosen:
            continue
        with tempfile.TemporaryDirectory() as folder:
            wanted = saved(case, Path(folder), arguments.seed)
            ids = np.array(token_ids(), np.int32)
            plan = plan_model(folder, compute="float32", max_model_len=len(ids))
            logits = run(load(plan).model, ids).logits()
        error = (abs(logits - wanted).max(axis=1) / np.ptp(wanted, axis=1)).max()
        passed = bool(error <= LIMIT) and not plan.warnings and not wrong_defaults(case)
        table.row([case.name, f"{error:.1e}", len(plan.warnings)], passed=passed)
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
