"""What GGUF files say of experts in groups, scored by sigmoids (routed.py)."""

from __future__ import annotations

from typing import Any

from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import without
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    EXPERT_KEYS,
    GGUF_ATTENTION_BIASES,
    GGUF_EXPERTS,
    GGUF_QK_NORMS,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

_SELECTION = {"blk.{i}.exp_probs_b.bias": "layers.{i}.selection_bias"}
DOTS_NAMES: dict[str, Any] = (
    DECODER_GGUF_NAMES | GGUF_ATTENTION_BIASES | GGUF_QK_NORMS | GGUF_EXPERTS | _SELECTION
)
GLM_NAMES = without(DOTS_NAMES, "ffn_norm") | {"blk.{i}.post_attention_norm.weight": "layers.{i}.mlp_norm"}
GGUF_IGNORED_TENSORS = (r"blk\.\d+\.nextn\..*",)
_INTEGERS = {
    "n_routed_experts": "expert_count",
    "n_shared_experts": "expert_shared_count",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
    "first_k_dense_replace": "leading_dense_block_count",
}
_SIGMOID = 2


def expect_sigmoids(metadata: Metadata) -> str:
    """The file's architecture; raises ModelUnsupportedError (config_unsupported) for other scores."""
    prefix = metadata.get_str("general.architecture")
    gating = metadata.get_u32(f"{prefix}.expert_gating_func", _SIGMOID)
    if gating != _SIGMOID:
        raise ModelUnsupportedError(
            f"{metadata.what}: {prefix}.expert_gating_func is {gating}; supported: {_SIGMOID}",
            code="config_unsupported",
        )
    return prefix


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "glm4moe" or "dots1". Layers that guess ahead are counted,
    and come last."""
    prefix = expect_sigmoids(metadata)
    name = "Glm4MoeForCausalLM" if prefix == "glm4moe" else "Dots1ForCausalLM"
    config = decoder_config(
        metadata,
        checkpoint,
        name,
        numbers={"routed_scaling_factor": "expert_weights_scale"},
        integers=EXPERT_KEYS | _INTEGERS,
        present={"attention_bias": "attn_q.bias", "use_qk_norm": "attn_q_norm.weight"},
        rotates="parts",
    )
    n_ahead = metadata.get_u32(f"{prefix}.nextn_predict_layers", 0)
    values = config.values
    config.update(
        num_hidden_layers=(values["num_hidden_layers"] or 0) - n_ahead,
        n_group=values["n_group"] or 1,
        topk_group=values["topk_group"] or 1,
        norm_topk_prob=metadata.get_bool(f"{prefix}.expert_weights_norm", False),
    )
    return config
