"""How far two models' answers are from each other. Needs numpy only; sums run in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

NEAR_TIE = 1e-3  # of two best logits: closer than this, greedy decoding may take either
_ROWS = 64  # of a [n_tokens, n_vocab] array widened to float64 at a time: 128 MiB for 262,144 tokens


def relative_error(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """max |logits - reference| over the range of the reference's logits, per position; [n_tokens] float64.

    A NaN or infinity in `logits` gives an infinite error.
    """
    errors = []
    for rows in _chunks(len(reference)):
        ours, theirs = logits[rows].astype(np.float64), reference[rows].astype(np.float64)
        errors.append(abs(ours - theirs).max(axis=1) / np.ptp(theirs, axis=1))
    return np.nan_to_num(np.concatenate(errors), nan=np.inf, posinf=np.inf)


def kl_divergence(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """KL(softmax(reference) || softmax(logits)) in nats, per position; [n_tokens] float64."""
    divergences = []
    for rows in _chunks(len(reference)):
        log_p, log_q = log_softmax(reference[rows]), log_softmax(logits[rows])
        divergences.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
    return np.concatenate(divergences)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural logarithm of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def first_difference(tokens: Sequence[int], reference: Sequence[int]) -> int | None:
    """Index of the first token that differs, None if the sequences are equal; a missing token differs."""
    for i in range(max(len(tokens), len(reference))):
        if list(tokens[i : i + 1]) != list(reference[i : i + 1]):
            return i
    return None


def _chunks(n_rows: int) -> Iterator[slice]:
    for start in range(0, n_rows, _ROWS):
        yield slice(start, start + _ROWS)
