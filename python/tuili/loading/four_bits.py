"""`quantization="int4"`: floats to 4-bit blocks while loading.

Rows of whole blocks of 256 become q4_k (4.5 bits a weight), other rows of whole groups of 32 q4_1 (5 bits).
Both hold a scale and a least value per group of 32; what they are is searched for, so that the sum of the
squared errors is small: round to a grid, solve for the best scale and least value of these codes (linear
regression), and keep the best of several grids. Every sum runs over the places of a group in order, so that
the bits are the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelUnsupportedError
from tuili.loading.blocks import encode_q4_1, encode_q4_k
from tuili.loading.checkpoint import Bytes

Floats = NDArray[np.float32]

_TOP = np.float32(15)
# Spans of the grids that are tried, in steps: fewer cut the ends of a group off.
_SPANS = tuple(np.float32(span) for span in (13.6, 14.2, 14.6, 15.0, 15.4))
_GROUPS = 1 << 14  # at a time, so that what is computed on the way stays in cache


def quantize_int4(values: Floats, n_in: int, name: str) -> Bytes:
    """`values`, rows of `n_in`, in the format that `int4_format(n_in)` names.

    raises  ModelUnsupportedError (dtype_overflow) if a scale is too large for float16 or not a number
    """
    return (_to_q4_k if int4_format(n_in) == "q4_k" else _to_q4_1)(values, name)


def int4_format(n_in: int) -> str:
    """The 4-bit format of rows of `n_in`, a multiple of 32."""
    return "q4_1" if n_in % 256 else "q4_k"


def _fit(x: Floats, floor: np.float32) -> tuple[Floats, Floats]:
    """Scale and least value of each group, x [32, n_groups]: about scale · (0 … 15) + least.

    floor  the least value is at most this
    """
    low, high = np.minimum(x.min(axis=0), floor), x.max(axis=0)
    total, best = x.sum(axis=0), np.full(x.shape[1], np.inf, np.float32)
    scale, least = (high - low) / _TOP, low
    raised = x - low
    for span in _SPANS:
        step = span / np.maximum(high - low, np.float32(1e-30))
        codes = np.clip(np.rint(raised * step), 0, _TOP)
        n, squares, products = codes.sum(axis=0), (codes * codes).sum(axis=0), (codes * x).sum(axis=0)
        spread = 32 * squares - n * n
        slope = np.where(spread > 0, (32 * products - n * total) / np.maximum(spread, 1), scale)
        start = (total - slope * n) / 32
        bounded = start > floor
        slope = np.where(bounded, (products - floor * n) / np.maximum(squares, 1), slope)
        start = np.minimum(start, floor)
        error = (np.square(slope * codes + start - x)).sum(axis=0)
        better = (error < best) & (slope >= 0)
        best = np.where(better, error, best)
        scale, least = np.where(better, slope, scale), np.where(better, start, least)
    return scale, least


def _halves(values: Floats, name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore", invalid="ignore"):
        narrow: NDArray[Any] = values.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise ModelUnsupportedError(
            f"tensor {name} holds values that are too large for int4, or not numbers", code="dtype_overflow"
        )
    return narrow


def _codes(x: Floats, scale: Floats, least: Floats) -> NDArray[np.uint8]:
    """Codes [n_groups, 32] of x [32, n_groups], by the scale and least value that are stored."""
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    with np.errstate(over="ignore", invalid="ignore"):
        codes = np.clip(np.rint((x - least) * inverse), 0, _TOP)
    return np.ascontiguousarray(codes.astype(np.uint8).T)


def _to_q4_1(values: Floats, name: str) -> Bytes:
    groups = values.reshape(-1, 32)
    out = np.empty((len(groups), 20), np.uint8)
    for begin in range(0, len(groups), _GROUPS):
        x = np.ascontiguousarray(groups[begin : begin + _GROUPS].T)
        with np.errstate(over="ignore", invalid="ignore"):
            scale, least = (_halves(fitted, name) for fitted in _fit(x, np.float32(np.inf)))
        codes = _codes(x, scale.astype(np.float32), least.astype(np.float32))
        out[begin : begin + _GROUPS] = encode_q4_1(scale, least, codes)
    return out.reshape(-1)


def _to_q4_k(values: Floats, name: str) -> Bytes:
    groups = values.reshape(-1, 32)
    out = np.empty((len(groups) // 8, 144), np.uint8)
    for begin in range(0, len(groups), _GROUPS):
        x = np.ascontiguousarray(groups[begin : begin + _GROUPS].T)
        with np.errstate(over="ignore", invalid="ignore"):
            scale, least = _fit(x, np.float32(0))
        d, sub_scale = _shared(scale, name)
        m, sub_least = _shared(-least, name)
        stored = d.astype(np.float32)[:, None] * sub_scale, m.astype(np.float32)[:, None] * sub_least
        codes = _codes(x, stored[0].reshape(-1), -stored[1].reshape(-1)).reshape(-1, 256)
        out[begin // 8 : (begin + _GROUPS) // 8] = encode_q4_k(d, m, sub_scale, sub_least, codes)
    return out.reshape(-1)


def _shared(values: Floats, name: str) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """What eight groups' values, none below 0, have in common, and the multiples of it, 0 to 63."""
    table = values.reshape(-1, 8)
    unit = _halves(table.max(axis=1) / np.float32(63), name)
    wide = unit.astype(np.float32)[:, None]
    inverse = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide != 0)
    return unit, np.minimum(np.rint(table * inverse), 63).astype(np.uint8)
