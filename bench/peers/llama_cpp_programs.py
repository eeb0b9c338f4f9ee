"""llama.cpp by its own programs llama-bench and llama-batched-bench, or else by llama-cpp-python.

options  "llama_bench", "llama_batched_bench": paths of the programs; by default those on PATH
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

WARMS_UP = True  # the programs do, in each call
UBATCH = 512  # the programs' default


def version() -> str:
    return "llama.cpp (" + ", ".join(sorted(_used)) + ")"


_used: set[str] = set()


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Any:
    single = options.get("llama_bench") or shutil.which("llama-bench")
    batched = options.get("llama_batched_bench") or shutil.which("llama-batched-bench")
    if single and batched:
        _used.update(("llama-bench", "llama-batched-bench"))
        return Programs(model, threads, Path(single), Path(batched))
    from .llama_cpp_library import Library

    _used.add("llama-cpp-python")
    return Library(model, threads)


class Programs:
    """A call starts a program, which loads the model, warms up, and times one run."""

    def __init__(self, model: Path, threads: int, single: Path, batched: Path) -> None:
        self._model, self._threads = model, str(threads)
        self._single, self._batched = single, batched

    def prefill(self, n_prompt: int, seed: int) -> float:
        return self._bench("-p", n_prompt, "-n", 0, "-d", 0)

    def decode(self, depth: int, n_new: int, seed: int) -> float:
        return self._bench("-p", 0, "-n", n_new, "-d", depth)

    def decode_batch(self, n_seqs: int, n_prompt: int, n_new: int, seed: int) -> float:
        context = n_seqs * (n_prompt + n_new)
        sizes = ["-npp", n_prompt, "-ntg", n_new, "-npl", n_seqs, "-c", context, "-b", 2048, "-ub", UBATCH]
        threads = ["-t", self._threads, "-tb", self._threads]
        output = self._call(self._batched, *sizes, *threads, "--output-format", "jsonl")
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        if not rows:
            raise RuntimeError("llama-batched-bench printed no result")
        return float(rows[-1]["speed_tg"])

    def _bench(self, *sizes: Any) -> float:
        output = self._call(self._single, *sizes, "-t", self._threads, "-r", 1, "-o", "json")
        (row,) = json.loads(output)
        return float(row["samples_ts"][0])

    def _call(self, program: Path, *arguments: Any) -> str:
        command = [str(program), "-m", str(self._model), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"{program.name} ended with {done.returncode}: {last}")
        return done.stdout
