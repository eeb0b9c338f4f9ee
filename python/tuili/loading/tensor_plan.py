"""Which tensor of the files is which of the model, and the format that each is handed to the core in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuili._core import ModelBuilder, ModelSpec
from tuili.errors import InvalidParameterError, ModelFormatError, ModelUnsupportedError
from tuili.loading import heads
from tuili.loading.checkpoint import FLOATS, FORMATS, TensorInfo
from tuili.loading.config import Config
from tuili.loading.files import shown
from tuili.loading.four_bits import int4_format
from tuili.loading.layout import Names, Parts, Place, Shape, checked, constant, our_names, places, whole
from tuili.loading.model_source import ModelSource
from tuili.loading.tied_heads import HEADS, untie
from tuili.loading.weights import FLOAT_FORMATS

_ATTENTION = ("query", "key", "value", "output")
_LINEAR = (*_ATTENTION, *(f"cross_{name}" for name in _ATTENTION), "attention_gate", "gate", "up", "down")
_TABLES = ("position_embedding", "token_type_embedding", "distance_table")


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the model: our name, where it is, and the format that it is handed to the core in.

    narrows  f32, or fewer bytes if they hold every value: products have the same bits, and read less
    """

    name: str
    place: Place
    format: str
    shape: Shape
    narrows: bool = False

    @property
    def stored(self) -> TensorInfo:
        """The tensor in the file that holds it."""
        return self.place.stored

    def may_be(self, format: str) -> bool:
        """Whether `format` is the planned one, or a narrower one that may have turned out to do."""
        return format == self.format or (self.narrows and format in FLOATS)

    @property
    def n_bytes(self) -> int:
        """Bytes in that format."""
        block = FORMATS[self.format]
        return math.prod(self.shape) // block.n_values * block.n_bytes


def find_head(source: ModelSource, warnings: list[str]) -> None:
    """Note in the configuration which head the model has.

    sentence-transformers' folders name the class that a model was trained from, with a head for masked words
    that they do not hold. One that is tied and has no parts of its own needs none.
    """
    if source.kind == "gguf":
        return
    source.config.head = heads.kind_of(source.architecture)
    if source.config.head != "words":
        return
    names, _, prefix = _names(source)
    found = (our_names(theirs, names, prefix) for theirs in source.checkpoint.tensors)
    if any(parts is not None and parts.names[0].startswith("task_head.") for parts in found):
        return
    trial = Config(dict(source.config.values), source.config.what, source.config.names)
    trial.head, trial.tensors = "words", source.config.tensors
    spec = source.module.spec(trial)
    if any(name.startswith("task_head.") for name, _ in ModelBuilder(spec).expected()):
        source.config.head = None
        warnings.append(f"the files hold no head for {source.architecture}; the model gives vectors only")


def find_tied(source: ModelSource, warnings: list[str]) -> None:
    """Note in the configuration that a head for words is not tied, if the files hold another matrix."""
    if source.kind == "gguf" or source.config.head not in (None, "words"):
        return
    if not getattr(source.module, "UNTIES", True):
        return
    names, _, prefix = _names(source)
    stored = {
        parts.names[0]: info
        for theirs, info in source.checkpoint.tensors.items()
        if (parts := our_names(theirs, names, prefix)) is not None
    }
    if (warning := untie(source.config, source.checkpoint, stored)) is not None:
        warnings.append(warning)


def plan_tensors(
    source: ModelSource,
    spec: ModelSpec,
    dtype: str,
    compute: str,
    quantization: str | None,
    warnings: list[str],
) -> tuple[list[PlannedTensor], list[str]]:
    """What becomes of every tensor that the spec needs, and the names of those that it does not."""
    expected = {name: tuple(shape) for name, shape in ModelBuilder(spec).expected()}
    if quantization is not None and not any(is_multiplied(name, spec) for name in expected):
        raise InvalidParameterError(
            f"quantization: {source.architecture} has no matrix to quantize; leave it out",
            param="quantization",
            code="invalid_option",
        )
    found, ignored = _match_names(source, expected, warnings)
    tensors = []
    for name, shape in expected.items():
        place = _checked(name, expected, found.pop(name, None), source, spec)
        if quantization is not None and _can_quantize(name, place.stored, shape, spec):
            format = _quantized_format(quantization, name, shape[1])
        else:
            format = _target_format(name, place.stored, shape, dtype)
        narrows = dtype == "auto" and format == place.stored.format == "f32" and is_weight(name, shape)
        tensors.append(PlannedTensor(name, place, format, shape, narrows))
    for name, place in found.items():
        if not _is_bias_of_zeros(place.stored, source):
            warnings.append(f"tensor '{shown(place.stored.name)}' ({name}) is not used by this configuration")
        ignored.append(shown(place.stored.name, 256))
    warnings += _without_effect(tensors, spec, dtype, compute, quantization)
    return tensors, ignored


def _without_effect(
    tensors: Sequence[PlannedTensor], spec: ModelSpec, dtype: str, compute: str, quantization: str | None
) -> list[str]:
    """What options do not do because of the formats that the files have, a line for each."""
    kept = [
        tensor.format
        for tensor in tensors
        if tensor.stored.format not in FLOATS and is_multiplied(tensor.name, spec)
    ]
    lines = []
    if quantization is not None and kept:
        formats = ", ".join(sorted(set(kept)))
        lines.append(
            f"quantization='{quantization}' is of float weights: {len(kept)} matrices that the files hold "
            f"quantized stay as they are ({formats})"
        )
    if dtype != "auto" and not any(
        is_weight(tensor.name, tensor.shape) and tensor.stored.format in FLOATS for tensor in tensors
    ):
        lines.append(f"dtype='{dtype}' is of float weights, of which the files hold none")
    if compute == "int8" and all(tensor.format in FLOATS for tensor in tensors):
        lines.append("compute='int8' is of quantized weights, of which there are none")
    return lines


