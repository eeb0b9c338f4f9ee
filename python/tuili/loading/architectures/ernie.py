"""ERNIE 4.5 (dense): Llama whose rotated pairs are neighbours, with biases everywhere or nowhere."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    MLP_BIASES,
    activation,
    decoder,
    layer_of,
    rope,
    sizes,
)
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, GGUF_BIASES, decoder_config
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = LLAMA_NAMES | ATTENTION_BIASES | MLP_BIASES

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_BIASES


def spec(config: Config) -> ModelSpec:
    """Ernie4_5ForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size, theta=500_000.0, interleaved=True)
    bias = config.flag("use_bias", False)
    layer = layer_of(size, activation=activation(config), attention_bias=bias, mlp_bias=bias)
    layers = [layer] * size.n_layers
    return decoder(config, size, layers, [rotation], usual_eps=1e-5, tied=True, max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "ernie4_5"."""
    return decoder_config(metadata, checkpoint, present={"use_bias": "attn_q.bias"})
