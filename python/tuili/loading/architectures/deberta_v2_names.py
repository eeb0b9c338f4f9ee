"""What the tensors of DeBERTa-v2 and -v3 are called."""

from __future__ import annotations

from typing import Any

from tuili.loading.architectures import in_layers, with_biases
from tuili.loading.architectures.deberta_distances import is_normed, kinds_of
from tuili.loading.architectures.deberta_rows import TABLE
from tuili.loading.architectures.encoders import BERT_WORDS, head_names, prefixed
from tuili.loading.config import Config
from tuili.loading.layout import Parts

_BODY: dict[str, Any] = {
    "embeddings.word_embeddings.weight": "token_embedding",
    "embeddings.token_type_embeddings.weight": "token_type_embedding",
    "embeddings.embed_proj.weight": "embedding_in",
    "encoder.conv.conv.weight": Parts(("convolution",), flat=True),
    "encoder.conv.conv.bias": "convolution.bias",
} | with_biases(
    [
        ("embeddings.LayerNorm", "embedding_norm"),
        ("encoder.conv.LayerNorm", "convolution_norm"),
        *in_layers(
            "encoder.layer",
            {
                "attention.self.query_proj": "query",
                "attention.self.key_proj": "key",
                "attention.self.value_proj": "value",
                "attention.output.dense": "output",
                "attention.output.LayerNorm": "attention_norm",
                "intermediate.dense": "up",
                "output.dense": "down",
                "output.LayerNorm": "mlp_norm",
            },
        ),
    ]
)
_POSITIONS = {"embeddings.position_embeddings.weight": "position_embedding"}
_DISTANCES = {TABLE: "distance_table"}
_DISTANCES_NORM = with_biases([("encoder.LayerNorm", "distance_norm")])
_OWN_MAPS = {
    "c2p": with_biases([("encoder.layer.{i}.attention.self.pos_key_proj", "layers.{i}.distance_key")]),
    "p2c": with_biases([("encoder.layer.{i}.attention.self.pos_query_proj", "layers.{i}.distance_query")]),
}
_HEADS = {
    "sequence": {"pooler.dense": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "spans": {"qa_outputs": "out"},
}
_WORDS = {"lm_predictions.lm_head.dense": "dense", "lm_predictions.lm_head.LayerNorm": "norm"}
SECOND_NAMES = {
    "cls.predictions.bias": "task_head.out.bias",
    "lm_predictions.lm_head.bias": "task_head.out.bias",
}
# What models of some settings do not use, and heads of the training that no task asks.
IGNORED_TENSORS = (
    r"(deberta\.)?embeddings\.(position_ids|position_embeddings\.weight)",
    r"(deberta\.)?encoder\.(rel_embeddings|LayerNorm)\..*",
    r".*\.(pos_key_proj|pos_query_proj)\..*",
    r"(cls|pooler|lm_predictions|mask_predictions)\..*",
)


def tensor_names(config: Config) -> dict[str, Any]:
    """Their names -> ours, of what a model with these settings has."""
    names: dict[str, Any] = dict(_BODY)
    if config.flag("position_biased_input", True):
        names |= _POSITIONS
    if kinds := kinds_of(config):
        names |= _DISTANCES | (_DISTANCES_NORM if is_normed(config) else {})
        if not config.flag("share_att_key", False):
            for kind in kinds:
                names |= _OWN_MAPS[kind]
    words = BERT_WORDS if config.flag("legacy", True) else _WORDS
    return prefixed(names, "deberta.") | head_names(config, _HEADS | {"words": words})
