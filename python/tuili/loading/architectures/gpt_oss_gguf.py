"""GGUF files of GPT-OSS: names of tensors, and what they say."""

from __future__ import annotations

from tuili.loading.architectures import without
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    EXPERT_KEYS,
    GGUF_BIASES,
    GGUF_EXPERTS,
    GGUF_WINDOW,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Parts

_EXPERT = "layers.{i}.experts.{e}."
GGUF_TENSOR_NAMES = (
    without(DECODER_GGUF_NAMES, "ffn_")
    | GGUF_BIASES
    | GGUF_EXPERTS
    | {
        "blk.{i}.post_attention_norm.weight": "layers.{i}.mlp_norm",
        "blk.{i}.attn_sinks.weight": "layers.{i}.sinks",
        "blk.{i}.ffn_gate_inp.bias": "layers.{i}.router.bias",
        **{
            f"blk.{{i}}.ffn_{part}_exps.bias": Parts((f"{_EXPERT}{part}.bias",), stacked=True)
            for part in ("gate", "up", "down")
        },
    }
)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "gpt-oss", whose YaRN rounds nothing: llama.cpp's does."""
    present = {"attention_bias": "attn_q.bias"}
    config = decoder_config(metadata, checkpoint, integers=EXPERT_KEYS | GGUF_WINDOW, present=present)
    scaling = config.values["rope_scaling"]
    more = {"rope_scaling": scaling | {"truncate": False}} if scaling is not None else {}
    config.update(**more, intermediate_size=config.values["moe_intermediate_size"])
    return config
