"""Code World Model: Llama with windows in three layers of four, and Llama 3's scaling if files are silent."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    GLOBAL,
    LLAMA_NAMES,
    LOCAL,
    MLP_BIASES,
    activation,
    decoder,
    layer_of,
    layer_types,
    rope,
    rotary_sizes,
    window,
)
from tuili.loading.config import Config

TENSOR_NAMES = LLAMA_NAMES | MLP_BIASES
_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def spec(config: Config) -> ModelSpec:
    """CwmForCausalLM."""
    if not ("rope_parameters" in config or "rope_scaling" in config):
        config.update(rope_parameters=_SCALING)
    size = rotary_sizes(config)
    rotation, limit = rope(config, size, theta=1_000_000.0)
    length = window(config, 8192)
    usual = [LOCAL if i % 4 else GLOBAL for i in range(size.n_layers)]
    layers = [
        layer_of(
            size,
            activation=activation(config),
            sliding_window=length if kind == LOCAL else 0,
            mlp_bias=config.flag("mlp_bias", False),
        )
        for kind in layer_types(config, size.n_layers, usual)
    ]
    return decoder(config, size, layers, [rotation], usual_eps=1e-5, max_positions=limit)
