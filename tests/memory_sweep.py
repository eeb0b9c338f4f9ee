"""Each allocation of the core fails in turn, while a model is loaded, an engine made, a request computed.

    LD_PRELOAD=failing_memory.so python tests/memory_sweep.py failing_memory.so

Catalogue rows MEM-01, MEM-03. What fails is EngineOutOfMemoryError; afterwards the engine has nothing left of
the requests, answers as before, and no memory is lost. Exit status 1 where that is not so.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tiny_core import build, built, encode, some_ids
from tiny_engine import codes, counted, drain, is_idle, make_engine, sampling
from tiny_files import write_hf_folder
from tiny_models import tiny_llama
from tuili import EngineOutOfMemoryError
from tuili.loading.model import load, plan_model

memory = ctypes.PyDLL(sys.argv[1])
MOST = 3000  # allocations of one act


def sweep(name: str, act: Callable[[], object], check: Callable[[], None]) -> None:
    """`act` with its first allocation failing, its second, and so on, until none is left to fail."""
    act()
    counts: Counter[str] = Counter()
    living = 0
    for n in itertools.count():
        assert n < MOST, f"{name} never ends"
        error: BaseException | None = None
        memory.fail_after(n)
        try:
            act()
        except EngineOutOfMemoryError as failure:
            error = failure.with_traceback(None)
        failed = memory.allocations_left() < 0
        memory.fail_after(-1)
        if not failed:
            break
        counts["typed" if error else "done without"] += 1
        check()
        del error
        gc.collect()
        if n == 0:
            living = memory.living_allocations()
    lost = memory.living_allocations() - living
    print(f"{name}: {dict(counts)}, allocations lost: {lost}", flush=True)
    assert counts["typed"] > 0 and lost <= 8, name


def nothing() -> None:
    pass


def requests_of(engine) -> None:
    """Two requests; raises the error that ended one, after the engine has been found empty."""
    errors, handles = [], []
    for params in (sampling(max_tokens=3), sampling(max_tokens=2, n=2, temperature=1.0, seed=1, logprobs=2)):
        try:
            handles.append(engine.submit(codes("ab"), params))
        except EngineOutOfMemoryError as error:
            errors.append(error)
    drain(engine)
    assert is_idle(engine)
    for handle in handles:
        try:
            handle.result(0)
        except EngineOutOfMemoryError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def answers(engine) -> None:
    handle = engine.submit(codes("ab"), sampling(max_tokens=5))
    drain(engine)
    assert handle.result(0).outputs[0].text == counted("ab", 5)


def main() -> int:
    sweep("model", lambda: build(tiny_llama(n_layers=1)), nothing)
    with tempfile.TemporaryDirectory() as folder:
        write_hf_folder(tiny_llama(n_layers=1), Path(folder))
        sweep("folder", lambda: load(plan_model(folder)), nothing)
    sweep("engine", make_engine, nothing)
    for num_threads in (1, 2):
        engine = make_engine(n_blocks=12, prefill_chunk=8, num_threads=num_threads)
        act = functools.partial(requests_of, engine)
        sweep(f"requests, {num_threads} threads", act, functools.partial(answers, engine))
    model, texts = built("bert"), [some_ids(9), some_ids(3)]
    expected = encode(model, texts)[0]

    def as_before() -> None:
        np.testing.assert_array_equal(encode(model, texts)[0], expected)

    sweep("encoder", lambda: encode(model, texts), as_before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
