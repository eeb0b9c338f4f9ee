"""Beam search of the trained encoder-decoders in tuili and in transformers: same sequences, scores to 1e-4.

    cd tests && PYTHONPATH=../python python compare_translator_beams.py [MODEL …] [--inputs 200]

Needs torch and transformers. The exit status is 1 if a search differs.
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
BATCH = 25


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("models", nargs="*", default=NAMES, metavar="MODEL", help=", ".join(NAMES))
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--widths", default="1,4,8")
    options = parser.parse_args()
    table = Table(model=16, width=6, inputs=7, differ=7, score=10)
    for name in options.models:
        model, tokenizer = opened(name)
        texts = sources(name, random.Random(2), options.inputs)
        with tuili.LLM(MODELS / name, dtype="float32") as llm:
            for width in map(int, options.widths.split(",")):
                ids = [tokenizer(text)["input_ids"] for text in texts]
                parts = (goldens(model, ids[i : i + BATCH], width) for i in range(0, len(ids), BATCH))
                wanted = [one for part in parts for one in part]
                outputs = llm.beam_search([one["ids"] for one in wanted], width, MAX_TOKENS)
                differ, worst = 0, 0.0
                for one, output in zip(wanted, outputs, strict=True):
                    got = [list(beam.token_ids) for beam in output.outputs]
                    differ += got != one["sequences"]
                    far = (abs(b.score - s) for b, s in zip(output.outputs, one["scores"], strict=True))
                    worst = max(worst, *far)
                passed = differ == 0 and worst <= TOLERANCE
                table.row([name, width, len(texts), differ, f"{worst:.1e}"], passed=passed)
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
