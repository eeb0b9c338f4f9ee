"""Pegasus and Marian: sinusoidal positions; Pegasus has norms before, Marian after, and may have an embedding
for each half."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili._core import ModelSpec
from tuili.loading.architectures.seq2seq import (
    COPIES,
    LEARNED_POSITIONS,
    SOURCES,
    TABLES,
    fairseq,
    fairseq_names,
    halves,
    is_alone,
    sinusoid_shape,
)
from tuili.loading.config import MAX_VOCAB, Config
from tuili.loading.layout import Names

IGNORED_TENSORS = (COPIES, SOURCES)


def tensor_names(config: Config) -> Names:
    """Their names -> ours; a table of positions that files hold, rounded perhaps, is used."""
    return {**fairseq_names(config), **LEARNED_POSITIONS}


def spec(config: Config) -> ModelSpec:
    """PegasusForConditionalGeneration, MarianMTModel; PegasusForCausalLM, MarianForCausalLM."""
    if str(config.values["architectures"][0]).startswith("Pegasus"):
        return fairseq(config, placement="pre")
    if is_alone(config) or config.flag("share_encoder_decoder_embeddings", True):
        return fairseq(config, placement="post")
    n_target = config.integer("decoder_vocab_size", 1, MAX_VOCAB, config.integer("vocab_size", 1, MAX_VOCAB))
    return fairseq(config, placement="post", decoder={"n_vocab": n_target})


def constants(config: Config) -> dict[str, Any]:
    """The bias of the logits, which files may leave out, and the positions."""
    return {r"head\.bias": 0.0, TABLES: sinusoids(*sinusoid_shape(config))}


def sinusoids(n: int, d: int) -> NDArray[np.float32]:
    """sin and cos of position / 10000^(2i / d): Vaswani et al. 2017, with the cosines behind the sines."""
    positions = np.arange(n, dtype=np.float64)[:, None]
    exponents = 2 * (np.arange(d) // 2) / d
    angles = positions / np.power(10000, exponents)
    return halves(np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2]))
