"""What GGUF files say of AFMoE. That embeddings are scaled, and which layers have windows, they do not say:
all are, and three of four."""

from __future__ import annotations

from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    EXPERT_KEYS,
    GGUF_EXPERTS,
    GGUF_POST_NORMS,
    GGUF_QK_NORMS,
    decoder_config,
)
from tuili.loading.architectures.routed_gguf import expect_sigmoids
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

GGUF_TENSOR_NAMES = (
    DECODER_GGUF_NAMES
    | GGUF_QK_NORMS
    | GGUF_POST_NORMS
    | GGUF_EXPERTS
    | {
        "blk.{i}.attn_gate.weight": "layers.{i}.attention_gate",
        "blk.{i}.exp_probs_b.bias": "layers.{i}.selection_bias",
    }
)
_INTEGERS = {"num_shared_experts": "expert_shared_count", "num_dense_layers": "leading_dense_block_count"}


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "afmoe"."""
    prefix = expect_sigmoids(metadata)
    config = decoder_config(
        metadata,
        checkpoint,
        numbers={"route_scale": "expert_weights_scale"},
        integers=EXPERT_KEYS | _INTEGERS,
    )
    if not metadata.get_bool(f"{prefix}.expert_weights_norm", False):
        raise ModelUnsupportedError(
            f"{metadata.what}: {prefix}.expert_weights_norm is not true", code="config_unsupported"
        )
    window = metadata.get_u32(f"{prefix}.attention.sliding_window")
    config.update(sliding_window=window, mup_enabled=True)
    return config
