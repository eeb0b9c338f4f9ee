"""Biases of attention by position, as tables for the core to add: linear ones (ALiBi: Press et al. 2022), and
learned ones for buckets of distances (T5: Raffel et al. 2020)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tuili._core import PositionBias

f32 = np.float32
_TILE = 64  # the core reads keys in tiles of as many


def slopes(n_heads: int) -> NDArray[np.float32]:
    """2^(-8i / n) for n heads, n a power of two; others take every second of the next power's besides."""
    n = 2 ** math.floor(math.log2(n_heads))

    def powers(base: float, exponents: range) -> list[float]:
        return [float(f32(base)) ** i for i in exponents]

    first = powers(2.0 ** -(2.0 ** -(math.log2(n) - 3)), range(1, n + 1))
    between = powers(2.0 ** -(2.0 ** -(math.log2(2 * n) - 3)), range(1, 1 + 2 * (n_heads - n), 2))
    return np.array(first + between, f32)


def alibi(n_heads: int, max_positions: int) -> PositionBias:
    """slope · (key - query)."""
    distances = np.arange(-(max_positions - 1), max_positions + _TILE, dtype=f32)
    values = slopes(n_heads)[:, None] * np.minimum(distances, 0)
    return PositionBias(values=values, origin=max_positions - 1, relative=True)


def alibi_bfloat16(n_heads: int, max_positions: int, scale: float) -> PositionBias:
    """slope · key rounded to bfloat16 twice, times scale: what Falcon was trained with."""
    positions = _bfloat16(np.arange(max_positions + _TILE, dtype=f32))
    values = _bfloat16(_bfloat16(slopes(n_heads))[:, None] * positions)
    return PositionBias(values=values * f32(scale), origin=0, relative=False)


def relative(
    n_heads: int,
    max_positions: int,
    n_buckets: int,
    farthest: int,
    *,
    both_sides: bool,
    n_rows: int | None = None,
) -> PositionBias:
    """A learned value for the bucket that the distance of query and key is in.

    farthest    the last bucket begins at latest there
    n_rows      of the table, if it has more than buckets
    both_sides  half of the buckets are for keys behind the query; else that is no distance
    """
    distances = np.arange(1 - max_positions, max_positions + _TILE - 1)
    half = n_buckets // 2 if both_sides else n_buckets
    by_distance = _buckets(max_positions + _TILE, half, farthest)
    buckets = np.where(distances <= 0, by_distance[abs(distances)], half + by_distance[abs(distances)])
    if not both_sides:
        buckets[distances > 0] = 0
    values = np.zeros((n_heads, len(distances)), f32)
    return PositionBias(
        values=values,
        origin=max_positions - 1,
        relative=True,
        buckets=buckets.tolist(),
        n_buckets=n_rows or n_buckets,
    )


def _buckets(n: int, n_buckets: int, farthest: int) -> NDArray[np.int64]:
    """The buckets of distances 0 to n - 1: exact in the first half, then in logarithmic steps."""
    exact = n_buckets // 2
    buckets = np.arange(n)
    # In float32, as models were trained, with the C library's logarithm: powers fall on the edge of a bucket.
    logs = np.array([math.log(x) for x in (buckets[exact:].astype(f32) / f32(exact)).tolist()], f32)
    steps = (logs / f32(math.log(farthest / exact)) * f32(n_buckets - exact)).astype(np.int64)
    buckets[exact:] = np.minimum(exact + steps, n_buckets - 1)
    return buckets


def _bfloat16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    bits = np.ascontiguousarray(x).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return bits.view(f32)
