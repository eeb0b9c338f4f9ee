"""Each allocation of the core fails in turn, while a model is loaded, an engine made, requests computed.

    LD_PRELOAD=failing_memory.so python tests/memory_sweep.py failing_memory.so

Catalogue rows MEM-01, MEM-03. What fails is EngineOutOfMemoryError; afterwards the engine has nothing left of
the requests and answers as before, and no memory is lost. Each failure has a child process of its own. Exit
status 1 where it is not so.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import itertools
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tiny_core import build, built, encode, some_ids
from tiny_engine import codes, counted, counting_model, drain, is_idle, make_engine, sampling
from tiny_files import write_hf_folder
from tiny_models import GEMMA_WINDOW, tiny_llama
from tuili import EngineOutOfMemoryError, _core
from tuili.loading.model import load, plan_model

memory = ctypes.PyDLL(sys.argv[1])
MOST = 2000  # allocations of one act
MOST_PLACES = 8  # where pybind11 cannot do without
PYBIND11 = re.compile(
    r"^(\w+ )?pybind11::|std::.*\b_object\b|^\?\?$"
)  # its functions, in a file with symbols
TYPED, DONE_WITHOUT, NOTHING_FAILED, LOST, WRONG = range(5)  # exit codes of a child


def trial(
    n: int, prepare: Callable[[], Any], act: Callable[[Any], object], check: Callable[[Any], None]
) -> int:
    """In a child: `act` with allocation n failing, then `check`."""
    state = prepare()
    act(state)
    gc.collect()
    before, code = memory.living_allocations(), DONE_WITHOUT
    memory.fail_after(n)
    try:
        act(state)
    except EngineOutOfMemoryError:
        code = TYPED
    failed = memory.allocations_left() < 0
    memory.fail_after(-1)
    if not failed:
        return NOTHING_FAILED
    check(state)
    gc.collect()
    return LOST if memory.living_allocations() > before else code


def end_of_child(*arguments: Any) -> int:
    """The exit code of a trial; negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        code = WRONG
        try:
            code = trial(*arguments)
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def function_of_the_last() -> str:
    """Where the last failing allocation was asked for; "??" in a file without symbols."""
    command = ["addr2line", "-f", "-C", "-e", _core.__file__, hex(memory.place_of_the_last())]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def sweep(name: str, *what: Callable[..., Any]) -> int:
    """`what`: prepare, act, check; returns how many places of pybind11 were found and spared."""
    counts: Counter[str] = Counter()
    numbers = itertools.count()
    n = next(numbers)
    while (end := end_of_child(n, *what)) != NOTHING_FAILED:
        assert n < MOST, f"{name} never ends"
        where = function_of_the_last() if end not in (TYPED, DONE_WITHOUT) else ""
        if end < 0 or end == LOST:
            assert PYBIND11.search(where), f"{name}, {n}: {end} in {where}"
            memory.spare_the_last()
            counts["of pybind11"] += 1
            continue
        assert end != WRONG, f"{name}, allocation {n}, in {where}"
        counts["typed" if end == TYPED else "done without"] += 1
        n = next(numbers)
    print(f"{name}: {dict(counts)}", flush=True)
    assert counts["typed"] > 0
    return counts["of pybind11"]


def nothing(state: object = None) -> None:
    pass


N_BLOCKS, BLOCK = 16, 16


