"""ELECTRA: BERT with embeddings that may be narrower than the layers."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import sizes, with_biases
from tuili.loading.architectures.bert import BODY_NAMES
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
    writes,
)
from tuili.loading.config import MAX_MODEL, Config
from tuili.loading.files import shown

_BODY = BODY_NAMES | with_biases([("embeddings_project", "embedding_in")])
_HEADS = {
    "sequence": {"classifier.dense": "dense", "classifier.out_proj": "out"},
    "choices": {"sequence_summary.summary": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "spans": {"qa_outputs": "out"},
    "words": {
        "generator_predictions.dense": "dense",
        "generator_predictions.LayerNorm": "norm",
        "generator_lm_head": "out",
    },
}
_SUMMARY = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}
IGNORED_TENSORS = (
    r"(electra\.)?embeddings\.position_ids", r"discriminator_predictions\..*", r"generator_.*",
)  # fmt: skip


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY, "electra.") | head_names(config, _HEADS)


def spec(config: Config) -> ModelSpec:
    """ElectraModel and its heads, which have the exact GELU whatever the layers have."""
    size = sizes(config)
    width = config.integer("embedding_size", 1, MAX_MODEL, 128)
    config.choice("position_embedding_type", ("absolute",), "absolute")
    causal = writes(config)
    if config.head == "choices":
        for key, usual in _SUMMARY.items():
            if (value := config.values.get(key, usual)) != usual:  # null, too, which leaves a step out
                raise ModelUnsupportedError(
                    f"{config.what}: {key} is {shown(value)}; supported: {usual}", code="config_unsupported"
                )
    return post_norm_encoder(
        config,
        size,
        [bert_layer(size, activation(config), causal=causal)] * size.n_layers,
        "gelu",
        sequence="gelu",
        words_width=width,
        d_embedding=width if width != size.d_model else 0,
        project_last=width != size.d_model,
        n_positions_learned=size.max_positions,
        n_token_types=config.integer("type_vocab_size", 1, 1024, 2),
    )
