"""Granite 3: Llama with four multipliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tuili._core import ModelSpec, RopeSpec
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

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES


def spec(config: Config) -> ModelSpec:
    """GraniteForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    return granite(config, size, [rotation], limit, mlp_bias=config.flag("mlp_bias", False))


def granite(
    config: Config,
    size: Sizes,
    rotations: Sequence[RopeSpec],
    limit: int,
    own: Sequence[Mapping[str, Any]] = (),
    *,
    tied: bool = False,
    usual_eps: float = 1e-6,
    **mlp: Any,
) -> ModelSpec:
    """With or without experts and rotations.

    limit  how many positions the rotations hold for
    own    LayerSpec's fields of each layer, where layers differ; mlp: of what is behind every attention
    """
    common: dict[str, Any] = {
        "activation": activation(config),
        "rope": 0 if rotations else -1,
        "attention_scale": config.positive("attention_multiplier", 1.0),
        "residual_scale": config.positive("residual_multiplier", 1.0),
        "attention_bias": config.flag("attention_bias", False),
    }
    return decoder(
        config,
        size,
        [layer_of(size, **common | mlp | dict(fields)) for fields in own or [{}] * size.n_layers],
        rotations,
        tied=tied,
        usual_eps=usual_eps,
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