def _is_bias_of_zeros(stored: TensorInfo, source: ModelSource) -> bool:
    """Whether it is what AutoGPTQ, until 2023, gave every quantized map that has no bias."""
    checkpoint = source.checkpoint
    of = stored.name.removesuffix(".bias") + ".weight"
    if of not in checkpoint.derived or stored.shape != checkpoint.tensors[of].shape[:1]:
        return False
    with checkpoint:
        return not checkpoint.read(stored.name).any()


def _names(source: ModelSource) -> tuple[Names, Sequence[str], str]:
    """Their names of tensors -> ours, patterns of known extras, and the prefix that some files leave out."""
    module = source.module
    if source.kind == "gguf":
        own = getattr(module, "gguf_tensor_names", None)
        extras = getattr(module, "GGUF_IGNORED_TENSORS", ())
        return own(source.config) if own else module.GGUF_TENSOR_NAMES, extras, ""
    names = module.tensor_names(source.config) if hasattr(module, "tensor_names") else module.TENSOR_NAMES
    return names, getattr(module, "IGNORED_TENSORS", ()), getattr(module, "BASE_PREFIX", "model.")


def _match_names(
    source: ModelSource, expected: Mapping[str, Shape], warnings: list[str]
) -> tuple[dict[str, Place], list[str]]:
    """Places of tensors by our names, and the names of those left out: known extras, unknown ones with a
    warning."""
    names, extras, prefix = _names(source)
    second: Mapping[str, str] = getattr(source.module, "SECOND_NAMES", {}) if source.kind == "folder" else {}
    if "head.bias" in expected:  # of a decoder that has an encoder's head for words
        second = dict.fromkeys(second, "head.bias")
    found: dict[str, Place] = {}
    ignored = []
    for theirs, stored in sorted(source.checkpoint.tensors.items(), key=lambda item: item[0] in second):
        parts = our_names(theirs, names, prefix)
        if theirs in second and second[theirs] not in found and second[theirs] in expected:
            parts = Parts((second[theirs],))
        if parts is None:
            ignored.append(shown(theirs, 256))
            if not any(re.fullmatch(extra, name) for extra in extras for name in (theirs, prefix + theirs)):
                warnings.append(f"tensor '{shown(theirs)}' is unknown and ignored")
            continue
        if theirs in source.checkpoint.derived:
            parts = parts._replace(transposed=False)
        for ours, place in places(stored, parts, expected):
            if ours in found:
                raise ModelFormatError(
                    f"tensors '{shown(theirs)}' and '{shown(found[ours].stored.name)}' are the same part of "
                    f"the model, {ours}",
                    code="tensor_duplicate",
                )
            found[ours] = place
    for head in HEADS:
        if head in found and head not in expected:  # of two that are tied, files hold either, or both
            other = found.pop(head).stored
            if found.setdefault("token_embedding", whole(other, "token_embedding")).stored is not other:
                ignored.append(shown(other.name, 256))
    return found, ignored


def _checked(
    name: str, expected: Mapping[str, Shape], place: Place | None, source: ModelSource, spec: ModelSpec
) -> Place:
    """`place`, provided that it is there, has the shape that the configuration asks for, and can be read."""
    where, shape = shown(source.path, 256), expected[name]
    if place is None:
        value = constant(name, source.module, source.config)
        if value is None:
            raise ModelFormatError(f"{where}: tensor {name} {list(shape)} is missing", code="tensor_missing")
        return whole(TensorInfo(name, "f32", shape, 0, 0), name, value)
    layer = re.match(r"layers\.(\d+)\.", name)
    n_groups = spec.layers[int(layer[1])].n_kv_heads if layer is not None else 1
    place = checked(place, shape, expected, n_groups, where)
    stored = place.stored
    if stored.format not in (FORMATS if is_weight(name, shape) else FLOATS):
        raise ModelUnsupportedError(
            f"{where}: tensor '{shown(stored.name)}' is stored as {stored.format}, which is not "
            f"supported here",
            code="tensor_dtype",
        )
    return place


def is_weight(name: str, shape: Shape) -> bool:
    """Whether a tensor may be quantized and converted: a linear layer's matrix, or the token embedding."""
    name = name.removeprefix("encoder.")
    return len(shape) == 2 and name not in _TABLES and not name.startswith("position_biases.")


def is_multiplied(name: str, spec: ModelSpec) -> bool:
    """Whether a tensor is a linear map's matrix, as opposed to a table that is only looked up."""
    if name == "token_embedding":
        return (spec.has_head and spec.tied_head) or (spec.task_head.n_out > 0 and spec.task_head.tied)
    return name == "head" or name.rsplit(".", 1)[-1] in _LINEAR


def _can_quantize(name: str, stored: TensorInfo, shape: Shape, spec: ModelSpec) -> bool:
    return stored.format in FLOATS and is_multiplied(name, spec) and shape[1] % FORMATS["q8_0"].n_values == 0


def _quantized_format(quantization: str, name: str, n_in: int) -> str:
    """Heads, which are embeddings where these are tied, keep 8 bits: logits feel every error of theirs."""
    if quantization == "int8" or name in ("head", "token_embedding"):
        return "q8_0"
    return int4_format(n_in)


def _target_format(name: str, stored: TensorInfo, shape: Shape, dtype: str) -> str:
    if not is_weight(name, shape):
        return "f32"
    if dtype == "auto" or stored.format not in FLOATS:
        return stored.format
    return FLOAT_FORMATS[dtype]
