"""The engine: plan, step, deliver, for as long as there are requests.

`submit` and `abort` are for any thread; everything else happens on the worker's thread, or in `step()` where
a test drives the engine itself. An error belongs to a row: whatever goes wrong with one request, the others
go on.
"""

from __future__ import annotations

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
    EngineClosedError,
    EngineDeadError,
    TuiliError,
)
from tuili.generation import structure
from tuili.generation.beam import BeamGroup
from tuili.generation.delivery import Collect, Row
from tuili.generation.grammar import Compilation, Constraint, Grammars
from tuili.generation.intake import Intake, SourceLimits
from tuili.generation.live import LiveRequests, take_results
from tuili.generation.load import Load
from tuili.generation.messages import Abort, Compiled, Counters, Drawn, Submission, Withdrawal
from tuili.generation.outputs import Logprobs
from tuili.generation.pace import leash
from tuili.generation.params import SamplingParams
from tuili.generation.request import Handle, Request
from tuili.generation.scheduler import Limits, Scheduler, StepPlan
from tuili.generation.spelling import TextDecoder
from tuili.generation.steering import choose, follow_grammar, none_drawn
from tuili.generation.watchdog import Watchdog
from tuili.generation.worker import Worker

BEAMS = attrgetter("beams")
STUCK_S = 120.0  # a step that takes so long is not slow any more


