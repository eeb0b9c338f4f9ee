"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions that begin after the padding's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tuili._core import LayerSpec, ModelSpec
from tuili.loading.architectures import sizes
from tuili.loading.architectures.bert import BODY_NAMES
from tuili.loading.architectures.encoders import (
    activation,
    head_names,
    post_norm_encoder,
    post_norm_layer,
    prefixed,
    writes,
)
from tuili.loading.config import Config

HEADS = {
    "sequence": {"classifier.dense": "dense", "classifier.out_proj": "out"},
    "choices": {"roberta.pooler.dense": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "spans": {"qa_outputs": "out"},
    "words": {"lm_head.dense": "dense", "lm_head.layer_norm": "norm", "lm_head.decoder": "out"},
}
SECOND_NAMES = {"lm_head.bias": "task_head.out.bias"}
IGNORED_TENSORS = (
    r"(roberta\.)?embeddings\.position_ids", r"(roberta\.)?pooler\..*", r"lm_head\..*",
)  # fmt: skip


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(BODY_NAMES, "roberta.") | head_names(config, HEADS)


def spec(config: Config) -> ModelSpec:
    """RobertaModel and its heads."""
    return offset_encoder(config, post_norm_layer)


def offset_encoder(config: Config, layer: Callable[..., LayerSpec], **settings: Any) -> ModelSpec:
    """What RoBERTa and its kin share; the head for words has the exact GELU whatever the layers have."""
    size = sizes(config)
    config.choice("position_embedding_type", ("absolute",), "absolute")
    causal = writes(config)
    offset = config.integer("pad_token_id", 0, size.n_vocab - 1, 1) + 1
    if size.max_positions <= offset:
        raise config.wrong("max_position_embeddings", f"more than pad_token_id + 1 = {offset}")
    return post_norm_encoder(
        config,
        size,
        [layer(size, activation(config), causal=causal)] * size.n_layers,
        "gelu",
        max_positions=size.max_positions - offset,
        n_positions_learned=size.max_positions,
        position_offset=offset,
        padding_id=offset - 1,
        n_token_types=config.integer("type_vocab_size", 1, 1024, 2),
        **settings,
    )
