"""Beam search: several continuations of a prompt side by side, of which the likeliest go on.

`BeamSearch` decides, and knows tokens and log-probabilities only. `BeamGroup` carries its decisions out on
the engine's rows: one per beam, which share the blocks of what they have in common and all compute the same
number of tokens. Whoever is done with a step waits for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tuili import _core
from tuili.errors import TuiliError
from tuili.generation.params import SamplingParams, ending_ids, invalid

if TYPE_CHECKING:
    from tuili.generation.delivery import Row
    from tuili.generation.request import FinishReason

Candidate = tuple[int, float]  # token id, log-probability


@dataclass(frozen=True, slots=True)
class Beam:
    """A continuation and the sum of its tokens' log-probabilities, in nats."""

    token_ids: tuple[int, ...]
    logprob: float

    def score(self, length_penalty: float) -> float:
        return self.logprob / math.pow(max(1, len(self.token_ids)), length_penalty)


class BeamSearch:
    """The search, step by step, as transformers 5 does it.

    width           beams that go on
    ending          token ids that finish a continuation, as max_tokens does
    length_penalty  scores are log-probability / length ** length_penalty
    early_stopping  whether `width` finished continuations end the search; otherwise it ends when the best
                    beam, as long as it is now, scores no more than the worst of them
    """

    def __init__(
        self,
        width: int,
        ending: Collection[int],
        max_tokens: int,
        *,
        length_penalty: float,
        early_stopping: bool,
    ) -> None:
        self._width, self._ending, self._max_tokens = width, frozenset(ending), max_tokens
        self._length_penalty, self._early_stopping = length_penalty, early_stopping
        self.n_candidates = width + len(self._ending)  # of each beam: `width` go on even if the others end
        self.running = [Beam((), 0.0)]
        self.finished: list[Beam] = []  # best first
        self.done = False

    def advance(self, best: Sequence[Iterable[Candidate]]) -> list[int]:
        """Take a step; returns which of the beams before it each of the running ones continues.

        best  per running beam the n_candidates likeliest next tokens
        """
        found = [
            (beam.logprob + logprob, parent, token_id)
            for parent, (beam, tokens) in enumerate(zip(self.running, best, strict=True))
            for token_id, logprob in tokens
        ]
        found.sort(key=lambda candidate: (-candidate[0], candidate[1:]))
        running: list[Beam] = []
        parents: list[int] = []
        for place, (logprob, parent, token_id) in enumerate(found):
            if place >= self._width and len(running) == self._width:
                break
            beam = Beam((*self.running[parent].token_ids, token_id), logprob)
            if token_id not in self._ending and len(beam.token_ids) < self._max_tokens:
                running.append(beam)
                parents.append(parent)
            elif place < self._width:
                self.finished.append(beam)
        self.finished.sort(key=self._score, reverse=True)
        del self.finished[self._width :]
        self.running = running
        self.done = not self.running or (self._full and not self._may_improve())
        return parents

    def best(self, n: int) -> list[Beam]:
        """The n best so far: finished ones, then those that still run."""
        return [*self.finished, *sorted(self.running, key=self._score, reverse=True)][:n]

    @property
    def _full(self) -> bool:
        return len(self.finished) == self._width

    def _may_improve(self) -> bool:
        return not self._early_stopping and self._score(self.running[0]) > self._score(self.finished[-1])

    def _score(self, beam: Beam) -> float:
        return beam.score(self._length_penalty)

    @property
    def begun(self) -> bool:
        return bool(self.finished or self.running[0].token_ids)


def search_for(params: SamplingParams, eos_ids: Iterable[int], max_tokens: int) -> BeamSearch | None:
    """The search that a request asks for, if any. params: resolved."""
    if params.num_beams == 1:
        return None
    ending = set(ending_ids(params, eos_ids))
    return BeamSearch(
        params.num_beams,
        ending,
        max_tokens,
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
    )


