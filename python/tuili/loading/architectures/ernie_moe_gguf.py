"""GGUF files of ERNIE 4.5 with experts: names of tensors, and what they say."""

from __future__ import annotations

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
    DECODER_GGUF_NAMES | GGUF_EXPERTS | {"blk.{i}.exp_probs_b.bias": "layers.{i}.selection_bias"}
)
_INTEGERS = {
    "moe_num_experts": "expert_count",
    "moe_k": "expert_used_count",
    "moe_layer_interval": "interleave_moe_layer_step",
    "moe_layer_start_index": "leading_dense_block_count",
}


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "ernie4_5-moe"."""
    name = "Ernie4_5_MoeForCausalLM"
    config = decoder_config(metadata, checkpoint, name, integers=EXPERT_KEYS | _INTEGERS)
    values = config.values
    width, shared = values["moe_intermediate_size"], values["shared_expert_intermediate_size"] or 0
    if width and shared % width:
        raise config.wrong("shared_expert_intermediate_size", f"a multiple of an expert's {width}")
    config.update(moe_num_shared_experts=shared // width if width else 0)
    return config
