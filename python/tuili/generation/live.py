"""The requests that have reached the engine's thread and not ended, and how each of them ends."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable

from tuili import _core
from tuili.errors import DeadlineExceeded, TuiliError
from tuili.generation.beam import BeamGroup
from tuili.generation.delivery import Row
from tuili.generation.load import Load
from tuili.generation.messages import Counters, Submission
from tuili.generation.outputs import FinishReason, TokenLogprob
from tuili.generation.request import Request, Waiter, cancelled, wake_loops
from tuili.generation.scheduler import Scheduler
from tuili.generation.steering import not_numbers
from tuili.generation.worker import forget_frames, log


class LiveRequests:
    """For the engine's thread alone.

    rows       of each request, by its id
    deadlines  a heap of (deadline, request id)
    waiters    coroutines that have news, until `flush`
    """

    def __init__(
        self, scheduler: Scheduler, load: Load, counters: Counters, clock: Callable[[], float]
    ) -> None:
        self._scheduler, self._load, self._counters, self._clock = scheduler, load, counters, clock
        self.rows: dict[int, list[Row]] = {}
        self.waiters: list[Waiter] = []
        self.deadlines: list[tuple[float, int]] = []
        self._missing_threads = 0  # that the log knows of

    def add(self, submission: Submission) -> None:
        request = submission.request
        self.rows[request.id] = submission.rows
        if request.deadline < math.inf:
            self._keep_deadline(request)

    def all_rows(self) -> list[Row]:
        return [row for rows in self.rows.values() for row in rows]

    # --- ends -----------------------------------------------------------------------------------------------

    def finish(self, row: Row, reason: FinishReason, stop_reason: str | int | None) -> None:
        """End one row; with the last of its request, the request."""
        request = row.request
        take_results(row)
        request.finish(row.index, reason, stop_reason)
        self._scheduler.publish(row)
        self._remove(row)
        if all(other.ended for other in self.rows[request.id]):
            self._settle(request, None)
        else:
            self.waiters += request.wake()

    def finish_beams(self, beams: BeamGroup, reason: FinishReason | None) -> None:
        """End a search with the best that it has; reason: why before it was done."""
        self._counters.generated_tokens += beams.deliver(reason)
        for row in beams.rows:
            self._scheduler.publish(row)
            self._remove(row)
        self._settle(beams.rows[0].request, None)

    def end(self, request: Request, reason: FinishReason, unstarted: TuiliError) -> None:
        """End a whole request early: with what it has, or with `unstarted` if it has no token."""
        rows = self.rows.get(request.id)
        if rows is None:
            return
        try:
            self._end(rows, reason, unstarted)
        except Exception as error:
            self.fail(rows[:1], error)

    def abort(self, request: Request) -> None:
        self.end(request, "abort", cancelled())

    def fail(self, rows: Iterable[Row], error: BaseException) -> None:
        """End the requests of these rows with an error; their siblings end, too."""
        if not isinstance(error, TuiliError):
            wrapped = TuiliError(f"the engine's step failed: {type(error).__name__}", code="internal")
            wrapped.__cause__ = error
            error = wrapped
        forget_frames(error)
        for request in {id(row.request): row.request for row in rows}.values():
            for row in self.rows.get(request.id, ()):
                if not row.ended:
                    self._remove(row)
            self._settle(request, error)

    def fail_all(self, error: BaseException) -> None:
        self.fail(self.all_rows(), error)

    def flush(self) -> None:
        """Wake the coroutines that have news: one call per event loop."""
        waiters, self.waiters = self.waiters, []
        for request in wake_loops(waiters) if waiters else ():
            self.abort(request)

    def _end(self, rows: list[Row], reason: FinishReason, unstarted: TuiliError) -> None:
        request, beams = rows[0].request, rows[0].beams
        if beams is not None and beams.search.begun:
            self.finish_beams(beams, reason)
            return
        if not any(track.token_ids for track in request.tracks):
            self.fail(rows[:1], unstarted)
            return
        for row in rows:
            if not row.ended:
                if row.transcript is not None:
                    request.append(row.index, row.transcript.rest().text, [], [])
                self.finish(row, reason, None)

    def _remove(self, row: Row) -> None:
        self._scheduler.remove(row)
        self._load.remove(row)

    def _settle(self, request: Request, error: BaseException | None) -> None:
        rows = self.rows.pop(request.id, None)
        if rows is None:
            return
        request.times.finished = self._clock()
        cached = rows[0].cached_tokens
        self._counters.finished += error is None
        self._counters.failed += error is not None
        self._counters.prompt_tokens += len(request.prompt_token_ids)
        self._counters.cached_tokens += cached
        request.settle(request.times.metrics(cached, sum(row.preemptions for row in rows)), error)
        self.waiters += request.wake()
        self._tell_missing_threads()

    def _tell_missing_threads(self) -> None:
        n_missing = _core.missing_threads()
        if n_missing > self._missing_threads:
            self._missing_threads = n_missing
            log.warning("the system refuses %d threads; the others do their work", n_missing)

    # --- deadlines ------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """End the requests whose deadline has passed. Afterwards a live one has the earliest."""
        while self.deadlines:
            deadline, request_id = self.deadlines[0]
            rows = self.rows.get(request_id)
            if rows is not None and now < deadline:
                return
            heapq.heappop(self.deadlines)
            if rows is not None:
                request = rows[0].request
                passed = f"deadline_s = {request.params.deadline_s:g} passed before the first token"
                self.end(request, "deadline", DeadlineExceeded(passed))

    def refuse(self, rows: Iterable[Row]) -> None:
        """End the requests of these rows, as their deadline cannot be met."""
        for row in rows:
            error = DeadlineExceeded(
                f"deadline_s = {row.request.params.deadline_s:g} cannot be met: the request's own tokens and "
                "what is ahead of them take longer; nothing was computed",
                code="deadline_unreachable",
            )
            self.fail([row], error)

    def _keep_deadline(self, request: Request) -> None:
        if len(self.deadlines) > 2 * len(self.rows) + 64:  # most are of requests that have ended
            self.deadlines = sorted(entry for entry in self.deadlines if entry[1] in self.rows)
        heapq.heappush(self.deadlines, (request.deadline, request.id))


def take_results(row: Row) -> None:
    """Copy what the core collected for the row, before its blocks go."""
    request, sequence = row.request, row.sequence
    if row.collect == "logits":
        request.collected = sequence.logits()
    elif row.collect == "hidden_states":
        request.collected = sequence.hidden_states()
    elif request.prompt_logprobs is None and not row.shares and sequence.n_computed >= sequence.n_prompt:
        logprobs = sequence.prompt_logprobs()
        if request.params.on_nan == "error" and any(math.isnan(own) for own, _ in logprobs):
            raise not_numbers()
        entries = zip(request.prompt_token_ids[1:], logprobs, strict=True)
        request.prompt_logprobs = [None, *(TokenLogprob(i, own, list(top)) for i, (own, top) in entries)]
