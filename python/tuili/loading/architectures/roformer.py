"""RoFormer: BERT whose heads turn by their position, in the place of learned ones."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec, TaskHead
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import ACTIVATIONS, Sizes, bert, rope_of, sizes, with_biases
from tuili.loading.architectures.bert import SECOND_NAMES as SECOND_NAMES
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
    writes,
)
from tuili.loading.architectures.roformer_positions import POSITIONS
from tuili.loading.architectures.roformer_positions import derive as derive
from tuili.loading.config import MAX_MODEL, Config

_BODY = {theirs: ours for theirs, ours in bert.BODY_NAMES.items() if "position_embeddings" not in theirs}
_BODY |= with_biases([("embeddings_project", "embedding_in")])
_HEADS = {
    **bert.HEADS,
    "sequence": {"classifier.dense": "dense", "classifier.out_proj": "out"},
    "choices": {"sequence_summary.summary": "dense", "classifier": "out"},
}
IGNORED_TENSORS = (rf"(roformer\.)?({POSITIONS}|pooler\..*)", r"cls\..*")


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY, "roformer.") | head_names(config, _HEADS)


def spec(config: Config) -> ModelSpec:
    """RoFormerModel and its heads."""
    size = sizes(config)
    width = config.integer("embedding_size", 1, MAX_MODEL, size.d_model)
    causal, act = writes(config), activation(config)
    # Its base is no setting.
    rotation, _ = rope_of(config, size, None, Config({}, ""), 10000.0, size.head_dim, interleaved=True)
    turns = {"rope": 0, "rope_values": config.flag("rotary_value", False)}
    own: dict[str, Any] = {"task_head": _summary(config, size)} if config.head == "choices" else {}
    return post_norm_encoder(
        config,
        size,
        [bert_layer(size, act, causal=causal, **turns)] * size.n_layers,
        act,
        sequence=act,
        words_width=width,
        ropes=[rotation],
        d_embedding=width if width != size.d_model else 0,
        project_last=width != size.d_model,
        n_token_types=config.integer("type_vocab_size", 1, 1024, 2),
        **own,
    )


def _summary(config: Config, size: Sizes) -> TaskHead:
    """The head for choices: a number of one row, which files may have mapped first."""
    rows = config.choice("summary_type", ("last", "first", "mean", "cls_index"), "last")
    named = config.choice("summary_activation", tuple(ACTIVATIONS), None)
    inner: dict[str, Any] = {}
    if config.flag("summary_use_proj", False):
        inner = {"d_inner": size.d_model, "activation": ACTIVATIONS.get(named, "none")}
    elif named:
        raise ModelUnsupportedError(
            f"{config.what}: summary_activation is '{named}' without summary_use_proj",
            code="config_unsupported",
        )
    return TaskHead(n_out=1, rows="last" if rows == "cls_index" else rows, **inner)
