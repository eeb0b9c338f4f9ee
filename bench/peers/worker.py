"""A peer's process: requests as JSON lines on stdin, one answer line each on stdout.

    {"convert": {source, target, variant}}                -> {"done": true}
    {"open": {model, variant, threads, options}}          -> {"version": …}
    {"run": "prefill", n_prompt, seed}                    -> {"value": tok/s}
    {"run": "decode", depth, n_new, seed}                 -> {"value": tok/s}
    {"run": "decode_batch", n_seqs, n_prompt, n_new, seed}      -> {"value": tok/s}
    {"run": "latency", n_tokens, n_calls, seed}           -> {"value": p50 in ms}
    {"run": "throughput", n_texts, shortest, longest, seed}     -> {"value": texts/s}
    {"run": "vectors", n_texts, shortest, longest, seed}  -> {"value": rows of numbers}

Whatever goes wrong is answered as {"error": …}. The first run of each kind is done twice, as warm-up.
Run as `python -m peers.worker MODULE`.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import inputs

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
WARM_TOKENS = 8  # a warm-up decodes so many


class Worker:
    def __init__(self, module: str) -> None:
        self._module = importlib.import_module(module if "." in module else f"peers.{module}")
        self._opened: Any = None
        self._tokenizer_json = Path()
        self._warm: set[str] = set()
        self._seeds = inputs.seeds()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if "convert" in request:
            paths = {name: Path(request["convert"][name]) for name in ("source", "target")}
            self._module.convert(**paths, variant=request["convert"]["variant"])
            return {"done": True}
        if "open" in request:
            options = dict(request["open"])
            options["model"] = Path(options["model"])
            self._tokenizer_json = Path(options.pop("tokenizer_json", ""))
            self._opened = self._module.open(**options)
            return {"version": self._module.version()}
        return {"value": self._run(**request)}

    def _run(self, run: str, *, seed: int, **sizes: int) -> Any:
        kind = f"{run} {sorted(sizes.items())}"
        if kind not in self._warm and not getattr(self._module, "WARMS_UP", False):
            n_new = {"n_new": WARM_TOKENS} if "n_new" in sizes else {}
            self._call(run, seed=next(self._seeds), **sizes | n_new)
            self._warm.add(kind)
        return self._call(run, seed=seed, **sizes)

    def _call(self, run: str, **sizes: int) -> Any:
        own = {"latency": self._latency, "throughput": self._throughput, "vectors": self._vectors}
        return own[run](**sizes) if run in own else getattr(self._opened, run)(**sizes)

    def _latency(self, n_tokens: int, n_calls: int, seed: int) -> float:
        """Median milliseconds of one text."""
        texts = [inputs.text(self._tokenizer_json, n_tokens, seed, i) for i in range(n_calls)]
        times = []
        for one in texts:
            start = time.perf_counter()
            self._opened.embed([one])
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times)

    def _throughput(self, n_texts: int, shortest: int, longest: int, seed: int) -> float:
        """Texts per second of one call."""
        texts = inputs.mixed_texts(self._tokenizer_json, n_texts, shortest, longest, seed)
        start = time.perf_counter()
        self._opened.embed(texts)
        return n_texts / (time.perf_counter() - start)

    def _vectors(self, n_texts: int, shortest: int, longest: int, seed: int) -> list[list[float]]:
        texts = inputs.mixed_texts(self._tokenizer_json, n_texts, shortest, longest, seed)
        return [[float(x) for x in row] for row in self._opened.embed(texts)]


def _end_with_parent() -> None:
    """On Linux: a stopped process would outlive a parent that was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    _end_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an engine prints must not come between the answers
    worker: Worker | None = None
    for line in sys.stdin:
        try:
            worker = worker or Worker(sys.argv[1])
            answer = worker.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
