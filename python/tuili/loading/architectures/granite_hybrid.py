"""Granite 4 where every layer has attention (micro, 1b, 350m); others have layers that are not here."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    GLOBAL,
    LLAMA_NAMES,
    granite_moe,
    rope,
    sizes,
    without,
)
from tuili.loading.architectures.granite import granite
from tuili.loading.architectures.granite_moe import experts
from tuili.loading.config import MAX_EXPERTS, MAX_INNER, Config
from tuili.loading.files import shown
from tuili.loading.layout import Parts

_MLP = "model.layers.{i}.shared_mlp"
TENSOR_NAMES = (
    without(LLAMA_NAMES, ".mlp.")
    | ATTENTION_BIASES
    | {
        f"{_MLP}.input_linear.weight": Parts(("layers.{i}.gate", "layers.{i}.up")),
        f"{_MLP}.output_linear.weight": "layers.{i}.down",
    }
)


def spec(config: Config) -> ModelSpec:
    """GraniteMoeHybridForCausalLM."""
    size = sizes(config)
    kinds = config.values.get("layer_types")
    if kinds not in [[name] * size.n_layers for name in ("attention", GLOBAL)]:
        raise ModelUnsupportedError(
            f"{config.what}: layer_types is {shown(kinds)}; supported: {size.n_layers} times attention",
            code="config_unsupported",
        )
    rotates = config.choice("position_embedding_type", ("rope", "nope"), None) == "rope"
    rotations, limit = [], size.max_positions
    if rotates:
        rotation, limit = rope(config, size)
        rotations = [rotation]
    if _n_experts(config):
        return granite(config, size, rotations, limit, moe=experts(config, size, shared=True))
    d_ff = config.integer("shared_intermediate_size", 1, MAX_INNER)
    return granite(config, size, rotations, limit, d_ff=d_ff)


def tensor_names(config: Config) -> dict[str, Any]:
    """Their names -> ours: of a layer with experts the MLP is the shared one."""
    return granite_moe.TENSOR_NAMES if _n_experts(config) else TENSOR_NAMES


def _n_experts(config: Config) -> int:
    return int(config.integer("num_local_experts", 0, MAX_EXPERTS, 8))
