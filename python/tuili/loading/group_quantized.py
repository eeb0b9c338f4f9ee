"""GPTQ and AWQ checkpoints: linear maps whose weights are scale · (code - zero), with one scale and zero for
each output and group of inputs. A word holds several codes, eight if they have 4 bits.

    GPTQ   X.qweight int32 [n_in / 8, n_out]    eight inputs in a word, the first lowest
           X.qzeros  int32 [n_groups, n_out / 8]; X.scales [n_groups, n_out]; X.g_idx int32 [n_in], optional:
           the group of each input. Version 1 stores zeros less one, in as many bits.
    AWQ    X.qweight int32 [n_in, n_out / 8], X.qzeros and X.scales alike; eight outputs in a word, of which
           the lowest nibbles hold 0, 2, 4, 6, 1, 3, 5, 7

With 4 bits code - zero lies in -15 … 15, so q5_0 holds such a weight exactly, with the file's own float16
scale; where every zero is 8, so does q4_0. Where no format holds code - zero, the 32 inputs of a block are
not of one group, as with act-order, or a scale is no float16, the weight becomes float32, which is exact for
float16 scales and costs eight times the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelFormatError
from tuili.loading.blocks import encode_q4_0, encode_q5_0, encode_q8_0
from tuili.loading.checkpoint import FLOATS, FORMATS, Bytes, Checkpoint, TensorInfo
from tuili.loading.config import MAX_INNER
from tuili.loading.files import shown
from tuili.loading.weights import to_float32

Layout = Literal["gptq", "gptq_v2", "awq"]

_AWQ_ORDER = np.array([0, 16, 4, 20, 8, 24, 12, 28], np.uint32)  # where each of eight codes begins, in bits
# The formats that hold whole numbers from -middle to middle - 1, times a scale.
_MIDDLES = {"q4_0": 8, "q5_0": 16, "q8_0": 128}
_OUTPUTS = 512  # decoded at a time


@dataclass(frozen=True)
class Packing:
    """How words hold codes: by the layout and the bits of a code."""

    layout: Layout
    bits: int

    @property
    def n_codes(self) -> int:
        """Codes of a word."""
        return 32 // self.bits

    @property
    def order(self) -> NDArray[np.uint32]:
        """The bit of a word at which each code begins."""
        return _AWQ_ORDER if self.layout == "awq" else np.arange(0, 32, self.bits, dtype=np.uint32)

    @property
    def mask(self) -> np.uint32:
        return np.uint32((1 << self.bits) - 1)


@dataclass(frozen=True)
class GroupQuantized:
    """One such weight, [n_out, n_in], as it will be handed on: a checkpoint's `Derived`.

    sources  its codes, zeros, scales, and index if there is one
    groups   of each input, int32 [n_in]
    format   one of _MIDDLES, or "f32"
    """

    packing: Packing
    sources: tuple[TensorInfo, ...]
    groups: NDArray[np.int32]
    format: str

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> Bytes:
        n_in = len(self.groups)
        row_bytes = n_in // FORMATS[self.format].n_values * FORMATS[self.format].n_bytes
        words = _words(checkpoint, self.sources[0])
        zeros = _zeros(checkpoint, self.sources[1], self.packing)
        scales = _floats(checkpoint, self.sources[2])
        first, last = begin // row_bytes, (begin + n_bytes) // row_bytes
        out = np.empty((last - first, row_bytes), np.uint8)
        for at in range(first // 16 * 16, last, _OUTPUTS):  # 16 codes are the most in a word
            part = slice(at, min(at + _OUTPUTS, scales.shape[1]))
            rows = self._rows(_codes(words, part, self.packing), zeros[:, part], scales[:, part])
            low, high = max(at, first), min(at + _OUTPUTS, last)
            out[low - first : high - first] = rows[low - at : high - at]
        return out.reshape(-1)

    def _rows(self, codes: Bytes, zeros: Bytes, scales: NDArray[np.float32]) -> Bytes:
        """Encoded rows of some outputs; codes [n_in, n], zeros and scales [n_groups, n]."""
        centred = codes.astype(np.int16) - zeros.astype(np.int16)[self.groups]
        if self.format == "f32":
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite stays so
                values = centred.astype(np.float32) * scales[self.groups]
            return np.ascontiguousarray(values.T).view(np.uint8)
        encode = {"q4_0": encode_q4_0, "q5_0": encode_q5_0, "q8_0": encode_q8_0}[self.format]
        if self.format != "q8_0":
            centred += np.int16(_MIDDLES[self.format])
        blocks = np.ascontiguousarray(centred.astype(np.int8).view(np.uint8).T).reshape(-1, 32)
        of_blocks = np.ascontiguousarray(scales[self.groups[::32]].T).astype(np.float16).reshape(-1)
        return encode(of_blocks, blocks).reshape(codes.shape[1], -1)


def _words(checkpoint: Checkpoint, stored: TensorInfo) -> NDArray[np.uint32]:
    data = checkpoint.read_stored(stored, 0, stored.n_bytes)
    words: NDArray[np.uint32] = data.view(np.uint32).reshape(stored.shape)
    return words


def _floats(checkpoint: Checkpoint, stored: TensorInfo) -> NDArray[np.float32]:
    data = checkpoint.read_stored(stored, 0, stored.n_bytes)
    return to_float32(data, stored.format).reshape(stored.shape)


def _by_outputs(words: NDArray[np.uint32], packing: Packing) -> Bytes:
    """[n, n_out / 8] words -> [n, n_out] codes."""
    codes: Bytes = (words[:, :, None] >> packing.order & packing.mask).astype(np.uint8)
    return codes.reshape(len(words), -1)


def _codes(words: NDArray[np.uint32], part: slice, packing: Packing) -> Bytes:
    """The codes of some outputs, whole words of them, [n_in, n]."""
    n = packing.n_codes
    if packing.layout == "awq":
        return _by_outputs(words[:, part.start // n : part.stop // n], packing)
    codes: Bytes = (words[:, None, part] >> packing.order[:, None] & packing.mask).astype(np.uint8)
    return codes.reshape(n * len(words), -1)


def _zeros(checkpoint: Checkpoint, stored: TensorInfo, packing: Packing) -> Bytes:
    """The zeros of each group and output; GPTQ's version 1 stores a zero of 0 as the largest."""
    zeros = _by_outputs(_words(checkpoint, stored), packing)
    return zeros + np.uint8(1) & np.uint8(packing.mask) if packing.layout == "gptq" else zeros


