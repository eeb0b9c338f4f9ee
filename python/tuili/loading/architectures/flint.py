"""Flint: Qwen 3's layers with experts by sigmoids, a shared one, and sinks; those with windows rotate."""

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
    rope,
    sizes,
    window,
    without,
)
from tuili.loading.architectures.qwen_moe import TENSOR_NAMES as _QWEN_NAMES
from tuili.loading.architectures.qwen_moe import sparse_layers
from tuili.loading.config import MAX_INNER, Config

TENSOR_NAMES = without(_QWEN_NAMES, "shared_expert_gate") | {
    "model.layers.{i}.self_attn.sinks": "layers.{i}.sinks",
    "model.layers.{i}.self_attn.softmax_offset": "layers.{i}.sinks",  # as its makers call them
}
IGNORED_TENSORS = ()


def spec(config: Config) -> ModelSpec:
    """FlintForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    n, length = n_experts(config, "num_experts", usual=256), window(config, 513)
    bias = config.flag("attention_bias", False)
    moe = MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=config.integer("moe_intermediate_size", 1, MAX_INNER),
        scoring="sigmoid",
        normalize=config.flag("norm_topk_prob", True),
        d_ff_shared=config.integer("shared_expert_intermediate_size", 1, MAX_INNER),
    )
    ends = (0, 1, size.n_layers - 1)
    usual = [GLOBAL if i in ends or i % 4 == 1 else LOCAL for i in range(size.n_layers)]
    layers = [
        layer_of(
            size,
            activation=activation(config),
            qk_norm="heads",
            rope=0 if kind == LOCAL else -1,
            sliding_window=length if kind == LOCAL else 0,
            sinks=True,
            qkv_bias=bias,
            output_bias=bias,
            moe=moe if sparse else None,
        )
        for kind, sparse in zip(
            layer_types(config, size.n_layers, usual), sparse_layers(config, size, (0, 1)), strict=True
        )
    ]
    return decoder(config, size, layers, [rotation], max_positions=limit)
