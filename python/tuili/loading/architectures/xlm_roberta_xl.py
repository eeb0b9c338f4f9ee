"""XLM-RoBERTa XL and XXL: RoBERTa with norms before each half and behind all, none behind embeddings."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import with_biases
from tuili.loading.architectures.bert import BODY_NAMES
from tuili.loading.architectures.encoders import head_names, prefixed
from tuili.loading.architectures.roberta import HEADS, offset_encoder
from tuili.loading.architectures.roberta import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.roberta import SECOND_NAMES as SECOND_NAMES
from tuili.loading.config import Config

_BODY = {theirs: ours for theirs, ours in BODY_NAMES.items() if "LayerNorm" not in theirs} | with_biases(
    [
        ("encoder.layer.{i}.attention.self_attn_layer_norm", "layers.{i}.attention_norm"),
        ("encoder.layer.{i}.LayerNorm", "layers.{i}.mlp_norm"),
        ("encoder.LayerNorm", "final_norm"),
    ]
)


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY, "roberta.") | head_names(config, HEADS)


def spec(config: Config) -> ModelSpec:
    """XLMRobertaXLModel and its heads."""
    return offset_encoder(config, "pre", embedding_norm=False, final_norm=True)
