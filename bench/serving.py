"""Many callers on one engine: throughput, latency, deadlines under overload, the cost of a step.

    python bench/serving.py                        everything, some minutes
    python bench/serving.py --only throughput,overload --rounds 5
    python bench/serving.py --check                exit code 1 if a bar is missed

The model is SmolLM2-135M-Instruct. Prompts are random ids, new in each call. All goes through `LLM.submit`,
except where a rate of the kernels is measured: there the same batch is given to the runner directly.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from load import Watch
from overload import measure_overload
from peers import llama_cpp_programs
from peers.inputs import prompt_ids
from verdicts import Row, at_least, at_most, missed, show

from tuili import LLM, _core
from tuili.generation.request import Handle
from tuili.loading import store

MODEL = "smollm2-135m-instruct"
DISTURBED = 0.1  # processors used by others, of which it is said that they were
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
N_STREAMS, N_PROMPT, N_NEW = 16, 128, 64


def opened(**options: Any) -> LLM:
    return LLM(MODEL, num_threads=2, **options)


# --- throughput ---------------------------------------------------------------------------------------------


def measure_throughput(rounds: int, peer: Path | None = None) -> list[Row]:
    """Decode rate of 16 streams, each read by a thread of its own, and that of the runner on such a batch.

    peer  llama-batched-bench, to be measured on the same model
    """
    peers = []
    with opened(prefill_chunk=(N_STREAMS + 4) * N_PROMPT, enable_prefix_caching=False) as llm:
        streams, kernels = [], []
        for i in range(rounds + 1):
            streams.append(_streams_rate(llm, i))
            kernels.append(_kernel_rate(llm, i))
            if peer is not None:
                programs = llama_cpp_programs.Programs(Path(store.pull(MODEL)), 2, peer, peer)
                peers.append(programs.decode_batch(N_STREAMS, N_PROMPT, N_NEW, i))
    ratios = [a / b for a, b in zip(streams[1:], kernels[1:], strict=True)]
    text = f"{statistics.median(streams[1:]):.0f} of {statistics.median(kernels[1:]):.0f} tok/s"
    rows = [at_least("16 streams, of the kernels' rate", statistics.median(ratios), 0.9, "", text, ratios)]
    if peers:
        against = [a / b for a, b in zip(streams[1:], peers[1:], strict=True)]
        text = f"{statistics.median(peers[1:]):.0f} tok/s of llama-batched-bench"
        rows.append(
            at_least("… of llama.cpp's batched decode", statistics.median(against), None, "×", text, against)
        )
    return rows


def _streams_rate(llm: LLM, seed: int) -> float:
    """Tokens per second between the first of all first tokens and the last token of all. The prompts wait
    while another one is computed, so that they begin together.
    """
    blocker = llm.submit(prompt_ids(512, seed, N_STREAMS), max_tokens=1, **GREEDY)
    handles = [
        llm.submit(prompt_ids(N_PROMPT, seed, i), max_tokens=N_NEW + 1, **GREEDY) for i in range(N_STREAMS)
    ]
    _read(handles)
    blocker.result()
    metrics = [handle.result().metrics for handle in handles]
    begin = min(one["first_token_time"] or 0.0 for one in metrics)
    return N_STREAMS * N_NEW / (max(one["finished_time"] or 0.0 for one in metrics) - begin)


def _read(handles: list[Handle]) -> list[list[float]]:
    """When each chunk of each stream came, each stream read by a thread."""
    chunks: list[list[float]] = [[] for _ in handles]

    def read(handle: Handle, seen: list[float]) -> None:
        for _ in handle:
            seen.append(time.monotonic())

    threads = [threading.Thread(target=read, args=both) for both in zip(handles, chunks, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return chunks


def _kernel_rate(llm: LLM, seed: int) -> float:
    """The same batch in the runner, without engine and text."""
    model = llm.loaded.model
    n_blocks = N_STREAMS * -(-(N_PROMPT + N_NEW + 1) // 32)
    cache = _core.KvCache(model.spec, n_blocks, 32, "float16")
    n_tokens = N_STREAMS * N_PROMPT
    runner = _core.Runner(model, cache, max_batch_tokens=n_tokens, max_seqs=N_STREAMS, num_threads=2)
    pool = _core.BlockPool(n_blocks, 32, prefix_cache=False)
    sequences = [_core.Sequence(np.array(prompt_ids(N_PROMPT, seed, i), np.int32)) for i in range(N_STREAMS)]
    for sequence in sequences:
        assert pool.grow(sequence, N_PROMPT + N_NEW)
    runner.step(sequences, [N_PROMPT] * N_STREAMS, [True] * N_STREAMS)
    begin = time.monotonic()
    assert runner.run(sequences, max_steps=N_NEW, max_s=1e9).n_steps == N_NEW
    return N_STREAMS * N_NEW / (time.monotonic() - begin)


# --- latency ------------------------------------------------------------------------------------------------

N_DECODING, LONG_PROMPT, EVERY_S = 8, 2000, 1.0


def measure_latency(rounds: int) -> list[Row]:
    """Gaps between chunks of 8 streams while prompts of 2,000 tokens arrive, and while none do."""
    rows = []
    with opened() as llm:
        for what, bar, options in (("", 3.0, {}), (", each token delivered alone", None, {"logprobs": 0})):
            quiet, busy = [], []
            for i in range(rounds + 1):
                quiet.append(_p99_gap(llm, 2 * i, 0, options))
                busy.append(_p99_gap(llm, 2 * i + 1, 3, options))
            ratios = [b / q for q, b in zip(quiet[1:], busy[1:], strict=True)]
            p99, before = (1e3 * statistics.median(gaps[1:]) for gaps in (busy, quiet))
            text = f"p99 {p99:.1f} against {before:.1f} ms"
            what = f"gaps beside 2,000-token prompts{what}"
            rows.append(at_most(what, statistics.median(ratios), bar, "×", text, ratios))
    return rows


def _p99_gap(llm: LLM, seed: int, n_prompts: int, options: dict[str, Any]) -> float:
    """Of all gaps between two chunks while the prompts are computed, or for as long without them."""
    handles = [
        llm.submit(prompt_ids(N_PROMPT, seed, i), max_tokens=2000, **GREEDY, **options)
        for i in range(N_DECODING)
    ]
    chunks: list[list[float]] = []
    reader = threading.Thread(target=lambda: chunks.extend(_read(handles)))
    reader.start()
    while not all(handle._request.times.first_token for handle in handles):
        time.sleep(0.01)
    time.sleep(0.3)
    begin = time.monotonic()
    prompts = []
    for i in range(n_prompts):
        prompts.append(llm.submit(prompt_ids(LONG_PROMPT, seed, 100 + i), max_tokens=1, **GREEDY))
        time.sleep(EVERY_S)
    for prompt in prompts:
        prompt.result()
    if not prompts:
        time.sleep(2 * EVERY_S)
    end = time.monotonic()
    for handle in handles:
        handle.abort()
    reader.join()
    gaps = [b - a for stream in chunks for a, b in itertools.pairwise(stream) if begin <= a and b <= end]
    return float(np.quantile(gaps, 0.99))


# --- prefix hits --------------------------------------------------------------------------------------------

PREFIX = 512


def measure_prefix(rounds: int) -> list[Row]:
    """Time to the first token of 512 tokens and a question, when others asked about these 512 before."""
    with opened() as llm:
        cold, hit = [], []
        for i in range(2 * rounds + 1):
            for times in (cold, hit):
                ids = [*prompt_ids(PREFIX, i), *prompt_ids(16, i, 1 + (times is hit))]
                times.append(llm.generate(ids, max_tokens=1, **GREEDY).metrics["first_token_s"] or 0.0)
    ratios = [h / c for c, h in zip(cold[1:], hit[1:], strict=True)]
    text = f"{1e3 * statistics.median(hit[1:]):.1f} against {1e3 * statistics.median(cold[1:]):.1f} ms"
    return [at_most("first token after a 512-token hit", statistics.median(ratios), 0.2, "", text, ratios)]


# --- the engine's own time ----------------------------------------------------------------------------------


class Stopwatch:
    """A runner that knows how much of its thread's time it took."""

    def __init__(self, runner: Any) -> None:
        self._runner, self.inside_ns, self.interrupt = runner, 0, runner.interrupt

    def step(self, *arguments: Any) -> Any:
        begin = time.thread_time_ns()
        result = self._runner.step(*arguments)
        self.inside_ns += time.thread_time_ns() - begin
        return result


