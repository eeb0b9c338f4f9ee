"""Encoders made of two halves (a BART under a task head): the first reads a text, and the second reads it
once more, shifted by a token, seeing all that the first has made of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tuili import _core
from tuili.capacity import BLOCK_SIZE
from tuili.errors import InvalidParameterError
from tuili.loading.model import LoadedModel


@dataclass(frozen=True)
class Rereading:
    """How the second half reads a text.

    start  the token that it begins with; None: the text's own last one
    ends   tokens that end a text, the last of which a head of one answer looks at
    """

    start: int | None
    ends: Collection[int]

    def shifted(self, ids: np.ndarray) -> np.ndarray:
        """What the second half reads of a text int32 [n]: as many tokens."""
        return np.concatenate(
            [ids[-1:] if self.start is None else np.array([self.start], np.int32), ids[:-1]]
        )

    def last_end(self, ids: Sequence[int]) -> int:
        """Where the last end of a text is; InvalidParameterError if there is none."""
        found = [i for i, token_id in enumerate(ids) if token_id in self.ends]
        if not found:
            raise InvalidParameterError("the text has no token that ends it, whose row the head reads")
        return found[-1]


def rereading_of(loaded: LoadedModel) -> Rereading | None:
    """Of a model that is an encoder of two halves; None of others."""
    if loaded.spec.encoder is None:
        return None
    return Rereading(loaded.decoder_start, frozenset(loaded.eos_token_ids))


def cache_for(spec: _core.ModelSpec, n_tokens: int, n_seqs: int, device: _core.Device) -> _core.KvCache:
    """Room for what both halves keep of a batch of so many tokens and texts, while it runs."""
    n_blocks = 2 * (n_tokens // BLOCK_SIZE + n_seqs)
    return _core.KvCache(
        spec, n_blocks, BLOCK_SIZE, "float32" if device == "cpu" else "float16", device=device
    )
