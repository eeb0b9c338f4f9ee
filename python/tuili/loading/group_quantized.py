"""GPTQ and AWQ checkpoints: linear maps whose weights are scale · (code - zero), 4 bits a code, one scale and
zero for each output and group of inputs.

    GPTQ   X.qweight int32 [n_in / 8, n_out]    eight inputs in a word, the first lowest
           X.qzeros  int32 [n_groups, n_out / 8]; X.scales [n_groups, n_out]; X.g_idx int32 [n_in], optional:
           the group of each input. Version 1 stores zeros less one, in four bits.
    AWQ    X.qweight int32 [n_in, n_out / 8], X.qzeros and X.scales alike; eight outputs in a word, of which
           the lowest nibbles hold 0, 2, 4, 6, 1, 3, 5, 7

code - zero lies in -15 … 15, so q5_0 holds such a weight exactly, with the file's own float16 scale; where
every zero is 8, so does q4_0. Where the 32 inputs of a block are not of one group, as with act-order, or a
scale is no float16, the weight becomes float32, which is exact for float16 scales and costs eight times the
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelFormatError
from tuili.loading.blocks import Bytes, encode_q4_0, encode_q5_0
from tuili.loading.checkpoint import FORMATS, Checkpoint, TensorInfo
from tuili.loading.files import shown
from tuili.loading.weights import to_float32

Layout = Literal["gptq", "gptq_v2", "awq"]

_IN_ORDER = np.arange(0, 32, 4, dtype=np.uint32)  # where the code of each of eight begins, in bits
_AWQ_ORDER = np.array([0, 16, 4, 20, 8, 24, 12, 28], np.uint32)
_FLOATS = ("f16", "bf16", "f32")
_OUTPUTS = 512  # decoded at a time


@dataclass(frozen=True)
class GroupQuantized:
    """One such weight, [n_out, n_in], as it will be handed on: a checkpoint's `Derived`.

    sources  its codes, zeros, scales, and index if there is one
    groups   of each input, int32 [n_in]
    format   "q4_0", "q5_0" or "f32"
    """

    layout: Layout
    sources: tuple[TensorInfo, ...]
    groups: NDArray[np.int32]
    format: str

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> Bytes:
        n_in = len(self.groups)
        row_bytes = n_in // FORMATS[self.format].n_values * FORMATS[self.format].n_bytes
        words = _words(checkpoint, self.sources[0])
        zeros = _zeros(checkpoint, self.sources[1], self.layout)
        scales = _floats(checkpoint, self.sources[2])
        first, last = begin // row_bytes, (begin + n_bytes) // row_bytes
        out = np.empty((last - first, row_bytes), np.uint8)
        for at in range(first // 8 * 8, last, _OUTPUTS):
            part = slice(at, min(at + _OUTPUTS, scales.shape[1]))
            rows = self._rows(_codes(words, part, self.layout), zeros[:, part], scales[:, part])
            low, high = max(at, first), min(at + _OUTPUTS, last)
            out[low - first : high - first] = rows[low - at : high - at]
        return out.reshape(-1)

    def _rows(self, codes: Bytes, zeros: Bytes, scales: NDArray[np.float32]) -> Bytes:
        """Encoded rows of some outputs; codes [n_in, n], zeros and scales [n_groups, n]."""
        centred = codes.view(np.int8) - zeros.view(np.int8)[self.groups]
        if self.format == "f32":
            values = centred.astype(np.float32) * scales[self.groups]
            return np.ascontiguousarray(values.T).view(np.uint8)
        middle, encode = (8, encode_q4_0) if self.format == "q4_0" else (16, encode_q5_0)
        blocks = np.ascontiguousarray((centred + np.int8(middle)).view(np.uint8).T).reshape(-1, 32)
        of_blocks = np.ascontiguousarray(scales[self.groups[::32]].T).astype(np.float16).reshape(-1)
        return encode(of_blocks, blocks).reshape(codes.shape[1], -1)


def _words(checkpoint: Checkpoint, stored: TensorInfo) -> NDArray[np.uint32]:
    data = checkpoint.read_stored(stored, 0, stored.n_bytes)
    words: NDArray[np.uint32] = data.view(np.uint32).reshape(stored.shape)
    return words


def _floats(checkpoint: Checkpoint, stored: TensorInfo) -> NDArray[np.float32]:
    data = checkpoint.read_stored(stored, 0, stored.n_bytes)
    return to_float32(data, stored.format).reshape(stored.shape)


def _by_outputs(words: NDArray[np.uint32], order: NDArray[np.uint32]) -> Bytes:
    """[n, n_out / 8] words -> [n, n_out] codes."""
    codes: Bytes = (words[:, :, None] >> order & np.uint32(15)).astype(np.uint8)
    return codes.reshape(len(words), -1)


def _codes(words: NDArray[np.uint32], part: slice, layout: Layout) -> Bytes:
    """The codes of some outputs, whole words of them, [n_in, n]."""
    if layout == "awq":
        return _by_outputs(words[:, part.start // 8 : part.stop // 8], _AWQ_ORDER)
    codes: Bytes = (words[:, None, part] >> _IN_ORDER[:, None] & np.uint32(15)).astype(np.uint8)
    return codes.reshape(8 * len(words), -1)


def _zeros(checkpoint: Checkpoint, stored: TensorInfo, layout: Layout) -> Bytes:
    """Of each group and output; a zero of 0 is stored as 15 by GPTQ's version 1."""
    zeros = _by_outputs(_words(checkpoint, stored), _AWQ_ORDER if layout == "awq" else _IN_ORDER)
    return zeros + np.uint8(1) & np.uint8(15) if layout == "gptq" else zeros


