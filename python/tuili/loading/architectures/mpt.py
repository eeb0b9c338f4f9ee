"""MPT: linear biases for positions, no biases of maps or norms."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import decoder, expect_only, layer_of, renamed, sizes, unfused
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, decoder_config
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_POSITIONS, Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Parts
from tuili.loading.position_bias import alibi

BASE_PREFIX = "transformer."
TENSOR_NAMES: dict[str, Any] = {
    "transformer.wte.weight": "token_embedding",
    "transformer.norm_f.weight": "final_norm",
    "lm_head.weight": "head",
    "transformer.blocks.{i}.norm_1.weight": "layers.{i}.attention_norm",
    "transformer.blocks.{i}.attn.Wqkv.weight": Parts(
        ("layers.{i}.query", "layers.{i}.key", "layers.{i}.value")
    ),
    "transformer.blocks.{i}.attn.out_proj.weight": "layers.{i}.output",
    "transformer.blocks.{i}.norm_2.weight": "layers.{i}.mlp_norm",
    "transformer.blocks.{i}.ffn.up_proj.weight": "layers.{i}.up",
    "transformer.blocks.{i}.ffn.down_proj.weight": "layers.{i}.down",
}
GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES
_NAMES = {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
_USUAL = {"no_bias": True, "logit_scale": None}
_NORMS = ("low_precision_layernorm", "layernorm")  # which differ in training
_USUAL_ATTENTION = {
    "attn_type": "multihead_attention",
    "prefix_lm": False,
    "qk_ln": False,
    "alibi": True,
    "alibi_bias_max": 8,
}


def spec(config: Config) -> ModelSpec:
    """MptForCausalLM, in its makers' files MPTForCausalLM, where `expansion_ratio` counts."""
    unfused(config, _NAMES)
    attention = config.section("attn_config") or Config({}, config.what)
    expect_only(config, "norm_type", *_NORMS)
    for section, usual in ((config, _USUAL), (attention, _USUAL_ATTENTION)):
        for key, value in usual.items():
            expect_only(section, key, value)
    d_model, ratio = config.values["hidden_size"], 4
    if config.values.get("architectures") == ["MPTForCausalLM"]:
        ratio = config.integer("expansion_ratio", 1, 64, 4)
    config.ignore("expansion_ratio", ratio)
    config.update(
        intermediate_size=ratio * d_model if isinstance(d_model, int) else None,
        max_position_embeddings=config.integer("max_seq_len", 1, MAX_POSITIONS, 2048),
    )
    size = sizes(config)
    layer = layer_of(
        size,
        activation="gelu",
        gated=False,
        rope=-1,
        position_bias=0,
        attention_scale=attention.positive("softmax_scale", None) or size.head_dim**-0.5,
        qkv_clip=attention.number("clip_qkv", 0.0, 1e30, 0.0),
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        layer_norm_eps="layer_norm_epsilon",
        tied=True,
        position_biases=[alibi(size.n_heads, size.max_positions)],
    )


def constants(config: Config) -> dict[str, float]:
    """Its norms have no biases."""
    return {r".*_norm\.bias": 0.0}


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "mpt"; without a largest bias it has none."""
    prefix = "mpt.attention"
    config = decoder_config(
        metadata, checkpoint, numbers={"layer_norm_epsilon": "attention.layer_norm_epsilon"}
    )
    slope = metadata.get_f32(f"{prefix}.max_alibi_bias", 0.0)
    attention = {"alibi": slope > 0, "alibi_bias_max": slope or None}
    attention["clip_qkv"] = metadata.get_f32(f"{prefix}.clamp_kqv", None) or None
    config.update(attn_config=attention)
    return renamed(
        config,
        {**{theirs: ours for ours, theirs in _NAMES.items()}, "max_seq_len": "max_position_embeddings"},
    )
