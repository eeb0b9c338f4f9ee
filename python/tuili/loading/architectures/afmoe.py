"""Arcee's AFMoE (Trinity): gates of what attention gives, norms around both halves, rotations in layers with
windows alone, and experts scored by sigmoids and chosen with a bias."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    DECODER_NAMES,
    GLOBAL,
    LOCAL,
    QK_NORMS,
    activation,
    decoder,
    expert_names,
    layer_of,
    layer_types,
    n_experts,
    n_used,
    rope,
    rotary_sizes,
    shared_expert_names,
    window,
)
from tuili.loading.architectures.afmoe_gguf import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.afmoe_gguf import config_from_gguf as config_from_gguf
from tuili.loading.config import MAX_INNER, MAX_LAYERS, Config

_LAYER, _MLP = "model.layers.{i}", "model.layers.{i}.mlp"
TENSOR_NAMES = (
    DECODER_NAMES
    | ATTENTION_BIASES
    | QK_NORMS
    | expert_names(_MLP, "gate_proj", "up_proj", "down_proj")
    | {
        f"{_LAYER}.self_attn.gate_proj.weight": "layers.{i}.attention_gate",
        f"{_LAYER}.post_attention_layernorm.weight": "layers.{i}.post_attention_norm",
        f"{_LAYER}.pre_mlp_layernorm.weight": "layers.{i}.mlp_norm",
        f"{_LAYER}.post_mlp_layernorm.weight": "layers.{i}.post_mlp_norm",
        f"{_MLP}.router.gate.weight": "layers.{i}.router",
        f"{_MLP}.expert_bias": "layers.{i}.selection_bias",
    }
    | shared_expert_names(f"{_MLP}.shared_experts")
)


def spec(config: Config) -> ModelSpec:
    """AfmoeForCausalLM."""
    for key, written in {"score_func": "sigmoid", "route_norm": True, "n_group": 1, "topk_group": 1}.items():
        config.ignore(key, written)
    size = rotary_sizes(config)
    rotation, limit = rope(config, size)
    length = window(config, 1024)
    every = config.integer("global_attn_every_n_layers", 1, MAX_LAYERS, 4)
    usual = [LOCAL if (i + 1) % every else GLOBAL for i in range(size.n_layers)]
    n = n_experts(config, "num_experts", usual=64)
    d_ff = config.integer("moe_intermediate_size", 1, MAX_INNER)
    moe = MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=d_ff,
        scoring="sigmoid",
        normalize=True,
        scale=config.positive("route_scale", 1.0),
        selection_bias=True,
        d_ff_shared=d_ff * config.integer("num_shared_experts", 0, 1024, 2),
    )
    n_dense, bias = config.integer("num_dense_layers", 0, MAX_LAYERS, 1), config.flag("attention_bias", False)
    layers = [
        layer_of(
            size,
            norm_placement="sandwich",
            activation=activation(config),
            qk_norm="heads",
            attention_gate=True,
            rope=0 if kind == LOCAL else -1,
            sliding_window=length if kind == LOCAL else 0,
            attention_bias=bias,
            moe=moe if i >= n_dense else None,
        )
        for i, kind in enumerate(layer_types(config, size.n_layers, usual))
    ]
    scale = size.d_model**0.5 if config.switch("mup_enabled", False) else 1.0
    return decoder(
        config, size, layers, [rotation], usual_eps=1e-5, max_positions=limit, embedding_scale=scale
    )
