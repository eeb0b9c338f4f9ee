"""Compare tuili's sentence vectors with transformers: all-MiniLM-L6-v2 on 100 texts of 1 to 256 tokens.

    python tests/compare_embeddings.py [--minilm FOLDER]

The texts are 40 sentences and 60 passages of growing length, half English, half Chinese. The reference is
BertModel in float32 with mean pooling and L2 normalisation, one text at a time; tuili gets all texts in one
call. A row (texts of similar length) passes if no component of a vector differs by more than 1e-5. The exit
status is 1 if a row fails.

Needs torch, transformers and tokenizers besides tuili.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from oracle import model_files, texts
from oracle.sentence_encoder import MAX_TOKENS, SentenceEncoder
from oracle.table import Table

TOLERANCE = 1e-5
N_PASSAGES = 30  # per language, of 1 … MAX_TOKENS - 2 tokens before [CLS] and [SEP]
LENGTHS = (8, 16, 32, 64, 128, MAX_TOKENS)  # upper ends of the table's rows, in tokens with [CLS] and [SEP]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    model_files.add_arguments(parser, ("minilm",))
    folder = model_files.chosen(parser.parse_args(), ("minilm",))["minilm"]
    oracle = SentenceEncoder(folder)
    inputs = _inputs(oracle)
    expected = np.stack([oracle.embed(text) for text in inputs])
    ours = _embed(folder, inputs)
    if ours.shape != expected.shape:
        print(f"vectors are {ours.shape}, expected {expected.shape}: FAILED")
        return 1
    errors = np.nan_to_num(abs(ours - expected).max(axis=1), nan=np.inf)
    return _report(np.array([len(oracle.encode(text)) for text in inputs]), errors)


def _inputs(oracle: SentenceEncoder) -> list[str]:
    passages = []
    for language in ("en", "zh"):
        for i, n_tokens in enumerate(np.linspace(1, MAX_TOKENS - 2, N_PASSAGES).astype(int)):
            passages.append(oracle.passage(texts.story(language), 40 * i, int(n_tokens)))
    return texts.sentences() + passages


def _embed(folder: Path, inputs: list[str]) -> np.ndarray:
    import tuili

    with tuili.LLM(folder, compute="float32") as llm:
        return llm.embed(inputs)


def _report(lengths: np.ndarray, errors: np.ndarray) -> int:
    table = Table(tokens=10, texts=6, worst_difference=16)
    shortest = 1
    for longest in LENGTHS:
        rows = (lengths >= shortest) & (lengths <= longest)
        worst = errors[rows].max()
        cells = [f"{shortest} to {longest}", rows.sum(), f"{worst:.1e}"]
        table.row(cells, passed=bool(worst <= TOLERANCE))
        shortest = longest + 1
    cells = [f"{lengths.min()} to {lengths.max()}", len(errors), f"{errors.max():.1e}"]
    table.row(cells, passed=bool(errors.max() <= TOLERANCE))
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
