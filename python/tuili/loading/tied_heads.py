"""Heads that a config.json calls tied to the embedding: whether the files agree."""

from __future__ import annotations

from collections.abc import Mapping

from tuili.loading.checkpoint import FORMATS, Checkpoint, TensorInfo
from tuili.loading.config import Config
from tuili.loading.files import shown

HEADS = ("head", "task_head.out")  # for words
_CHUNK = 1 << 22  # bytes compared at once


def untie(config: Config, checkpoint: Checkpoint, stored: Mapping[str, TensorInfo]) -> str | None:
    """Have `config` say what the files do where both are there and differ, as transformers does.

    stored   the tensors that are "token_embedding" and one of HEADS
    returns  the warning if the configuration said otherwise
    """
    embedding = stored.get("token_embedding")
    head = next((stored[name] for name in HEADS if name in stored), None)
    if embedding is None or head is None or config.values.get("tie_word_embeddings") is False:
        return None
    if _are_equal(checkpoint, embedding, head):
        return None
    stated = config.values.get("tie_word_embeddings") is not None
    config.update(tie_word_embeddings=False)
    if not stated:
        return None
    return f"tie_word_embeddings is true, but '{shown(head.name)}' is another matrix than the embedding: used"


def _are_equal(checkpoint: Checkpoint, one: TensorInfo, other: TensorInfo) -> bool:
    if (one.shape, one.format) != (other.shape, other.format):
        return False
    step = _CHUNK // FORMATS[one.format].n_bytes * FORMATS[one.format].n_bytes
    with checkpoint:
        for begin in range(0, one.n_bytes, step):
            n = min(step, one.n_bytes - begin)
            if (checkpoint.read(one.name, begin, n) != checkpoint.read(other.name, begin, n)).any():
                return False
    return True
