"""Apertus: norms of query and key, and MLPs without gates, whose activation each layer has learned."""

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
    rotary_sizes,
    without,
)
from tuili.loading.architectures.apertus_gguf import GGUF_IGNORED_TENSORS as GGUF_IGNORED_TENSORS
from tuili.loading.architectures.apertus_gguf import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.apertus_gguf import config_from_gguf as config_from_gguf
from tuili.loading.architectures.apertus_xielu import derive as derive
from tuili.loading.architectures.apertus_xielu import is_learned, xielu
from tuili.loading.architectures.llama import divided
from tuili.loading.config import Config

TENSOR_NAMES = (
    without(LLAMA_NAMES, "gate_proj", "layernorm")
    | ATTENTION_BIASES
    | QK_NORMS
    | {
        "model.layers.{i}.attention_layernorm.weight": "layers.{i}.attention_norm",
        "model.layers.{i}.feedforward_layernorm.weight": "layers.{i}.mlp_norm",
    }
)
IGNORED_TENSORS = (r"model\.layers\.\d+\.mlp\.act_fn\.(alpha_[pn]|beta|eps)",)

_THETA = 12_000_000.0
_SCALING = {"rope_type": "llama3", "rope_theta": _THETA, "factor": 8.0, "low_freq_factor": 1.0}
_SCALING |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def spec(config: Config) -> ModelSpec:
    """ApertusForCausalLM."""
    if not ("rope_parameters" in config or "rope_scaling" in config):
        config.update(rope_parameters=_SCALING)
    size = rotary_sizes(config)
    rotation, limit = rope(config, size, theta=_THETA)
    learned, bias = is_learned(config), config.flag("attention_bias", False)
    layers = [
        layer_of(
            size,
            activation="identity" if learned else activation(config),
            xielu=xielu(config, i) if learned else None,
            gated=False,
            qk_norm="heads",
            attention_bias=bias,
        )
        for i in range(size.n_layers)
    ]
    rotations = [divided(rotation, config)]
    return decoder(config, size, layers, rotations, usual_eps=1e-5, max_positions=limit)
