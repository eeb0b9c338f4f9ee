"""BERT encoders (BertModel and its training heads, which are ignored)."""

from __future__ import annotations

from typing import Any, Literal

from tuili._core import LayerSpec, ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import gguf_config, sizes
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf import Metadata

# Hugging Face's name, GGUF's, ours: first what is a weight alone, then what has a bias too.
_TABLES = (
    ("embeddings.word_embeddings", "token_embd", "token_embedding"),
    ("embeddings.position_embeddings", "position_embd", "position_embedding"),
    ("embeddings.token_type_embeddings", "token_types", "token_type_embedding"),
)
_BIASED = (
    ("embeddings.LayerNorm", "token_embd_norm", "embedding_norm"),
    *(
        (f"encoder.layer.{{i}}.{theirs}", f"blk.{{i}}.{gguf}", f"layers.{{i}}.{ours}")
        for theirs, gguf, ours in (
            ("attention.self.query", "attn_q", "query"),
            ("attention.self.key", "attn_k", "key"),
            ("attention.self.value", "attn_v", "value"),
            ("attention.output.dense", "attn_output", "output"),
            ("attention.output.LayerNorm", "attn_output_norm", "attention_norm"),
            ("intermediate.dense", "ffn_up", "up"),
            ("output.dense", "ffn_down", "down"),
            ("output.LayerNorm", "layer_output_norm", "mlp_norm"),
        )
    ),
)
_ALL = [(f"{theirs}.weight", f"{gguf}.weight", ours) for theirs, gguf, ours in (*_TABLES, *_BIASED)]
_ALL += [(f"{theirs}.bias", f"{gguf}.bias", f"{ours}.bias") for theirs, gguf, ours in _BIASED]
_NAMES = {theirs: ours for theirs, _, ours in _ALL}
# Checkpoints of a head's class put "bert." before the encoder's names; old ones call a norm's vectors gamma
# and beta.
_OLD = {
    theirs.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): ours
    for theirs, ours in _NAMES.items()
}
TENSOR_NAMES = {prefix + theirs: ours for prefix in ("", "bert.") for theirs, ours in (_NAMES | _OLD).items()}
IGNORED_TENSORS = (r"(bert\.)?embeddings\.position_ids", r"(bert\.)?pooler\..*", r"cls\..*")

GGUF_TENSOR_NAMES = {gguf: ours for _, gguf, ours in _ALL}
GGUF_IGNORED_TENSORS = (r"cls\..*",)


def spec(config: Config) -> ModelSpec:
    """BertModel (config.json of any transformers version)."""
    size = sizes(config)
    config.choice("position_embedding_type", ("absolute",), "absolute")
    for key in ("is_decoder", "add_cross_attention"):
        if config.flag(key, False):
            raise ModelUnsupportedError(f"{config.what}: {key} is true", code="config_unsupported")
    activations: dict[str, Literal["gelu", "gelu_tanh", "relu"]] = {
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "relu": "relu",
    }
    layer = LayerSpec(
        n_heads=size.n_heads,
        n_kv_heads=size.n_heads,
        head_dim=size.head_dim,
        d_ff=size.d_ff,
        norm_placement="post",
        activation=activations[config.choice("hidden_act", tuple(activations), "gelu")],
        gated=False,
        causal=False,
        attention_scale=size.head_dim**-0.5,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )
    return ModelSpec(
        kind="encoder",
        n_vocab=size.n_vocab,
        d_model=size.d_model,
        max_positions=size.max_positions,
        layers=[layer] * size.n_layers,
        n_positions_learned=size.max_positions,
        n_token_types=config.integer("type_vocab_size", 1, 65_536, 2),
        embedding_norm=True,
        norm="layer",
        norm_eps=config.number("layer_norm_eps", 1e-16, 1.0, 1e-12),
        final_norm=False,
        has_head=False,
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "bert", which RoBERTa's files, with other words, have too.

    Files do not name the activation: it is BERT's exact GELU, where llama.cpp approximates with tanh.
    """
    words = metadata.get_str("tokenizer.ggml.model")
    if words != "bert" or metadata.get_bool("bert.attention.causal", False):
        raise ModelUnsupportedError(
            f"{metadata.what}: tokenizer.ggml.model is not bert, or bert.attention.causal is true",
            code="config_unsupported",
        )
    config = gguf_config(metadata, {"layer_norm_eps": "attention.layer_norm_epsilon"})
    key = "tokenizer.ggml.token_type_count"
    config.values = {**config.values, "type_vocab_size": metadata.get_u32(key, None)}
    config.names = {**config.names, "type_vocab_size": key}
    return config


def embedding_from_gguf(metadata: Metadata) -> dict[str, Any]:
    """The file's pooling, and vectors of length 1 if it names one: what llama.cpp does, as files do not say.

    One without pooling (0) is plain BERT, for which the default is the mean as it is, as for folders.
    raises  ModelUnsupportedError (pooling), for rerankers (4) among others
    """
    poolings = {0: "mean", 1: "mean", 2: "cls", 3: "last"}
    number = metadata.get_u32("bert.pooling_type", 0)
    if number not in poolings:
        raise ModelUnsupportedError(
            f"{metadata.what}: bert.pooling_type is {number}; supported: 0 to 3", code="pooling"
        )
    return {"pooling": poolings[number], "normalize": number != 0, "max_seq_length": None}