def check_beams(params: SamplingParams, eos_ids: Iterable[int], *, n_vocab: int, max_num_seqs: int) -> None:
    """Raise InvalidParameterError if the engine cannot run all beams at once, or a step cannot fill them."""
    if params.num_beams > 1 and params.num_beams > max_num_seqs:
        invalid("num_beams", f"is {params.num_beams}, more than max_num_seqs = {max_num_seqs}")
    search = search_for(params, eos_ids, max_tokens=1)
    if search is not None and search.n_candidates > n_vocab:
        invalid("num_beams", f"is {params.num_beams}, too many for a vocabulary of {n_vocab} tokens")


class BeamGroup:
    """The rows of one search, as many as it has beams. A row that waits for others has nothing to compute."""

    def __init__(self, rows: list[Row], search: BeamSearch) -> None:
        self.rows, self.search = rows, search
        self._holders = rows[:1]  # of the running beams, in the search's order
        self._candidates: dict[int, list[Candidate]] = {}  # by row

    def take(self, row: Row, candidates: list[Candidate]) -> bool:
        """Take a row's candidates, in place of the token that the sampler chose; returns whether the row was
        the last that the others waited for.
        """
        row.sequence.drop_token()
        self._candidates[row.index] = candidates
        return all(other.running and other.n_pending == 0 for other in self.rows)

    def advance(self, pool: _core.BlockPool, copy_block: Callable[[list[int], list[int]], object]) -> None:
        """Take a step of the search, after which every running beam has a row with its last token to compute.

        A beam stays in its parent's row if it is the first to; the others get rows whose beams have ended.
        Such a row gives up a block of its own where it takes one, so that there always is one.
        """
        parents = self.search.advance([self._candidates[row.index] for row in self._holders])
        if self.search.done:
            return
        before, taken = self._holders, set[int]()
        free = [row for row in self.rows if all(before[parent] is not row for parent in parents)]
        holders: list[Row] = []
        for parent in parents:
            stays = parent not in taken
            taken.add(parent)
            holders.append(before[parent] if stays else free.pop(0))
        tokens = [beam.token_ids[-1] for beam in self.search.running]
        for row, parent, token_id in zip(holders, parents, tokens, strict=True):
            if row is not before[parent]:
                _fork(pool, copy_block, row, before[parent], token_id)
        for row, parent, token_id in zip(holders, parents, tokens, strict=True):
            if row is before[parent]:
                row.sequence.append_token(token_id)
        self._holders = holders

    def deliver(self, reason: FinishReason | None) -> int:
        """Give the best continuations to the request; returns how many tokens they have.

        reason  why the search ended before it was done
        """
        request, n_tokens = self.rows[0].request, 0
        for index, beam in enumerate(self.search.best(request.params.n)):
            transcript = self.rows[index].transcript
            assert transcript is not None
            taken, piece = transcript.accept_all(list(beam.token_ids))
            rest = "" if piece.finish_reason else transcript.rest().text
            request.append(index, piece.text + rest, taken, [])
            request.tracks[index].beam_logprob = beam.logprob
            request.finish(index, piece.finish_reason or reason or "length", piece.stop_reason)
            n_tokens += len(taken)
        return n_tokens


def _fork(
    pool: _core.BlockPool,
    copy_block: Callable[[list[int], list[int]], object],
    child: Row,
    parent: Row,
    token_id: int,
) -> None:
    """Make the child's tokens the parent's and one more."""
    tokens = parent.sequence.token_ids()
    if child.sequence.token_ids() != tokens:  # else they have computed the same: the prompt
        pool.release(child.sequence)
        child.sequence.replace_tokens(np.array([*tokens, token_id], np.int32))
        copy = pool.fork(child.sequence, parent.sequence, parent.sequence.n_computed)
        if copy is None:
            raise TuiliError("a beam found no block", code="internal")
        copy_block(*copy)
        return
    child.sequence.append_token(token_id)
