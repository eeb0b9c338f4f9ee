"""Longformer: RoBERTa whose tokens see as far as a window, of which none sees all others. The heads that give
some tokens such a sight (for sequences, spans and choices) are not read."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures.bert import BODY_NAMES
from tuili.loading.architectures.encoders import head_names, prefixed
from tuili.loading.architectures.led import attention_windows
from tuili.loading.architectures.roberta import HEADS, offset_encoder
from tuili.loading.architectures.roberta import SECOND_NAMES as SECOND_NAMES
from tuili.loading.config import MAX_LAYERS, Config

IGNORED_TENSORS = (
    r"(longformer\.)?embeddings\.position_ids",
    r"(longformer\.)?pooler\..*",
    r"(longformer\.)?encoder\.layer\.\d+\.attention\.self\.(query|key|value)_global\.(weight|bias)",
    r"lm_head\..*",
)


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(BODY_NAMES, "longformer.") | head_names(config, HEADS)


def spec(config: Config) -> ModelSpec:
    """LongformerModel, LongformerForMaskedLM and LongformerForTokenClassification."""
    windows = attention_windows(config, config.integer("num_hidden_layers", 1, MAX_LAYERS))
    return offset_encoder(config, "post", windows=windows)
