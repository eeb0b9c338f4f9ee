"""GGUF files of Hunyuan: names of tensors, and what they say. A base of rotations is stretched already."""

from __future__ import annotations

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

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_ATTENTION_BIASES | GGUF_QK_NORMS | GGUF_EXPERTS


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "hunyuan-dense" or "hunyuan-moe"."""
    experts = metadata.get_str("general.architecture") == "hunyuan-moe"
    name = f"HunYuan{'MoE' if experts else 'Dense'}V1ForCausalLM"
    config = decoder_config(metadata, checkpoint, name, integers=EXPERT_KEYS if experts else None)
    if experts:
        width = config.values["moe_intermediate_size"] or config.values["intermediate_size"]
        config.update(intermediate_size=width, moe_topk=config.values["num_experts_per_tok"])
    return config
