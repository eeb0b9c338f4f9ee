"""RoBERTa with norms before each half and behind all layers (fairseq's --encoder-normalize-before)."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import with_biases
from tuili.loading.architectures.bert import BODY_NAMES
from tuili.loading.architectures.encoders import head_names, prefixed
from tuili.loading.architectures.roberta import HEADS, offset_encoder
from tuili.loading.architectures.roberta import SECOND_NAMES as SECOND_NAMES
from tuili.loading.config import Config

_PREFIX = "roberta_prelayernorm."
_BODY = {theirs: ours for theirs, ours in BODY_NAMES.items() if "output.LayerNorm" not in theirs}
_BODY |= with_biases(
    [
        ("encoder.layer.{i}.attention.LayerNorm", "layers.{i}.attention_norm"),
        ("encoder.layer.{i}.intermediate.LayerNorm", "layers.{i}.mlp_norm"),
        ("LayerNorm", "final_norm"),
    ]
)
_HEADS = HEADS | {"choices": {f"{_PREFIX}pooler.dense": "dense", "classifier": "out"}}
IGNORED_TENSORS = (
    r"(roberta_prelayernorm\.)?embeddings\.position_ids", r"(roberta_prelayernorm\.)?pooler\..*",
    r"lm_head\..*",
)  # fmt: skip


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY, _PREFIX) | head_names(config, _HEADS)


def spec(config: Config) -> ModelSpec:
    """RobertaPreLayerNormModel and its heads."""
    return offset_encoder(config, "pre", final_norm=True)
