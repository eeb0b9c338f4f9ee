"""FlexOlmo: OLMo 2 with experts."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    activation,
    decoder,
    expert_names,
    layer_of,
    n_experts,
    n_used,
    rope,
    sizes,
    without,
)
from tuili.loading.architectures.olmo2 import TENSOR_NAMES as _OLMO
from tuili.loading.config import Config

TENSOR_NAMES = without(_OLMO, ".mlp.") | expert_names(
    "model.layers.{i}.mlp", "gate_proj", "up_proj", "down_proj"
)


def spec(config: Config) -> ModelSpec:
    """FlexOlmoForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size, theta=500_000.0)
    n = n_experts(config, "num_experts", usual=7)
    normalize = config.flag("norm_topk_prob", False)
    layer = layer_of(
        size,
        activation=activation(config),
        norm_placement="branch",
        qk_norm="whole",
        attention_bias=config.flag("attention_bias", False),
        moe=MoeSpec(n_experts=n, n_used=n_used(config, n), d_ff=size.d_ff, normalize=normalize),
    )
    return decoder(config, size, [layer] * size.n_layers, [rotation], max_positions=limit)
