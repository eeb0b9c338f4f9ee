"""ALBERT: layers that share their weights, and embeddings narrower than they are."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import sizes, with_biases
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
)
from tuili.loading.config import MAX_LAYERS, MAX_MODEL, Config

_TABLES = {
    f"embeddings.{name}_embeddings.weight": f"{ours}_embedding"
    for name, ours in (("word", "token"), ("position", "position"), ("token_type", "token_type"))
}
_OUTSIDE = (
    ("embeddings.LayerNorm", "embedding_norm"),
    ("encoder.embedding_hidden_mapping_in", "embedding_in"),
)
_LAYER = (
    ("attention.query", "query"),
    ("attention.key", "key"),
    ("attention.value", "value"),
    ("attention.dense", "output"),
    ("attention.LayerNorm", "attention_norm"),
    ("ffn", "up"),
    ("ffn_output", "down"),
    ("full_layer_layer_norm", "mlp_norm"),
)
_HEADS = {
    "sequence": {"albert.pooler": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "spans": {"qa_outputs": "out"},
    "words": {"predictions.dense": "dense", "predictions.LayerNorm": "norm", "predictions.decoder": "out"},
}
SHARED_LAYERS = True  # fewer tensors than layers are no mistake
SECOND_NAMES = {"predictions.bias": "task_head.out.bias"}
IGNORED_TENSORS = (
    r"(albert\.)?embeddings\.position_ids", r"(albert\.)?pooler\..*", r"predictions\..*",
    r"sop_classifier\..*", r"(albert\.)?encoder\.albert_layer_groups\..*",  # of more groups than layers
)  # fmt: skip


def _layers(config: Config) -> tuple[list[tuple[int, int]], dict[tuple[int, int], int]]:
    """(group, layer in the group) of each layer that is computed, and where each such pair comes first."""
    n_layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    n_groups = config.integer("num_hidden_groups", 1, MAX_LAYERS, 1)
    n_inner = config.integer("inner_group_num", 1, MAX_LAYERS // n_layers, 1)
    order = [(int(i / (n_layers / n_groups)), j) for i in range(n_layers) for j in range(n_inner)]
    first: dict[tuple[int, int], int] = {}
    for at, pair in enumerate(order):
        first.setdefault(pair, at)
    return order, first


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours: a layer's weights are those of the first that has them."""
    layers = (
        (f"encoder.albert_layer_groups.{group}.albert_layers.{inner}.{theirs}", f"layers.{at}.{ours}")
        for (group, inner), at in _layers(config)[1].items()
        for theirs, ours in _LAYER
    )
    body = _TABLES | with_biases([*_OUTSIDE, *layers])
    return prefixed(body, "albert.") | head_names(config, _HEADS)


def spec(config: Config) -> ModelSpec:
    """AlbertModel and its heads."""
    size = sizes(config)
    width = config.integer("embedding_size", 1, MAX_MODEL, 128)
    config.choice("position_embedding_type", ("absolute",), "absolute")
    act = activation(config, default="gelu_new")
    order, first = _layers(config)
    owners = [first[pair] if first[pair] != at else -1 for at, pair in enumerate(order)]
    return post_norm_encoder(
        config,
        size,
        [bert_layer(size, act, weights_of=owner) for owner in owners],
        act,
        words_width=width,
        d_embedding=width,
        project_last=True,
        n_positions_learned=size.max_positions,
        n_token_types=config.integer("type_vocab_size", 1, 1024, 2),
    )
