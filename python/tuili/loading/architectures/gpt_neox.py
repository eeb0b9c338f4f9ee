"""GPT-NeoX and Pythia: parallel halves with a layer norm each, partly rotated heads, a fused projection."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, layer_of, rope, sizes, unfused
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_BIASES,
    GGUF_NORM_BIASES,
    LAYER_NORM_EPS,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Parts

_QKV = ("layers.{i}.query", "layers.{i}.key", "layers.{i}.value")

BASE_PREFIX = "gpt_neox."
TENSOR_NAMES = {
    "gpt_neox.embed_in.weight": "token_embedding",
    "gpt_neox.layers.{i}.input_layernorm.weight": "layers.{i}.attention_norm",
    "gpt_neox.layers.{i}.input_layernorm.bias": "layers.{i}.attention_norm.bias",
    "gpt_neox.layers.{i}.attention.query_key_value.weight": Parts(_QKV, "heads"),
    "gpt_neox.layers.{i}.attention.query_key_value.bias": Parts(
        tuple(f"{name}.bias" for name in _QKV), "heads"
    ),
    "gpt_neox.layers.{i}.attention.dense.weight": "layers.{i}.output",
    "gpt_neox.layers.{i}.attention.dense.bias": "layers.{i}.output.bias",
    "gpt_neox.layers.{i}.post_attention_layernorm.weight": "layers.{i}.mlp_norm",
    "gpt_neox.layers.{i}.post_attention_layernorm.bias": "layers.{i}.mlp_norm.bias",
    "gpt_neox.layers.{i}.mlp.dense_h_to_4h.weight": "layers.{i}.up",
    "gpt_neox.layers.{i}.mlp.dense_h_to_4h.bias": "layers.{i}.up.bias",
    "gpt_neox.layers.{i}.mlp.dense_4h_to_h.weight": "layers.{i}.down",
    "gpt_neox.layers.{i}.mlp.dense_4h_to_h.bias": "layers.{i}.down.bias",
    "gpt_neox.final_layer_norm.weight": "final_norm",
    "gpt_neox.final_layer_norm.bias": "final_norm.bias",
    "embed_out.weight": "head",
    "lm_head.weight": "head",
}
IGNORED_TENSORS = (r"(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_BIASES | GGUF_NORM_BIASES
GGUF_IGNORED_TENSORS = ()


def spec(config: Config) -> ModelSpec:
    """GPTNeoXForCausalLM."""
    names = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    size = sizes(unfused(config, names))
    rotation, limit = rope(config, size, partial=0.25, rounds_up=True)
    bias = config.flag("attention_bias", True)
    layer = layer_of(
        size,
        activation=activation(config, usual="gelu"),
        gated=False,
        norm_placement="parallel_two" if config.flag("use_parallel_residual", True) else "pre",
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=True,
    )
    layers = [layer] * size.n_layers
    return decoder(
        config,
        size,
        layers,
        [rotation],
        layer_norm_eps="layer_norm_eps",
        max_positions=limit,
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "gptneox"."""
    numbers = LAYER_NORM_EPS | {"rotary_emb_base": "rope.freq_base"}
    present = {"attention_bias": "attn_qkv.bias"}
    config = decoder_config(metadata, checkpoint, numbers=numbers, present=present, rotates="parts")
    config.values = {
        **config.values,
        "rotary_pct": config.values["partial_rotary_factor"],
        "use_parallel_residual": metadata.get_bool("gptneox.use_parallel_residual", True),
    }
    return config
