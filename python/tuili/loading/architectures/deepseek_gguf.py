"""GGUF files of DeepSeek-V2 and V3: names of tensors, and what they say."""

from __future__ import annotations

from tuili.loading.absorbed import take_absorbed
from tuili.loading.architectures import without
from tuili.loading.architectures.deepseek_names import KEY_VALUE, LATENT, QUERY
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    EXPERT_KEYS,
    GGUF_EXPERTS,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

GGUF_TENSOR_NAMES = (
    without(DECODER_GGUF_NAMES, "attn_q", "attn_k", "attn_v")
    | GGUF_EXPERTS
    | {
        "blk.{i}.attn_q.weight": QUERY,
        "blk.{i}.attn_q_a.weight": "layers.{i}.query_in",
        "blk.{i}.attn_q_a_norm.weight": "layers.{i}.query_latent_norm",
        "blk.{i}.attn_q_b.weight": QUERY,
        "blk.{i}.attn_kv_a_mqa.weight": LATENT,
        "blk.{i}.attn_kv_a_norm.weight": "layers.{i}.latent_norm",
        "blk.{i}.attn_kv_b.weight": KEY_VALUE,
        "blk.{i}.attn_k_b.weight": "layers.{i}.key_nope",
        "blk.{i}.attn_v_b.weight": "layers.{i}.value",
        "blk.{i}.exp_probs_b.bias": "layers.{i}.selection_bias",
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
    config.update(
        architectures=["DeepseekV3ForCausalLM" if third else "DeepseekV2ForCausalLM"],
        rope_scaling=scaling,
        head_dim=None,
        qk_nope_head_dim=(d_key or 0) - (values["qk_rope_head_dim"] or 0),
        v_head_dim=values["value_length_mla"] or values["v_head_dim"],
        norm_topk_prob=metadata.get_bool("deepseek2.expert_weights_norm", False),
        topk_method=None if third or not values["n_group"] else "group_limited_greedy",
        n_group=values["n_group"] or 1,
    )
    take_absorbed(checkpoint)
    return config
