"""Hy3: norms of query and key before rotations, and experts scored by sigmoids and chosen with a bias."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    QK_NORMS,
    activation,
    decoder,
    expect_only,
    layer_of,
    n_experts,
    n_used,
    rope,
    rotary_sizes,
    shared_expert_names,
)
from tuili.loading.architectures.routed import ROUTED_NAMES, by_types
from tuili.loading.config import MAX_INNER, Config

_MLP = "model.layers.{i}.mlp"
TENSOR_NAMES = (
    ROUTED_NAMES
    | ATTENTION_BIASES
    | QK_NORMS
    | {
        f"{_MLP}.e_score_correction_bias": "layers.{i}.selection_bias",
        f"{_MLP}.expert_bias": "layers.{i}.selection_bias",
        f"{_MLP}.router.gate.weight": "layers.{i}.router",
    }
    | shared_expert_names(f"{_MLP}.shared_mlp")
)
IGNORED_TENSORS = (r"model\.layers\.80\..*",)  # which foretells the tokens after the next


def spec(config: Config) -> ModelSpec:
    """HYV3ForCausalLM."""
    expect_only(config, "mlp_bias", False)
    size = rotary_sizes(config)
    rotation, limit = rope(config, size, theta=11_158_840.0)
    n = n_experts(config, "num_experts", usual=192)
    d_ff = config.integer("moe_intermediate_size", 1, MAX_INNER)
    moe = MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=d_ff,
        scoring="sigmoid",
        normalize=True,
        scale=config.positive("router_scaling_factor", 2.826),
        selection_bias=True,
        d_ff_shared=d_ff * config.integer("num_shared_experts", 1, 1024, 1),
    )
    layers = [
        layer_of(
            size,
            activation=activation(config),
            qk_norm="heads",
            attention_bias=config.flag("attention_bias", False),
            moe=moe,
        )
        for moe in by_types(config, moe, [None] + [moe] * (size.n_layers - 1))
    ]
    return decoder(config, size, layers, [rotation], usual_eps=1e-5, max_positions=limit)
