"""Beam search: several continuations of a prompt side by side, of which the likeliest go on.

`BeamSearch` decides, and knows tokens and log-probabilities only. `BeamGroup` carries its decisions out on
the engine's rows: one per beam, which share the blocks of what they have in common and all compute the same
number of tokens. Whoever is done with a step waits for the others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tuili import _core
from tuili.errors import TuiliError
from tuili.generation import processors
from tuili.generation.checks import invalid
from tuili.generation.params import SamplingParams, ending_ids
from tuili.generation.request import TokenLogprob
from tuili.generation.steering import none_drawn
from tuili.generation.structure import form_of

if TYPE_CHECKING:
    from tuili.generation.delivery import Row, Transcript
    from tuili.generation.grammar import Constraint
    from tuili.generation.request import FinishReason

# Per token its id, its log-probability as the parameters changed it, by which beams are ranked, and as the
# model has it; and the likeliest of the model's.
Candidates = tuple[Sequence[tuple[int, float, float]], Sequence[tuple[int, float]]]
CopyBlock = Callable[[list[int], list[int], tuple[int, int]], object]  # as Runner.copy_block
EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True, slots=True)
class Beam:
    """A continuation. total: the sum of its tokens' log-probabilities, in nats, as the parameters changed
    them, rounded to float32 with each; -inf if it only holds the place of one, for want of tokens that may
    follow. ended: by a stop string or its grammar.
    """

    token_ids: tuple[int, ...] = ()
    total: float = 0.0
    logprobs: tuple[TokenLogprob, ...] = ()  # as the model has them
    ended: bool = False

    @property
    def alive(self) -> bool:
        return self.total > -math.inf

    def score(self, length_penalty: float, length: int | None = None) -> float:
        """If it is `length` tokens long; by default as it is."""
        n = length or max(1, len(self.token_ids))
        return float(np.float32(self.total) / np.float32(math.pow(n, length_penalty)))


class BeamSearch:
    """The search, step by step, as transformers 5 does it, with float32 scores: which of two is the larger
    depends on how they were rounded.

    width           beams that go on
    ending          token ids that finish a continuation, as max_tokens does
    length_penalty  scores are log-probability / length ** length_penalty
    early_stopping  True: `width` finished continuations end the search. False: it ends when the best beam, as
                    long as it is now, scores no more than the worst of them; "never": or as long as it may
                    become, where that is better
    may_end         whether anything else finishes continuations: see `advance`
    """

    def __init__(
        self,
        width: int,
        ending: Collection[int],
        max_tokens: int,
        *,
        length_penalty: float,
        early_stopping: EarlyStopping,
        may_end: bool = False,
    ) -> None:
        self._width, self._ending, self._max_tokens = width, frozenset(ending), max_tokens
        self._length_penalty, self._early_stopping = length_penalty, early_stopping
        self._n_seen = max(2, 1 + len(self._ending)) * width  # of all beams' candidates
        # Of each beam: enough that `width` go on even if the others end, where it is known how many may.
        self.n_candidates = self._n_seen if may_end else width + len(self._ending)
        self.running = [Beam()]
        self.finished: list[Beam] = []  # best first
        self.done = False

    def advance(
        self, candidates: Sequence[Candidates], ends: Callable[[int, int], bool] = lambda parent, token: False
    ) -> list[int]:
        """Take a step; returns which of the beams before it each of the running ones continues.

        candidates  per running beam the n_candidates likeliest next tokens
        ends        whether a token finishes the continuation of a beam, by its number, for another reason
        """
        scores = np.array([score for tokens, _ in candidates for _, score, _ in tokens], np.float32)
        sums = np.array([beam.total for beam in self.running], np.float32)
        totals = iter((np.repeat(sums, [len(tokens) for tokens, _ in candidates]) + scores).tolist())
        found = [
            (next(totals), parent, token_id, own)
            for parent, (tokens, _) in enumerate(candidates)
            for token_id, _, own in tokens
        ]
        found.sort(key=lambda candidate: (-candidate[0], candidate[1:3]))
        running: list[Beam] = []
        parents: list[int] = []
        for place, (total, parent, token_id, own) in enumerate(found[: self._n_seen]):
            if place >= self._width and len(running) == self._width:
                break
            before, entry = self.running[parent], TokenLogprob(token_id, own, list(candidates[parent][1]))
            ended = total > -math.inf and ends(parent, token_id)
            beam = Beam((*before.token_ids, token_id), total, (*before.logprobs, entry), ended)
            if self._goes_on(beam):
                running.append(beam)
                parents.append(parent)
            elif place < self._width and beam.alive:
                self.finished.append(beam)
        self.finished.sort(key=self.score, reverse=True)
        del self.finished[self._width :]
        while running and len(running) < self._width:  # every row goes on, for its blocks' sake
            running.append(Beam(running[0].token_ids, -math.inf, running[0].logprobs))
            parents.append(parents[0])
        self.running = running
        self.done = not running or not running[0].alive or (self._full and not self._may_improve())
        return parents

    def best(self, n: int) -> list[Beam]:
        """The n best so far: finished ones, then those that still run; fewer if there are."""
        running = sorted(filter(lambda beam: beam.alive, self.running), key=self.score, reverse=True)
        return [*self.finished, *running][:n]

    def score(self, beam: Beam) -> float:
        return beam.score(self._length_penalty)

    def _goes_on(self, beam: Beam) -> bool:
        going = beam.token_ids[-1] not in self._ending and len(beam.token_ids) < self._max_tokens
        return going and not beam.ended

    @property
    def _full(self) -> bool:
        return len(self.finished) == self._width

    def _may_improve(self) -> bool:
        if self._early_stopping is True:
            return False
        longest = self._early_stopping == "never" and self._length_penalty > 0
        best = self.running[0].score(self._length_penalty, self._max_tokens if longest else None)
        return best > self.score(self.finished[-1])

    @property
    def begun(self) -> bool:
        return bool(self.finished) or any(beam.token_ids for beam in self.running)


def search_for(params: SamplingParams, eos_ids: Iterable[int], max_tokens: int) -> BeamSearch | None:
    """The search that a request asks for, if any. params: resolved."""
    if params.num_beams is None or params.num_beams == 1:
        return None
    assert params.length_penalty is not None and params.early_stopping is not None  # resolved
    return BeamSearch(
        params.num_beams,
        set(ending_ids(params, eos_ids)),
        max_tokens,
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        may_end=bool(params.stop) or form_of(params) is not None,
    )


def check_beams(params: SamplingParams, eos_ids: Iterable[int], *, n_vocab: int, max_num_seqs: int) -> None:
    """Raise InvalidParameterError if the engine cannot run all beams at once, or a step cannot fill them."""
    if (params.num_beams or 1) > max_num_seqs:
        invalid("num_beams", f"is {params.num_beams}, more than max_num_seqs = {max_num_seqs}")
    search = search_for(params, eos_ids, max_tokens=1)
    if search is not None and search.n_candidates > n_vocab:
        invalid("num_beams", f"is {params.num_beams}, too many for a vocabulary of {n_vocab} tokens")


class BeamTexts:
    """What the running beams say, where stop strings end it. first: the text of no token."""

    def __init__(self, first: Transcript) -> None:
        self._running = [first]

    def ends(self, parent: int, token_id: int) -> bool:
        """Whether a stop string is complete with this token of the beam number `parent`."""
        return self._after(parent, token_id)[1] == "stop"

    def advance(self, parents: Sequence[int], token_ids: Sequence[int]) -> None:
        self._running = [self._after(*grown)[0] for grown in zip(parents, token_ids, strict=True)]

    def _after(self, parent: int, token_id: int) -> tuple[Transcript, FinishReason | None]:
        transcript = copy.copy(self._running[parent])
        return transcript, transcript.accept(token_id).finish_reason


class BeamGroup:
    """The rows of one search, as many as it has beams. A row that waits for others has nothing to compute."""

    def __init__(self, rows: list[Row], search: BeamSearch) -> None:
        self.rows, self.search = rows, search
        self._holders = rows[:1]  # of the running beams, in the search's order
        first = rows[0]
        assert first.transcript is not None
        self._texts = BeamTexts(copy.copy(first.transcript)) if first.request.params.stop else None

    @property
    def ready(self) -> bool:
        """Whether the last token of every row is computed, so that none waits for another."""
        return all(row.running and row.n_pending == 0 for row in self.rows)

    def advance(self, pool: _core.BlockPool, copy_block: CopyBlock) -> None:
        """Take a step of the search, after which every running beam has a row with its last token to compute.

        A beam stays in its parent's row if it is the first to; the others get rows whose beams have ended.
        Such a row gives up a block of its own where it takes one, so that there always is one.
        """
        candidates = [row.sequence.candidates() for row in self._holders]
        if any(tokens[0][1] == math.inf for tokens, _ in candidates):
            invalid(processors.NAME, "gave a token the log-probability +inf")
        parents = self.search.advance(candidates, self._ends)
        if self.search.done:
            return
        before, taken = self._holders, set[int]()
        grown = zip(parents, self.search.running, strict=True)
        places = [_place(before[parent], beam) for parent, beam in grown]
        free = [row for row in self.rows if all(before[parent] is not row for parent in parents)]
        holders: list[Row] = []
        for parent in parents:
            stays = parent not in taken
            taken.add(parent)
            holders.append(before[parent] if stays else free.pop(0))
        tokens = [beam.token_ids[-1] for beam in self.search.running]
        for row, parent, token_id in zip(holders, parents, tokens, strict=True):
            if row is not before[parent]:
                _follow(pool, copy_block, row, before[parent], token_id)
        for row, parent, token_id in zip(holders, parents, tokens, strict=True):
            if row is before[parent]:
                row.sequence.append_token(token_id)
        self._holders = holders
        if self._texts is not None:
            self._texts.advance(parents, tokens)
        for row, place in zip(holders, places, strict=True):
            if place is not None:
                row.constraint = place
                row.sequence.allow(place.mask)

    def _ends(self, parent: int, token_id: int) -> bool:
        """Whether a stop string or the grammar ends the beam number `parent` with this token."""
        if self._texts is not None and self._texts.ends(parent, token_id):
            return True
        constraint = self._holders[parent].constraint
        return constraint is not None and constraint.ends_with(token_id)

    def deliver(self, reason: FinishReason | None) -> int:
        """Give the best continuations to the request; returns how many tokens they have.

        reason  why the search ended before it was done
        raises  NumericError if there are none
        """
        request, n_tokens = self.rows[0].request, 0
        best = self.search.best(request.params.n)
        if not best:
            raise none_drawn(self.rows[0], _core.NOTHING_ALLOWED)
        request.keep(len(best))
        for index, beam in enumerate(best):
            transcript = self.rows[index].transcript
            assert transcript is not None
            taken, piece = transcript.accept_all(list(beam.token_ids))
            rest = "" if piece.finish_reason else transcript.rest().text
            logprobs = [(entry.logprob, entry.top) for entry in beam.logprobs]
            request.append(index, piece.text + rest, taken, logprobs)
            track = request.tracks[index]
            track.beam_logprob = sum(entry.logprob for entry in beam.logprobs)
            track.score = self.search.score(beam)
            if beam.ended and piece.finish_reason != "stop":  # by its grammar
                request.finish(index, "stop", None)
            else:
                request.finish(index, piece.finish_reason or reason or "length", piece.stop_reason)
            n_tokens += len(taken)
        return n_tokens


def _place(parent: Row, beam: Beam) -> Constraint | None:
    """Where a beam that goes on from the parent's is in its grammar, if there is one."""
    if parent.constraint is None or not beam.alive:
        return parent.constraint
    return parent.constraint.after(beam.token_ids[-1])


def share_beams(rows: list[Row], search: BeamSearch) -> None:
    """Have the rows of a request carry the beams of its search."""
    group = BeamGroup(rows, search)
    for row in rows:
        row.beams = group


def _follow(pool: _core.BlockPool, copy_block: CopyBlock, child: Row, parent: Row, token_id: int) -> None:
    """Make the child's tokens the parent's and one more."""
    copy = pool.follow(child.sequence, parent.sequence, token_id)
    if copy is None:
        raise TuiliError("a beam found no block", code="internal")
    copy_block(*copy)
