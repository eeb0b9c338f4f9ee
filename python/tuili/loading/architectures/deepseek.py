"""DeepSeek-V2 and V3: keys and values from one small vector per token, experts in groups, a shared one."""

from __future__ import annotations

import math
from typing import Any

from tuili._core import LatentSpec, ModelSpec, MoeSpec
from tuili.loading.absorbed import take_absorbed
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    Sizes,
    activation,
    decoder,
    expect_only,
    expert_names,
    layer_of,
    n_experts,
    n_used,
    rope_of,
    rope_section,
    sizes,
    without,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    EXPERT_KEYS,
    GGUF_EXPERTS,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_HEAD_DIM, MAX_INNER, MAX_LAYERS, MAX_MODEL, Config
from tuili.loading.gguf import Metadata
from tuili.loading.layout import Parts
from tuili.loading.rope import rope_type

_ATTENTION, _OURS = "model.layers.{i}.self_attn", "layers.{i}"
_QUERY = Parts((f"{_OURS}.query_nope", f"{_OURS}.query_rope"), "heads")
_SHARED = "model.layers.{i}.mlp.shared_experts"
TENSOR_NAMES = (
    without(LLAMA_NAMES, "q_proj", "k_proj", "v_proj")
    | without(ATTENTION_BIASES, "q_proj", "k_proj", "v_proj")
    | expert_names("model.layers.{i}.mlp", "gate_proj", "up_proj", "down_proj")
    | {
        f"{_ATTENTION}.q_proj.weight": _QUERY,
        f"{_ATTENTION}.q_a_proj.weight": f"{_OURS}.query_in",
        f"{_ATTENTION}.q_a_proj.bias": f"{_OURS}.query_in.bias",
        f"{_ATTENTION}.q_a_layernorm.weight": f"{_OURS}.query_latent_norm",
        f"{_ATTENTION}.q_b_proj.weight": _QUERY,
        f"{_ATTENTION}.kv_a_proj_with_mqa.weight": Parts((f"{_OURS}.latent", f"{_OURS}.key_rope")),
        f"{_ATTENTION}.kv_a_proj_with_mqa.bias": Parts((f"{_OURS}.latent.bias", f"{_OURS}.key_rope.bias")),
        f"{_ATTENTION}.kv_a_layernorm.weight": f"{_OURS}.latent_norm",
        f"{_ATTENTION}.kv_b_proj.weight": Parts((f"{_OURS}.key_nope", f"{_OURS}.value"), "heads"),
        "model.layers.{i}.mlp.gate.e_score_correction_bias": f"{_OURS}.selection_bias",
        f"{_SHARED}.gate_proj.weight": f"{_OURS}.shared.gate",
        f"{_SHARED}.up_proj.weight": f"{_OURS}.shared.up",
        f"{_SHARED}.down_proj.weight": f"{_OURS}.shared.down",
    }
)
IGNORED_TENSORS = (
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    r"model\.layers\.\d+\.(eh_proj|enorm|hnorm|embed_tokens|shared_head\.\w+)\.weight",  # guesses ahead
)

GGUF_TENSOR_NAMES = (
    without(DECODER_GGUF_NAMES, "attn_q", "attn_k", "attn_v")
    | GGUF_EXPERTS
    | {
        "blk.{i}.attn_q.weight": _QUERY,
        "blk.{i}.attn_q_a.weight": f"{_OURS}.query_in",
        "blk.{i}.attn_q_a_norm.weight": f"{_OURS}.query_latent_norm",
        "blk.{i}.attn_q_b.weight": _QUERY,
        "blk.{i}.attn_kv_a_mqa.weight": Parts((f"{_OURS}.latent", f"{_OURS}.key_rope")),
        "blk.{i}.attn_kv_a_norm.weight": f"{_OURS}.latent_norm",
        "blk.{i}.attn_kv_b.weight": Parts((f"{_OURS}.key_nope", f"{_OURS}.value"), "heads"),
        "blk.{i}.attn_k_b.weight": f"{_OURS}.key_nope",
        "blk.{i}.attn_v_b.weight": f"{_OURS}.value",
        "blk.{i}.exp_probs_b.bias": f"{_OURS}.selection_bias",
    }
)
GGUF_IGNORED_TENSORS = (r"blk\.\d+\.nextn\..*",)

_GGUF_NUMBERS = {
    "routed_scaling_factor": "expert_weights_scale",
    "yarn_log_multiplier": "rope.scaling.yarn_log_multiplier",
}
_GGUF_INTEGERS = {
    "n_routed_experts": "expert_count",
    "n_shared_experts": "expert_shared_count",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
    "first_k_dense_replace": "leading_dense_block_count",
    "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "v_head_dim": "attention.value_length",
    "key_length_mla": "attention.key_length_mla",
    "value_length_mla": "attention.value_length_mla",
}


