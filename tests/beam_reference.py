"""Beam search in plain Python, with transformers 5's rules and float32 scores: what the core's is compared
with, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Beam:
    """total: of its tokens' log-probabilities, rounded with each; -inf if it only holds a place."""

    token_ids: tuple[int, ...] = ()
    total: float = 0.0
    logprobs: tuple[tuple[float, list[tuple[int, float]]], ...] = ()
    ended: bool = False

    def score(self, length_penalty: float, length: int | None = None) -> float:
        n = length or len(self.token_ids)
        return float(np.float32(self.total) / np.float32(math.pow(n, length_penalty)))


class ReferenceSearch:
    """As `_core.BeamSearch`, whose results `best` and `advance` have."""

    def __init__(self, width, ending, max_tokens, *, length_penalty, early_stopping, may_end=False):
        self.width, self.ending, self.max_tokens = width, frozenset(ending), max_tokens
        self.length_penalty, self.early_stopping = length_penalty, early_stopping
        self.n_seen = max(2, 1 + len(self.ending)) * width
        self.n_candidates = self.n_seen if may_end else width + len(self.ending)
        self.running, self.finished, self.done = [Beam()], [], False

    def advance(self, candidates, ends=lambda parent, token: False):
        found = [
            (-float(np.float32(self.running[parent].total) + np.float32(score)), parent, token, own)
            for parent, (tokens, _) in enumerate(candidates)
            for token, score, own in tokens
        ]
        running, parents = [], []
        for place, (negated, parent, token, own) in enumerate(sorted(found)[: self.n_seen]):
            if place >= self.width and len(running) == self.width:
                break
            before, alive = self.running[parent], negated < math.inf
            beam = Beam(
                (*before.token_ids, token),
                -negated,
                (*before.logprobs, (own, candidates[parent][1])),
                alive and ends(parent, token),
            )
            if not (beam.ended or token in self.ending or len(beam.token_ids) >= self.max_tokens):
                running.append(beam)
                parents.append(parent)
            elif place < self.width and alive:
                self.finished.append(beam)
        self.finished = sorted(self.finished, key=self.score, reverse=True)[: self.width]
        while running and len(running) < self.width:
            running.append(Beam(running[0].token_ids, -math.inf, running[0].logprobs))
            parents.append(parents[0])
        self.running = running
        full = len(self.finished) == self.width
        self.done = not running or running[0].total == -math.inf or (full and not self._may_improve())
        return parents

    def best(self, n):
        running = sorted((b for b in self.running if b.total > -math.inf), key=self.score, reverse=True)
        return [*self.finished, *running][:n]

    def score(self, beam):
        return beam.score(self.length_penalty)

    def _may_improve(self):
        if self.early_stopping is True:
            return False
        longest = self.early_stopping == "never" and self.length_penalty > 0
        best = self.running[0].score(self.length_penalty, self.max_tokens if longest else None)
        return best > self.score(self.finished[-1])
