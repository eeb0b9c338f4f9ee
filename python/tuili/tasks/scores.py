"""Numbers of a head as scores: softmax, sigmoid, the best of them; in double."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tuili.checks import one_of


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float64."""
    wide = logits.astype(np.float64)
    exps = np.exp(wide - wide.max(axis=-1, keepdims=True))
    out: np.ndarray = exps / exps.sum(axis=-1, keepdims=True)
    return out


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), float64, of any x."""
    wide = logits.astype(np.float64)
    small = np.exp(-np.abs(wide))
    out: np.ndarray = np.where(wide >= 0, 1.0, small) / (1.0 + small)
    return out


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": lambda logits: logits.astype(np.float64),
}


def function_named(name: object) -> Callable[[np.ndarray], np.ndarray]:
    """One of FUNCTIONS; InvalidParameterError for another name."""
    lower = name.lower() if isinstance(name, str) else name
    return FUNCTIONS[one_of("function_to_apply", lower, FUNCTIONS)]


def best(scores: np.ndarray, n: int) -> list[int]:
    """Indices of the n largest, by falling score; of equal ones the first comes first."""
    n = min(n, len(scores))
    if n < 1:
        return []
    least = np.partition(scores, -n)[-n]
    few = np.flatnonzero(~(scores < least))  # no worse than the n-th, or NaN: a sort of all takes longer
    found: list[int] = few[np.argsort(-scores[few], kind="stable")][:n].tolist()
    return found
