"""Phi-3.5-MoE: layer norms, biases, and two experts of each token, weighed among those near the best."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec, RopeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    activation,
    decoder,
    expert_names,
    layer_of,
    n_experts,
    rope,
    rope_section,
    rotary_sizes,
    sizes,
    window,
    without,
)
from tuili.loading.config import MAX_POSITIONS, Config
from tuili.loading.rope import rope_type

TENSOR_NAMES = (
    without(LLAMA_NAMES, ".mlp.")
    | ATTENTION_BIASES
    | expert_names("model.layers.{i}.block_sparse_moe", "w1", "w3", "w2")
    | expert_names("model.layers.{i}.mlp", "w1", "w3", "w2")
    | {
        "model.layers.{i}.mlp.router.weight": "layers.{i}.router",
        "model.layers.{i}.input_layernorm.bias": "layers.{i}.attention_norm.bias",
        "model.layers.{i}.post_attention_layernorm.bias": "layers.{i}.mlp_norm.bias",
        "model.norm.bias": "final_norm.bias",
        "lm_head.bias": "head.bias",
    }
)
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)


def spec(config: Config) -> ModelSpec:
    """PhimoeForCausalLM."""
    size = sizes(config)
    n = n_experts(config, "num_local_experts", usual=16)
    if n < 2:
        raise config.wrong("num_local_experts", "2 or more: each token goes through two")
    config.ignore("num_experts_per_tok", 2)
    near = 2 * config.number("router_jitter_noise", 0.0, 1e6, 0.01)
    moe = MoeSpec(n_experts=n, n_used=2, d_ff=size.d_ff, scoring="near_best", near=near)
    rotation, limit = _rotation(config)
    layer = layer_of(
        size,
        activation=activation(config),
        sliding_window=window(config),
        attention_bias=config.flag("attention_bias", False),
        moe=moe,
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        [rotation],
        layer_norm_eps="rms_norm_eps",
        max_positions=limit,
        head_bias=config.flag("lm_head_bias", False),
    )


def _rotation(config: Config) -> tuple[RopeSpec, int]:
    """With `short_mscale` for cosine and sine where frequencies are scaled. Texts end at the original
    context: beyond it transformers 5.24 has `long_mscale` and the short factors, the authors long ones."""
    config.max_model_len = None
    size = rotary_sizes(config)
    rotation, limit = rope(config, size, theta=1_000_000.0)
    section = rope_section(config)
    if section is None or rope_type(section) == "default":
        return rotation, limit
    original = section.integer("original_max_position_embeddings", 1, MAX_POSITIONS)
    section.number("long_mscale", 1e-3, 1e3)
    scale = section.number("short_mscale", 1e-3, 1e3)
    return RopeSpec(inv_freq=rotation.inv_freq, scale=scale), min(limit, original)
