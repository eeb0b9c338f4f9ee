"""M2M100 and NLLB: norms before, scaled embeddings, sinusoidal positions behind the one of padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili._core import ModelSpec
from tuili.loading.architectures.seq2seq import COPIES, TABLES, fairseq, fairseq_names, halves, sinusoid_shape
from tuili.loading.config import MAX_VOCAB, Config

tensor_names = fairseq_names
IGNORED_TENSORS = (COPIES, r"model\.(en|de)coder\.embed_positions\.weights?")


def spec(config: Config) -> ModelSpec:
    """M2M100ForConditionalGeneration, as NLLB's models are, too."""
    if sinusoid_shape(config)[1] < 4:
        raise config.wrong("d_model", "at least 4")
    padding = _padding(config)
    own: dict[str, Any] = {"scaled": True, "usual_activation": "relu", "logits_bias": False}
    return fairseq(config, placement="pre", offset=1, padding_id=padding, **own)


def constants(config: Config) -> dict[str, Any]:
    """The positions."""
    return {TABLES: _sinusoids(config)}


def _sinusoids(config: Config) -> NDArray[np.float32]:
    """As in fairseq, the first position is pad_token_id + 1. The row before it, of zeros, is that of
    padding."""
    n, d = sinusoid_shape(config)
    return np.pad(sinusoids(_padding(config) + 1, n, d), ((1, 0), (0, 0)))


def sinusoids(first: int, n: int, d: int) -> NDArray[np.float32]:
    """sin and cos of position / 10000^(i / (d/2 - 1)), as tensor2tensor has them, and 0 at the end where d is
    odd, of n positions from `first` on: computed in float32 up to the angle."""
    step = -math.log(10000) / (d // 2 - 1)
    frequencies = np.exp((np.arange(d // 2, dtype=np.float32) * np.float32(step)).astype(np.float64))
    angles = np.arange(first, first + n, dtype=np.float32)[:, None] * frequencies.astype(np.float32)
    table = halves(np.sin(angles.astype(np.float64)), np.cos(angles.astype(np.float64)))
    return np.pad(table, ((0, 0), (0, d % 2)))


def _padding(config: Config) -> int:
    return int(config.integer("pad_token_id", 0, config.integer("vocab_size", 1, MAX_VOCAB) - 1, 1))
