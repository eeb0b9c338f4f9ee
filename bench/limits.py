"""How much of this machine is used: decode against its read stream, prefill against its multiply-adds.

    python bench/limits.py                    everything, some minutes
    python bench/limits.py --only decode,scaling --repeats 5
    python bench/limits.py --check            exit code 1 if a bar is missed

The limits are C++ loops (ops/limits.h) run in the same process between the samples they are compared with.
The model is 1.1B-shaped (TinyLlama) with random weights; threads are compared on its first layers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import random_model
from random_model import Running, Shape
from verdicts import Row, at_least, missed, show

from tuili import _core
from tuili.benchmark.machine import decode_bytes, interleaved, layer_macs, summary

PREFILL_TOKENS, NEW_TOKENS = 512, 24
FEW_LAYERS = 4  # for questions about threads
KINDS = ("decode", "prefill", "float", "scaling", "one_cpu", "eight", "busy")


def row(what: str, share: float, bar: float | None, *, text: str, **details: Any) -> Row:
    """A share and the least that it should be; None: for information. details: for the file alone."""
    return at_least(what, 100 * share, None if bar is None else 100 * bar, "%", text, ()) | details


def medians(jobs: dict[str, Callable[[], float]], repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Interleaved after a warm-up: (medians, summaries)."""
    interleaved(jobs, 1)
    samples = interleaved(jobs, repeats)
    return {name: statistics.median(runs) for name, runs in samples.items()}, {
        name: summary(runs) for name, runs in samples.items()
    }


def ratio(samples: dict[str, Any], over: str, under: str) -> float:
    return float(samples[over]["median"] / samples[under]["median"])


# --- of the machine's limits --------------------------------------------------------------------------------