WHY_LOOK = {"a stop string": {"stop": "\0\0"}, "log-probabilities": {"logprobs": 0}}


def measure_overhead(rounds: int) -> list[Row]:
    """What a step takes of its thread outside the runner, when every step returns to Python."""
    rows = []
    for n_rows in (1, 16, 64):
        for why, options in WHY_LOOK.items():
            with opened(max_num_seqs=n_rows) as llm:
                steps = [ns / 1e3 for ns in _own_ns(llm, n_rows, 20 * rounds, options)]
            median, bar = statistics.median(steps), 100 + 8 * n_rows
            text = f"{median / n_rows:.1f} µs for each row"
            rows.append(at_most(f"plan + deliver, {n_rows} rows, {why}", median, bar, "µs", text, steps))
    return rows


def _own_ns(llm: LLM, n_rows: int, n_steps: int, options: dict[str, Any]) -> list[int]:
    """Per step, when all rows decode tokens whose text is known: it is made when a token comes first."""
    engine = llm._decoder_engine()
    engine._start_thread = False
    engine._runner = watch = Stopwatch(engine._runner)  # type: ignore[assignment]
    own: list[int] = []
    for _ in range(2):
        prompts = [prompt_ids(8, 0, i) for i in range(n_rows)]
        handles = [llm.submit(ids, max_tokens=n_steps + 7, **options, **GREEDY) for ids in prompts]
        own.clear()
        while not all(handle.done for handle in handles):
            watch.inside_ns, begin = 0, time.thread_time_ns()
            engine.step()
            own.append(time.thread_time_ns() - begin - watch.inside_ns)
    return own[5:-2]


# --- the command --------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[..., list[Row]]] = {
    "throughput": measure_throughput,
    "latency": measure_latency,
    "prefix": measure_prefix,
    "overload": lambda rounds: measure_overload(opened, rounds),
    "overhead": measure_overhead,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default=",".join(KINDS), help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "--llama-batched-bench", type=Path, metavar="PROGRAM", help="measured beside the streams"
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    kinds = options.only.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--only: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    for kind in kinds:
        with Watch(os.getpid()) as watch:
            peer = {"peer": options.llama_batched_bench} if kind == "throughput" else {}
            found = KINDS[kind](options.rounds, **peer)
        show(found)
        if watch.outside is not None and watch.outside > DISTURBED:
            print(f"  disturbed: others used {watch.outside:.2f} processors meanwhile", flush=True)
        rows += found
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 1 if options.check and missed(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
