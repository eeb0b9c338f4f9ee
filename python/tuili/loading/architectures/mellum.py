"""Mellum 2: Qwen 3's layers with experts, windows in some, and rotations of their own in these."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    GLOBAL,
    LOCAL,
    activation,
    decoder,
    layer_of,
    layer_types,
    n_experts,
    n_used,
    rope_of_kind,
    sizes,
    window,
)
from tuili.loading.architectures.qwen_moe import TENSOR_NAMES as TENSOR_NAMES
from tuili.loading.architectures.routed import by_types
from tuili.loading.config import MAX_INNER, Config

IGNORED_TENSORS = (r"mtp\..*",)


def spec(config: Config) -> ModelSpec:
    """MellumForCausalLM, without the layers that guess ahead."""
    size = sizes(config)
    both = [
        rope_of_kind(config, size, GLOBAL, 500_000.0, "no such key", scaled=False),
        rope_of_kind(config, size, LOCAL, 10_000.0, "no such key", scaled=False),
    ]
    n, length = n_experts(config, "num_local_experts", usual=64), window(config, 1024)
    moe = MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=config.integer("moe_intermediate_size", 1, MAX_INNER),
        normalize=config.flag("norm_topk_prob", True),
    )
    kinds = layer_types(config, size.n_layers, [GLOBAL] * size.n_layers)
    layers = [
        layer_of(
            size,
            activation=activation(config),
            qk_norm="heads",
            rope=int(kind == LOCAL),
            sliding_window=length if kind == LOCAL else 0,
            attention_bias=config.flag("attention_bias", False),
            moe=experts,
        )
        for kind, experts in zip(kinds, by_types(config, moe, [moe] * size.n_layers), strict=True)
    ]
    limit = min(limit for _, limit in both)
    return decoder(config, size, layers, [rotation for rotation, _ in both], max_positions=limit)
