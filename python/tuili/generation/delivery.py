"""When a continuation stops: end-of-text and stop tokens, stop strings across tokens, lengths; and its row in
the engine.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tuili import _core
from tuili.generation.core_params import ending_ids
from tuili.generation.grammar import Constraint
from tuili.generation.outputs import FinishReason
from tuili.generation.params import SamplingParams
from tuili.generation.processors import Processor
from tuili.generation.request import Request
from tuili.generation.spelling import Spelling, TextDecoder, n_overlapping

if TYPE_CHECKING:
    from tuili.generation.beam import BeamGroup

Collect = Literal["logits", "hidden_states"]


@dataclass(slots=True)
class Piece:
    """What a token added to the text that the engine makes, and whether it ended it."""

    text: str
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


NOTHING = Piece("")


class Transcript:
    """When one continuation ends: end-of-text and stop tokens, lengths. Whoever reads it makes its text.

    params      resolved; max_tokens counts here, cut to the context by the caller
    full        the stop_reason when max_tokens is reached: None, or "max_model_len" if the context cut it
    """

    def __init__(
        self, params: SamplingParams, eos_ids: Iterable[int], *, max_tokens: int, full: str | None = None
    ) -> None:
        self._stop_ids = frozenset(params.stop_token_ids)
        self._ending = frozenset(ending_ids(params, eos_ids))
        self._show_stop = params.include_stop_str_in_output
        self._min_tokens, self._max_tokens, self._full = params.min_tokens or 0, max_tokens, full
        self.n_tokens = 0

    @property
    def n_left(self) -> int:
        """Tokens until max_tokens is reached."""
        return self._max_tokens - self.n_tokens

    def accept_all(self, token_ids: list[int]) -> tuple[list[int], Piece]:
        """Take tokens up to the one that ends the text; returns those taken and what they added together."""
        n_tokens = self.n_tokens + len(token_ids)
        if n_tokens < self._max_tokens and self._ending.isdisjoint(token_ids):
            self.n_tokens = n_tokens
            return token_ids, NOTHING
        return self._accept_each(token_ids)

    def _accept_each(self, token_ids: list[int]) -> tuple[list[int], Piece]:
        taken: list[int] = []
        shown: list[str] = []
        for token_id in token_ids:
            piece = self.accept(token_id)
            taken.append(token_id)
            shown.append(piece.text)
            if piece.finish_reason is not None:
                return taken, Piece("".join(shown), piece.finish_reason, piece.stop_reason)
        return taken, Piece("".join(shown))

    def accept(self, token_id: int) -> Piece:
        """Take the next token."""
        self.n_tokens += 1
        may_stop = self.n_tokens > self._min_tokens
        if may_stop and token_id in self._ending:
            return self._stop_at(token_id)
        piece = self._push(token_id, may_stop=may_stop)
        if piece.finish_reason is None and self.n_tokens >= self._max_tokens:
            rest = self.rest()
            return Piece(
                piece.text + rest.text, rest.finish_reason or "length", rest.stop_reason or self._full
            )
        return piece

    def rest(self) -> Piece:
        """What is still held back, when no token will follow. It may, at last, complete a stop string."""
        return NOTHING

    def _stop_at(self, token_id: int) -> Piece:
        reason = token_id if token_id in self._stop_ids else None
        shown = self._push(token_id, may_stop=True) if self._show_stop else NOTHING
        if shown.finish_reason is None:
            rest = self.rest()
            shown = Piece(shown.text + rest.text, rest.finish_reason, rest.stop_reason)
        return shown if shown.finish_reason else Piece(shown.text, "stop", reason)

    def _push(self, token_id: int, *, may_stop: bool) -> Piece:
        """Show what the token adds; before min_tokens nothing ends the text."""
        return NOTHING


class SearchedTranscript(Transcript):
    """One that makes the text as it grows, as it looks for stop strings in it."""

    def __init__(
        self,
        decoder: TextDecoder,
        params: SamplingParams,
        eos_ids: Iterable[int],
        *,
        max_tokens: int,
        full: str | None = None,
    ) -> None:
        super().__init__(params, eos_ids, max_tokens=max_tokens, full=full)
        self._decoder = decoder
        self._stops = tuple(params.stop)
        self._beginnings = frozenset(stop[0] for stop in self._stops)
        self._held = ""  # the end of the text that may be the beginning of a stop string

    def __copy__(self) -> SearchedTranscript:
        """One that goes on from here by itself."""
        twin = object.__new__(SearchedTranscript)
        vars(twin).update(vars(self))
        twin._decoder = copy.copy(self._decoder)
        return twin

    def accept_all(self, token_ids: list[int]) -> tuple[list[int], Piece]:
        n_tokens = self.n_tokens + 1
        if len(token_ids) > 1 or n_tokens >= self._max_tokens or token_ids[0] in self._ending:
            return self._accept_each(token_ids)
        self.n_tokens = n_tokens
        text = self._decoder.push(token_ids[0])
        if not self._held and self._beginnings.isdisjoint(text):
            return token_ids, Piece(text)
        return token_ids, self._show(text, may_stop=n_tokens > self._min_tokens)

    def rest(self) -> Piece:
        piece = self._show(self._decoder.flush(), may_stop=self.n_tokens > self._min_tokens)
        held, self._held = self._held, ""
        return piece if piece.finish_reason else Piece(piece.text + held)

    def _push(self, token_id: int, *, may_stop: bool) -> Piece:
        return self._show(self._decoder.push(token_id), may_stop=may_stop)

    def _show(self, text: str, *, may_stop: bool) -> Piece:
        """Show `text` as far as no stop string can begin in it; the one that begins first ends all."""
        text = self._held + text
        self._held = ""
        if not may_stop:
            return Piece(text)
        first, n_held = None, 0
        for stop in self._stops:
            at = text.find(stop)
            if at >= 0 and (first is None or at < first[0]):
                first = at, stop
            n_held = max(n_held, n_overlapping(text, stop))
        if first is not None:
            at, stop = first
            return Piece(text[: at + len(stop) if self._show_stop else at], "stop", stop)
        self._held = text[len(text) - n_held :]
        return Piece(text[: len(text) - n_held])


def transcript_for(
    params: SamplingParams,
    eos_ids: Iterable[int],
    make_decoder: Callable[[SamplingParams], TextDecoder],
    *,
    max_tokens: int,
    full: str | None,
) -> Transcript:
    """The stop rules of a continuation; as Transcript has them."""
    if not params.stop:
        return Transcript(params, eos_ids, max_tokens=max_tokens, full=full)
    decoder = make_decoder(params)
    return SearchedTranscript(decoder, params, eos_ids, max_tokens=max_tokens, full=full)


def spelling_for(
    params: SamplingParams, eos_ids: Iterable[int], make_decoder: Callable[[SamplingParams], TextDecoder]
) -> Spelling | None:
    """How a request's readers make its text; None if the engine makes it, to look for stop strings."""
    if params.stop:
        return None
    hidden = () if params.include_stop_str_in_output else ending_ids(params, eos_ids)
    decoder = functools.partial(make_decoder, params)
    return Spelling(decoder, frozenset(hidden), params.min_tokens or 0)


