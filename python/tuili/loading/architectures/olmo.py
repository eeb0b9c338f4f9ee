"""OLMo: layer norms without weights, clipped projections."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    DECODER_NAMES,
    activation,
    decoder,
    layer_of,
    rope,
    sizes,
    without,
)
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, decoder_config
from tuili.loading.architectures.llama import unpermute as unpermute
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = without(DECODER_NAMES, "norm") | ATTENTION_BIASES

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES


def spec(config: Config) -> ModelSpec:
    """OlmoForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    layer = layer_of(
        size,
        activation=activation(config),
        qkv_clip=config.positive("clip_qkv", 0.0),
        attention_bias=config.flag("attention_bias", False),
    )
    return decoder(
        config, size, [layer] * size.n_layers, [rotation], norm="layer", norm_eps=1e-5, max_positions=limit
    )


def constants(config: Config) -> dict[str, float]:
    """Its norms have no weights."""
    return {r".*_norm": 1.0, r".*_norm\.bias": 0.0}


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "olmo"."""
    return decoder_config(metadata, checkpoint, numbers={"clip_qkv": "attention.clamp_kqv"})
