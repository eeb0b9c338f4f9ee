"""MXFP4 tensors: blocks of 32 four-bit floats (e2m1) that share a power of two. Source: OCP Microscaling
Formats 1.0.

    X_blocks uint8 [..., n_out, n_in / 32, 16]   the even value of a pair in the low nibble
    X_scales uint8 [..., n_out, n_in / 32]       e8m0: 2^(scale - 127)

Twice a value is one of 0, ±1, 2, 3, 4, 6, 8, 12, so q5_0 holds it exactly with half the scale, as long as
that is a float16: 2^-24 … 2^15.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.blocks import encode_q5_0
from tuili.loading.checkpoint import FORMATS, Bytes, Checkpoint, TensorInfo
from tuili.loading.files import shown

_Q5_0 = FORMATS["q5_0"]
_CODES = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.uint8)  # q5_0's codes are 16 above the values
_CODES = np.concatenate([16 + _CODES, 16 - _CODES])
_NOT_A_NUMBER = 255
_LEAST, _MOST = 128 - 24, 128 + 15  # scales of which float16 holds half


@dataclass(frozen=True)
class Mxfp4:
    """One such tensor in q5_0, a checkpoint's `Derived`, of its blocks and scales."""

    sources: tuple[TensorInfo, ...]

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> Bytes:
        first, n = begin // _Q5_0.n_bytes, n_bytes // _Q5_0.n_bytes
        name = self.sources[0].name
        nibbles = checkpoint.read_stored(self.sources[0], first * 16, n * 16).reshape(n, 16)
        exponents = checkpoint.read_stored(self.sources[1], first, n)
        return to_q5_0(np.stack([nibbles & 15, nibbles >> 4], axis=2).reshape(n, 32), exponents, name)


def to_q5_0(nibbles: Bytes, exponents: Bytes, name: str) -> Bytes:
    """[n, 32] and [n] -> blocks of q5_0.

    raises  ModelFormatError (not_finite), ModelUnsupportedError (dtype_overflow)
    """
    if (exponents == _NOT_A_NUMBER).any():
        raise ModelFormatError(f"tensor '{shown(name)}' has scales that are not numbers", code="not_finite")
    codes = _CODES[nibbles]
    used = (codes != 16).any(axis=1)
    if (used & ((exponents < _LEAST) | (exponents > _MOST))).any():
        raise ModelUnsupportedError(
            f"tensor '{shown(name)}' has scales outside 2^{_LEAST - 127} … 2^{_MOST - 127}",
            code="dtype_overflow",
        )
    scale: NDArray[np.float32] = np.ldexp(np.float32(1), exponents.astype(np.int32) - 128)
    halves = np.where(used, scale, np.float32(0)).astype(np.float16)
    return encode_q5_0(halves, codes).reshape(-1)


def replace_tensors(checkpoint: Checkpoint, what: str) -> None:
    """Put X into the place of every X_blocks and X_scales.

    what    the file that says that tensors are quantized, for errors
    raises  ModelFormatError (tensor_missing, tensor_shape, tensor_dtype)
    """
    stems = [name.removesuffix("_blocks") for name in checkpoint.tensors if name.endswith("_blocks")]
    if not stems:
        raise ModelFormatError(f"{what}: quantized by mxfp4, but no tensor X_blocks", code="tensor_missing")
    for stem in stems:
        blocks, scales = checkpoint.tensors[f"{stem}_blocks"], checkpoint.tensors.get(f"{stem}_scales")
        if scales is None:
            raise ModelFormatError(f"tensor '{shown(stem)}_scales' is missing", code="tensor_missing")
        for stored in (blocks, scales):
            if stored.format != "U8":
                raise ModelFormatError(
                    f"tensor '{shown(stored.name)}' must be U8, not {stored.format}", code="tensor_dtype"
                )
        if len(blocks.shape) < 3 or blocks.shape != (*scales.shape, 16) or 0 in blocks.shape:
            raise ModelFormatError(
                f"tensors '{shown(stem)}_blocks' must have 16 bytes for each of '…_scales'; their shapes are "
                f"{list(blocks.shape)} and {list(scales.shape)}",
                code="tensor_shape",
            )
        shape = (*scales.shape[:-1], scales.shape[-1] * 32)
        size = scales.n_bytes * _Q5_0.n_bytes
        info = TensorInfo(stem, "q5_0", shape, blocks.offset, size, blocks.part)
        checkpoint.replace(info, Mxfp4((blocks, scales)))
