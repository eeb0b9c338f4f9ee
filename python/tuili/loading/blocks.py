"""Codes and scales -> blocks of GGUF's quantized formats. Block layouts: the GGUF specification."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili.loading.checkpoint import Bytes

Codes = NDArray[np.uint8]  # [n_blocks, 32 or 256], each within its format's bits
Halves = NDArray[np.float16]  # [n_blocks]


def _nibbles(codes: Codes) -> Bytes:
    """Pairs of codes that lie half a group apart: [n, 32] -> [n, 16]."""
    packed: Bytes = codes[:, :16] & np.uint8(15) | codes[:, 16:] << np.uint8(4)
    return packed


def _fifth_bits(codes: Codes) -> Bytes:
    bits: Bytes = np.packbits(codes >> np.uint8(4), axis=1, bitorder="little")
    return bits


def _joined(*planes: NDArray[Any]) -> Bytes:
    """The arrays side by side, as bytes [n, n_bytes]."""
    columns = [plane.reshape(len(plane), -1).view(np.uint8) for plane in planes]
    return np.concatenate(columns, axis=1)


def encode_q8_0(scale: Halves, codes: Codes) -> Bytes:
    """Blocks of the values scale · code, codes in two's complement."""
    return _joined(scale, codes)


def encode_q4_0(scale: Halves, codes: Codes) -> Bytes:
    """Blocks of the values scale · (code - 8)."""
    return _joined(scale, _nibbles(codes))


def encode_q4_1(scale: Halves, least: Halves, codes: Codes) -> Bytes:
    """Blocks of the values scale · code + least."""
    return _joined(scale, least, _nibbles(codes))


def encode_q5_0(scale: Halves, codes: Codes) -> Bytes:
    """Blocks of the values scale · (code - 16)."""
    return _joined(scale, _fifth_bits(codes), _nibbles(codes))


def encode_q4_k(scale: Halves, least: Halves, sub_scale: Codes, sub_least: Codes, codes: Codes) -> Bytes:
    """Blocks of the values (scale · sub_scale) · code - least · sub_least.

    sub_scale, sub_least  6 bits of each group of 32, [n_blocks, 8]
    """
    high = np.uint8(4)
    first = [plane[:, :4] | plane[:, 4:] >> high << np.uint8(6) for plane in (sub_scale, sub_least)]
    last = sub_scale[:, 4:] & np.uint8(15) | sub_least[:, 4:] << high
    pairs = codes.reshape(len(codes), 4, 2, 32)
    return _joined(scale, least, *first, last, pairs[:, :, 0] | pairs[:, :, 1] << high)


def encode_q6_k(scale: Halves, sub_scale: NDArray[np.int8], codes: Codes) -> Bytes:
    """Blocks of the values (scale · sub_scale) · (code - 32).

    sub_scale  of each 16 values, [n_blocks, 16]
    """
    quarters = codes.reshape(len(codes), 2, 4, 32)  # of each half
    low, high = quarters & np.uint8(15), quarters >> np.uint8(4)
    nibbles = low[:, :, :2] | low[:, :, 2:] << np.uint8(4)
    pairs = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return _joined(nibbles, pairs, sub_scale, scale)
