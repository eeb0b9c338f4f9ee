"""GGUF files of Qwen 2 and 3 with experts: names of tensors, and what they say."""

from __future__ import annotations

from dataclasses import replace

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

GGUF_TENSOR_NAMES = (
    DECODER_GGUF_NAMES
    | GGUF_ATTENTION_BIASES
    | GGUF_QK_NORMS
    | GGUF_EXPERTS
    | {"blk.{i}.ffn_gate_inp_shexp.weight": "layers.{i}.shared_gate"}
)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "qwen2moe" or "qwen3moe"."""
    third = metadata.get_str("general.architecture") == "qwen3moe"
    name = "Qwen3MoeForCausalLM" if third else "Qwen2MoeForCausalLM"
    present = {"qkv_bias": "attn_q.bias", "attention_bias": "attn_q.bias"}
    config = decoder_config(metadata, checkpoint, name, integers=EXPERT_KEYS, present=present)
    norm = metadata.get_bool(f"qwen{2 + third}moe.expert_weights_norm", third)
    config.update(norm_topk_prob=norm)
    for key, stored in checkpoint.tensors.items():  # one row, which files may store as a vector
        if key.endswith(".ffn_gate_inp_shexp.weight") and len(stored.shape) == 1:
            checkpoint.tensors[key] = replace(stored, shape=(1, *stored.shape))
    return config
