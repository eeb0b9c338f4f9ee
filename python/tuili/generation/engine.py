"""The engine: plan, step, deliver, for as long as there are requests.

`submit` and `abort` are for any thread; everything else happens on the worker's thread, or in `step()` where
a test drives the engine itself. An error belongs to a row: whatever goes wrong with one request, the others
go on.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

import numpy as np

from tuili import _core
from tuili.errors import (
    DeadlineExceeded,
    EngineClosedError,
    EngineDeadError,
    QueueFullError,
    TuiliError,
)
from tuili.generation import structure
from tuili.generation.beam import BeamGroup
from tuili.generation.delivery import Collect, Row
from tuili.generation.grammar import Compilation, Constraint, Grammars
from tuili.generation.intake import Intake, Sources
from tuili.generation.messages import Abort, Compiled, Counters, Drawn, Submission, Withdrawal
from tuili.generation.pace import leash
from tuili.generation.params import SamplingParams
from tuili.generation.request import (
    FinishReason,
    Handle,
    Logprobs,
    Request,
    TokenLogprob,
    Waiter,
    cancelled,
    wake_loops,
)
from tuili.generation.scheduler import Limits, Scheduler, StepPlan
from tuili.generation.spelling import TextDecoder
from tuili.generation.steering import (
    DEFERRED,
    NOTHING_ALLOWED,
    choose,
    follow_grammar,
    none_drawn,
    not_numbers,
)
from tuili.generation.watchdog import Watchdog
from tuili.generation.worker import Worker, forget_frames, log

BEAMS = attrgetter("beams")
STUCK_S = 120.0  # a step that takes so long is not slow any more


class Engine(Worker):
    """Runs any number of requests on one model, batched in every step.

    pool, cache    hold the same number of blocks; the cache belongs to `runner`
    eos_ids        end a text unless the request ignores them
    decoder        makes an incremental detokenizer, from the ids that its text follows and
                   skip_special_tokens
    encode_words   token ids of a text without special tokens, for bad_words
    sources        of an encoder-decoder: then the token ids of a request are its source
    grammars       compiles what requests ask their outputs to be; closed with the engine
    clock          seconds; all times and deadlines are on it
    """

    def __init__(
        self,
        runner: _core.Runner,
        pool: _core.BlockPool,
        *,
        n_vocab: int,
        max_model_len: int,
        decoder: Callable[[Iterable[int], bool], TextDecoder],
        encode_words: Callable[[str], list[int]],
        eos_ids: Iterable[int] = (),
        sources: Sources | None = None,
        grammars: Grammars | None = None,
        limits: Limits | None = None,
        start_thread: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(start_thread=start_thread)
        self._clock = clock
        self._limits = limits or Limits()
        self.scheduler = Scheduler(pool, self._limits, runner.copy_block)
        self._runner, self._pool = runner, pool
        self._interrupt = runner.interrupt
        self.grammars = grammars
        self.max_model_len = max_model_len
        self.sources, self.eos_ids = sources, tuple(eos_ids)
        self._intake = Intake(
            n_vocab=n_vocab,
            max_model_len=max_model_len,
            max_num_seqs=self._limits.max_num_seqs,
            decoder=decoder,
            encode_words=encode_words,
            eos_ids=self.eos_ids,
            grammars=grammars,
            check_fits=self.scheduler.check_fits,
            sources=sources,
        )
        self._ids = itertools.count()
        self._live: dict[int, list[Row]] = {}  # by request, while it lives; the engine's thread
        self._deadlines: list[tuple[float, int]] = []  # a heap of (deadline, request id)
        self._load = threading.RLock()  # guards the two counts below
        self._n_rows = 0
        self._queued_tokens = 0
        self._waiters: list[Waiter] = []
        self._missing_threads = 0  # that the log knows of
        self._watchdog = Watchdog(STUCK_S, clock)
        self._counters = Counters()

    # --- for any thread -------------------------------------------------------------------------------------

    def submit(
        self,
        token_ids: Sequence[int] | np.ndarray,
        params: SamplingParams,
        *,
        prompt: str | None = None,
        truncated: bool = False,
    ) -> Handle:
        """Queue a request; returns at once. params: resolved (`params.resolve`).

        raises  TokenIdError, PromptTooLongError, InvalidParameterError, QueueFullError,
                KVCacheExhaustedError, EngineClosedError, EngineForkedError
        """
        return self._submit(token_ids, params, prompt=prompt, truncated=truncated)

    def collect(
        self,
        token_ids: Sequence[int] | np.ndarray,
        what: Collect,
        decoder_ids: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """Logits of every position, or hidden states after the embedding and every layer, by the usual
        path. decoder_ids: of an encoder-decoder, whose positions are these
        """
        params = SamplingParams(max_tokens=0, min_tokens=0, num_beams=1, prompt_logprobs=0)
        handle = self._submit(token_ids, params, what=what, decoder_ids=decoder_ids)
        try:
            handle.result()
        except BaseException:
            handle.abort()
            raise
        collected = handle._request.collected
        assert collected is not None
        return collected

    def abort(self, request: Request) -> None:
        """May be called at any moment, also by a finaliser: takes no lock."""
        if os.getpid() == self._pid:
            self._put(Abort(request))

    def interrupt(self) -> None:
        self._interrupt()

    @property
    def healthy(self) -> bool:
        """Whether it is open, and no step has taken STUCK_S; False in a child of its process."""
        return os.getpid() == self._pid and not self.closed and not self._watchdog.late

    def close(self) -> None:
        self._watchdog.stop()
        super().close()
        if self.grammars is not None:
            self.grammars.close()

    def stats(self) -> dict[str, float | int]:
        """Counts since the start, and the present state."""
        self.check_process()
        counters = {name: getattr(self._counters, name) for name in Counters.__slots__}
        return {
            **counters,
            "healthy": self.healthy,
            "missing_threads": _core.missing_threads(),
            "running": len(self.scheduler.running),
            "waiting": max(0, self._n_rows - len(self.scheduler.running)),
            "queued_tokens": self._queued_tokens,
            "preemptions": self.scheduler.n_preemptions,
            **self.scheduler.block_counts(),
        }

    def _submit(
        self,
        token_ids: Sequence[int] | np.ndarray,
        params: SamplingParams,
        *,
        prompt: str | None = None,
        truncated: bool = False,
        what: Collect | None = None,
        decoder_ids: Sequence[int] | np.ndarray | None = None,
    ) -> Handle:
        self.check_process()
        order = self._intake.check(token_ids, params, what, decoder_ids)
        made: list[Submission] = []

        def make() -> Submission:
            submission = self._intake.submission(
                order, next(self._ids), submitted=self._clock(), prompt=prompt, truncated=truncated
            )
            made.append(submission)
            self._reserve(submission, len(order.prompt), order.n_rows)
            return submission

        try:
            request = self.post(make).request
            if order.form is not None:
                self._compile(request, order.form)
            return Handle(request, self)
        except BaseException:  # an error, or Ctrl-C at any moment
            for submission in made:
                if submission.counted:
                    self._put(Withdrawal(submission))
            raise

    def _compile(self, request: Request, form: structure.Form) -> None:
        """Have the grammar of a request compiled that is on its way to the engine's thread."""

        def deliver(outcome: list[Constraint] | TuiliError) -> None:
            self._put(Compiled(request, outcome))  # without a lock, which `close` may hold while it waits

        assert self.grammars is not None
        n_rows = max(request.params.n, request.params.num_beams or 1)
        message = Compilation(form, n_rows, deliver, is_wanted=lambda: not request.done)
        self.grammars.post(lambda: message)

    def _reserve(self, submission: Submission, n_prompt: int, n: int) -> None:
        """Count n rows in, or raise QueueFullError. An empty queue takes any request."""
        places, most_tokens = (
            self._limits.max_num_seqs + self._limits.max_queue,
            self._limits.max_queued_tokens,
        )
        with self._load:  # for a moment: a signal's handler may close the engine, whose end needs it
            n_rows, n_tokens = self._n_rows, self._queued_tokens
            too_many = n_rows > 0 and n_rows + n > places
            too_long = n_tokens > 0 and n_tokens + n * n_prompt > most_tokens
            if not too_many and not too_long:  # no call, and so no Ctrl-C, between these
                self._n_rows, self._queued_tokens, submission.counted = (
                    n_rows + n,
                    n_tokens + n * n_prompt,
                    True,
                )
        if too_many:
            raise QueueFullError(f"{n_rows} sequences run or wait; the limit is {places}")
        if too_long:
            raise QueueFullError(f"{n_tokens} prompt tokens wait; the limit is {most_tokens}")

    # --- the engine's thread --------------------------------------------------------------------------------

    def handle(self, message: object) -> None:
        if isinstance(message, Submission):
            message.taken = True
            self._live[message.request.id] = message.rows
            self._counters.requests += 1
            if not message.compiles:
                self.scheduler.add(message.rows)
            if message.request.deadline < math.inf:
                if len(self._deadlines) > 2 * len(self._live) + 64:  # most are of requests that have ended
                    self._deadlines = sorted(entry for entry in self._deadlines if entry[1] in self._live)
                heapq.heappush(self._deadlines, (message.request.deadline, message.request.id))
        elif isinstance(message, Compiled):
            self._arrive(message)
        elif isinstance(message, Abort):
            self._end(message.request, "abort", cancelled())
        elif isinstance(message, Withdrawal):
            self._withdraw(message.submission)
        else:
            super().handle(message)

    def _withdraw(self, submission: Submission) -> None:
        if submission.taken:
            self._end(submission.request, "abort", cancelled())
            return
        with self._load:
            self._n_rows -= len(submission.rows)
            self._queued_tokens -= len(submission.rows) * len(submission.request.prompt_token_ids)

    def _arrive(self, message: Compiled) -> None:
        rows = self._live.get(message.request.id)
        if rows is None:  # it was aborted, or its deadline passed
            return
        if isinstance(message.outcome, TuiliError):
            self._fail(rows[:1], message.outcome)
            return
        for row, constraint in zip(rows, message.outcome, strict=True):
            row.constraint = constraint
            row.sequence.allow(constraint.mask)
        self.scheduler.add(rows)

    def work(self) -> bool:
        """A step, or several without a pause: deadlines, plan, compute, deliver."""
        start = self._clock()
        self._watchdog.since = start
        if self._deadlines:
            self._expire(start)
        if self._waiters:  # who was aborted or is late need not wait for the step
            self._flush()
        rows: list[Row] = []
        try:
            plan = self.scheduler.plan(start)
            rows = plan.rows
            if plan.refused or plan.admitted:
                self._refuse(plan.refused)
                self._mark_admitted(plan, start)
            if rows:
                self._receive(plan, self._compute(plan, start), start)
        except EngineDeadError as error:  # nothing of the device answers any more
            self._fail(self._all_rows(), error)
            self.close()
        except Exception as error:
            self._fail(rows or self._all_rows(), error)
        if not rows and self.scheduler.has_work:  # cannot be; but an error is better than a wait without end
            self._fail(self._all_rows(), TuiliError("no step could be planned", code="internal"))
        if self._waiters:
            self._flush()
        more = self.scheduler.has_work
        if not more:
            self._watchdog.since = None
        return more

    def _all_rows(self) -> list[Row]:
        return [row for rows in self._live.values() for row in rows]

    def _compute(self, plan: StepPlan, now: float) -> Drawn:
        limit = leash(plan, self._deadlines[0][0] - now if self._deadlines else math.inf)
        n_steps = limit.max_steps
        if n_steps > 1 or limit.n_drafted:
            n_steps = min(n_steps, self.scheduler.give_room(plan, n_steps + limit.n_drafted))
            if n_steps > 1 or limit.n_drafted:
                run = self._runner.run(plan.sequences, max_steps=n_steps, max_s=limit.max_s)
                return Drawn(run.n_steps, run.token_ids, run.logprobs, run.n_drafted)
        step = self._runner.step(plan.sequences, plan.n_new, plan.sample)
        token_ids = [[token_id] for token_id in step.token_ids]
        return Drawn(1, token_ids, [() if entry is None else (entry,) for entry in step.logprobs])

    def _receive(self, plan: StepPlan, result: Drawn, start: float) -> None:
        """Take a step's results row by row; what goes wrong with one ends that one alone."""
        now = self._clock()
        counters, n_drawn = self._counters, sum(map(len, result.token_ids))
        counters.steps += result.n_steps
        counters.step_s += now - start
        if plan.sources:
            counters.computed_tokens += sum(plan.sources)
        counters.computed_tokens += sum(plan.n_new) + n_drawn - len(result.token_ids)
        if result.n_drafted:
            counters.drafted_tokens += result.n_drafted
            counters.accepted_tokens += n_drawn - result.n_steps * len(result.token_ids)
        self.scheduler.finished_step(plan, now - start, result.n_steps)
        rows = itertools.compress(plan.rows, plan.sample)
        for row, token_ids, logprobs in zip(rows, result.token_ids, result.logprobs, strict=True):
            if row.ended:  # a sibling's error ended it, earlier in this loop
                continue
            try:
                self._deliver(row, token_ids, logprobs, now)
            except Exception as error:
                self._fail([row], error)
        for row, _ in plan.chunks:
            if row.transcript is None and row.n_pending == 0 and not row.ended:
                try:
                    self._finish(row, "length", None)
                except Exception as error:
                    self._fail([row], error)
        if any(map(BEAMS, plan.rows)):
            for beams in {id(row.beams): row.beams for row in plan.rows if row.beams is not None}.values():
                if beams.ready:
                    self._advance_beams(beams, now)

    def _deliver(self, row: Row, token_ids: list[int], logprobs: Sequence[Logprobs], now: float) -> None:
        """Give sampled tokens to their request, and end the row where a rule says so."""
        request, why_none = row.request, 0
        if token_ids[-1] < 0:
            if token_ids[-1] == DEFERRED and row.processors:
                result = choose(row, self._runner)
                token_ids, logprobs = result.token_ids, [one for one in result.logprobs if one is not None]
            if token_ids[-1] == DEFERRED:  # its search goes on when all beams have come so far
                return
            why_none = token_ids.pop() if token_ids[-1] < 0 else 0
        if token_ids:
            transcript = row.transcript
            assert transcript is not None
            if not transcript.n_tokens:
                if request.times.first_token is None:
                    request.times.first_token = now
                if request.params.prompt_logprobs is not None:  # a stream may begin with them
                    self._take_results(row)
            taken, piece = transcript.accept_all(token_ids)
            if row.constraint is not None:
                piece = follow_grammar(row, row.constraint, taken[0], piece)
            self._counters.generated_tokens += len(taken)
            request.append(row.index, piece.text, taken, logprobs)
            if piece.finish_reason is not None:
                self.scheduler.costs.learn_answer(transcript.n_tokens)
                self._finish(row, piece.finish_reason, piece.stop_reason)
                return
            if request.streamed:
                self._waiters += request.wake()
            elif request.waiters and request.is_orphan():
                self._end(request, "abort", cancelled())
                return
        if why_none:
            self._deliver_nothing(row, why_none)

    def _advance_beams(self, beams: BeamGroup, now: float) -> None:
        times = beams.rows[0].request.times
        times.first_token = now if times.first_token is None else times.first_token
        try:
            beams.advance(self._pool, self._runner.copy_block)
            if beams.search.done:
                self._finish_beams(beams, None)
        except Exception as error:
            self._fail(beams.rows[:1], error)

    def _finish_beams(self, beams: BeamGroup, reason: FinishReason | None) -> None:
        """End a search with the best that it has; reason: why before it was done."""
        self._counters.generated_tokens += beams.deliver(reason)
        for row in beams.rows:
            self.scheduler.publish(row)
            self._remove(row)
        self._settle(beams.rows[0].request, None)

    def _deliver_nothing(self, row: Row, why: int) -> None:
        """The sampler could not draw."""
        if why != NOTHING_ALLOWED and row.request.params.on_nan == "eos":
            assert row.transcript is not None
            row.request.append(row.index, row.transcript.rest().text, [], [])
            self._finish(row, "error", "nan")
        else:
            self._fail([row], none_drawn(row, why))

    def _finish(self, row: Row, reason: FinishReason, stop_reason: str | int | None) -> None:
        """End one row; with the last of its request, the request."""
        request = row.request
        self._take_results(row)
        request.finish(row.index, reason, stop_reason)
        self.scheduler.publish(row)
        self._remove(row)
        rows = self._live[request.id]
        if all(other.ended for other in rows):
            self._settle(request, None)
        else:
            self._waiters += request.wake()

    def _take_results(self, row: Row) -> None:
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

    def _end(self, request: Request, reason: FinishReason, unstarted: TuiliError) -> None:
        """End a whole request early: with what it has, or with `unstarted` if it has no token."""
        rows = self._live.get(request.id)
        if rows is None:
            return
        try:
            self._end_rows(rows, reason, unstarted)
        except Exception as error:
            self._fail(rows[:1], error)

    def _end_rows(self, rows: list[Row], reason: FinishReason, unstarted: TuiliError) -> None:
        request, beams = rows[0].request, rows[0].beams
        if beams is not None and beams.search.begun:
            self._finish_beams(beams, reason)
            return
        if not any(track.token_ids for track in request.tracks):
            self._fail(rows[:1], unstarted)
            return
        for row in rows:
            if not row.ended:
                if row.transcript is not None:
                    request.append(row.index, row.transcript.rest().text, [], [])
                self._finish(row, reason, None)

    def _fail(self, rows: Iterable[Row], error: BaseException) -> None:
        """End the requests of these rows with an error; their siblings end, too."""
        if not isinstance(error, TuiliError):
            wrapped = TuiliError(f"the engine's step failed: {type(error).__name__}", code="internal")
            wrapped.__cause__ = error
            error = wrapped
        forget_frames(error)
        for request in {id(row.request): row.request for row in rows}.values():
            for row in self._live.get(request.id, ()):
                if not row.ended:
                    self._remove(row)
            self._settle(request, error)

    def _remove(self, row: Row) -> None:
        self.scheduler.remove(row)
        with self._load:
            self._n_rows -= 1
            if row.queued:
                self._queued_tokens -= len(row.request.prompt_token_ids)

    def _settle(self, request: Request, error: BaseException | None) -> None:
        rows = self._live.pop(request.id, None)
        if rows is None:
            return
        request.times.finished = self._clock()
        cached = rows[0].cached_tokens
        self._counters.finished += error is None
        self._counters.failed += error is not None
        self._counters.prompt_tokens += len(request.prompt_token_ids)
        self._counters.cached_tokens += cached
        request.settle(request.times.metrics(cached, sum(row.preemptions for row in rows)), error)
        self._waiters += request.wake()
        self._tell_missing_threads()

    def _tell_missing_threads(self) -> None:
        n_missing = _core.missing_threads()
        if n_missing > self._missing_threads:
            self._missing_threads = n_missing
            log.warning("the system refuses %d threads; the others do their work", n_missing)

    def _mark_admitted(self, plan: StepPlan, now: float) -> None:
        for row in plan.admitted:
            with self._load:
                self._queued_tokens -= len(row.request.prompt_token_ids)
            row.queued = False
            if row.request.times.admitted is None:
                row.request.times.admitted = now

    def _expire(self, now: float) -> None:
        """End the requests whose deadline has passed. Afterwards the earliest deadline is a live one's."""
        while self._deadlines:
            deadline, request_id = self._deadlines[0]
            rows = self._live.get(request_id)
            if rows is not None and now < deadline:
                return
            heapq.heappop(self._deadlines)
            if rows is not None:
                request = rows[0].request
                passed = f"deadline_s = {request.params.deadline_s:g} passed before the first token"
                self._end(request, "deadline", DeadlineExceeded(passed))

    def _refuse(self, rows: Iterable[Row]) -> None:
        for row in rows:
            error = DeadlineExceeded(
                f"deadline_s = {row.request.params.deadline_s:g} cannot be met with what is ahead of the "
                "request; nothing was computed",
                code="deadline_unreachable",
            )
            self._fail([row], error)

    def rescue(self, error: BaseException) -> None:
        self._watchdog.since = None
        self._fail(self._all_rows(), error)
        self._flush()

    def wakes_in(self) -> float | None:
        """Seconds until the next deadline, which rows may have whose grammar compiles; None without one."""
        return max(0.0, self._deadlines[0][0] - self._clock()) if self._deadlines else None

    def _flush(self) -> None:
        """Wake the coroutines that this step has news for: one call per event loop."""
        waiters, self._waiters = self._waiters, []
        for request in wake_loops(waiters) if waiters else ():
            self._end(request, "abort", cancelled())

    def begun(self, thread: threading.Thread) -> None:
        self._watchdog.start(thread)

    def __del__(self) -> None:
        super().__del__()
        watchdog = getattr(self, "_watchdog", None)
        if watchdog is not None:
            watchdog.stop()

    def _abandon(self) -> None:
        super()._abandon()
        error = EngineClosedError("the engine was closed before the request was done")
        for rows in list(self._live.values()):
            self._fail(rows[:1], error)
        self._flush()

    def reject(self, message: object, error: Exception) -> None:
        if isinstance(message, Submission):
            self._live[message.request.id] = message.rows
            self._fail(message.rows[:1], error)
        else:
            super().reject(message, error)