def spec(config: Config) -> ModelSpec:
    """DeepseekV2ForCausalLM, DeepseekV3ForCausalLM."""
    third = config.values["architectures"] == ["DeepseekV3ForCausalLM"]
    config.values = {**config.values, "num_key_value_heads": None, "head_dim": None}
    expect_only(config, "mlp_bias", False)
    latent = LatentSpec(
        kv_rank=config.integer("kv_lora_rank", 1, MAX_MODEL),
        query_rank=config.integer("q_lora_rank", 1, MAX_MODEL, None) or 0,
        nope_dim=config.integer("qk_nope_head_dim", 1, MAX_HEAD_DIM // 2),
        rope_dim=config.integer("qk_rope_head_dim", 2, MAX_HEAD_DIM // 2),
        value_dim=config.integer("v_head_dim", 1, MAX_HEAD_DIM),
    )
    d_key = latent.nope_dim + latent.rope_dim
    size = sizes(config)._replace(head_dim=max(d_key, latent.value_dim))
    scaling = rope_section(config)
    theta_in = scaling if scaling is not None and "rope_theta" in scaling else config
    interleaved = config.flag("rope_interleave", True) if third else True
    rotation, limit = rope_of(
        config, size, scaling, theta_in, 10_000.0, latent.rope_dim, interleaved=interleaved
    )
    bias = config.flag("attention_bias", False)
    common: dict[str, Any] = {
        "activation": activation(config),
        "attention_scale": d_key**-0.5 * _sharpening(scaling),
        "latent": latent,
        "qkv_bias": bias,
        "output_bias": bias,
    }
    n_dense = config.integer("first_k_dense_replace", 0, MAX_LAYERS, 3 if third else 0)
    n_dense = min(n_dense, size.n_layers)
    sparse = layer_of(size, **common, moe=_moe(config, size, third)) if n_dense < size.n_layers else None
    layers = [layer_of(size, **common)] * n_dense
    if sparse is not None:
        layers += [sparse] * (size.n_layers - n_dense)
    return decoder(config, size, layers, [rotation], max_positions=limit)


def _sharpening(scaling: Config | None) -> float:
    """What the scale of attention is multiplied with besides, when positions are scaled."""
    if scaling is None or rope_type(scaling) == "default":
        return 1.0
    weight, factor = scaling.number("mscale_all_dim", 0, 1e6, 0.0), scaling.positive("factor", 1.0)
    return float((0.1 * weight * math.log(factor) + 1.0) ** 2) if weight and factor > 1 else 1.0


def _moe(config: Config, size: Sizes, third: bool) -> MoeSpec:
    keys = ("n_routed_experts", "num_local_experts", "num_experts")
    n = n_experts(config, *keys, usual=256 if third else 64)
    d_ff = config.integer("moe_intermediate_size", 1, MAX_INNER)
    grouped = third or config.choice("topk_method", ("greedy", "group_limited_greedy"), "greedy") != "greedy"
    n_groups = config.integer("n_group", 1, n, 8 if third else 1) if grouped else 1
    if n % n_groups or (third and n // n_groups < 2):
        raise config.wrong("n_group", f"a divisor of the {n} experts, with two in each group")
    if third:
        expect_only(config, "topk_method", "noaux_tc")
        expect_only(config, "scoring_func", "sigmoid")
    else:
        expect_only(config, "norm_topk_prob", False)
        expect_only(config, "scoring_func", "softmax")
    return MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=d_ff,
        scoring="sigmoid" if third else "softmax",
        normalize=config.flag("norm_topk_prob", True) if third else False,
        scale=config.positive("routed_scaling_factor", 2.5 if third else 1.0),
        n_groups=n_groups,
        n_groups_used=config.integer("topk_group", 1, n_groups, n_groups) if grouped else 1,
        group_top=2 if third else 1,
        selection_bias=third,
        d_ff_shared=d_ff * config.integer("n_shared_experts", 1, 1024, 1 if third else 2),
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "deepseek2", which version 3 has, too."""
    config = decoder_config(
        metadata, checkpoint, numbers=_GGUF_NUMBERS, integers=EXPERT_KEYS | _GGUF_INTEGERS, rotates="own"
    )
    values, sigmoid = config.values, 2
    biased = any(name.endswith(".exp_probs_b.bias") for name in checkpoint.tensors)
    third = metadata.get_u32("deepseek2.expert_gating_func", sigmoid if biased else 1) == sigmoid
    scaling, weight = values["rope_scaling"], values["yarn_log_multiplier"]
    if scaling is not None and weight:
        share = float(f"{10 * weight:.6g}")  # stored as a tenth, in float32
        scaling = scaling | {"mscale": share, "mscale_all_dim": share}
    d_key = values["key_length_mla"] or values["head_dim"]
    config.values = {
        **values,
        "architectures": ["DeepseekV3ForCausalLM" if third else "DeepseekV2ForCausalLM"],
        "rope_scaling": scaling,
        "qk_nope_head_dim": (d_key or 0) - (values["qk_rope_head_dim"] or 0),
        "v_head_dim": values["value_length_mla"] or values["v_head_dim"],
        "norm_topk_prob": metadata.get_bool("deepseek2.expert_weights_norm", False),
        "topk_method": None if third or not values["n_group"] else "group_limited_greedy",
        "n_group": values["n_group"] or 1,
    }
    take_absorbed(checkpoint)
    return config
