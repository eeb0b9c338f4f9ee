"""Data2Vec's texts: RoBERTa by another name."""

from __future__ import annotations

from tuili.loading.architectures.bert import BODY_NAMES
from tuili.loading.architectures.encoders import head_names, prefixed
from tuili.loading.architectures.roberta import HEADS
from tuili.loading.architectures.roberta import SECOND_NAMES as SECOND_NAMES
from tuili.loading.architectures.roberta import spec as spec
from tuili.loading.config import Config

_PREFIX = "data2vec_text."
_HEADS = HEADS | {"choices": {f"{_PREFIX}pooler.dense": "dense", "classifier": "out"}}
IGNORED_TENSORS = (
    r"(data2vec_text\.)?embeddings\.position_ids", r"(data2vec_text\.)?pooler\..*", r"lm_head\..*",
)  # fmt: skip


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(BODY_NAMES, _PREFIX) | head_names(config, _HEADS)
