"""Granite 3: Llama with four multipliers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tuili._core import ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    MLP_BIASES,
    Sizes,
    activation,
    decoder,
    layer_of,
    rope,
    sizes,
)
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, decoder_config
from tuili.loading.architectures.llama import unpermute as unpermute
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = LLAMA_NAMES | ATTENTION_BIASES | MLP_BIASES
IGNORED_TENSORS = ()

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES
GGUF_IGNORED_TENSORS = ()


def spec(config: Config) -> ModelSpec:
    """GraniteForCausalLM."""
    return granite(config, sizes(config), mlp_bias=config.flag("mlp_bias", False))


def granite(config: Config, size: Sizes, *, rotates: bool = True, **mlp: Any) -> ModelSpec:
    """With or without experts and rotations; mlp: LayerSpec's fields of what is behind attention."""
    rotation, limit = rope(config, size) if rotates else (None, size.max_positions)
    bias = config.flag("attention_bias", False)
    layer = layer_of(
        size,
        activation=activation(config),
        rope=0 if rotates else -1,
        attention_scale=config.positive("attention_multiplier", 1.0),
        residual_scale=config.positive("residual_multiplier", 1.0),
        qkv_bias=bias,
        output_bias=bias,
        **mlp,
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        [rotation] if rotation is not None else [],
        max_positions=limit,
        embedding_scale=config.positive("embedding_multiplier", 1.0),
        logit_scale=1 / config.positive("logits_scaling", 1.0),
    )


def config_from_gguf(
    metadata: Metadata, checkpoint: Checkpoint, integers: Mapping[str, str] = MappingProxyType({})
) -> Config:
    """The settings of a GGUF file of architecture "granite"; integers: more of them, of "granitemoe"."""
    numbers = {
        "attention_multiplier": "attention.scale",
        "residual_multiplier": "residual_scale",
        "embedding_multiplier": "embedding_scale",
        "logits_scaling": "logit_scale",
    }
    key = f"{metadata.get_str('general.architecture')}.rope.scaling.finetuned"
    if not metadata.get_bool(key, True):  # what Granite's files mean by it
        raise ModelUnsupportedError(
            f"{metadata.what}: {key} is false: no rotations", code="config_unsupported"
        )
    return decoder_config(metadata, checkpoint, numbers=numbers, integers=integers)
