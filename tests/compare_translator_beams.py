"""Beam search of the trained encoder-decoders in tuili and in transformers: same sequences, scores to 1e-4.

    cd tests && PYTHONPATH=../python python compare_translator_beams.py [MODEL …] [--inputs 200]

Needs torch and transformers. Beams whose scores are no further apart than float32 tells may have changed
places (the column "ties"), as they do in transformers from one batch to another. The exit status is 1 if a
search differs.
"""

from __future__ import annotations

import argparse
import random
import sys

import tuili
from oracle.table import Table
from oracle.translator_beams import MAX_TOKENS, goldens, opened
from translators import MODELS, NAMES, sources

TOLERANCE = 1e-4
TIE = 5e-7  # of scores about -1, sums of a dozen log-probabilities in float32
BATCH = 25


def is_tied(got: list[list[int]], wanted: list[list[int]], scores: list[float]) -> bool:
    """Whether the sequences are the same but for neighbours of one score. scores: of `got`, best first."""
    if sorted(got) != sorted(wanted):
        return False
    return all(abs(scores[got.index(one)] - scores[i]) <= TIE for i, one in enumerate(wanted))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("models", nargs="*", default=NAMES, metavar="MODEL", help=", ".join(NAMES))
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--widths", default="1,4,8")
    options = parser.parse_args()
    table = Table(model=16, width=6, inputs=7, differ=7, ties=5, score=10)
    for name in options.models:
        model, tokenizer = opened(name)
        texts = sources(name, random.Random(2), options.inputs)
        with tuili.LLM(MODELS / name, dtype="float32") as llm:
            for width in map(int, options.widths.split(",")):
                ids = [tokenizer(text)["input_ids"] for text in texts]
                parts = (goldens(model, ids[i : i + BATCH], width) for i in range(0, len(ids), BATCH))
                wanted = [one for part in parts for one in part]
                outputs = llm.beam_search([one["ids"] for one in wanted], width, MAX_TOKENS)
                differ, ties, worst = 0, 0, 0.0
                for one, output in zip(wanted, outputs, strict=True):
                    got = [list(beam.token_ids) for beam in output.outputs]
                    if got != one["sequences"]:
                        tied = is_tied(got, one["sequences"], [beam.score for beam in output.outputs])
                        differ, ties = differ + (not tied), ties + tied
                    far = (abs(b.score - s) for b, s in zip(output.outputs, one["scores"], strict=True))
                    worst = max(worst, *far)
                passed = differ == 0 and worst <= TOLERANCE
                table.row([name, width, len(texts), differ, ties, f"{worst:.1e}"], passed=passed)
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