class Engine(Worker):
    """Runs any number of requests on one model, batched in every step.

    pool, cache    hold the same number of blocks; the cache belongs to `runner`
    eos_ids        end a text unless the request ignores them
    decoder        makes an incremental detokenizer, from the ids that its text follows and the parameters
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
        decoder: Callable[[Iterable[int], SamplingParams], TextDecoder],
        encode_words: Callable[[str], list[int]],
        eos_ids: Iterable[int] = (),
        sources: SourceLimits | None = None,
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
        self._load = Load(self._limits, self._lock)
        self._counters = Counters()
        self._live = LiveRequests(self.scheduler, self._load, self._counters, clock)
        self._watchdog = Watchdog(STUCK_S, clock)

    # --- for any thread -------------------------------------------------------------------------------------

    def submit(
        self,
        token_ids: Sequence[int] | np.ndarray,
        params: SamplingParams,
        *,
        prompt: str | None = None,
        truncated: bool = False,
        what: Collect | None = None,
        decoder_ids: Sequence[int] | np.ndarray | None = None,
    ) -> Handle:
        """Queue a request; returns at once. params: resolved (`params.resolve`). what, decoder_ids: see
        `collect`.

        raises  TokenIdError, PromptTooLongError, InvalidParameterError, QueueFullError,
                KVCacheExhaustedError, EngineClosedError, EngineForkedError
        """
        self.check_process()
        order = self._intake.check(token_ids, params, what, decoder_ids)
        made: list[Submission] = []

        def make() -> Submission:
            submission = self._intake.submission(
                order,
                next(self._ids),
                submitted=self._clock(),
                prompt=prompt,
                truncated=truncated,
                lock=self._lock,
            )
            made.append(submission)
            self._load.add(submission)
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
        handle = self.submit(token_ids, params, what=what, decoder_ids=decoder_ids)
        try:
            handle.result()
        except BaseException:
            handle.abort()
            raise
        return handle.collected()

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
            "waiting": max(0, self._load.n_rows - len(self.scheduler.running)),
            "queued_tokens": self._load.queued_tokens,
            "preemptions": self.scheduler.n_preemptions,
            **self.scheduler.block_counts(),
        }

    def _compile(self, request: Request, form: structure.Form) -> None:
        """Have the grammar of a request compiled that is on its way to the engine's thread."""

        def deliver(outcome: list[Constraint] | TuiliError) -> None:
            self._put(Compiled(request, outcome))  # without a lock, which `close` may hold while it waits

        assert self.grammars is not None
        message = Compilation(form, request.params.n_sequences, deliver, is_wanted=lambda: not request.done)
        self.grammars.post(lambda: message)

    # --- the engine's thread --------------------------------------------------------------------------------

    def handle(self, message: object) -> None:
        if isinstance(message, Submission):
            message.taken = True
            self._live.add(message)
            self._counters.requests += 1
            if not message.compiles:
                self.scheduler.add(message.rows)
        elif isinstance(message, Compiled):
            self._arrive(message)
        elif isinstance(message, Abort):
            self._live.abort(message.request)
        elif isinstance(message, Withdrawal):
            if message.submission.taken:
                self._live.abort(message.submission.request)
            else:
                self._load.withdraw(message.submission)
        else:
            super().handle(message)

    def _arrive(self, message: Compiled) -> None:
        rows = self._live.rows.get(message.request.id)
        if rows is None:  # it was aborted, or its deadline passed
            return
        if isinstance(message.outcome, TuiliError):
            self._live.fail(rows[:1], message.outcome)
            return
        for row, constraint in zip(rows, message.outcome, strict=True):
            row.constraint = constraint
            row.sequence.allow(constraint.mask)
        self.scheduler.add(rows)

    def work(self) -> bool:
        """A step, or several without a pause: deadlines, plan, compute, deliver."""
        start = self._clock()
        self._watchdog.since = start
        if self._live.deadlines:
            self._live.expire(start)
        if self._live.waiters:  # who was aborted or is late need not wait for the step
            self._live.flush()
        rows: list[Row] = []
        try:
            plan = self.scheduler.plan(start)
            if plan.refused or plan.admitted or plan.begun:
                plan = self._admit(plan, start)
            rows = plan.rows
            if rows:
                self._receive(plan, self._compute(plan, start), start)
        except EngineDeadError as error:  # nothing of the device answers any more
            self._live.fail_all(error)
            self.close()
        except Exception as error:
            self._live.fail(rows or self._live.all_rows(), error)
        if not rows and self.scheduler.has_work:  # cannot be; but an error is better than a wait without end
            self._live.fail_all(TuiliError("no step could be planned", code="internal"))
        if self._live.waiters:
            self._live.flush()
        more = self.scheduler.has_work
        if not more:
            self._watchdog.since = None
        return more

    def _admit(self, plan: StepPlan, now: float) -> StepPlan:
        """Refuse, admit and begin as the plan says; returns it, or the one after searches' first steps."""
        while True:
            self._live.refuse(plan.refused)
            self._mark_admitted(plan, now)
            if not plan.begun:
                return plan
            for group in plan.begun:
                group.rows[0].request.times.first_token = now
            self._advance_beams(plan.begun)
            plan = self.scheduler.plan(now)

    def _compute(self, plan: StepPlan, now: float) -> Drawn:
        deadlines = self._live.deadlines
        limit = leash(plan, deadlines[0][0] - now if deadlines else math.inf)
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
                self._live.fail([row], error)
        for row, _ in plan.chunks:
            if row.transcript is None and row.n_pending == 0 and not row.ended:
                try:
                    self._live.finish(row, "length", None)
                except Exception as error:
                    self._live.fail([row], error)
        if any(map(BEAMS, plan.rows)):
            groups = dict.fromkeys(map(BEAMS, plan.rows))
            self._advance_beams([group for group in groups if group is not None and group.core.ready])

    def _deliver(self, row: Row, token_ids: list[int], logprobs: Sequence[Logprobs], now: float) -> None:
        """Give sampled tokens to their request, and end the row where a rule says so."""
        request, why_none = row.request, 0
        if token_ids[-1] < 0:
            if token_ids[-1] == _core.DEFERRED and row.processors:
                result = choose(row, self._runner)
                token_ids, logprobs = result.token_ids, [one for one in result.logprobs if one is not None]
            if token_ids[-1] == _core.DEFERRED:  # its search goes on when all beams have come so far
                return
            why_none = token_ids.pop() if token_ids[-1] < 0 else 0
        if token_ids:
            transcript = row.transcript
            assert transcript is not None
            if not transcript.n_tokens:
                if request.times.first_token is None:
                    request.times.first_token = now
                if request.params.prompt_logprobs is not None:  # a stream may begin with them
                    take_results(row)
            taken, piece = transcript.accept_all(token_ids)
            if row.constraint is not None:
                piece = follow_grammar(row, row.constraint, taken[0], piece)
            self._counters.generated_tokens += len(taken)
            request.append(row.index, piece.text, taken, logprobs)
            if piece.finish_reason is not None:
                self.scheduler.costs.learn_answer(transcript.n_tokens)
                self._live.finish(row, piece.finish_reason, piece.stop_reason)
                return
            if request.streamed:
                self._live.waiters += request.wake()
            elif request.waiters and request.is_orphan():
                self._live.abort(request)
                return
        if why_none:
            self._deliver_nothing(row, why_none)

    def _advance_beams(self, groups: list[BeamGroup]) -> None:
        """A step of each of these searches."""
        if not groups:
            return
        ends = [group.ends for group in groups]
        self._runner.advance_beams(self._pool, [group.core for group in groups], ends)
        for group in groups:
            try:
                if group.after_step():
                    self._live.finish_beams(group, None)
            except Exception as error:
                self._live.fail(group.rows[:1], error)

    def _deliver_nothing(self, row: Row, why: int) -> None:
        """The sampler could not draw."""
        if why != _core.NOTHING_ALLOWED and row.request.params.on_nan == "eos":
            assert row.transcript is not None
            row.request.append(row.index, row.transcript.rest().text, [], [])
            self._live.finish(row, "error", "nan")
        else:
            self._live.fail([row], none_drawn(row, why))

    def _mark_admitted(self, plan: StepPlan, now: float) -> None:
        for row in plan.admitted:
            self._load.start(row)
            if row.request.times.admitted is None:
                row.request.times.admitted = now

    def rescue(self, error: BaseException) -> None:
        self._watchdog.since = None
        self._live.fail_all(error)
        self._live.flush()

    def wakes_in(self) -> float | None:
        """Seconds until the next deadline, which rows may have whose grammar compiles; None without one."""
        deadlines = self._live.deadlines
        return max(0.0, deadlines[0][0] - self._clock()) if deadlines else None

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
        self._live.fail_all(error)
        self._live.flush()

    def reject(self, message: object, error: Exception) -> None:
        if isinstance(message, Submission):
            self._live.add(message)
            self._live.fail(message.rows, error)
        else:
            super().reject(message, error)
