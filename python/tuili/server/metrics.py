"""Counters and histograms in Prometheus' text format, under vLLM's names with the prefix `tuili:`.

Labels have values of ours alone: routes, statuses, reasons.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import Any

_SECONDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    10.0,
    20.0,
    40.0,
    80.0,
)


class Histogram:
    """How many observations were at most as large as each bound."""

    def __init__(self, bounds: tuple[float, ...] = _SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, n: int = 1) -> None:
        """`n` observations of `value`."""
        self._counts[bisect.bisect_left(self._bounds, value)] += n
        self._sum += value * n

    def lines(self, name: str) -> list[str]:
        lines, total = [f"# TYPE {name} histogram"], 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self._sum}", f"{name}_count {total}"]


class Counter:
    """A number for each set of labels, all of which are known beforehand or few."""

    def __init__(self, *labels: str) -> None:
        self._labels = labels
        self._values: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def add(self, *values: str, n: int = 1) -> None:
        self._values[values] = self._values.get(values, 0) + n

    def lines(self, name: str) -> list[str]:
        lines = [f"# TYPE {name} counter"]
        for values, number in sorted(self._values.items()):
            pairs = ",".join(f'{label}="{value}"' for label, value in zip(self._labels, values, strict=True))
            lines.append(f"{name}{{{pairs}}} {number}" if pairs else f"{name} {number}")
        return lines


class Metrics:
    """What the server counts itself."""

    def __init__(self) -> None:
        self.time_to_first_token_seconds = Histogram()
        self.inter_token_latency_seconds = Histogram()
        self.e2e_request_latency_seconds = Histogram()
        self.request_queue_time_seconds = Histogram()
        self.http_requests_total = Counter("route", "status")
        self.request_success_total = Counter("finished_reason")
        self.deadline_misses_total = Counter()
        self.disconnects_total = Counter()

    def finished(self, metrics: Mapping[str, float | None], reasons: list[str | None]) -> None:
        """Count a request of the engine that gave an output."""
        for name, histogram in (
            ("total_s", self.e2e_request_latency_seconds),
            ("queue_s", self.request_queue_time_seconds),
            ("first_token_s", self.time_to_first_token_seconds),
        ):
            seconds = metrics[name]
            if seconds is not None:
                histogram.observe(seconds)
        for reason in reasons:
            self.request_success_total.add(str(reason))
        if "deadline" in reasons:
            self.deadline_misses_total.add()

    def text(self, stats: Mapping[str, float | int]) -> str:
        """All of it, with what the engine counts."""
        lines: list[str] = []
        for name, metric in vars(self).items():
            lines += metric.lines(f"tuili:{name}")
        for name, kind, value in _engine(stats):
            lines += [f"# TYPE tuili:{name} {kind}", f"tuili:{name} {value}"]
        return "\n".join(lines) + "\n"


def _engine(stats: Mapping[str, Any]) -> list[tuple[str, str, float | int]]:
    """What `LLM.stats` says: of a decoder, or of an encoder."""
    if "n_blocks" not in stats:
        return [(f"{name}_total", "counter", value) for name, value in stats.items()]
    block_use = 1 - stats["free_blocks"] / max(1, stats["n_blocks"])
    return [
        ("num_requests_running", "gauge", stats["running"]),
        ("num_requests_waiting", "gauge", stats["waiting"]),
        ("kv_cache_usage_perc", "gauge", block_use),
        ("prefix_cache_queries_total", "counter", stats["prompt_tokens"]),  # in tokens, as vLLM counts
        ("prefix_cache_hits_total", "counter", stats["cached_tokens"]),
        ("prompt_tokens_total", "counter", stats["prompt_tokens"]),
        ("generation_tokens_total", "counter", stats["generated_tokens"]),
        ("num_preemptions_total", "counter", stats["preemptions"]),
        ("spec_decode_num_draft_tokens_total", "counter", stats["drafted_tokens"]),
        ("spec_decode_num_accepted_tokens_total", "counter", stats["accepted_tokens"]),
        ("engine_steps_total", "counter", stats["steps"]),
        ("engine_step_seconds_total", "counter", stats["step_s"]),
    ]