# ---- planning


def replace_weights(
    checkpoint: Checkpoint, packing: Packing, group_size: int, what: str, *, ordered: bool = True
) -> None:
    """Put X.weight into the place of every X.qweight and its companions.

    group_size  inputs of a group, -1 for all
    ordered     False if groups are not inputs side by side, so that only X.g_idx tells them
    what        the file that says how the tensors are quantized, for errors
    raises      ModelFormatError (tensor_missing, tensor_shape, tensor_dtype, group_index)
    """
    tensors = checkpoint.tensors
    stems = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    if not stems:
        raise ModelFormatError(
            f"{what}: quantized by {packing.layout}, but no tensor X.qweight", code="tensor_missing"
        )
    expanded = 0
    for stem in stems:
        if not ordered and group_size != -1 and f"{stem}.g_idx" not in tensors:
            raise ModelFormatError(
                f"{what}: desc_act is true, but tensor '{shown(stem)}.g_idx' is missing",
                code="tensor_missing",
            )
        weight = _weight(checkpoint, stem, packing, group_size)
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
            f"32 inputs (act-order), their scales not float16, or their zeros not in the middle of 8 bits"
        )


def _weight(checkpoint: Checkpoint, stem: str, packing: Packing, group_size: int) -> GroupQuantized:
    """A weight, and everything checked that it is made of."""
    tensors = checkpoint.tensors
    codes, n = tensors[f"{stem}.qweight"], packing.n_codes
    if len(codes.shape) != 2:
        raise _shape_error(codes, "two dimensions")
    n_in, n_out = codes.shape[0], codes.shape[1] * n
    if packing.layout != "awq":
        n_in, n_out = codes.shape[0] * n, codes.shape[1]
    if n_out % n or not n_out or not 0 < n_in <= MAX_INNER:
        raise _shape_error(codes, f"1 to {MAX_INNER} inputs and a multiple of {n} outputs")
    n_groups = 1 if group_size == -1 else -(-n_in // group_size)
    zeros = _expect(tensors, f"{stem}.qzeros", ("I32",), (n_groups, n_out // n))
    scales = _expect(tensors, f"{stem}.scales", FLOATS, (n_groups, n_out))
    _expect(tensors, codes.name, ("I32",), codes.shape)
    groups = np.arange(n_in, dtype=np.int32) // np.int32(n_in if group_size == -1 else group_size)
    sources = [codes, zeros, scales]
    if packing.layout != "awq" and f"{stem}.g_idx" in tensors:
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
        format = _format(_zeros(checkpoint, zeros, packing), packing)
    return GroupQuantized(packing, tuple(sources), groups, format)


def _format(zeros: Bytes, packing: Packing) -> str:
    """The smallest format that holds every code less its zero."""
    low, high = -int(zeros.max(initial=0)), int(packing.mask) - int(zeros.min(initial=255))
    return next((name for name, n in _MIDDLES.items() if -n <= low and high < n), "f32")


def _expect(
    tensors: dict[str, TensorInfo], name: str, formats: tuple[str, ...], shape: tuple[int, ...]
) -> TensorInfo:
    if name not in tensors:
        raise ModelFormatError(f"tensor '{shown(name)}' is missing", code="tensor_missing")
    stored = tensors[name]
    if stored.format not in formats:
        raise ModelFormatError(
            f"tensor '{shown(name)}' must be {' or '.join(formats)}, not {stored.format}", code="tensor_dtype"
        )
    if stored.shape != shape:
        raise _shape_error(stored, str(list(shape)))
    return stored


def _shape_error(stored: TensorInfo, expected: str) -> ModelFormatError:
    return ModelFormatError(
        f"tensor '{shown(stored.name)}' must have shape {expected} for these bits and this group size, not "
        f"{list(stored.shape)}",
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