# ---- planning


def replace_weights(checkpoint: Checkpoint, layout: Layout, group_size: int, what: str) -> None:
    """Put X.weight into the place of every X.qweight and its companions.

    group_size  inputs of a group, -1 for all
    what        the file that says how the tensors are quantized, for errors
    raises      ModelFormatError (tensor_missing, tensor_shape, tensor_dtype, group_index)
    """
    tensors = checkpoint.tensors
    stems = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    if not stems:
        raise ModelFormatError(
            f"{what}: quantized by {layout}, but no tensor X.qweight", code="tensor_missing"
        )
    expanded = 0
    for stem in stems:
        weight = _weight(checkpoint, stem, layout, group_size)
        codes, _, scales = weight.sources[:3]
        n_in, n_out = len(weight.groups), scales.shape[1]
        block = FORMATS[weight.format]
        info = TensorInfo(
            f"{stem}.weight",
            weight.format,
            (n_out, n_in),
            codes.offset,
            n_out * (n_in // block.n_values * block.n_bytes),
            codes.part,
        )
        checkpoint.replace(info, weight)
        expanded += weight.format == "f32"
    for name in tensors:
        if name.endswith((".qzeros", ".scales", ".g_idx")):
            raise ModelFormatError(
                f"{what}: tensor '{shown(name)}' belongs to no tensor X.qweight", code="tensor_missing"
            )
    if expanded:
        checkpoint.warnings.append(
            f"{expanded} of {len(stems)} quantized matrices become float32: their groups are not blocks of "
            f"32 inputs (act-order), or their scales not float16"
        )


def _weight(checkpoint: Checkpoint, stem: str, layout: Layout, group_size: int) -> GroupQuantized:
    """A weight, and everything checked that it is made of."""
    tensors = checkpoint.tensors
    codes = tensors[f"{stem}.qweight"]
    if len(codes.shape) != 2:
        raise _shape_error(codes, "two dimensions")
    n_in, n_out = codes.shape[0], codes.shape[1] * 8
    if layout != "awq":
        n_in, n_out = codes.shape[0] * 8, codes.shape[1]
    if n_out % 8 or not n_in:
        raise _shape_error(codes, "a multiple of eight outputs")
    n_groups = 1 if group_size == -1 else -(-n_in // group_size)
    zeros = _expect(tensors, f"{stem}.qzeros", ("I32",), (n_groups, n_out // 8))
    scales = _expect(tensors, f"{stem}.scales", _FLOATS, (n_groups, n_out))
    _expect(tensors, codes.name, ("I32",), codes.shape)
    groups = np.arange(n_in, dtype=np.int32) // np.int32(n_in if group_size == -1 else group_size)
    sources = [codes, zeros, scales]
    if layout != "awq" and f"{stem}.g_idx" in tensors:
        index = _expect(tensors, f"{stem}.g_idx", ("I32",), (n_in,))
        sources.append(index)
        groups = checkpoint.read_stored(index, 0, index.n_bytes).view(np.int32)
        if groups.min() < 0 or groups.max() >= n_groups:
            raise ModelFormatError(
                f"tensor '{shown(index.name)}' holds groups from {groups.min()} to {groups.max()}, "
                f"there are {n_groups}",
                code="group_index",
            )
    format = "f32"
    if _has_blocks(groups) and _are_halves(checkpoint, scales):
        format = "q4_0" if (_zeros(checkpoint, zeros, layout) == 8).all() else "q5_0"
    return GroupQuantized(layout, tuple(sources), groups, format)


def _expect(
    tensors: dict[str, TensorInfo], name: str, formats: tuple[str, ...], shape: tuple[int, ...]
) -> TensorInfo:
    if name not in tensors:
        raise ModelFormatError(f"tensor '{shown(name)}' is missing", code="tensor_missing")
    stored = tensors[name]
    if stored.format not in formats:
        raise ModelFormatError(
            f"tensor '{shown(name)}' is {stored.format}, expected {' or '.join(formats)}", code="tensor_dtype"
        )
    if stored.shape != shape:
        raise _shape_error(stored, str(list(shape)))
    return stored


def _shape_error(stored: TensorInfo, expected: str) -> ModelFormatError:
    return ModelFormatError(
        f"tensor '{shown(stored.name)}' has shape {list(stored.shape)}, expected {expected} for 4 bits and "
        f"this group size",
        code="tensor_shape",
    )


def _has_blocks(groups: NDArray[np.int32]) -> bool:
    """Whether every 32 inputs are of one group."""
    if len(groups) % 32:
        return False
    blocks = groups.reshape(-1, 32)
    return bool((blocks == blocks[:, :1]).all())


def _are_halves(checkpoint: Checkpoint, stored: TensorInfo) -> bool:
    """Whether float16 holds every scale."""
    if stored.format == "f16":
        return True
    scales = _floats(checkpoint, stored)
    with np.errstate(over="ignore"):
        return bool((scales.astype(np.float16).astype(np.float32) == scales).all())
