"""Loading in two phases: `plan_model` checks everything, allocating nothing large; `load` reads and packs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from tuili._core import MAX_THREADS, Model, ModelBuilder, ModelSpec
from tuili.errors import InvalidParameterError, ModelFormatError, ModelLimitError
from tuili.loading import heads
from tuili.loading.architectures.decoder_heads import HeadedDecoder
from tuili.loading.checkpoint import FLOATS
from tuili.loading.files import StrPath, shown
from tuili.loading.four_bits import quantize_int4
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Shape, cut
from tuili.loading.memory import available_memory
from tuili.loading.model_source import ModelSource, TokenizerFiles, open_source
from tuili.loading.sentence_maps import SentenceMap
from tuili.loading.task_parameters import task_parameters
from tuili.loading.tensor_plan import (
    PlannedTensor,
    find_head,
    find_tied,
    is_multiplied,
    is_weight,
    plan_tensors,
)
from tuili.loading.weights import (
    FLOAT_FORMATS,
    check_finite,
    from_float32,
    narrowest,
    quantize_q8_0,
    to_float32,
    unpermute_rows,
)

logger = logging.getLogger("tuili")

Compute = Literal["auto", "int8", "float32"]
_DEPTHS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")

# Packing pads panels and may spend a byte where a format has six bits (at most 3 % more).
_PACKING = 1.05


@dataclass
class LoadPlan:
    """A model that has been checked completely but not read: what `load` will do, and what it will cost.

    weight_bytes  at most: `load` narrows tensors where that loses nothing
    needed_bytes  the most memory that loading takes at once, weights included
    """

    source: ModelSource
    spec: ModelSpec
    head: heads.Head | None
    tensors: list[PlannedTensor]
    ignored_tensors: list[str]
    warnings: list[str]
    weight_bytes: int
    needed_bytes: int
    compute: Compute
    check_finite: bool
    num_threads: int
    quantization: str | None

    @property
    def not_quantized(self) -> list[str]:
        """The matrices that stay floats in spite of `quantization`: rows of no whole blocks."""
        return [
            tensor.name
            for tensor in self.tensors
            if self.quantization and tensor.format in FLOATS and is_multiplied(tensor.name, self.spec)
        ]

    def takes(self, formats: Mapping[str, str]) -> bool:
        """Note of each tensor, by name, which format it had when it was packed; False if it never had."""
        names = {tensor.name for tensor in self.tensors}
        if names != formats.keys() or not all(tensor.may_be(formats[tensor.name]) for tensor in self.tensors):
            return False
        self.tensors = [replace(tensor, format=formats[tensor.name]) for tensor in self.tensors]
        return True

    def finished(self, model: Model) -> LoadedModel:
        """The plan carried out: `model`, and all that the files say about using it."""
        source = self.source
        return LoadedModel(
            model=model,
            spec=self.spec,
            kind=self.spec.kind,
            config=_description(self),
            tokenizer=source.tokenizer,
            chat_template=source.chat_template,
            generation_defaults=source.generation_defaults,
            embedding=source.embedding if self.spec.kind == "encoder" else None,
            dense=source.dense if self.spec.kind == "encoder" else [],
            head=self.head,
            eos_token_ids=source.eos_token_ids,
            decoder_start=source.decoder_start,
        )

    def __str__(self) -> str:
        formats = Counter(tensor.format for tensor in self.tensors)
        return (
            f"{self.source.architecture}: {len(self.tensors)} tensors ({', '.join(sorted(formats))}), "
            f"{self.weight_bytes / 2**20:.0f} MiB of weights, {self.needed_bytes / 2**20:.0f} MiB at "
            f"most while loading"
        )


@dataclass
class LoadedModel:
    """A model in memory and all that its files say about using it."""

    model: Model
    spec: ModelSpec
    kind: str
    config: dict[str, Any]
    tokenizer: TokenizerFiles | Metadata
    chat_template: str | None
    generation_defaults: dict[str, Any]
    embedding: dict[str, Any] | None
    dense: list[SentenceMap]
    head: heads.Head | None
    eos_token_ids: tuple[int, ...]
    decoder_start: int | None  # of encoder-decoders: the token that generated ones come after, or the text
    # that a decoder under a task head reads; None of the latter: the text's last token

    @property
    def rounds_activations(self) -> bool:
        """Whether a product rounds its input to int8: where weights are quantized, and not dequantized."""
        quantized = not set(FLOATS).issuperset(self.config["weight_bytes"])
        return quantized and self.config["compute"] != "float32"


def plan_model(
    path: StrPath,
    *,
    dtype: str = "auto",
    compute: Compute = "auto",
    quantization: str | None = None,
    strict: bool = True,
    strict_paths: bool = False,
    check_finite: bool = False,
    num_threads: int | None = None,
    max_model_len: int | None = None,
    packed: Mapping[str, Any] | None = None,
) -> LoadPlan:
    """Check a Hugging Face folder or GGUF file down to the byte range of every tensor.

    dtype          of float weights: "auto" (exactly as stored), "float32", "bfloat16" or "float16"
    quantization   "int8" or "int4": what float matrices become, see tensor_plan.py
    strict         False tolerates data that no tensor covers, with a warning
    strict_paths   refuse symbolic links that lead out of the folder
    check_finite   `load` refuses infinite and not-a-number weights
    num_threads    None: the default
    max_model_len  the longest text asked for: beyond longrope's first context all have its long factors
    packed         the facts of the packed cache's file, if the weights will be mapped from it
    raises         the Model… errors and TemplateError, InvalidParameterError; ModelLimitError (memory) if it
                   cannot fit
    """
    check_options(dtype, compute, quantization, num_threads)
    index = packed.get("gguf") if packed is not None else None
    source = open_source(path, strict=strict, strict_paths=strict_paths, index=index)
    _check_depth(source)
    source.config.warnings = warnings = [*source.checkpoint.warnings, *source.config.warnings]
    source.config.tensors = source.checkpoint.tensors.keys()
    source.config.max_model_len = int(max_model_len) if isinstance(max_model_len, int | np.integer) else None
    find_head(source, warnings)
    find_tied(source, warnings)
    head = heads.describe(source.config, source.module)
    spec = _spec_of(source)
    tensors, ignored = plan_tensors(source, spec, dtype, compute, quantization, warnings)
    weight_bytes = sum(tensor.n_bytes for tensor in tensors)
    largest = max(tensor.place.read_bytes + tensor.n_bytes for tensor in tensors)
    plan = LoadPlan(
        source=source,
        spec=spec,
        head=head,
        tensors=sorted(tensors, key=lambda tensor: (tensor.stored.part, tensor.stored.offset)),
        ignored_tensors=ignored,
        warnings=warnings,
        weight_bytes=weight_bytes,
        needed_bytes=int(weight_bytes * _PACKING) + largest + _folded_bytes(spec),
        compute=compute,
        check_finite=check_finite,
        num_threads=num_threads or 0,
        quantization=quantization,
    )
    if packed is None:
        _check_memory(plan)
    for warning in warnings:
        logger.warning("%s", warning)
    return plan


def _spec_of(source: ModelSource) -> ModelSpec:
    """The source's, with a warning that a window has no effect where its architecture knows of none:
    transformers reads a whole prompt without it there, too, though it keeps no more than the window of it."""
    config = source.config
    spec: ModelSpec = source.module.spec(config)
    asked = not config.asked.isdisjoint(("sliding_window", "use_sliding_window"))
    if source.kind == "folder" and "sliding_window" in config and not asked:
        given = shown(config.values["sliding_window"])
        config.warn(f"sliding_window is {given}, which has no effect: models of this kind have no windows")
    return spec


def _check_depth(source: ModelSource) -> None:
    """Refuse more layers than the files hold tensors, before a spec is made of them."""
    n_found = len(source.checkpoint.tensors)
    n_layers = max((n for key in _DEPTHS if type(n := source.config.values.get(key)) is int), default=0)
    shared = getattr(source.module, "SHARED_LAYERS", False)
    if n_layers > n_found and not shared:
        raise ModelFormatError(
            f"{source.config.what}: {n_layers} layers, but the files hold {n_found} tensors",
            code="layer_count",
        )


def check_options(dtype: str, compute: str, quantization: str | None, num_threads: int | None) -> None:
    """raises  InvalidParameterError (invalid_option)"""
    wrong: list[tuple[str, object, str]] = [
        (param, value, f"one of {', '.join(map(str, allowed))}")
        for param, value, allowed in (
            ("dtype", dtype, ("auto", *FLOAT_FORMATS)),
            ("compute", compute, ("auto", "int8", "float32")),
            ("quantization", quantization, (None, "int8", "int4")),
        )
        if not isinstance(value, str | None) or value not in allowed
    ]
    is_number = isinstance(num_threads, int | np.integer) and not isinstance(num_threads, bool)
    if num_threads is not None and not (is_number and 1 <= num_threads <= MAX_THREADS):
        wrong.append(("num_threads", num_threads, f"1 to {MAX_THREADS} or None"))
    for param, value, expected in wrong:
        raise InvalidParameterError(
            f"{param} must be {expected}, not {shown(value)}", code="invalid_option", param=param
        )


def _n_alike(plan: LoadPlan, shape: Shape) -> int:
    """Values of one scale. Decoders' activations have outliers, also under a head, which spoil what shares a
    scale with them: 32 there."""
    is_decoder = plan.spec.kind == "decoder" or isinstance(plan.source.module, HeadedDecoder)
    return 128 if not is_decoder and shape[1] % 128 == 0 else 32


def _folded_bytes(spec: ModelSpec) -> int:
    """Bytes of what each layer makes of the table of distances."""
    distances = spec.distances
    n_each = (distances.keys + distances.queries) * distances.n_rows * 4
    return sum(n_each * layer.n_heads * layer.head_dim for layer in spec.layers)


def _check_memory(plan: LoadPlan) -> None:
    available = available_memory()
    if available is not None and plan.needed_bytes > available[0]:
        raise ModelLimitError(
            f"{plan}; but {available[1]} leaves {available[0] / 2**20:.0f} MiB", code="memory"
        )


# ---- reading


def load(plan: LoadPlan, progress: Callable[[int, int], None] | None = None) -> LoadedModel:
    """Read and pack every tensor of a plan.

    progress  called with (bytes done, bytes in all) after each tensor; an exception from it ends the load
    raises    ModelIOError (file_changed, read_failed), ModelFormatError (not_finite), EngineOutOfMemoryError
    """
    builder = ModelBuilder(plan.spec, compute=plan.compute, num_threads=plan.num_threads)
    total = sum(tensor.place.read_bytes for tensor in plan.tensors)
    done = 0
    with plan.source.checkpoint:
        for i, tensor in enumerate(plan.tensors):
            plan.tensors[i] = _load_tensor(builder, tensor, plan)
            done += tensor.place.read_bytes
            if progress is not None:
                progress(done, total)
    return plan.finished(builder.finish())


def _load_tensor(builder: ModelBuilder, tensor: PlannedTensor, plan: LoadPlan) -> PlannedTensor:
    """Hands a tensor to the core; returns it with the format that it has there."""
    place, source, stored = tensor.place, plan.source, tensor.stored
    if place.constant is not None:
        data = np.full(tensor.shape, place.constant, np.float32).reshape(-1).view(np.uint8)
        builder.add(tensor.name, "f32", tensor.shape, data)
        return tensor
    data = source.checkpoint.read(stored.name, place.begin, place.read_bytes)
    if plan.check_finite:
        check_finite(data, stored.format, stored.name)
    data = cut(data, place)
    if source.kind == "gguf" and hasattr(source.module, "unpermute"):
        n_heads = source.module.unpermute(tensor.name, source.config)
        if n_heads:
            data = unpermute_rows(data, tensor.shape[0], n_heads)
    is_vector = not is_weight(tensor.name, tensor.shape)
    if tensor.narrows:
        tensor = replace(tensor, format=narrowest(to_float32(data, stored.format)))
    if tensor.format != stored.format or is_vector:
        values = to_float32(data, stored.format)
        if is_vector and source.kind == "folder" and hasattr(source.module, "fold"):
            values = source.module.fold(tensor.name, values)
        if tensor.format == "q8_0":
            data = quantize_q8_0(values, stored.name, _n_alike(plan, tensor.shape))
        elif tensor.format not in FLOATS:
            data = quantize_int4(values, tensor.shape[1], stored.name)
        else:
            data = from_float32(values, tensor.format, stored.name)
    builder.add(tensor.name, cast(Any, tensor.format), tensor.shape, data)
    return tensor


def _description(plan: LoadPlan) -> dict[str, Any]:
    """What `llm.config` shows: sizes, formats, defaults where the files are silent, what was left out."""
    source, spec = plan.source, plan.spec
    formats: dict[str, int] = {}
    for tensor in plan.tensors:
        formats[tensor.format] = formats.get(tensor.format, 0) + tensor.n_bytes
    keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    values = source.config.values
    return {
        "architecture": source.architecture,
        "path": source.path,
        "format": source.kind,
        "n_layers": len(spec.layers),
        "n_vocab": spec.n_vocab,
        "d_model": spec.d_model,
        "max_positions": spec.max_positions,
        "longrope": source.config.longrope,
        "settings": {key: values[key] for key in keys if values.get(key) is not None},
        "weight_bytes": formats,
        "compute": plan.compute,
        "quantization": plan.quantization,
        "not_quantized": plan.not_quantized,
        "defaults": {key: value for key, value in source.config.defaults.items() if value is not None},
        "generation_defaults": source.generation_defaults,
        "ignored_generation_keys": source.ignored_generation_keys,
        "eos_token_ids": list(source.eos_token_ids),
        "embedding": source.embedding,
        **heads.as_config(spec.kind, plan.head),
        "task_parameters": task_parameters(source.config) if spec.encoder is not None else {},
        "ignored_tensors": plan.ignored_tensors,
        "auto_map_ignored": "auto_map" in values,
        "warnings": plan.warnings,
    }