@dataclass(slots=True, eq=False)
class Row:
    """One continuation in the engine: its sequence in the core, and where its text goes.

    leader        the first continuation of the same request, whose prefix this one can share; None: this one
    shares        whether it may take its prefix from the cache and leave one there
    collect       what to copy out of the core when it is done
    standing      (priority after ageing, deadline, order): the smaller, the sooner it is computed
    processors    the request's logits processors, with the number of their arguments
    constraint    its place in the request's grammar, once that is compiled
    beams         the search of which it carries a beam
    is_looked_at  whether Python sees each token before the next: text is searched for stop strings,
                  log-probabilities are delivered
    n_guessed     tokens that may be guessed for it in a step
    queued        whether the engine counts its prompt among what waits
    """

    request: Request
    index: int
    sequence: _core.Sequence
    transcript: Transcript | None  # None: only the prompt is computed
    leader: Row | None = None
    shares: bool = True
    collect: Collect | None = None
    processors: tuple[tuple[Processor, int], ...] = ()
    constraint: Constraint | None = None
    beams: BeamGroup | None = None
    queued: bool = True
    admitted: bool = False
    running: bool = False
    ended: bool = False
    cached_tokens: int = 0
    preemptions: int = 0
    standing: tuple[int, float, tuple[int, int]] = field(init=False)
    is_looked_at: bool = field(init=False)
    n_guessed: int = field(init=False)

    def __post_init__(self) -> None:
        params = self.request.params
        self.standing = params.priority, self.request.deadline, self.order
        self.is_looked_at = bool(params.stop) or params.logprobs is not None
        self.n_guessed = params.prompt_lookup_num_tokens or 0

    @property
    def order(self) -> tuple[int, int]:
        """A key by which older rows are smaller."""
        return self.request.id, self.index

    @property
    def n_pending(self) -> int:
        """Tokens that are known and not computed."""
        return self.sequence.n_tokens - self.sequence.n_computed

    @property
    def n_left(self) -> int:
        """Tokens that it may still draw."""
        return 0 if self.transcript is None else self.transcript.n_left
