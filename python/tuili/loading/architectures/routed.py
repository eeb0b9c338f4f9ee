"""Experts in groups, scored by sigmoids and chosen with a bias: DeepSeek-V3's, and others' after it; and
DeepSeek-V2's, scored by a softmax."""

from __future__ import annotations

from collections.abc import Sequence

from tuili._core import MoeSpec
from tuili.loading.architectures import (
    LLAMA_NAMES,
    expect_only,
    expert_names,
    n_experts,
    n_used,
    shared_expert_names,
)
from tuili.loading.config import MAX_INNER, MAX_LAYERS, Config

_MLP = "model.layers.{i}.mlp"
ROUTED_NAMES = (
    LLAMA_NAMES
    | expert_names(_MLP, "gate_proj", "up_proj", "down_proj")
    | {f"{_MLP}.gate.e_score_correction_bias": "layers.{i}.selection_bias"}
    | shared_expert_names(f"{_MLP}.shared_experts")
)


def routed(config: Config, *, scale: float, normalize: bool) -> MoeSpec:
    """The experts of a layer; what is not said is DeepSeek-V3's, but for how outputs are weighed."""
    n = n_experts(config, "n_routed_experts", usual=256)
    n_groups = config.integer("n_group", 1, n, 8)
    if n % n_groups or n // n_groups < 2:
        raise config.wrong("n_group", f"a divisor of the {n} experts, with two in each group")
    expect_only(config, "topk_method", "noaux_tc")
    expect_only(config, "scoring_func", "sigmoid")
    d_ff = config.integer("moe_intermediate_size", 1, MAX_INNER)
    return MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=d_ff,
        scoring="sigmoid",
        normalize=config.switch("norm_topk_prob", normalize),
        scale=config.positive("routed_scaling_factor", scale),
        n_groups=n_groups,
        n_groups_used=config.integer("topk_group", 1, n_groups, n_groups),
        group_top=2,
        selection_bias=True,
        d_ff_shared=d_ff * config.integer("n_shared_experts", 1, 1024, 1),
    )


def routed_by_softmax(config: Config) -> MoeSpec:
    """DeepSeek-V2's, which are scored by a softmax and chosen by it."""
    n = n_experts(config, "n_routed_experts", usual=64)
    d_ff = config.integer("moe_intermediate_size", 1, MAX_INNER)
    grouped = config.choice("topk_method", ("greedy", "group_limited_greedy"), "greedy") != "greedy"
    n_groups = config.integer("n_group", 1, n, 1) if grouped else 1
    if n % n_groups:
        raise config.wrong("n_group", f"a divisor of the {n} experts")
    config.ignore("norm_topk_prob", False)
    expect_only(config, "scoring_func", "softmax")
    return MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=d_ff,
        scale=config.positive("routed_scaling_factor", 1.0),
        n_groups=n_groups,
        n_groups_used=config.integer("topk_group", 1, n_groups, n_groups) if grouped else 1,
        d_ff_shared=d_ff * config.integer("n_shared_experts", 1, 1024, 2),
    )


def behind_dense(config: Config, n_layers: int, moe: MoeSpec, usual: int) -> list[MoeSpec | None]:
    """The experts of each layer: none in the first `first_k_dense_replace`."""
    n_dense = min(config.integer("first_k_dense_replace", 0, MAX_LAYERS, usual), n_layers)
    return [None] * n_dense + [moe] * (n_layers - n_dense)


def by_types(config: Config, moe: MoeSpec, usual: Sequence[MoeSpec | None]) -> list[MoeSpec | None]:
    """The same by `mlp_layer_types`, where the file has them."""
    kinds = config.values.get("mlp_layer_types")
    if kinds is None:
        return list(usual)
    if not isinstance(kinds, list) or not all(kind in ("dense", "sparse") for kind in kinds):
        raise config.wrong("mlp_layer_types", f"{len(usual)} times dense or sparse")
    if len(kinds) != len(usual):
        raise config.wrong("mlp_layer_types", f"{len(usual)} of them")
    return [moe if kind == "sparse" else None for kind in kinds]
