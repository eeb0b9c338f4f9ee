"""Hy3: norms of query and key before rotations, and experts scored by sigmoids and chosen with a bias."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    activation,
    decoder,
    expect_only,
    layer_of,
    n_experts,
    n_used,
    rope,
    rotary_head_dim,
    sizes,
)
from tuili.loading.architectures.routed import ROUTED_NAMES, by_types
from tuili.loading.config import MAX_INNER, Config

_MLP = "model.layers.{i}.mlp"
TENSOR_NAMES = (
    ROUTED_NAMES
    | ATTENTION_BIASES
    | {
        "model.layers.{i}.self_attn.q_norm.weight": "layers.{i}.query_norm",
        "model.layers.{i}.self_attn.k_norm.weight": "layers.{i}.key_norm",
        f"{_MLP}.e_score_correction_bias": "layers.{i}.selection_bias",
        f"{_MLP}.expert_bias": "layers.{i}.selection_bias",
        f"{_MLP}.router.gate.weight": "layers.{i}.router",
    }
    | {
        f"{_MLP}.shared_mlp.{part}_proj.weight": f"layers.{{i}}.shared.{part}"
        for part in ("gate", "up", "down")
    }
)
IGNORED_TENSORS = (r"model\.layers\.80\..*",)  # which foretells the tokens after the next


def spec(config: Config) -> ModelSpec:
    """HYV3ForCausalLM."""
    expect_only(config, "mlp_bias", False)
    size = sizes(config)
    theta = 11_158_840.0
    rotation, limit = rope(config, size._replace(head_dim=rotary_head_dim(config, size)), theta=theta)
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
    bias = config.flag("attention_bias", False)
    layers = [
        layer_of(
            size,
            activation=activation(config),
            qk_norm="heads",
            qkv_bias=bias,
            output_bias=bias,
            moe=moe,
        )
        for moe in by_types(config, moe, [None] + [moe] * (size.n_layers - 1))
    ]
    return decoder(config, size, layers, [rotation], usual_eps=1e-5, max_positions=limit)
