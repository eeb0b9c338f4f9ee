"""What engines of translation are given: sources of random tokens, in batches or as they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

SHORTEST, LONGEST = 8, 40  # tokens of a source
IDS = (100, 30_000)  # of ordinary tokens
EOS = 0


def sources(n: int, seed: int) -> list[list[int]]:
    """n sources of random lengths, each with its end."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(SHORTEST, LONGEST + 1, n)
    return [[*(int(i) for i in rng.integers(*IDS, length)), EOS] for length in lengths]


def arrive(n: int, rate: float, seed: int, submit: Callable[[int], None]) -> list[float]:
    """Call submit(i) for i < n at the times of a Poisson process of `rate` a second; returns those times, on
    the clock of time.monotonic.
    """
    gaps = np.random.default_rng((seed, 1)).exponential(1 / rate, n)
    times = time.monotonic() + np.cumsum(gaps)
    for i, at in enumerate(times):
        time.sleep(max(0.0, at - time.monotonic()))
        submit(i)
    return [float(at) for at in times]


def rates(begun: list[float], ended: list[float], n_new: int) -> list[float]:
    """[tokens per second, p99 of the time from arrival to end in s]"""
    waits = np.subtract(ended, begun)
    return [len(begun) * n_new / (max(ended) - min(begun)), float(np.quantile(waits, 0.99))]
