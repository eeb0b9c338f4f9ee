"""BigBird with full attention, as it has for all texts that are not long."""

from __future__ import annotations

import math

from tuili._core import ModelSpec
from tuili.loading.architectures import sizes
from tuili.loading.architectures.bert import BODY_NAMES, HEADS
from tuili.loading.architectures.bert import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.bert import SECOND_NAMES as SECOND_NAMES
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
    writes,
)
from tuili.loading.config import MAX_POSITIONS, Config

_HEADS = HEADS | {
    "sequence": {"classifier.dense": "dense", "classifier.out_proj": "out"},
    "choices": {"bert.pooler": "dense", "classifier": "out"},
    "next": {"bert.pooler": "dense", "cls.seq_relationship": "out"},
}


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(BODY_NAMES, "bert.") | head_names(config, _HEADS)


def spec(config: Config) -> ModelSpec:
    """BigBirdModel and its heads, for texts that sparse attention would have no blocks to leave out of."""
    size = sizes(config)
    limit = size.max_positions
    if config.choice("attention_type", ("block_sparse", "original_full"), "block_sparse") == "block_sparse":
        n_random = config.integer("num_random_blocks", 0, MAX_POSITIONS, 3)
        limit = min(limit, (5 + 2 * n_random) * config.integer("block_size", 1, MAX_POSITIONS, 64))
    writes(config)
    act = activation(config, default="gelu_new")
    layer = bert_layer(size, act, qkv_bias=config.flag("use_bias", True))
    rescales = config.flag("rescale_embeddings", False)
    return post_norm_encoder(
        config,
        size,
        [layer] * size.n_layers,
        act,
        sequence="tanh" if config.head in ("choices", "next") else act,
        spans=False,
        max_positions=limit,
        embedding_scale=math.sqrt(size.d_model) if rescales else 1.0,
        n_positions_learned=size.max_positions,
        n_token_types=config.integer("type_vocab_size", 1, 1024, 2),
    )
