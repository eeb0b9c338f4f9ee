"""Ministral 3: Mistral by YaRN, whose queries grow from the end of the original context on."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    activation,
    decoder,
    layer_of,
    rope,
    rope_section,
    rotary_sizes,
    window,
)
from tuili.loading.architectures.mistral import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.mistral import TENSOR_NAMES as TENSOR_NAMES
from tuili.loading.config import MAX_POSITIONS, Config

_SCALING = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def spec(config: Config) -> ModelSpec:
    """Ministral3ForCausalLM, for texts whose queries do not grow: up to the original context."""
    if not ("rope_parameters" in config or "rope_scaling" in config):
        config.update(rope_parameters=_SCALING)
    size = rotary_sizes(config)
    rotation, limit = rope(config, size)
    scaling = rope_section(config)
    if scaling is not None and scaling.number("llama_4_scaling_beta", 0, 1e6):
        limit = min(limit, scaling.integer("original_max_position_embeddings", 1, MAX_POSITIONS))
    layer = layer_of(size, activation=activation(config), sliding_window=window(config))
    return decoder(config, size, [layer] * size.n_layers, [rotation], usual_eps=1e-5, max_positions=limit)
