"""Twice as many requests as the engine can serve, with deadlines: who is refused, who is served in time.

One trace of arrivals is played twice, to an engine that knows the deadlines and to one that does not and
serves in order of arrival; there a client that waits in vain gives up at its deadline (or does not: both are
shown).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from peers.inputs import prompt_ids
from verdicts import Row, at_least, at_most

from tuili import LLM
from tuili.errors import DeadlineExceeded, RequestCancelled
from tuili.generation.request import Handle

PLACES = 8  # requests that run at once
LOAD = 2.0  # arrivals by what the engine can serve
LIVES = 30  # length of the trace, by the time that a request takes when all places are taken
PATIENCE = (1.5, 2.5, 4.0, 8.0)  # deadlines, by the same
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


@dataclass(frozen=True)
class Arrival:
    at_s: float
    seed: int
    n_prompt: int
    n_new: int
    deadline_s: float


@dataclass(frozen=True)
class Outcome:
    """Whether a request was begun, whether it was whole, and how long after its arrival it ended."""

    arrival: Arrival
    begun: bool
    whole: bool
    total_s: float

    @property
    def in_time(self) -> bool:
        return self.whole and self.total_s <= self.arrival.deadline_s


def measure_overload(opened: Callable[..., LLM]) -> list[Row]:
    with opened(max_num_seqs=PLACES) as llm:
        per_s, life_s = _capacity(llm)
        trace = _trace(LOAD * per_s, life_s)
        longest = _watch_steps(llm)
        aware = _play(llm, trace, known=True, patient=True)
        step_s = longest[0]
        leaving = _play(llm, trace, known=False, patient=False)
        fifo = _play(llm, trace, known=False, patient=True)
    begun = [one for one in aware if one.begun]
    refused = [one.total_s / one.arrival.deadline_s for one in aware if not one.begun]
    late = [one.total_s - one.arrival.deadline_s for one in begun if not one.whole]
    overshoot, in_time = max(late, default=0.0), _n_in_time(aware)
    rows = [
        at_least(
            "overload: of those begun, done in time",
            sum(one.in_time for one in begun) / len(begun),
            0.95,
            "",
            f"{per_s:.1f} requests/s of {life_s:.2f} s; {len(trace)} arrived, {len(begun)} begun",
            (),
        )
    ]
    for result, bar, what in (
        (fifo, 1.5, "overload: done in time, of first come first served"),
        (leaving, None, "… whose clients leave at their deadline"),
    ):
        text = f"{in_time} against {_n_in_time(result)}"
        rows.append(at_least(what, in_time / max(1, _n_in_time(result)), bar, "×", text, ()))
    text = f"{1e3 * overshoot:.1f} of {1e3 * step_s:.1f} ms; {len(late)} late"
    rows.append(at_most("overload: overshoot, of the longest step", overshoot / step_s, 1.0, "", text, ()))
    text = f"of the deadline, median of {len(refused)}"
    rows.append(at_most("overload: refused after", statistics.median(refused), None, "", text, refused))
    return rows


def _n_in_time(outcomes: list[Outcome]) -> int:
    return sum(one.in_time for one in outcomes)


def _draw(rng: np.random.Generator) -> tuple[int, int]:
    """(prompt tokens, new tokens)"""
    return int(rng.integers(16, 129)), int(rng.integers(8, 49))


def _capacity(llm: LLM) -> tuple[float, float]:
    """(requests per second, seconds of one) when all places are always taken."""
    rng = np.random.default_rng(1)
    for n_requests in (PLACES, 6 * PLACES):  # the first is a warm-up
        handles = []
        begin = time.monotonic()
        for i in range(n_requests):
            n_prompt, n_new = _draw(rng)
            handles.append(
                llm.submit(prompt_ids(n_prompt, 10**6 + i, n_requests), max_tokens=n_new, **GREEDY)
            )
        metrics = [handle.result().metrics for handle in handles]
        seconds = time.monotonic() - begin
    served = [(one["total_s"] or 0.0) - (one["queue_s"] or 0.0) for one in metrics]
    return n_requests / seconds, statistics.mean(served)


def _trace(per_s: float, life_s: float) -> list[Arrival]:
    rng = np.random.default_rng(2)
    arrivals, at_s = [], 0.0
    while at_s < LIVES * life_s:
        n_prompt, n_new = _draw(rng)
        deadline_s = float(rng.choice(PATIENCE)) * life_s
        arrivals.append(Arrival(at_s, len(arrivals), n_prompt, n_new, deadline_s))
        at_s += float(rng.exponential(1 / per_s))
    return arrivals


def _watch_steps(llm: LLM) -> list[float]:
    """A list whose only entry is the longest step so far, in seconds."""
    engine, longest = llm._decoder_engine(), [0.0]
    receive = engine._receive

    def watched(plan: Any, drawn: Any, start: float) -> None:
        longest[0] = max(longest[0], (time.monotonic() - start) / drawn.n_steps)
        receive(plan, drawn, start)

    engine._receive = watched  # type: ignore[method-assign]
    return longest


def _play(llm: LLM, trace: list[Arrival], *, known: bool, patient: bool) -> list[Outcome]:
    """known    whether the engine is told the deadlines
    patient  whether a request is waited for beyond its deadline
    """
    handles: list[Handle] = []
    begin = time.monotonic()
    left = list(trace)
    while left or not all(handle.done for handle in handles):
        now = time.monotonic() - begin
        while left and left[0].at_s <= now:
            one = left.pop(0)
            options = {"deadline_s": one.deadline_s} if known else {}
            ids = prompt_ids(one.n_prompt, one.seed, 3)
            handles.append(
                llm.submit(ids, max_tokens=one.n_new, cache_salt=f"{known}{patient}", **GREEDY, **options)
            )
        if not patient:
            for one, handle in zip(trace, handles, strict=False):
                if not handle.done and now > one.at_s + one.deadline_s:
                    handle.abort()
        time.sleep(0.002)
    return [_outcome(one, handle) for one, handle in zip(trace, handles, strict=True)]


def _outcome(arrival: Arrival, handle: Handle) -> Outcome:
    times = handle._request.times
    try:
        whole = handle.result().outputs[0].finish_reason == "length"
    except (DeadlineExceeded, RequestCancelled):
        whole = False
    return Outcome(arrival, times.admitted is not None, whole, (times.finished or 0.0) - times.submitted)