def measure_quantized(options: argparse.Namespace) -> list[Row]:
    """Decode and prefill of the 4-bit model, in one process."""
    model = random_model.build(Shape(n_layers=options.layers), options.format)
    running = Running(model, options.threads)
    n, isa, limits = running.n_threads, running.isa, _core.limits
    jobs: dict[str, Callable[[], float]] = {}
    if "decode" in options.only:
        jobs |= {"decode": lambda: running.decode(NEW_TOKENS), "read": lambda: limits.read_bandwidth(n)}
    if "prefill" in options.only:
        jobs |= {
            "prefill": lambda: running.prefill(PREFILL_TOKENS),
            "int8": lambda: limits.int8_peak(n, isa),
        }
    found, samples = medians(jobs, options.repeats)
    rows = []
    about = {"isa": isa, "threads": n, "format": options.format, "samples": samples}
    if "decode" in found:
        n_bytes = decode_bytes(model, 8 + NEW_TOKENS // 2, "float16")
        text = f"{found['decode']:.1f} tok/s × {n_bytes / 1e6:.0f} MB of {found['read'] / 1e9:.1f} GB/s read"
        rows.append(
            row(
                "decode, of the read stream",
                found["decode"] * n_bytes / found["read"],
                0.85,
                text=text,
                **about,
            )
        )
    if "prefill" in found:
        rows.append(_prefill_row(model, found, "int8", 0.60, about))
    return rows


def measure_float(options: argparse.Namespace) -> list[Row]:
    """Prefill of the same shape in float32."""
    model = random_model.build(Shape(n_layers=options.float_layers), "f32")
    running = Running(model, options.threads)
    n, isa = running.n_threads, running.isa
    jobs = {
        "prefill": lambda: running.prefill(PREFILL_TOKENS),
        "float": lambda: _core.limits.float_peak(n, isa),
    }
    found, samples = medians(jobs, options.repeats)
    about = {"isa": isa, "threads": n, "format": "f32", "samples": samples}
    return [_prefill_row(model, found, "float", 0.75, about)]


def _prefill_row(model: _core.Model, found: dict[str, float], unit: str, bar: float, about: Row) -> Row:
    macs = layer_macs(model.spec) * found["prefill"]
    text = f"{found['prefill']:.0f} tok/s, {macs / 1e9:.0f} of {found[unit] / 1e9:.0f} GMAC/s"
    return row(f"prefill {about['format']}, of the {unit} peak", macs / found[unit], bar, text=text, **about)


# --- threads ------------------------------------------------------------------------------------------------


def _few_layers(options: argparse.Namespace) -> _core.Model:
    return random_model.build(Shape(n_layers=FEW_LAYERS), options.format)


def measure_scaling(options: argparse.Namespace) -> list[Row]:
    """Prefill on one and two threads, beside the FMA loop on one and two."""
    model = _few_layers(options)
    one, two = Running(model, 1), Running(model, 2)
    jobs = {
        "one": lambda: one.prefill(PREFILL_TOKENS),
        "two": lambda: two.prefill(PREFILL_TOKENS),
        "peak one": lambda: _core.limits.float_peak(1, one.isa),
        "peak two": lambda: _core.limits.float_peak(2, one.isa),
    }
    _, samples = medians(jobs, options.repeats)
    mine, loop = ratio(samples, "two", "one"), ratio(samples, "peak two", "peak one")
    text = f"prefill × {mine:.2f}, FMA loop × {loop:.2f}"
    return [row("1 → 2 threads, of the FMA loop's", mine / loop, 0.93, text=text, samples=samples)]


def _threads_rows(options: argparse.Namespace, more: int, fewer: int, where: str, bar: float) -> list[Row]:
    model = _few_layers(options)
    many, few = Running(model, more), Running(model, fewer)
    rows = []
    for kind in ("decode", "prefill"):
        _, samples = medians({"many": getattr(many, kind), "few": getattr(few, kind)}, options.repeats)
        text = f"{samples['many']['median']:.0f} against {samples['few']['median']:.0f} tok/s"
        what = f"{kind}, {more} threads over {fewer}, {where}"
        rows.append(row(what, ratio(samples, "many", "few"), bar, text=text, samples=samples))
    return rows


def measure_one_cpu(options: argparse.Namespace) -> list[Row]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return _threads_rows(options, 2, 1, "1 CPU allowed", 0.9)


def measure_eight(options: argparse.Namespace) -> list[Row]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    return _threads_rows(options, 8, 2, f"{len(os.sched_getaffinity(0))} CPUs allowed", 0.95)


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread of the host that computes in Python and never waits."""
    stop = threading.Event()

    def spin() -> None:
        x = 0
        while not stop.is_set():
            for _ in range(1000):
                x += 1

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure_busy(options: argparse.Namespace) -> list[Row]:
    """Decode beside such a thread. It takes a CPU, so one thread fewer than CPUs shows what the GIL costs."""
    model = _few_layers(options)
    n_cpus = len(os.sched_getaffinity(0))
    rows = []
    for n_threads in sorted({max(n_cpus - 1, 1), n_cpus}, reverse=True):
        running = Running(model, n_threads)

        def beside(running: Running = running) -> float:
            with busy_thread():
                return running.decode(4 * NEW_TOKENS)

        jobs = {"alone": lambda r=running: r.decode(4 * NEW_TOKENS), "beside": beside}
        _, samples = medians(jobs, options.repeats)
        text = f"{samples['beside']['median']:.0f} against {samples['alone']['median']:.0f} tok/s"
        what = f"decode, {n_threads} threads on {n_cpus} CPUs, beside a busy Python thread"
        bar = 0.85 if n_threads == n_cpus else None
        rows.append(row(what, ratio(samples, "beside", "alone"), bar, text=text, samples=samples))
    return rows


# --- the command --------------------------------------------------------------------------------------------

# Each in a process of its own: the thread pool reads the affinity mask once.
PROCESSES: list[tuple[tuple[str, ...], Callable[[argparse.Namespace], list[Row]]]] = [
    (("decode", "prefill"), measure_quantized),
    (("float",), measure_float),
    (("scaling",), measure_scaling),
    (("one_cpu",), measure_one_cpu),
    (("eight",), measure_eight),
    (("busy",), measure_busy),
]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default=",".join(KINDS), help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--format", default="q4_0", choices=sorted(random_model.BLOCKS))
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--float-layers", type=int, default=22, help="4.2 GB of memory at 22")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(KINDS):
        parser.error(f"--only: {', '.join(sorted(unknown))}")
    return options


def _in_a_process(kinds: list[str], arguments: list[str]) -> list[Row]:
    command = [sys.executable, __file__, *arguments, "--only", ",".join(kinds), "--here"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[Row] = json.loads(done.stdout)
    return rows


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = _options(given)
    rows: list[Row] = []
    for kinds, measure in PROCESSES:
        wanted = [kind for kind in kinds if kind in options.only]
        if not wanted:
            continue
        if options.here:
            print(json.dumps(measure(options)))
            return 0
        found = _in_a_process(wanted, given)
        show(found)
        rows += found
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 1 if options.check and missed(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
