"""Buckets of signed distances (DeBERTa-v2: He et al. 2021; position_bias.py has T5's)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Distances = NDArray[np.int64]


def buckets(distances: Distances, n_buckets: int, farthest: int) -> Distances:
    """Exact up to half of n_buckets on each side, then in logarithmic steps up to `farthest`; 0 for none.

    In float32, as the models were trained: exact powers fall on the edge of a bucket. A logarithm is computed
    in double and rounded once, so that it is the same on every machine.
    """
    if n_buckets == 0:
        return distances
    half, f32 = n_buckets // 2, np.float32
    n = np.maximum(np.abs(distances), max(half, 1)).astype(f32)
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = np.log((n / f32(half)).astype(np.float64)), np.log(float(f32((farthest - 1) / half)))
        steps = near.astype(f32) / f32(far) * f32(half - 1)
    far = (np.ceil(steps) + half) * np.sign(distances)
    return np.where(np.abs(distances) <= half, distances, far).astype(np.int64)
