"""How alike vectors are, and what is most alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from tuili.errors import InvalidParameterError
from tuili.tasks.scores import best


def checked_vectors(
    vectors: np.ndarray, width: int, name: str, *, entry: str = "", n_dims: Collection[int] = (1, 2)
) -> np.ndarray:
    """Finite floats [width] or [n, width]; InvalidParameterError for anything else.

    entry   of a list of this name, for the message
    n_dims  those that are taken
    """
    if (
        vectors.ndim not in n_dims
        or vectors.shape[-1] != width
        or not np.issubdtype(vectors.dtype, np.floating)
    ):
        shapes = " or ".join(f"[{width}]" if n == 1 else f"[n, {width}]" for n in n_dims)
        given = f"{vectors.dtype} {list(vectors.shape)}"
        raise InvalidParameterError(f"{name}{entry} must be a float array {shapes}, not {given}", param=name)
    if not np.isfinite(vectors).all():
        raise InvalidParameterError(f"{name}{entry} holds numbers that are not finite", param=name)
    return vectors


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of the angle between each row of a and each of b, float32 [n_a, n_b]; 0 where a vector is
    zero.
    """
    similar: np.ndarray = _unit(a) @ _unit(b).T
    return similar.astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    wide = np.divide(wide, largest, out=np.zeros_like(wide), where=largest > 0)  # squares stay in range
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    return unit


def ranking(scores: np.ndarray, documents: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The top_k documents by falling score, the earlier one first among equals."""
    return [{"index": i, "score": float(scores[i]), "text": documents[i]} for i in best(scores, top_k)]
