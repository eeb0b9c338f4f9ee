"""BLOOM: attention biased by distance instead of positions, a norm behind the embedding."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import decoder, expect_only, layer_of, sizes, unfused
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_BIASES,
    GGUF_NORM_BIASES,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_POSITIONS, Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Parts
from tuili.loading.position_bias import alibi

_QKV = ("layers.{i}.query", "layers.{i}.key", "layers.{i}.value")

BASE_PREFIX = "transformer."
TENSOR_NAMES = {
    "transformer.word_embeddings.weight": "token_embedding",
    "transformer.word_embeddings_layernorm.weight": "embedding_norm",
    "transformer.word_embeddings_layernorm.bias": "embedding_norm.bias",
    "transformer.h.{i}.input_layernorm.weight": "layers.{i}.attention_norm",
    "transformer.h.{i}.input_layernorm.bias": "layers.{i}.attention_norm.bias",
    "transformer.h.{i}.self_attention.query_key_value.weight": Parts(_QKV, "heads"),
    "transformer.h.{i}.self_attention.query_key_value.bias": Parts(
        tuple(f"{name}.bias" for name in _QKV), "heads"
    ),
    "transformer.h.{i}.self_attention.dense.weight": "layers.{i}.output",
    "transformer.h.{i}.self_attention.dense.bias": "layers.{i}.output.bias",
    "transformer.h.{i}.post_attention_layernorm.weight": "layers.{i}.mlp_norm",
    "transformer.h.{i}.post_attention_layernorm.bias": "layers.{i}.mlp_norm.bias",
    "transformer.h.{i}.mlp.dense_h_to_4h.weight": "layers.{i}.up",
    "transformer.h.{i}.mlp.dense_h_to_4h.bias": "layers.{i}.up.bias",
    "transformer.h.{i}.mlp.dense_4h_to_h.weight": "layers.{i}.down",
    "transformer.h.{i}.mlp.dense_4h_to_h.bias": "layers.{i}.down.bias",
    "transformer.ln_f.weight": "final_norm",
    "transformer.ln_f.bias": "final_norm.bias",
    "lm_head.weight": "head",
}
IGNORED_TENSORS = ()
# A second name of each, and what the class fills in where a file has neither.
_SIZES = {
    "hidden_size": ("n_embed", 64),
    "num_hidden_layers": ("n_layer", 2),
    "num_attention_heads": ("n_head", 8),
}

GGUF_TENSOR_NAMES = (
    DECODER_GGUF_NAMES
    | GGUF_BIASES
    | GGUF_NORM_BIASES
    | {"token_embd_norm.weight": "embedding_norm", "token_embd_norm.bias": "embedding_norm.bias"}
)
GGUF_IGNORED_TENSORS = ()


def spec(config: Config) -> ModelSpec:
    """BloomForCausalLM. Distances are not limited; `seq_length` is what it was trained with."""
    config.fill({ours: usual for ours, (theirs, usual) in _SIZES.items() if theirs not in config})
    unfused(config, {ours: theirs for ours, (theirs, _) in _SIZES.items() if theirs in config})
    if config.integer("pretraining_tp", 1, MAX_POSITIONS, 1) > 1:
        expect_only(config, "slow_but_exact", False)  # where transformers leaves biases out
    d_model = config.values["hidden_size"]
    config.values = {
        **config.values,
        "intermediate_size": 4 * d_model if isinstance(d_model, int) else None,
        "max_position_embeddings": config.integer("seq_length", 1, MAX_POSITIONS, 2048),
    }
    size = sizes(config)
    normed = config.flag("apply_residual_connection_post_layernorm", False)
    layer = layer_of(
        size,
        activation="gelu_tanh",
        gated=False,
        norm_placement="normed_residual" if normed else "pre",
        rope=-1,
        position_bias=0,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        layer_norm_eps="layer_norm_epsilon",
        tied=True,
        embedding_norm=True,
        position_biases=[alibi(size.n_heads, size.max_positions)],
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "bloom"."""
    numbers = {"layer_norm_epsilon": "attention.layer_norm_epsilon"}
    return decoder_config(metadata, checkpoint, numbers=numbers, integers={"seq_length": "context_length"})
