"""What HTTP costs: 16 streams over `tuili serve`, and the same requests in this process.

    python bench/serve.py [--rounds 5] [--check]
    python bench/serve.py --peer "llama-server -m MODEL.gguf --port {port} -np 16 -c 4096 -t 2"

Rounds are interleaved, prompts are random ids and new each time, both sides decode greedily and on. A peer is
any other server of OpenAI's /v1/completions; it reads the same prompts. Gaps are those between two events of
a stream: tuili puts up to 8 tokens, or what 0.03 s bring, into one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from http_streams import Read, ServerProcess, ask_all, free_port, percentile, tuili_command
from peers.inputs import prompt_ids
from verdicts import Row, at_least, at_most, missed, show

from tuili import LLM

MODEL = "smollm2-135m-instruct"
N_STREAMS, N_PROMPT, N_NEW = 16, 128, 64
OPTIONS = {"max_model_len": 1024, "kv_cache_bytes": 256 << 20, "num_threads": 2}
COMMAND = ("--max-model-len", "1024", "--kv-cache-bytes", str(256 << 20), "--threads", "2")
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


@dataclass(frozen=True)
class Round:
    """One side's run: tokens per second, seconds to the first token, gaps, processor seconds of each."""

    rate: float
    first_s: list[float]
    gaps: list[float]
    cpu_s: tuple[float, ...]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=N_STREAMS)
    parser.add_argument("--peer", help="a command that serves on {port}")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a bar is missed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds, arguments.streams, arguments.peer)
    print(json.dumps(rows)) if arguments.json else show(rows)
    return 1 if arguments.check and missed(rows) else 0


def measure(rounds: int, n_streams: int, peer: str | None) -> list[Row]:
    port, peer_port = free_port(), free_port()
    commands = {"http": (tuili_command(MODEL, port, *COMMAND), port)}
    if peer is not None:
        commands["peer"] = (shlex.split(peer.replace("{port}", str(peer_port))), peer_port)
    servers = {name: ServerProcess(*command) for name, command in commands.items()}
    try:
        with LLM(MODEL, **OPTIONS) as llm:
            runs: dict[str, list[Round]] = {"in process": [], **{name: [] for name in servers}}
            alone: dict[str, list[float]] = {name: [] for name in runs}
            for i in range(rounds + 1):
                runs["in process"].append(_in_process(llm, i, n_streams))
                alone["in process"].append(_in_process(llm, 1000 + i, 1).first_s[0])
                for name, server in servers.items():
                    runs[name].append(_over_http(server, i, n_streams))
                    alone[name].append(_over_http(server, 1000 + i, 1).first_s[0])
    finally:
        for server in servers.values():
            server.__exit__(None, None, None)
    return _rows({name: some[1:] for name, some in runs.items()}, {n: some[1:] for n, some in alone.items()})


def _in_process(llm: LLM, seed: int, n_streams: int) -> Round:
    """Each stream is read by a thread."""
    reads = [Read(0.0) for _ in range(n_streams)]

    def read(i: int) -> None:
        reads[i].asked = time.monotonic()
        for chunk in llm.stream(prompt_ids(N_PROMPT, seed, i), max_tokens=N_NEW, **GREEDY):
            if chunk.text:
                reads[i].events.append(time.monotonic())
            reads[i].n_tokens += len(chunk.token_ids)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(n_streams)]
    cpu = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _round(reads, (time.process_time() - cpu,))


def _over_http(server: ServerProcess, seed: int, n_streams: int) -> Round:
    bodies = [
        {
            "prompt": prompt_ids(N_PROMPT, seed, i),
            "max_tokens": N_NEW,
            "stream": True,
            "stream_options": {"include_usage": True},
            **GREEDY,
        }
        for i in range(n_streams)
    ]
    cpu, server_cpu = time.process_time(), server.cpu_s()
    reads = asyncio.run(ask_all(server.port, "/v1/completions", bodies))
    return _round(reads, (server.cpu_s() - server_cpu, time.process_time() - cpu))


def _round(reads: list[Read], cpu_s: tuple[float, ...]) -> Round:
    begin, end = min(read.asked for read in reads), max(read.events[-1] for read in reads)
    gaps = [gap for read in reads for gap in read.gaps]
    return Round(
        sum(read.n_tokens for read in reads) / (end - begin), [r.first_s for r in reads], gaps, cpu_s
    )


def _rows(runs: dict[str, list[Round]], alone: dict[str, list[float]]) -> list[Row]:
    rows: list[Row] = []
    own = runs["in process"]
    ratios = [a.rate / b.rate for a, b in zip(runs["http"], own, strict=True)]
    rows.append(at_least("HTTP's rate by that in process", statistics.median(ratios), 0.8, "", "", ratios))
    extra = [1000 * (a - b) for a, b in zip(alone["http"], alone["in process"], strict=True)]
    rows.append(at_most("first token, more than in process", statistics.median(extra), 5.0, "ms", "", extra))
    for name, some in runs.items():
        rates = [one.rate for one in some]
        parts = [one.cpu_s for one in some]
        cpu = " + ".join(f"{statistics.median(part):.2f} s" for part in zip(*parts, strict=True))
        whose = "server + readers" if name != "in process" else "all"
        text = f"processors: {cpu} ({whose})"
        rows.append(at_least(f"{name}: all streams", statistics.median(rates), None, "tok/s", text, rates))
        first = [1000 * seconds for one in some for seconds in one.first_s]
        text = f"p99 {percentile(first, 0.99):.0f} ms; alone {1000 * statistics.median(alone[name]):.1f} ms"
        rows.append(at_most(f"{name}: first token, p50", percentile(first, 0.5), None, "ms", text, []))
        gaps = [1000 * seconds for one in some for seconds in one.gaps]
        text = f"p99 {percentile(gaps, 0.99):.1f} ms"
        rows.append(at_most(f"{name}: between events, p50", percentile(gaps, 0.5), None, "ms", text, []))
    return rows


if __name__ == "__main__":
    sys.exit(main())
