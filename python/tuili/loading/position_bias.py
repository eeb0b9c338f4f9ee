"""Linear biases of attention by distance (ALiBi: Press et al. 2022), as tables for the core to add."""

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


def _bfloat16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    bits = np.ascontiguousarray(x).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return bits.view(f32)
