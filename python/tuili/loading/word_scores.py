"""Decoders that judge a text by the word that they would go on with (sentence-transformers' LogitScore): a
classifier of one label, whose weights are the word's row of the head, less that of the word against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.architectures.decoder_heads import HeadedDecoder
from tuili.loading.checkpoint import FLOATS, Bytes, Checkpoint, TensorInfo
from tuili.loading.config import Config
from tuili.loading.files import shown
from tuili.loading.layout import our_names
from tuili.loading.weights import to_float32

_WORDS, _CLASSIFIER = "ForCausalLM", "ForSequenceClassification"
_SCORE = "score.weight"


@dataclass(frozen=True)
class WordScore:
    """The weights float32 [1, d_model], a checkpoint's `Derived`. ids: the word's, and that of the other."""

    head: TensorInfo
    ids: tuple[int, ...]
    sources = ()  # the head stays listed

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> Bytes:
        size = self.head.n_bytes // self.head.shape[0]
        rows = [checkpoint.read(self.head.name, i * size, size) for i in self.ids]
        values = [to_float32(row, self.head.format).reshape(-1) for row in rows]
        scores = values[0] if len(values) == 1 else values[0] - values[1]
        return scores.astype(np.float32).view(np.uint8)[begin : begin + n_bytes]


def as_classifier(config: Config) -> Config:
    """A decoder's configuration as that of the classifier, which reads the last token whichever that is."""
    names = config.values.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        stem = names[0].removesuffix(_WORDS)
        if stem == names[0]:
            raise ModelUnsupportedError(
                f"{config.what}: architectures is {shown(names[0])}; scores of words are a decoder's",
                code="config_unsupported",
            )
        own: dict[str, Any] = {"architectures": [stem + _CLASSIFIER]}
        own |= {"num_labels": 1, "id2label": None, "pad_token_id": None}
        config.update(**own)
    return config


def add_score(checkpoint: Checkpoint, module: Any, config: Config, ids: Sequence[int]) -> None:
    """Have the checkpoint hold the classifier's weights.

    module  of a decoder, as decoder_heads.py reads it
    raises  ModelUnsupportedError, ModelFormatError unless the head is of floats, plain, and has these words
    """
    what = config.what
    if not isinstance(module, HeadedDecoder) or _SCORE in checkpoint.tensors:
        raise ModelUnsupportedError(
            f"{what}: scores of words are those of a decoder without a classifier", code="module"
        )
    writer = module.writer(config)
    if (writer.logit_softcap, writer.logit_scale, writer.head_bias) != (0.0, 1.0, False):
        raise ModelUnsupportedError(
            f"{what}: scores of words by a head with a bias, a scale or a cap", code="config_unsupported"
        )
    found = {}
    for name, info in checkpoint.tensors.items():
        parts = our_names(name, module.TENSOR_NAMES, getattr(module, "BASE_PREFIX", "model."))
        if parts is not None and parts.names[0] in ("head", "token_embedding"):
            found[parts.names[0]] = info
    head = found.get("head") or found.get("token_embedding")
    if head is None or head.format not in FLOATS or len(head.shape) != 2:
        raise ModelUnsupportedError(f"{what}: the head for words is not a matrix of floats", code="module")
    if any(i >= head.shape[0] for i in ids):
        raise ModelFormatError(f"{what}: token ids from 0 to {head.shape[0] - 1}", code="config_value")
    info = TensorInfo(_SCORE, "f32", (1, head.shape[1]), 0, 4 * head.shape[1])
    checkpoint.replace(info, WordScore(head, tuple(ids)))
