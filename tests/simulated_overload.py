"""Overload with deadlines (bench/overload.py) in no time: the engine's own policy, steps that cost what a
table says.

    python tests/simulated_overload.py [--seeds 10] [--loads 1.3,2,3] [--host calm,busy]

Prints every bar with its median and range over the seeds; the exit status is 1 if one is missed by a median.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "bench")]

import overload  # noqa: E402
from overload import GREEDY, PLACES, Arrival, Played, judged  # noqa: E402
from verdicts import missed, show  # noqa: E402

from tiny_engine import Clock, Timed, make_engine, sampling  # noqa: E402
from tiny_models import N_VOCAB  # noqa: E402
from tuili.generation.request import Handle  # noqa: E402

# SmolLM2 on two cores (docs/performance.md): 4 ms for a token, 16.5 for 16, 0.86 for one of a prompt.
STEP_S, TOKEN_S = 0.0032, 0.00084
HOSTS = {"calm": 0.0, "busy": 0.4}  # deviation of a step's logarithm; when busy one in 50 takes 5 ×, too


class Priced(Timed):
    """A runner whose steps take what the clock says, times what the host adds."""

    def __init__(self, runner: Any, clock: Clock, deviation: float) -> None:
        super().__init__(runner, clock)
        self._rng, self._deviation = np.random.default_rng(7), deviation

    def pass_time(self, n_new: list[int]) -> None:
        before = self.clock.now
        super().pass_time(n_new)
        if self._deviation:
            slower = float(np.exp(self._rng.normal(0.0, self._deviation)))
            slower *= 5.0 if self._rng.random() < 0.02 else 1.0
            self.clock.now = before + slower * (self.clock.now - before)
            self.steps[-1] = self.steps[-1][0], self.clock.now - before


class Simulated:
    """A tiny model on a clock of its own."""

    def __init__(self, deviation: float) -> None:
        self._clock = Clock(STEP_S, TOKEN_S)
        self._engine = make_engine(clock=self._clock, max_num_seqs=PLACES, prefix_caching=False)
        self._runner = Priced(self._engine._runner.runner, self._clock, deviation)
        self._engine._runner = self._runner

    def now(self) -> float:
        return self._clock.now

    def longest_step_s(self) -> float:
        return max(seconds for _, seconds in self._runner.steps)

    def submit(self, arrival: Arrival, options: dict[str, Any]) -> Handle:
        ids = np.random.default_rng(arrival.seed).integers(1, N_VOCAB - 60, arrival.n_prompt)  # it counts on
        return self._engine.submit(ids, sampling(max_tokens=arrival.n_new, **GREEDY, **options))

    def wait(self, until_s: float) -> None:
        if not self._engine.step():
            self._clock.now = max(self._clock.now, until_s)


def simulate(load: float, seed: int, deviation: float = 0.0) -> Played:
    per_s, life_s = overload.capacity(Simulated(deviation))
    return overload.play(lambda: Simulated(deviation), overload.trace(load * per_s, life_s, seed))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--loads", default="1.3,2,3")
    parser.add_argument("--host", default=",".join(HOSTS))
    options = parser.parse_args()
    found = []
    for host in options.host.split(","):
        for load in map(float, options.loads.split(",")):
            traces = [simulate(load, seed, HOSTS[host]) for seed in range(options.seeds)]
            rows = judged(traces, f"{host}, × {load:g}")
            show(rows)
            found += rows
    return 1 if missed(found) else 0


if __name__ == "__main__":
    sys.exit(main())
