"""Waits and limits of time that a busy or slow machine does not break by chance."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

PYTHON_S = 0.005  # of `slowness`' work, where limits were set


def comes_true(condition: Callable[[], object], within_s: float = 30.0) -> bool:
    """Whether it does, at some time; the limit is only there for what never does."""
    end = time.monotonic() + within_s
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.002)
    return bool(true)


def least(measure: Callable[[], float], limit: float, tries: int = 4) -> float:
    """The least of a few measurements. One within the limit is enough: a defect is there every time, the turn
    of another process is not.
    """
    found = math.inf
    for _ in range(tries):
        found = min(found, measure())
        if found <= limit:
            break
    return found


def processor_s(call: Callable[[], object]) -> float:
    """Seconds of this process's processors that a call takes."""
    start = time.process_time()
    call()
    return time.process_time() - start


def slowness() -> float:
    """How many times the processor time of where limits were set Python takes here and now; 1 at least."""
    start = time.thread_time()
    sum(i * i for i in range(100_000))
    return max(1.0, (time.thread_time() - start) / PYTHON_S)
