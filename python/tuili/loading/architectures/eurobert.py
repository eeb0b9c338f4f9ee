"""EuroBERT: Llama's layers, in which tokens see both sides, under an encoder's heads."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    MLP_BIASES,
    activation,
    layer_of,
    rope,
    sizes,
    without,
)
from tuili.loading.architectures.encoders import head_names, task_head
from tuili.loading.config import Config
from tuili.loading.heads import AnswerRow

_HEADS = {
    "sequence": {"dense": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "words": {"lm_head": "out"},
}
_ROWS = {"bos": "first", "mean": "mean", "late": "all"}
IGNORED_TENSORS = (r"lm_head\..*", r"(dense|classifier)\..*")


def _pooling(config: Config) -> str:
    """What a classifier reads; its makers' own code, before transformers', calls it clf_pooling."""
    key = "clf_pooling" if "classifier_pooling" not in config else "classifier_pooling"
    return str(config.choice(key, tuple(_ROWS), "late"))


def answer_row(config: Config) -> AnswerRow | None:
    """Of "late": the mean of the answers for all tokens."""
    return AnswerRow("mean") if _pooling(config) == "late" else None


def tensor_names(config: Config) -> dict[str, Any]:
    """Their names -> ours, with those of the head that the configuration has."""
    return without(LLAMA_NAMES, "lm_head") | ATTENTION_BIASES | MLP_BIASES | head_names(config, _HEADS)


def spec(config: Config) -> ModelSpec:
    """EuroBertModel and its heads."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    layer = layer_of(
        size, activation=activation(config), causal=False, attention_bias=bias, mlp_bias=mlp_bias
    )
    heads: dict[str, dict[str, Any]] = {
        "sequence": {"rows": _ROWS[_pooling(config)], "d_inner": size.d_model, "activation": "gelu"},
        "tokens": {},
        "words": {"tied": config.flag("tie_word_embeddings", False), "out_bias": mlp_bias},
    }
    return ModelSpec(
        kind="encoder",
        n_vocab=size.n_vocab,
        d_model=size.d_model,
        max_positions=limit,
        layers=[layer] * size.n_layers,
        ropes=[rotation],
        norm_eps=config.number("rms_norm_eps", 1e-12, 1.0, 1e-5),
        has_head=False,
        task_head=task_head(config, heads),
    )
