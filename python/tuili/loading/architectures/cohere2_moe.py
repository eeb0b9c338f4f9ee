"""Command A with experts: Command R7B's layers, of which those behind the first few have them."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    GLOBAL,
    LOCAL,
    activation,
    decoder,
    expert_names,
    layer_of,
    layer_types,
    n_experts,
    n_used,
    rope,
    shared_expert_names,
    sizes,
    window,
)
from tuili.loading.architectures.cohere import TENSOR_NAMES as COHERE_NAMES
from tuili.loading.architectures.routed import behind_dense, by_types
from tuili.loading.config import MAX_INNER, MAX_LAYERS, Config

_MLP = "model.layers.{i}.mlp"
TENSOR_NAMES = (
    COHERE_NAMES
    | expert_names(_MLP, "gate_proj", "up_proj", "down_proj")
    | shared_expert_names(f"{_MLP}.shared_experts")
)


def spec(config: Config) -> ModelSpec:
    """Cohere2MoeForCausalLM; its global layers have no positions, but for dense ones among the first."""
    config.ignore("rope_scaling")
    config.update(rope_scaling=None)
    size = sizes(config)
    rotation, limit = rope(config, size, interleaved=True)
    moe = _experts(config, size.d_ff)
    experts = by_types(config, moe, behind_dense(config, size.n_layers, moe, 0))
    early = config.integer("prefix_dense_sliding_window_pattern", 1, MAX_LAYERS, 1)
    late = config.integer("sliding_window_pattern", 1, MAX_LAYERS, 4)
    first = config.integer("first_k_dense_replace", 0, MAX_LAYERS, 0)
    places = [(i + 1, early) if i < first else (i - first + 1, late) for i in range(size.n_layers)]
    usual = [LOCAL if place % every else GLOBAL for place, every in places]
    kinds = layer_types(config, size.n_layers, usual)
    length = window(config, 4096) if LOCAL in kinds else 0
    layers = [
        layer_of(
            size,
            activation=activation(config),
            norm_placement="parallel",
            rope=0 if (kind == LOCAL and length) or (moe is None and early == 1) else -1,
            sliding_window=length if kind == LOCAL else 0,
            attention_bias=config.flag("attention_bias", False),
            d_ff=config.integer("prefix_dense_intermediate_size", 1, MAX_INNER, size.d_ff),
            moe=moe,
        )
        for kind, moe in zip(kinds, experts, strict=True)
    ]
    return decoder(
        config,
        size,
        layers,
        [rotation],
        layer_norm_eps=None if "rms_norm_eps" in config else "layer_norm_eps",
        tied=True,
        max_positions=limit,
        logit_scale=config.positive("logit_scale", 0.0625),
    )


def _experts(config: Config, d_ff: int) -> MoeSpec:
    """An average with what shared experts give is a half of either: a gate of no weights says sigmoid(0)."""
    n = n_experts(config, "num_experts", usual=8)
    scoring = config.choice("expert_selection_fn", ("softmax", "sigmoid"), "softmax")
    n_shared = config.integer("num_shared_experts", 0, 1024, 0)
    way = config.choice("shared_expert_combination_strategy", ("average", "sum"), "average")
    average = n_shared > 0 and way == "average"
    return MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=d_ff,
        scoring=scoring,
        normalize=scoring == "softmax" or config.flag("norm_topk_prob", True),
        scale=0.5 if average else 1.0,
        d_ff_shared=d_ff * n_shared,
        shared_gate=average,
    )


def constants(config: Config) -> dict[str, float]:
    """No norm has a bias, and no file a gate of shared experts."""
    return {r".*_norm\.bias": 0.0, r".*\.shared_gate": 0.0}
