"""Putting a tensor's bytes right before they are packed: float conversions, row orders, finite checks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.checkpoint import FORMATS, Bytes

# The option `dtype` and the format that it asks for.
FLOAT_FORMATS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def to_float32(data: Bytes, format: str) -> NDArray[np.float32]:
    """The numbers of an f32, f16 or bf16 tensor; exact."""
    if format == "f32":
        return data.view(np.float32)
    if format == "f16":
        return data.view(np.float16).astype(np.float32)
    wide: NDArray[np.uint32] = data.view(np.uint16).astype(np.uint32) << np.uint32(16)
    return wide.view(np.float32)


def from_float32(values: NDArray[np.float32], format: str, name: str) -> Bytes:
    """The bytes of `values` in f32, f16 or bf16, rounded to nearest, ties to even.

    raises  ModelUnsupportedError (dtype_overflow) if a finite value becomes infinite
    """
    if format == "f32":
        return values.view(np.uint8)
    if format == "f16":
        with np.errstate(over="ignore"):
            narrow: NDArray[Any] = values.astype(np.float16)
        overflown = np.isinf(narrow) & np.isfinite(values)
    else:
        bits = values.view(np.uint32)
        rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
        # Rounding must not carry the payload of not-a-number into infinity.
        narrow = np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)
        overflown = ((narrow & 0x7FFF) == 0x7F80) & np.isfinite(values)
    if overflown.any():
        raise ModelUnsupportedError(
            f"tensor {name} holds values that are too large for {format}; choose dtype='auto'",
            code="dtype_overflow",
        )
    return narrow.view(np.uint8)


_NARROWING = 1 << 16  # values at a time; most tensors are found out by the first of them


def narrowest(values: NDArray[np.float32]) -> str:
    """The format of fewest bytes that holds every value exactly: bf16 before f16, else f32."""
    pieces = [values[at : at + _NARROWING] for at in range(0, values.size, _NARROWING)]
    if all(not (piece.view(np.uint32) & np.uint32(0xFFFF)).any() for piece in pieces):
        return "bf16"
    return "f16" if all(_is_half(piece) for piece in pieces) else "f32"


def _is_half(values: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    return bool((halves.astype(np.float32).view(np.uint32) == values.view(np.uint32)).all())


_QUANTIZE_BLOCKS = 1 << 14  # at a time, so that what is computed on the way stays in cache


def quantize_q8_0(values: NDArray[np.float32], name: str, n_alike: int = 32) -> Bytes:
    """`values` in q8_0: d = amax / 127, codes rounded to nearest, ties away from zero.

    n_alike  values that share d: 32, as of `gguf.quants` and ggml's quantize_row_q8_0_ref, bit for bit; or
             128, wide scales (csrc/base/packed.h), over which the core sums faster
    raises   ModelUnsupportedError (dtype_overflow) if a scale is too large for float16 or not a number
    """
    blocks = values.reshape(-1, 32)
    out = np.empty((len(blocks), 34), np.uint8)
    for begin in range(0, len(blocks), _QUANTIZE_BLOCKS):
        rows, to = blocks[begin : begin + _QUANTIZE_BLOCKS], out[begin : begin + _QUANTIZE_BLOCKS]
        scale = np.abs(rows).reshape(-1, n_alike).max(axis=1, keepdims=True) / np.float32(127)
        scale = scale.repeat(n_alike // 32, axis=0)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            narrow = scale.astype(np.float16)
            scaled = rows * np.where(scale == 0, np.float32(0), np.float32(1) / scale)
        if not np.isfinite(narrow).all():
            raise ModelUnsupportedError(
                f"tensor {name} holds values that are too large for int8, or not numbers",
                code="dtype_overflow",
            )
        whole = np.trunc(scaled)
        whole += np.trunc(2 * (scaled - whole))  # the fraction is exact, and so is its double
        to[:, :2] = narrow.view(np.uint8)
        to[:, 2:] = whole.astype(np.int8).view(np.uint8)
    return out.reshape(-1)


def check_finite(data: Bytes, format: str, name: str) -> None:
    """Raise ModelFormatError (not_finite) if a value, or a quantized block's scale, is not finite."""
    block = FORMATS[format]
    if block.scales:
        blocks = data.reshape(-1, block.n_bytes)
        finite = all(
            np.isfinite(np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)).all()
            for at in block.scales
        )
    else:
        finite = bool(np.isfinite(to_float32(data, format)).all())
    if not finite:
        raise ModelFormatError(
            f"tensor '{name}' holds values that are infinite or not numbers", code="not_finite"
        )


def unpermute_rows(data: Bytes, n_rows: int, n_heads: int) -> Bytes:
    """Rows of a query or key weight from GGUF's order (pairs side by side) to Hugging Face's (halves), per
    head.

    data  the encoded rows, [n_rows * row_bytes]; whole rows move, so any format stays valid
    """
    rows = data.reshape(n_heads, n_rows // n_heads // 2, 2, -1)
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)
