"""Qwen 3: RMS norms on the heads of query and key."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    QK_NORMS,
    activation,
    decoder,
    layer_of,
    rope,
    sizes,
)
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, GGUF_QK_NORMS, decoder_config
from tuili.loading.architectures.qwen2 import windows
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = LLAMA_NAMES | ATTENTION_BIASES | QK_NORMS

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_QK_NORMS


def spec(config: Config) -> ModelSpec:
    """Qwen3ForCausalLM."""
    config.update(head_dim=config.values.get("head_dim") or 128)
    size = sizes(config)
    rotation, limit = rope(config, size)
    layers = [
        layer_of(
            size,
            activation=activation(config),
            qk_norm="heads",
            attention_bias=config.flag("attention_bias", False),
            sliding_window=n,
        )
        for n in windows(config, size.n_layers)
    ]
    return decoder(config, size, layers, [rotation], max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "qwen3"."""
    return decoder_config(metadata, checkpoint)
