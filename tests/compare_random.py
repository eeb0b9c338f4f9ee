"""Compare tuili with transformers on decoders whose settings are drawn at random.

    python tests/compare_random.py [CLASS …] [--runs N] [--seed N]

A row for each class: how many of its runs agree to 1e-4 of the range of each position's logits, of a whole
prompt and token by token, with the config.json that was drawn and with the one that transformers writes; a
line for each run that does not, with its settings. Settings that either refuses are counted. Exit status 1
if a run fails. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from architecture_files import token_ids
from architecture_table import Case
from compare_architectures import LIMIT, saved
from oracle.table import Table
from random_families import FAMILIES, Values, drawn
from tiny_core import How, run
from tuili.errors import TuiliError
from tuili.loading.model import load, plan_model


def error_of(config: Values, seed: int) -> float | None:
    """The largest difference of logits, in shares of their range; None if either refuses the settings."""
    ids = np.array(token_ids(), np.int32)
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            wanted = saved(Case(config["architectures"][0], "drawn", config), folder, seed)
        except Exception:  # of any kind, for settings that do not go together
            return None
        for text in ((folder / "config.json").read_text(), json.dumps(config)):
            (folder / "config.json").write_text(text, encoding="utf-8")
            try:
                model = load(plan_model(folder, compute="float32")).model
            except TuiliError:
                return None
            for how in (How(), How(chunk=1)):
                error = abs(run(model, ids, how).logits() - wanted).max(axis=1) / np.ptp(wanted, axis=1)
                worst = max(worst, float(error.max()))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classes", nargs="*", metavar="CLASS")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = Table(architecture=30, agree=8, refused=8, worst_error=11)
    for name in arguments.classes or FAMILIES:
        errors = {}
        for seed in range(arguments.seed, arguments.seed + arguments.runs):
            errors[seed] = error_of(config := drawn(name, seed), seed)
            if errors[seed] is not None and not errors[seed] <= LIMIT:
                print(f"{name}, seed {seed}: {errors[seed]:.1e}: {json.dumps(config)}", flush=True)
        found = [error for error in errors.values() if error is not None]
        n = sum(error <= LIMIT for error in found)
        worst = f"{max(found, default=float('nan')):.1e}"
        table.row([name, n, len(errors) - len(found), worst], passed=0 < n == len(found))
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
