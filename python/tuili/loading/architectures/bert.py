"""BERT encoders: BertModel and its heads."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import sizes
from tuili.loading.architectures.encoders import (
    BERT_WORDS,
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
    writes,
)
from tuili.loading.architectures.encoders_from_gguf import embedding_from_gguf as embedding_from_gguf
from tuili.loading.architectures.encoders_from_gguf import encoder_config
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

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
# Old checkpoints call a norm's vectors gamma and beta.
_OLD = {".weight": ".gamma", ".bias": ".beta"}


def _old(name: str) -> str:
    for new, old in _OLD.items():
        name = name.replace(f"LayerNorm{new}", f"LayerNorm{old}")
    return name


BODY_NAMES = _NAMES | {_old(theirs): ours for theirs, ours in _NAMES.items()}
HEADS = {
    "sequence": {"bert.pooler.dense": "dense", "classifier": "out"},
    "next": {"bert.pooler.dense": "dense", "cls.seq_relationship": "out"},
    "tokens": {"classifier": "out"},
    "spans": {"qa_outputs": "out"},
    "words": BERT_WORDS,
}
SECOND_NAMES = {"cls.predictions.bias": "task_head.out.bias"}  # where that one may lie instead
IGNORED_TENSORS = (r"(bert\.)?embeddings\.position_ids", r"(bert\.)?pooler\..*", r"cls\..*")

GGUF_TENSOR_NAMES = {gguf: ours for _, gguf, ours in _ALL}
GGUF_IGNORED_TENSORS = (r"cls\..*",)


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    head = head_names(config, HEADS)
    return prefixed(BODY_NAMES, "bert.") | head | {_old(theirs): ours for theirs, ours in head.items()}


def spec(config: Config) -> ModelSpec:
    """BertModel and its heads (config.json of any transformers version)."""
    size = sizes(config)
    config.choice("position_embedding_type", ("absolute",), "absolute")
    causal = writes(config)
    act = activation(config)
    return post_norm_encoder(
        config,
        size,
        [bert_layer(size, act, causal=causal)] * size.n_layers,
        act,
        n_positions_learned=size.max_positions,
        n_token_types=config.integer("type_vocab_size", 1, 1024, 2),
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "bert", which RoBERTa's files, with other words, have too.

    Files do not name the activation: it is BERT's exact GELU, where llama.cpp approximates with tanh.
    """
    return encoder_config(metadata, {})
