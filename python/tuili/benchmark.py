"""How fast a model runs here, next to what this computer could do: `tuili bench`.

It measures and judges nothing; every rate comes with its spread, because on a shared machine a number alone
looks like a fact.
"""

from __future__ import annotations

import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tuili import __version__, _core
from tuili.doctor import cpu_name

if TYPE_CHECKING:
    from tuili.llm import LLM

Progress = Callable[[int, int, str], None]
Latencies = dict[str, list[float]]  # milliseconds of each run

READ_BYTES = 1 << 29  # far more than any cache holds
GEMM_SIZE = 1536
EMBED_TEXTS = 64
EMBED_WORDS = ("the", "river", "flows", "past", "an", "old", "house", "where", "nobody", "has", "lived")


def measure(
    make: Callable[[], LLM], *, repeats: int, n_prompt: int, n_new: int, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Load a model and run it; rates as {"median", "min", "max", "spread"}, see `summary`.

    make  opens the model without prefix caching, which would make repeated prompts free
    """
    start = time.perf_counter()
    llm = make()
    load_s = time.perf_counter() - start
    with llm:
        result: dict[str, Any] = {
            "tuili": __version__,
            "cpu": cpu_name(),
            "isa": llm.config["isa"],
            "threads": llm.config["num_threads"],
            "model": llm.config["architecture"],
            "weight_bytes": llm.memory["weights"],
            "load_s": load_s,
        }
        latencies: Latencies = {}
        if llm.kind == "encoder":
            jobs = _encoder_jobs(llm, latencies)
        else:
            jobs = _decoder_jobs(llm, n_prompt, n_new, latencies)
        result |= _run(jobs, repeats, on_progress)
        result |= {name: summary(values[1:]) for name, values in latencies.items()}  # the first run warms up
        result["peak_memory_bytes"] = peak_memory()
        limits: dict[str, Callable[[], float]] = {
            "read_gb_s": lambda: read_bandwidth(llm.config["num_threads"]) / 1e9,
            "gemm_gflop_s": lambda: gemm_rate() / 1e9,
        }
        result |= _run(limits, repeats, on_progress)
        if llm.kind == "decoder":
            result |= _shares(llm, result)
    return result


def _run(
    jobs: dict[str, Callable[[], float]], repeats: int, on_progress: Progress | None
) -> dict[str, dict[str, float]]:
    results = {}
    for i, (name, job) in enumerate(jobs.items()):
        job()  # warm caches, pages, branch predictors
        runs = []
        for run in range(repeats):
            if on_progress is not None:
                on_progress(i * repeats + run, len(jobs) * repeats, name)
            runs.append(job())
        results[name] = summary(runs)
    if on_progress is not None:
        on_progress(1, 1, "")
    return results


def summary(runs: list[float]) -> dict[str, float]:
    """Median, extremes, and spread = (max - min) / median."""
    median = statistics.median(runs)
    return {"median": median, "min": min(runs), "max": max(runs), "spread": (max(runs) - min(runs)) / median}


def _decoder_jobs(
    llm: LLM, n_prompt: int, n_new: int, latencies: Latencies
) -> dict[str, Callable[[], float]]:
    """Rates in tokens per second; `latencies` gets those of the first token and of each further one."""
    n_vocab = llm.config["n_vocab"]
    n_prompt = min(n_prompt, llm.config["max_model_len"] - 1)
    ids = np.random.default_rng(0).integers(0, n_vocab, n_prompt)

    def prefill() -> float:
        metrics = llm.generate(ids.tolist(), max_tokens=1, ignore_eos=True).metrics
        latencies.setdefault("first_token_ms", []).append(1e3 * (metrics["first_token_s"] or 0.0))
        return n_prompt / (metrics["prefill_s"] or 1e-9)

    def decode() -> float:
        out = llm.generate(ids[:8].tolist(), max_tokens=n_new, ignore_eos=True)
        rate = (len(out.outputs[0].token_ids) - 1) / (out.metrics["decode_s"] or 1e-9)
        latencies.setdefault("next_token_ms", []).append(1e3 / rate)
        return rate

    return {"prefill_tok_s": prefill, "decode_tok_s": decode}


def _encoder_jobs(llm: LLM, latencies: Latencies) -> dict[str, Callable[[], float]]:
    """Rates in texts per second; `latencies` gets that of a text alone."""
    texts = [" ".join(EMBED_WORDS[i % 7 :] + EMBED_WORDS[: i % 5]) for i in range(EMBED_TEXTS)]

    def embed() -> float:
        start = time.perf_counter()
        llm.embed(texts, truncation=True)
        return EMBED_TEXTS / (time.perf_counter() - start)

    def embed_one() -> float:
        start = time.perf_counter()
        llm.embed(texts[0], truncation=True)
        seconds = time.perf_counter() - start
        latencies.setdefault("text_ms", []).append(1e3 * seconds)
        return 1 / seconds

    return {"texts_s": embed, "single_texts_s": embed_one}


def _shares(llm: LLM, result: dict[str, Any]) -> dict[str, float]:
    """Of the machine's limits, what was reached.

    decode   bytes of weights read per second / read bandwidth; counts an untied embedding, of which one row
             is read
    prefill  2 · parameters · tokens per second / GEMM rate of numpy's BLAS in float32 (integer units may
             exceed it)
    """
    model = llm._loaded.model
    read = result["decode_tok_s"]["median"] * model.weight_bytes / 1e9
    compute = 2 * result["prefill_tok_s"]["median"] * model.n_parameters / 1e9
    return {
        "decode_share_of_read": read / result["read_gb_s"]["median"],
        "prefill_share_of_gemm": compute / result["gemm_gflop_s"]["median"],
    }


# --- the machine --------------------------------------------------------------------------------------------


def read_bandwidth(n_threads: int) -> float:
    """Bytes per second that so many threads read together from memory, by numpy's sum over 512 MiB."""
    block = np.ones(READ_BYTES // 8, dtype=np.float64)
    parts = np.array_split(block, n_threads)
    barrier = threading.Barrier(n_threads + 1)

    def read(part: np.ndarray) -> None:
        barrier.wait()
        np.add.reduce(part)

    threads = [threading.Thread(target=read, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return block.nbytes / (time.perf_counter() - start)


def gemm_rate() -> float:
    """Floating-point operations per second of numpy's float32 matrix product."""
    x = np.ones((GEMM_SIZE, GEMM_SIZE), dtype=np.float32)
    start = time.perf_counter()
    np.matmul(x, x)
    return 2 * GEMM_SIZE**3 / (time.perf_counter() - start)


def peak_memory() -> int:
    """Most bytes that this process has had resident."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_LABELS = {
    "prefill_tok_s": "prefill, tok/s",
    "decode_tok_s": "decode, tok/s",
    "texts_s": "texts/s in batches",
    "single_texts_s": "texts/s one by one",
    "first_token_ms": "first token, ms",
    "next_token_ms": "next token, ms",
    "text_ms": "a text alone, ms",
    "read_gb_s": "machine: read, GB/s",
    "gemm_gflop_s": "machine: GEMM, GFLOP/s",
}


def table(result: dict[str, Any]) -> str:
    """The measurements as lines."""
    lines = [
        f"{result['model']} on {result['cpu']}, {result['isa']}, {result['threads']} threads",
        f"{'load':<24} {result['load_s']:.2f} s",
        f"{'weights':<24} {result['weight_bytes'] / 2**20:.0f} MiB",
        f"{'peak memory':<24} {result['peak_memory_bytes'] / 2**20:.0f} MiB",
    ]
    for name, label in _LABELS.items():
        if name in result:
            rate = result[name]
            lines.append(f"{label:<24} {rate['median']:.1f}  [{rate['min']:.1f} – {rate['max']:.1f}]")
    if "decode_share_of_read" in result:
        lines.append(f"{'decode, of read':<24} {100 * result['decode_share_of_read']:.0f} %")
        lines.append(f"{'prefill, of GEMM':<24} {100 * result['prefill_share_of_gemm']:.0f} %")
    lines.append(f"isa tables: {', '.join(_core.available_isas())}")
    return "\n".join(lines)
