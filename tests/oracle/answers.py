"""What the reference answers to a prompt: all logits and a greedy continuation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Answer:
    """The reference's side of one comparison.

    ids     int64 [n_tokens]: the prompt
    logits  float32 [n_tokens, n_vocab]
    greedy  int64 [n_new]: the continuation by largest logit; end-of-text tokens do not stop it
    gaps    float32 [n_new]: largest minus second largest logit where `greedy[i]` was chosen
    """

    ids: np.ndarray
    logits: np.ndarray
    greedy: np.ndarray
    gaps: np.ndarray

    def save(self, path: Path) -> None:
        np.savez(path, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> Answer:
        with np.load(path) as arrays:
            return cls(**arrays)


def answer(model, ids: Sequence[int], n_new: int) -> Answer:
    """Run the prompt `ids` through a transformers model, then `n_new` greedy steps with its own cache."""
    import torch

    greedy, gaps = [], []
    with torch.inference_mode():
        out = model(torch.tensor([ids]), use_cache=True)
        logits = out.logits[0].numpy()
        for _ in range(n_new):
            best = out.logits[0, -1].topk(2)
            greedy.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
            out = model(torch.tensor([greedy[-1:]]), past_key_values=out.past_key_values, use_cache=True)
    return Answer(np.array(ids), logits, np.array(greedy, dtype=np.int64), np.array(gaps, dtype=np.float32))
