"""Memory that runs out at any moment is a typed error, loses nothing, and ends no engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_engine import drain, is_idle, make_engine, sampling
from tiny_files import write_hf_folder
from tiny_models import tiny_llama
from tuili import EngineOutOfMemoryError

TESTS = Path(__file__).parent


class Full:
    """A pool that has no memory to give a sequence blocks."""

    def __init__(self, pool: object) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)

    def grow(self, *_: object) -> bool:
        raise EngineOutOfMemoryError("no memory")


def test_memory_that_runs_out_in_an_admission_leaves_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither blocks that it shares nor its place in the queue."""
    engine, ids = make_engine(), [1] * 40
    engine.submit(ids, sampling(max_tokens=2))
    drain(engine)

    def full(*_: object) -> None:
        raise EngineOutOfMemoryError("no memory")

    for name, broken in (("_pool", Full(engine._pool)), ("_add_chunk", full)):
        with monkeypatch.context() as patch:
            patch.setattr(engine.scheduler, name, broken)
            handle = engine.submit(ids, sampling(max_tokens=2))
            engine.step()
        with pytest.raises(EngineOutOfMemoryError):
            handle.result(0)
        drain(engine)
        assert is_idle(engine), name


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads a library for glibc")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_each_allocation_may_fail(tmp_path: Path) -> None:
    """Of a load, of an engine that is made, of submissions and their steps, of blocks that are shared, of a
    step, of an encoder's batch."""
    library = tmp_path / "failing_memory.so"
    source = TESTS / "failing_memory.cc"
    subprocess.run(
        ["g++", "-std=c++20", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True
    )
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, TESTS / "memory_sweep.py", library]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("'typed': ") == 8


SHORT_OF_MEMORY = """
import importlib, os, resource, signal, sys
import tuili.llm

def life():
    with tuili.LLM(sys.argv[1], packed_cache=False, num_threads=2, kv_cache_bytes=1 << 20) as llm:
        llm.generate(["the cat", "a"], max_tokens=8)
        list(llm.stream("the", max_tokens=3))

reading, writing = os.pipe()
if not os.fork():  # to import what a life does before memory is short
    life()
    os.write(writing, " ".join(sys.modules).encode())
    os._exit(0)
os.close(writing)
for name in open(reading).read().split():
    importlib.import_module(name)

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for mebibytes in sys.argv[2:]:
    child = os.fork()
    if not child:
        signal.alarm(60)
        resource.setrlimit(resource.RLIMIT_AS, (used + int(float(mebibytes) * 2**20), -1))
        try:
            life()
            end = 10
        except (tuili.TuiliError, MemoryError):  # the latter may be Python's own, of any line
            end = 11
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        life()
        os._exit(end)
    _, status = os.waitpid(child, 0)
    print(mebibytes, os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
@pytest.mark.parametrize(
    "step", [pytest.param(3.0, id="some"), pytest.param(1 / 16, id="many", marks=pytest.mark.slow)]
)
def test_a_process_with_little_memory_left_neither_ends_nor_hangs(tmp_path: Path, step: float) -> None:
    """Threads need some, too, where Python or the C library takes no refusal."""
    folder = write_hf_folder(tiny_llama(), tmp_path / "model")
    sizes = [str(step * i) for i in range(int(30 / step))]
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(folder), *sizes]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    ends = dict(line.split() for line in answer.stdout.splitlines())
    assert set(ends.values()) == {"10", "11"}, (ends, answer.stderr)
