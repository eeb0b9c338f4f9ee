"""Limits of time that a busy machine does not break by chance."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


def comes_true(condition: Callable[[], bool], within_s: float = 30.0) -> bool:
    """Whether it does, at some time; the limit is only there for what never does."""
    end = time.monotonic() + within_s
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.002)
    return true


def least_s(run: Callable[[], float], limit_s: float, tries: int = 4) -> float:
    """The fewest seconds that `run` says it took. Once within the limit is enough: a defect is there every
    time, another process's turn is not.
    """
    least = math.inf
    for _ in range(tries):
        least = min(least, run())
        if least <= limit_s:
            break
    return least
