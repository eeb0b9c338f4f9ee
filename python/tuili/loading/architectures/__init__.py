"""One file per architecture: `spec(config)` and name maps, nothing that runs per token.

Each file has
    spec(config) -> ModelSpec                 from the settings of config.json
    TENSOR_NAMES, IGNORED_TENSORS             names in Hugging Face folders -> ours; regular expressions of
                                              known extras
    fold(name, values) -> values              what a Hugging Face norm needs before it is ours (optional)
and, where GGUF files of it exist,
    config_from_gguf(metadata, checkpoint)    the same settings under the same names
    GGUF_TENSOR_NAMES, GGUF_IGNORED_TENSORS
    unpermute(name, config) -> n_heads or 0   whose rows to put back in order (optional)
    embedding_from_gguf(metadata)             how token vectors become one (encoders)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tuili.errors import ModelUnsupportedError
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_INNER,
    MAX_LAYERS,
    MAX_MODEL,
    MAX_POSITIONS,
    MAX_VOCAB,
    Config,
)
from tuili.loading.gguf import Metadata


class Sizes(NamedTuple):
    """Sizes that every transformer has, checked against each other."""

    n_vocab: int
    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    max_positions: int


def sizes(config: Config) -> Sizes:
    """The sizes of a config.json; raises ModelFormatError naming the key that cannot be."""
    d_model = config.integer("hidden_size", 1, MAX_MODEL)
    n_heads = config.integer("num_attention_heads", 1, MAX_HEADS)
    n_kv_heads = config.integer("num_key_value_heads", 1, n_heads, n_heads)
    if n_heads % n_kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of the {n_heads} heads")
    if "head_dim" not in config and d_model % n_heads:
        raise config.wrong("hidden_size", f"a multiple of the {n_heads} heads")
    return Sizes(
        n_vocab=config.integer("vocab_size", 1, MAX_VOCAB),
        n_layers=config.integer("num_hidden_layers", 1, MAX_LAYERS),
        d_model=d_model,
        d_ff=config.integer("intermediate_size", 1, MAX_INNER),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=config.integer("head_dim", 1, MAX_HEAD_DIM, d_model // n_heads),
        max_positions=config.integer("max_position_embeddings", 1, MAX_POSITIONS),
    )


def rotary_head_dim(config: Config, size: Sizes) -> int:
    """head_dim, provided that all of it can be rotated."""
    if size.head_dim % 2:
        raise config.wrong("head_dim" if "head_dim" in config else "hidden_size", "an even head size")
    if config.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
        raise ModelUnsupportedError(
            f"{config.what}: partial_rotary_factor is not 1", code="config_unsupported"
        )
    return size.head_dim


# ---- GGUF

# config.json's key -> the GGUF key behind "<architecture>.", for all architectures.
_U32_KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
    "sliding_window": "attention.sliding_window",
}
# The same for decoders with RMS norms and rotary positions.
_DECODER_F32_KEYS = {"rms_norm_eps": "attention.layer_norm_rms_epsilon", "rope_theta": "rope.freq_base"}


def gguf_config(metadata: Metadata, f32_keys: Mapping[str, str]) -> Config:
    """The sizes of a GGUF file and the floats of `f32_keys` (such as _DECODER_F32_KEYS) under the names of
    config.json.

    raises  ModelFormatError naming the GGUF key
    """
    prefix = metadata.get_str("general.architecture")
    names = {ours: f"{prefix}.{theirs}" for ours, theirs in (_U32_KEYS | dict(f32_keys)).items()}
    values: dict[str, object] = {ours: metadata.get_u32(names[ours], None) for ours in _U32_KEYS}
    values |= {ours: metadata.get_f32(names[ours], None) for ours in f32_keys}
    n_tokens = metadata.n_strings("tokenizer.ggml.tokens")
    config = Config(values, metadata.what, names)
    if values["vocab_size"] not in (None, n_tokens):
        raise config.wrong("vocab_size", f"{n_tokens}, the length of tokenizer.ggml.tokens")
    values["vocab_size"] = n_tokens
    return config


def decoder_config(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF decoder under the names of config.json.

    raises  ModelFormatError naming the GGUF key, ModelUnsupportedError for experts and partial rotation
    """
    prefix = metadata.get_str("general.architecture")
    config = gguf_config(metadata, _DECODER_F32_KEYS)
    config.values = {
        **config.values,
        "tie_word_embeddings": "output.weight" not in checkpoint.tensors,
        "rope_scaling": _rope_scaling(metadata, prefix),
        "eos_token_id": metadata.get_u32("tokenizer.ggml.eos_token_id", None),
        "bos_token_id": metadata.get_u32("tokenizer.ggml.bos_token_id", None),
    }
    if metadata.get_u32(f"{prefix}.expert_count", 0):
        raise ModelUnsupportedError(
            f"{metadata.what}: {prefix}.expert_count: experts", code="config_unsupported"
        )
    head_dim = sizes(config).head_dim
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.get_u32(f"{prefix}.{key}", head_dim) != head_dim:
            raise ModelUnsupportedError(
                f"{metadata.what}: {prefix}.{key} differs from the head size {head_dim}",
                code="config_unsupported",
            )
    return config


def _rope_scaling(metadata: Metadata, prefix: str) -> dict[str, object] | None:
    kind = metadata.get_str(f"{prefix}.rope.scaling.type", "none")
    if kind == "none":
        return None
    return {
        "rope_type": kind,
        "factor": metadata.get_f32(f"{prefix}.rope.scaling.factor"),
        "original_max_position_embeddings": metadata.get_u32(
            f"{prefix}.rope.scaling.original_context_length", None
        ),
    }


# GGUF's tensor names are the same for all these decoders, except for what surrounds the MLP's norm.
DECODER_GGUF_NAMES = {
    "token_embd.weight": "token_embedding",
    "output_norm.weight": "final_norm",
    "output.weight": "head",
    "blk.{i}.attn_norm.weight": "layers.{i}.attention_norm",
    "blk.{i}.attn_q.weight": "layers.{i}.query",
    "blk.{i}.attn_k.weight": "layers.{i}.key",
    "blk.{i}.attn_v.weight": "layers.{i}.value",
    "blk.{i}.attn_output.weight": "layers.{i}.output",
    "blk.{i}.ffn_norm.weight": "layers.{i}.mlp_norm",
    "blk.{i}.ffn_gate.weight": "layers.{i}.gate",
    "blk.{i}.ffn_up.weight": "layers.{i}.up",
    "blk.{i}.ffn_down.weight": "layers.{i}.down",
}

# The same for the parts that Hugging Face's decoders of this kind share.
DECODER_NAMES = {
    "model.embed_tokens.weight": "token_embedding",
    "model.norm.weight": "final_norm",
    "lm_head.weight": "head",
    "model.layers.{i}.input_layernorm.weight": "layers.{i}.attention_norm",
    "model.layers.{i}.self_attn.q_proj.weight": "layers.{i}.query",
    "model.layers.{i}.self_attn.k_proj.weight": "layers.{i}.key",
    "model.layers.{i}.self_attn.v_proj.weight": "layers.{i}.value",
    "model.layers.{i}.self_attn.o_proj.weight": "layers.{i}.output",
    "model.layers.{i}.mlp.gate_proj.weight": "layers.{i}.gate",
    "model.layers.{i}.mlp.up_proj.weight": "layers.{i}.up",
    "model.layers.{i}.mlp.down_proj.weight": "layers.{i}.down",
}
