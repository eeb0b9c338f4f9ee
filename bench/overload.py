"""More requests than the engine can serve, with deadlines: who is refused, who is served in time.

A trace of arrivals is played to an engine that knows the deadlines, and to one that does not and serves in
order of arrival. There clients wait in vain, or leave at their deadline: both are shown. Played here in real
time; tests/simulated_overload.py plays traces in no time, with steps that cost what a table says.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


class Server(Protocol):
    """An engine and its time."""

    def now(self) -> float: ...
    def longest_step_s(self) -> float: ...
    def submit(self, arrival: Arrival, options: dict[str, Any]) -> Handle: ...
    def wait(self, until_s: float) -> None:
        """Let a moment pass, or all until then if there is nothing to do."""


@dataclass(frozen=True)
class Played:
    """A trace with deadlines known; unknown, to clients who leave at theirs; unknown, to clients who wait."""

    aware: list[Outcome]
    leaving: list[Outcome]
    fifo: list[Outcome]
    step_s: float  # the longest with deadlines known

    @property
    def begun(self) -> list[Outcome]:
        return [one for one in self.aware if one.begun]

    @property
    def kept(self) -> float:
        """Of those begun, how many were done in time."""
        return n_in_time(self.begun) / len(self.begun)

    @property
    def overshoot(self) -> float:
        """How long after its deadline the last one ended, by the longest step."""
        late = (one.total_s - one.arrival.deadline_s for one in self.begun if not one.whole)
        return max(late, default=0.0) / self.step_s

    def gain(self, other: list[Outcome]) -> float:
        return n_in_time(self.aware) / max(1, n_in_time(other))


def n_in_time(outcomes: list[Outcome]) -> int:
    return sum(one.in_time for one in outcomes)


def judged(traces: Sequence[Played], what: str) -> list[Row]:
    """The bars, each with the median of the traces and their range."""

    def row(judge: Callable[..., Row], name: str, of: Callable[[Played], float], bar: float | None) -> Row:
        samples = [of(one) for one in traces]
        unit, text = ("×", texts[name]) if name in texts else ("", "")
        return judge(f"{what}: {name}", statistics.median(samples), bar, unit, text, samples)

    fifo, leaving = "in time, of first come first served", "… whose clients leave at their deadline"
    counts = [[n_in_time(one.aware), n_in_time(one.fifo), n_in_time(one.leaving)] for one in traces]
    texts = {
        fifo: ", ".join(f"{aware} against {other}" for aware, other, _ in counts),
        leaving: ", ".join(f"{aware} against {other}" for aware, _, other in counts),
    }
    return [
        row(at_least, "of those begun, done in time", lambda one: one.kept, 0.95),
        row(at_least, fifo, lambda one: one.gain(one.fifo), 1.5),
        row(at_least, leaving, lambda one: one.gain(one.leaving), None),
        row(at_most, "overshoot, of the longest step", lambda one: one.overshoot, 1.0),
        row(at_most, "refused after, of the deadline", refused_after, None),
    ]


def refused_after(played: Played) -> float:
    """Median over those refused."""
    waits = [one.total_s / one.arrival.deadline_s for one in played.aware if not one.begun]
    return statistics.median(waits) if waits else 0.0


# --- traces -------------------------------------------------------------------------------------------------


def draw(rng: np.random.Generator) -> tuple[int, int]:
    """(prompt tokens, new tokens)"""
    return int(rng.integers(16, 129)), int(rng.integers(8, 49))


def capacity(server: Server) -> tuple[float, float]:
    """(requests per second, seconds of one) when all places are always taken."""
    rng = np.random.default_rng(1)
    for n_requests in (PLACES, 6 * PLACES):  # the first is a warm-up
        begin, handles = server.now(), []
        for i in range(n_requests):
            n_prompt, n_new = draw(rng)
            handles.append(server.submit(Arrival(0.0, 10**6 * n_requests + i, n_prompt, n_new, 0.0), {}))
        while not all(handle.done for handle in handles):
            server.wait(server.now())
        seconds = server.now() - begin
    metrics = [handle.result().metrics for handle in handles]
    served = [(one["total_s"] or 0.0) - (one["queue_s"] or 0.0) for one in metrics]
    return n_requests / seconds, statistics.mean(served)


def trace(per_s: float, life_s: float, seed: int) -> list[Arrival]:
    rng = np.random.default_rng(seed)
    arrivals: list[Arrival] = []
    at_s = 0.0
    while at_s < LIVES * life_s:
        n_prompt, n_new = draw(rng)
        deadline_s = float(rng.choice(PATIENCE)) * life_s
        arrivals.append(Arrival(at_s, len(arrivals), n_prompt, n_new, deadline_s))
        at_s += float(rng.exponential(1 / per_s))
    return arrivals


def play(opened: Callable[[], Server], arrivals: list[Arrival]) -> Played:
    """opened  a server, with nothing to do and, for the prompts, no cache"""
    server = opened()
    aware, step_s = _play(server, arrivals, known=True, patient=True), server.longest_step_s()
    leaving = _play(opened(), arrivals, known=False, patient=False)
    return Played(aware, leaving, _play(opened(), arrivals, known=False, patient=True), step_s)


def _play(server: Server, arrivals: list[Arrival], *, known: bool, patient: bool) -> list[Outcome]:
    """known    whether the engine is told the deadlines
    patient  whether a request is waited for beyond its deadline
    """
    handles: list[Handle] = []
    begin = server.now()
    left = list(arrivals)
    while left or not all(handle.done for handle in handles):
        now = server.now() - begin
        while left and left[0].at_s <= now:
            one = left.pop(0)
            handles.append(server.submit(one, {"deadline_s": one.deadline_s} if known else {}))
        if not patient:
            for one, handle in zip(arrivals, handles, strict=False):
                if not handle.done and now > one.at_s + one.deadline_s:
                    handle.abort()
        server.wait(begin + left[0].at_s if left else server.now())
    return [_outcome(one, handle) for one, handle in zip(arrivals, handles, strict=True)]


def _outcome(arrival: Arrival, handle: Handle) -> Outcome:
    times = handle._request.times
    try:
        whole = handle.result().outputs[0].finish_reason == "length"
    except (DeadlineExceeded, RequestCancelled):
        whole = False
    return Outcome(arrival, times.admitted is not None, whole, (times.finished or 0.0) - times.submitted)


# --- in real time -------------------------------------------------------------------------------------------


class Live:
    """A model in a process, on the wall's clock."""

    def __init__(self, llm: LLM) -> None:
        self._llm, self._salt, self._longest_s = llm, f"{time.monotonic_ns()}", 0.0
        engine = llm._decoder_engine()
        receive = type(engine)._receive

        def watched(plan: Any, drawn: Any, start: float) -> None:
            self._longest_s = max(self._longest_s, (time.monotonic() - start) / drawn.n_steps)
            receive(engine, plan, drawn, start)

        engine._receive = watched  # type: ignore[method-assign]

    def now(self) -> float:
        return time.monotonic()

    def longest_step_s(self) -> float:
        return self._longest_s

    def submit(self, arrival: Arrival, options: dict[str, Any]) -> Handle:
        ids = prompt_ids(arrival.n_prompt, arrival.seed, 3)
        return self._llm.submit(ids, max_tokens=arrival.n_new, cache_salt=self._salt, **GREEDY, **options)

    def wait(self, until_s: float) -> None:
        time.sleep(0.002)


def measure_overload(opened: Callable[..., LLM], rounds: int) -> list[Row]:
    with opened(max_num_seqs=PLACES) as llm:
        per_s, life_s = capacity(Live(llm))
        print(f"overload: {per_s:.1f} requests/s of {life_s:.2f} s", flush=True)
        traces = [play(lambda: Live(llm), trace(LOAD * per_s, life_s, seed)) for seed in range(2, 2 + rounds)]
    return judged(traces, f"load × {LOAD:g}")
