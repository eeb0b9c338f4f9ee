"""Megatron's BERT: norms before each half and behind all layers, none behind the embeddings."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import bert, sizes, with_biases
from tuili.loading.architectures.bert import SECOND_NAMES as SECOND_NAMES
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
    writes,
)
from tuili.loading.config import Config

_BODY = {theirs: ours for theirs, ours in bert.BODY_NAMES.items() if "LayerNorm" not in theirs} | with_biases(
    [
        ("encoder.layer.{i}.attention.ln", "layers.{i}.attention_norm"),
        ("encoder.layer.{i}.ln", "layers.{i}.mlp_norm"),
        ("encoder.ln", "final_norm"),
    ]
)
IGNORED_TENSORS = bert.IGNORED_TENSORS


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY, "bert.") | head_names(config, bert.HEADS)


def spec(config: Config) -> ModelSpec:
    """MegatronBertModel and its heads."""
    size = sizes(config)
    causal = writes(config)
    act = activation(config)
    return post_norm_encoder(
        config,
        size,
        [bert_layer(size, act, causal=causal, norm_placement="pre")] * size.n_layers,
        act,
        embedding_norm=False,
        final_norm=True,
        n_positions_learned=size.max_positions,
        n_token_types=config.integer("type_vocab_size", 1, 1024, 2),
    )
