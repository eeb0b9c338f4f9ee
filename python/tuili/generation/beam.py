"""Beam search: several continuations of a prompt side by side, of which the likeliest go on.

The core decides (`_core.BeamSearch`) and carries it out on the engine's rows (`_core.BeamRows`): one per
beam, which share the blocks of what they have in common and all compute the same number of tokens. Here is
what has a text: stop strings and grammars, which end beams, and the answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tuili import _core
from tuili.checks import invalid
from tuili.generation.core_params import ending_ids
from tuili.generation.params import SamplingParams
from tuili.generation.steering import none_drawn
from tuili.generation.structure import form_of

if TYPE_CHECKING:
    from tuili.generation.delivery import Row, Transcript
    from tuili.generation.grammar import Constraint
    from tuili.generation.outputs import FinishReason


def search_for(params: SamplingParams, eos_ids: Iterable[int], max_tokens: int) -> _core.BeamSearch | None:
    """The search that a request asks for, if any. params: resolved."""
    if params.num_beams is None or params.num_beams == 1:
        return None
    assert params.length_penalty is not None and params.early_stopping is not None  # resolved
    return _core.BeamSearch(
        params.num_beams,
        list(ending_ids(params, eos_ids)),
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
    """The rows of one search, as many as it has beams. A row that waits for others has nothing to compute.

    core  the search on the rows' sequences, for `Runner.advance_beams`
    ends  whether a token finishes the beam of a number, for the same; None if only the search's rules do
    """

    def __init__(self, rows: list[Row], search: _core.BeamSearch) -> None:
        self.rows, self.search = rows, search
        self.core = _core.BeamRows(search, [row.sequence for row in rows])
        params, transcript = rows[0].request.params, rows[0].transcript
        assert transcript is not None
        self._texts = BeamTexts(copy.copy(transcript)) if params.stop else None
        self._is_watched = self._texts is not None or form_of(params) is not None
        self._holders = rows[:1]  # of the running beams, in the search's order, where it is watched
        self.ends = self._ends if self._is_watched else None

    def after_step(self) -> bool:
        """Go on with what a step of the search gave, or raise what went wrong; whether it was the last."""
        self.core.check()
        if self.search.done:
            return True
        if self._is_watched:
            self._follow()
        return False

    def _ends(self, parent: int, token_id: int) -> bool:
        """Whether a stop string or the grammar ends the beam number `parent` with this token."""
        if self._texts is not None and self._texts.ends(parent, token_id):
            return True
        constraint = self._holders[parent].constraint
        return constraint is not None and constraint.ends_with(token_id)

    def _follow(self) -> None:
        """Go where the running beams went in the step, with what they say and in their grammar."""
        moves = self.core.moves
        if self._texts is not None:
            self._texts.advance([move[0] for move in moves], [move[2] for move in moves])
        places = [
            _place(self._holders[parent].constraint, token_id if alive else None)
            for parent, _, token_id, alive in moves
        ]
        self._holders = [self.rows[row] for _, row, _, _ in moves]
        for row, place in zip(self._holders, places, strict=True):
            if place is not None:
                row.constraint = place
                row.sequence.allow(place.mask)

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
            taken, piece = transcript.accept_all(beam.token_ids)
            rest = "" if piece.finish_reason else transcript.rest().text
            logprobs = beam.logprobs
            request.append(index, piece.text + rest, taken, logprobs)
            track = request.tracks[index]
            track.beam_logprob = sum(own for own, _ in logprobs)
            track.score = beam.score
            if reason is not None:  # also for what has ended: the search might have found better
                request.finish(index, reason, None)
            elif beam.ended and piece.finish_reason != "stop":  # by its grammar
                request.finish(index, "stop", None)
            else:
                request.finish(index, piece.finish_reason or "length", piece.stop_reason)
            n_tokens += len(taken)
        return n_tokens


def _place(constraint: Constraint | None, token_id: int | None) -> Constraint | None:
    """Where in its grammar a beam is that goes on from there with a token; None: only its place is held."""
    return constraint if constraint is None or token_id is None else constraint.after(token_id)


def share_beams(rows: list[Row], search: _core.BeamSearch) -> None:
    """Have the rows of a request carry the beams of its search."""
    group = BeamGroup(rows, search)
    for row in rows:
        row.beams = group
