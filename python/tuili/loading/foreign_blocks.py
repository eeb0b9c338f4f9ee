"""Formats of GGUF files that no kernel reads, as wider ones that hold the same values.

    mxfp4    twice an e2m1 value in -12 … 12, half a power of two    -> q5_0
    iq4_nl   a table of sixteen values in -127 … 113, a scale        -> q8_0
    q3_k     codes in -4 … 3, whole scales in -32 … 31 of a scale    -> q6_k

Block layouts: the GGUF specification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuili.loading.blocks import encode_q6_k, encode_q8_0
from tuili.loading.checkpoint import FOREIGN_FORMATS, FORMATS, Bytes, Checkpoint, TensorInfo
from tuili.loading.mxfp4 import to_q5_0

_PIECE_BYTES = 1 << 20  # made at a time: what is computed on the way takes several bytes a value

_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


@dataclass(frozen=True)
class Widened:
    """One such tensor in `format`, a checkpoint's `Derived`."""

    sources: tuple[TensorInfo, ...]
    format: str

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> Bytes:
        (stored,) = self.sources
        size, wide = FOREIGN_FORMATS[stored.format].n_bytes, FORMATS[self.format].n_bytes
        convert, step = _CONVERSIONS[stored.format][1], _PIECE_BYTES // wide * wide
        out = np.empty(n_bytes, np.uint8)
        for at in range(0, n_bytes, step):
            part = out[at : at + step]
            n = len(part) // wide
            blocks = checkpoint.read_stored(stored, (begin + at) // wide * size, n * size).reshape(n, size)
            part[:] = convert(blocks, stored.name).reshape(-1)
        return out


def _from_mxfp4(blocks: Bytes, name: str) -> Bytes:
    nibbles = blocks[:, 1:]
    return to_q5_0(np.concatenate([nibbles & 15, nibbles >> 4], axis=1), blocks[:, 0], name)


def _from_iq4_nl(blocks: Bytes, name: str) -> Bytes:
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return encode_q8_0(_scale(blocks, 0), _IQ4_NL[nibbles].view(np.uint8))


def _from_q3_k(blocks: Bytes, name: str) -> Bytes:
    """Bit j of the first 32 bytes says that the codes of group j are not 4 less; then 64 bytes of bit pairs,
    four groups of each half; then 16 scales: eight bytes of nibbles, four of bit pairs above them."""
    n = len(blocks)
    pairs = blocks[:, 32:96].reshape(n, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    above = blocks[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    codes = pairs.reshape(n, 256) + (above.reshape(n, 256) << 2) + np.uint8(32 - 4)
    low = np.concatenate([blocks[:, 96:104] & 15, blocks[:, 96:104] >> 4], axis=1)
    high = np.concatenate([blocks[:, 104:108] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales = (low | high << 4).view(np.int8) - np.int8(32)
    return encode_q6_k(_scale(blocks, 108), scales, codes)


def _scale(blocks: Bytes, at: int) -> np.ndarray:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)


# Stored format -> what it becomes, and how.
_CONVERSIONS: dict[str, tuple[str, Callable[[Bytes, str], Bytes]]] = {
    "mxfp4": ("q5_0", _from_mxfp4),
    "iq4_nl": ("q8_0", _from_iq4_nl),
    "q3_k": ("q6_k", _from_q3_k),
}


def widen_tensors(checkpoint: Checkpoint) -> None:
    """Show every tensor of such a format as one of the wider format."""
    for name, stored in list(checkpoint.tensors.items()):
        if stored.format in _CONVERSIONS:
            format = _CONVERSIONS[stored.format][0]
            n_blocks = stored.n_bytes // FOREIGN_FORMATS[stored.format].n_bytes
            info = TensorInfo(
                name, format, stored.shape, stored.offset, n_blocks * FORMATS[format].n_bytes, stored.part
            )
            checkpoint.replace(info, Widened((stored,), format))
