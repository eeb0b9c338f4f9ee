"""Prompts and texts: random, new in each call, so that no cache of prefixes can help."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

IDS = (1000, 40_000)  # ordinary tokens in every vocabulary compared here


def prompt_ids(n: int, seed: int, sequence: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng((seed, sequence)).integers(*IDS, n)]


@functools.cache
def _words(tokenizer_json: Path) -> list[str]:
    """Words that are one token each."""
    vocab = json.loads(tokenizer_json.read_text(encoding="utf-8"))["model"]["vocab"]
    return sorted(word for word in vocab if word.isascii() and word.isalpha() and len(word) > 2)


def text(tokenizer_json: Path, n_tokens: int, seed: int, index: int = 0) -> str:
    """A text of n_tokens ids, of which two are [CLS] and [SEP]."""
    rng = np.random.default_rng((seed, index))
    return " ".join(rng.choice(_words(tokenizer_json), n_tokens - 2))


def mixed_texts(tokenizer_json: Path, n: int, shortest: int, longest: int, seed: int) -> list[str]:
    """Lengths evenly spread from `shortest` to `longest` tokens, in an order that is always the same."""
    lengths = np.random.default_rng(0).permutation(np.linspace(shortest, longest, n).round().astype(int))
    return [text(tokenizer_json, int(n_tokens), seed, i) for i, n_tokens in enumerate(lengths)]


def padded(ids: list[list[int]], pad_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask) int64 [n_texts, longest]."""
    rows = np.full((len(ids), max(map(len, ids))), pad_id, dtype=np.int64)
    mask = np.zeros_like(rows)
    for row, ones, one in zip(rows, mask, ids, strict=True):
        row[: len(one)], ones[: len(one)] = one, 1
    return rows, mask


def pooled(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over the tokens of `mask`, of length 1: float32 [n_texts, d_model]."""
    sums = np.einsum("btd,bt->bd", hidden, mask.astype(hidden.dtype))
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def tokenizer(folder: Path):
    """encode(texts) -> list of ids, with the `tokenizers` library."""
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    return lambda texts: [one.ids for one in library.encode_batch(list(texts))]


def seeds() -> Iterator[int]:
    """Seeds that no measured call uses."""
    seed = 1 << 40
    while True:
        yield seed
        seed += 1
