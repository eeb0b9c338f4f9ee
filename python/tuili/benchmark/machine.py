"""What the machine could do, what a token costs, and how samples are summed up."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable

from tuili import _core

Summary = dict[str, float]
KV_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


def summary(runs: list[float]) -> Summary:
    """Median, extremes, and spread = (max - min) / median."""
    median = statistics.median(runs)
    return {"median": median, "min": min(runs), "max": max(runs), "spread": (max(runs) - min(runs)) / median}


def limit_jobs(n_threads: int, isa: str) -> dict[str, Callable[[], float]]:
    """Samples of the clock, the read stream and the peaks of registers, n_threads together."""
    limits = _core.limits
    return {
        "clock_ghz": lambda: limits.clock_hz() / 1e9,
        "read_gb_s": lambda: limits.read_bandwidth(n_threads) / 1e9,
        "float_peak_gmac_s": lambda: limits.float_peak(n_threads, isa) / 1e9,
        "int8_peak_gmac_s": lambda: limits.int8_peak(n_threads, isa) / 1e9,
    }


def interleaved(
    jobs: dict[str, Callable[[], float]], repeats: int, on_run: Callable[[str], None] = lambda name: None
) -> dict[str, list[float]]:
    """`repeats` samples of each job, in turn: what disturbs the machine for a while disturbs all alike.

    on_run  called with a job's name before each run
    """
    samples: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            on_run(name)
            samples[name].append(job())
    return samples


def layer_macs(spec: _core.ModelSpec) -> int:
    """Multiply-adds of the linear maps of all layers for one token: the head and attention not among them."""
    total = 0
    for layer in spec.layers:
        inner, kv = layer.n_heads * layer.head_dim, layer.n_kv_heads * layer.head_dim
        total += spec.d_model * (2 * inner + 2 * kv + (3 if layer.gated else 2) * layer.d_ff)
    return total


def decode_bytes(model: _core.Model, depth: int, kv_dtype: str) -> float:
    """Bytes that decoding one greedy token reads: every weight but an embedding of its own, of which a row is
    read, and a head that has a screen, which is read instead; and the keys and values of `depth` tokens, as
    far as windows show them.

    Embedding and head are taken to have the model's average bytes per weight.
    """
    spec = model.spec
    unread = 0 if spec.tied_head else spec.n_vocab * spec.d_model
    if model.screen_bytes:
        unread += spec.n_vocab * (spec.d_embedding or spec.d_model)
    stored = model.weight_bytes - model.screen_bytes
    total = stored * (1 - unread / model.n_parameters) + model.screen_bytes
    for layer in spec.layers:
        seen = min(depth, layer.sliding_window or depth)
        scale = 4 if kv_dtype == "int8" else 0
        total += 2 * seen * layer.n_kv_heads * (layer.head_dim * KV_BYTES.get(kv_dtype, 4) + scale)
    return total


def peak_memory() -> int:
    """Most bytes that this process has had resident."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
