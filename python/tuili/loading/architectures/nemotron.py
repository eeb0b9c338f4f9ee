"""Nemotron and Minitron: norms that multiply by 1 + w, partly rotated heads, no gates, squared ReLUs."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, layer_of, rope, sizes, without
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_BIASES,
    GGUF_NORM_BIASES,
    decoder_config,
)
from tuili.loading.architectures.gemma import fold as fold
from tuili.loading.architectures.llama import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.llama import TENSOR_NAMES as _LLAMA
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = without(_LLAMA, "gate_proj") | {
    "model.layers.{i}.input_layernorm.bias": "layers.{i}.attention_norm.bias",
    "model.layers.{i}.post_attention_layernorm.bias": "layers.{i}.mlp_norm.bias",
    "model.norm.bias": "final_norm.bias",
}

GGUF_TENSOR_NAMES = without(DECODER_GGUF_NAMES, "ffn_gate") | GGUF_BIASES | GGUF_NORM_BIASES
GGUF_IGNORED_TENSORS = (r"rope_freqs\.weight",)


def spec(config: Config) -> ModelSpec:
    """NemotronForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size, partial=0.5, rounds_up=True)
    layer = layer_of(
        size,
        activation=activation(config, usual="relu2"),
        gated=False,
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
    )
    layers = [layer] * size.n_layers
    return decoder(config, size, layers, [rotation], layer_norm_eps="norm_eps", max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "nemotron"."""
    numbers = {"norm_eps": "attention.layer_norm_epsilon"}
    present = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}
    return decoder_config(metadata, checkpoint, numbers=numbers, present=present, rotates="parts")
