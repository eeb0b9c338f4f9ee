"""Jais 2: Llama with layer norms, no gates, squared ReLUs and biases."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, layer_of, rope, rotary_sizes
from tuili.loading.architectures.from_gguf import LAYER_NORM_EPS, decoder_config
from tuili.loading.architectures.nemotron import GGUF_IGNORED_TENSORS as GGUF_IGNORED_TENSORS
from tuili.loading.architectures.nemotron import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.nemotron import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.nemotron import TENSOR_NAMES as TENSOR_NAMES
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata


def spec(config: Config) -> ModelSpec:
    """Jais2ForCausalLM."""
    size = rotary_sizes(config)
    rotation, limit = rope(config, size)
    layer = layer_of(
        size,
        activation=activation(config, usual="relu2"),
        gated=False,
        attention_bias=config.flag("attention_bias", True),
        mlp_bias=config.flag("mlp_bias", True),
    )
    layers = [layer] * size.n_layers
    return decoder(config, size, layers, [rotation], layer_norm_eps="layer_norm_eps", max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "jais2"."""
    present = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}
    return decoder_config(metadata, checkpoint, numbers=LAYER_NORM_EPS, present=present)
