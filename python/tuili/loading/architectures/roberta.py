"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions that begin after the padding's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tuili._core import ModelSpec
from tuili.loading.architectures import sizes
from tuili.loading.architectures.bert import BODY_NAMES
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
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
    return offset_encoder(config, "post")


def offset_encoder(
    config: Config, norm_placement: Literal["post", "pre"], windows: Sequence[int] = (), **settings: Any
) -> ModelSpec:
    """What RoBERTa and its kin share; the head for words has the exact GELU whatever the layers have.
    windows: of each layer, none if empty."""
    size = sizes(config)
    config.choice("position_embedding_type", ("absolute",), "absolute")
    causal = writes(config)
    offset = config.integer("pad_token_id", 0, size.n_vocab - 1, 1) + 1
    if size.max_positions <= offset:
        raise config.wrong("max_position_embeddings", f"more than pad_token_id + 1 = {offset}")
    act = activation(config)
    layers = [
        bert_layer(size, act, causal=causal, norm_placement=norm_placement, sliding_window=window)
        for window in windows or [0] * size.n_layers
    ]
    return post_norm_encoder(
        config,
        size,
        layers,
        "gelu",
        max_positions=size.max_positions - offset,
        n_positions_learned=size.max_positions,
        position_offset=offset,
        padding_id=offset - 1,
        n_token_types=config.integer("type_vocab_size", 1, 1024, 2),
        **settings,
    )
