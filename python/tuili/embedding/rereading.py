"""Encoders made of two halves (a BART under a task head): the first reads a text, and the second reads it
once more, shifted by a token, seeing all that the first has made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuili import _core
from tuili.generation.capacity import BLOCK_SIZE
from tuili.loading.model import LoadedModel


@dataclass(frozen=True)
class Rereading:
    """How the second half reads a text.

    start  the token that it begins with; None: the text's own last one
    """

    start: int | None

    def shifted(self, ids: np.ndarray) -> np.ndarray:
        """What the second half reads of a text int32 [n]: as many tokens."""
        return np.concatenate(
            [ids[-1:] if self.start is None else np.array([self.start], np.int32), ids[:-1]]
        )


def rereading_of(loaded: LoadedModel) -> Rereading | None:
    """How a model that is an encoder of two halves reads texts; None for others."""
    return None if loaded.spec.encoder is None else Rereading(loaded.decoder_start)


def cache_for(spec: _core.ModelSpec, n_tokens: int, n_seqs: int, device: _core.Device) -> _core.KvCache:
    """Room for what both halves keep of a batch of so many tokens and texts, while it runs."""
    n_blocks = 2 * (n_tokens // BLOCK_SIZE + n_seqs)
    return _core.KvCache(
        spec, n_blocks, BLOCK_SIZE, "float32" if device == "cpu" else "float16", device=device
    )