def cached_prefix() -> tuple[_core.BlockPool, list[list[_core.Sequence]]]:
    """A pool that has a prefix in its blocks, those of a window too; pairs of sequences that begin so."""
    windows, ids = {GEMMA_WINDOW: N_BLOCKS}, some_ids(6 * BLOCK)
    pool = _core.BlockPool(N_BLOCKS, BLOCK, windows=windows, step_tokens=BLOCK)
    cache = _core.KvCache(built("gemma3").spec, N_BLOCKS, BLOCK, windows=windows)
    pairs = [[_core.Sequence(ids), _core.Sequence(ids)] for _ in range(2)]
    first, n = _core.Sequence(ids), 4 * BLOCK
    assert pool.grow(first, n)
    cache.write(first, n, n // BLOCK, np.zeros(cache.prefix_bytes(n, n // BLOCK), np.uint8))
    pool.publish(first)
    pool.release(first)
    return pool, pairs


def share_blocks(state: tuple[_core.BlockPool, list[list[_core.Sequence]]]) -> None:
    """What a new sequence finds, what it grows by, and what a fork of it gets."""
    pool, pairs = state
    own, child = pairs.pop()
    try:
        pool.attach_prefix(own)
        pool.grow(own, own.n_tokens)
        pool.fork(child, own, own.n_computed - 1)
    finally:
        pool.release(child)
        pool.release(own)


def all_are_free(state: tuple[_core.BlockPool, list[list[_core.Sequence]]]) -> None:
    pool = state[0]
    pool.check_invariants()
    assert pool.n_free == pool.windows[0].n_free == N_BLOCKS


@dataclasses.dataclass
class FirstSteps:
    """Pairs of sequences whose next step is their first; n_tokens: of a pair, after it."""

    runner: _core.Runner
    pool: _core.BlockPool
    pairs: list[list[_core.Sequence]]
    n_tokens: set[int] = dataclasses.field(default_factory=set)


def first_steps() -> FirstSteps:
    model, ids, pool = built("llama"), some_ids(8), _core.BlockPool(N_BLOCKS, BLOCK, prefix_cache=False)
    pairs = [[_core.Sequence(ids, _core.SamplingParams(n_logprobs=2)) for _ in range(2)] for _ in range(2)]
    for sequence in itertools.chain(*pairs):
        assert pool.grow(sequence, len(ids))
    return FirstSteps(_core.Runner(model, _core.KvCache(model.spec, N_BLOCKS, BLOCK)), pool, pairs)


def step(state: FirstSteps) -> None:
    pair = state.pairs.pop()
    try:
        state.runner.step(pair, [8, 8], [True, True])
    finally:
        state.n_tokens = {sequence.n_tokens for sequence in pair}
        for sequence in pair:
            state.pool.release(sequence)


def all_or_none_have_gone_on(state: FirstSteps) -> None:
    assert len(state.n_tokens) == 1, state.n_tokens


def requests(engine: Any) -> None:
    """Two of them, to their end; raises the error that ended one."""
    errors, handles = [], []
    for params in (sampling(max_tokens=3), sampling(max_tokens=2, n=2, temperature=1.0, seed=1, logprobs=2)):
        try:
            handles.append(engine.submit(codes("ab"), params))
        except EngineOutOfMemoryError as error:
            errors.append(error)
    while engine.step():  # without a look at the ledger, which allocates
        pass
    for handle in handles:
        try:
            handle.result(0)
        except EngineOutOfMemoryError as error:
            errors.append(error)
    handles.clear()
    if errors:
        raise errors[0].with_traceback(None)


def answers(engine: Any) -> None:
    drain(engine)
    assert is_idle(engine)
    handle = engine.submit(codes("ab"), sampling(max_tokens=5))
    drain(engine)
    assert handle.result(0).outputs[0].text == counted("ab", 5)
    assert is_idle(engine)


def main() -> int:
    memory.fail_after(-1)  # makes the page that the children share
    counting_model()
    model, texts = tiny_llama(n_layers=1), [some_ids(9), some_ids(3)]
    expected = encode(built("bert"), texts)[0]

    def vectors(state: object) -> None:
        np.testing.assert_array_equal(encode(built("bert"), texts)[0], expected)

    with tempfile.TemporaryDirectory() as folder:
        write_hf_folder(model, Path(folder))
        gc.freeze()  # the children collect their own objects alone
        n_places = sweep("model", nothing, lambda _: build(model), nothing)
        n_places += sweep("folder", nothing, lambda _: load(plan_model(folder)), nothing)
        n_places += sweep("engine", nothing, lambda _: make_engine(), nothing)
        for num_threads in (1, 2):
            made = lambda n=num_threads: make_engine(n_blocks=12, prefill_chunk=8, num_threads=n)  # noqa: E731
            n_places += sweep(f"requests, {num_threads} threads", made, requests, answers)
        n_places += sweep("blocks", cached_prefix, share_blocks, all_are_free)
        n_places += sweep("step", first_steps, step, all_or_none_have_gone_on)
        n_places += sweep("encoder", nothing, lambda _: encode(built("bert"), texts), vectors)
    assert n_places <= MOST_PLACES, n_places
    return 0


if __name__ == "__main__":
    sys.exit(main())
