"""Seed-OSS: Llama with biases of queries, keys and values, and heads of a size of their own."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, layer_of, rope, rotary_sizes, without
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, GGUF_BIASES, decoder_config
from tuili.loading.architectures.llama import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.llama import TENSOR_NAMES as TENSOR_NAMES
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

GGUF_TENSOR_NAMES = (
    without(DECODER_GGUF_NAMES, "ffn_norm")
    | GGUF_BIASES
    | {"blk.{i}.post_attention_norm.weight": "layers.{i}.mlp_norm"}
)


def spec(config: Config) -> ModelSpec:
    """SeedOssForCausalLM."""
    size = rotary_sizes(config)
    rotation, limit = rope(config, size)
    layer = layer_of(
        size,
        activation=activation(config),
        qkv_bias=config.flag("attention_bias", True),
        output_bias=config.flag("attention_out_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
    )
    return decoder(config, size, [layer] * size.n_layers, [rotation], max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "seed_oss"."""
    present = {"attention_bias": "attn_q.bias", "attention_out_bias": "attn_output.bias"}
    return decoder_config(metadata, checkpoint, present=present | {"mlp_bias": "ffn_up.bias"})
