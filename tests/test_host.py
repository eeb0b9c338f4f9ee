"""What the host process may do to the library, and the library must not do to it.

Signals, rounding modes, small stacks, one CPU, an unset locale and a deleted folder, second interpreters;
arrays and numbers of the caller's own making; nothing exported, nothing kept.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import tuili
from patience import comes_true
from tiny_engine import codes, drain, is_idle, make_engine, sampling
from tuili import _core
from tuili._core import ops

TESTS = Path(__file__).parent
PACKAGE = Path(tuili.__file__).parent
FE_TONEAREST, FE_UPWARD = 0, {"x86_64": 0x800, "aarch64": 0x400000}


def run(program: str, **options: object) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, with this one's paths."""
    paths = f"import sys; sys.path[:0] = {[str(TESTS), *map(str, sys.path)]!r}\n"
    return subprocess.run(
        [sys.executable, "-c", paths + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def counted() -> str:
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=20))
    drain(engine)
    return handle.result(0).outputs[0].text


def test_bits_do_not_depend_on_the_hosts_rounding_mode():
    libm, machine = ctypes.CDLL("libm.so.6"), __import__("platform").machine()
    x, gain = np.random.default_rng(0).standard_normal((2, 5, 100)).astype(np.float32)
    expected = ops.rms_norm(x, gain[0], 1e-5)
    try:
        assert libm.fesetround(FE_UPWARD[machine]) == 0
        found = ops.rms_norm(x, gain[0], 1e-5)
        text = counted()
        assert libm.fegetround() == FE_UPWARD[machine], "the host's mode is its own"
    finally:
        libm.fesetround(FE_TONEAREST)
    assert np.array_equal(found, expected)
    assert text == counted()


def test_a_storm_of_signals_harms_nothing():
    heard, texts = [], set()

    def asked() -> bool:
        texts.add(engine.submit(codes("a"), sampling(max_tokens=20)).result(60).outputs[0].text)
        return len(heard) > 5

    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        engine = make_engine(start_thread=True, step_s=0.002, num_threads=2)
        assert comes_true(asked), "a storm is more than a few"
        engine.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert texts == {counted()}


def test_a_thread_with_a_small_stack_can_call():
    found = []
    before = threading.stack_size(64 * 1024)
    try:
        thread = threading.Thread(target=lambda: found.append(counted()))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert found == [counted()]


def test_one_allowed_cpu_is_enough_for_many_threads():
    """Eight engines of sixteen threads each."""
    program = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from tiny_engine import *
        engines = [make_engine(start_thread=True, num_threads=16) for _ in range(8)]
        handles = [engine.submit(codes("a"), sampling(max_tokens=30)) for engine in engines]
        texts = {handle.result(90).outputs[0].text for handle in handles}
        print(texts == {"".join(map(chr, range(98, 128)))})
    """
    done = run(program)
    assert done.stdout == "True\n", done.stderr


def test_threads_that_the_system_refuses_are_told_and_missed_by_nobody():
    program = """
        import os, resource, threading
        from tiny_engine import *
        import tuili
        tuili.errors, np.random.default_rng(0)  # what is imported later cannot be read any more
        if os.getuid() == 0:  # whom the limit does not bind
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        try:
            threading.Thread(target=print).start()
            print("unlimited")
        except RuntimeError:
            engine = make_engine(num_threads=2)
            handle = engine.submit(codes("a" * 150), sampling(max_tokens=20))  # enough for two
            drain(engine)
            print(handle.result(0).outputs[0].text, engine.stats()["missing_threads"])
            try:
                make_engine(start_thread=True).submit(codes("a"), sampling(max_tokens=20))
            except tuili.EngineOutOfMemoryError as error:
                print(error.code)
    """
    done = run(program)
    if done.stdout == "unlimited\n":
        pytest.skip("nothing limits the threads of a process here")
    n_missing = min(2, len(os.sched_getaffinity(0))) - 1
    assert done.stdout == f"{counted()} {n_missing}\nout_of_memory\n", done.stderr
    assert done.stderr.count(f"the system refuses {n_missing} threads") == min(n_missing, 1)


@pytest.mark.parametrize("count", [-1, 10**6])
def test_impossible_thread_counts_are_refused(count):
    with pytest.raises(tuili.InvalidParameterError, match="num_threads"):
        make_engine(num_threads=count)


def test_numpys_integers_are_integers(llama_path):
    sizes = {"num_threads": 1, "kv_cache_bytes": 1 << 20, "max_model_len": 64, "max_num_seqs": 2}
    with tuili.LLM(llama_path, **{name: np.int64(size) for name, size in sizes.items()}) as llm:
        assert llm.config["num_threads"] == 1 and type(llm.config["num_threads"]) is int
        assert len(llm.generate("a", max_tokens=np.int32(2)).outputs[0].token_ids) <= 2


def test_a_poor_environment_is_enough(tmp_path):
    """No locale, no home, no writable or existing folder to stand in, a closed standard output."""
    program = f"""
        import numpy, os, shutil  # NumPy because Python 3.13.0 cannot import it in a folder that is gone
        shutil.rmtree({str(tmp_path)!r})
        os.close(1)
        from test_host import counted
        assert len(counted()) == 20
        import tuili
        os.write(2, repr(float("1.5")).encode())
    """
    (tmp_path / "here").mkdir()
    done = run(program, cwd=tmp_path / "here", env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (0, "1.5")


def test_a_second_interpreter_is_refused():
    """From Python 3.13 on only one that shares the GIL gets as far as to ask us, and by other names."""
    program = """
        import tuili._core
        code = f"import sys; sys.path[:] = {sys.path!r}; import tuili._core"
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
            try:
                interpreters.run_string(interpreters.create(), code)
            except interpreters.RunFailedError as error:
                said = str(error)
        else:
            said = str(interpreters.exec(interpreters.create("legacy"), code).msg)
        assert "sub-interpreter" in said, said
        from tiny_engine import *
        print("alive")
    """
    done = run(program)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


class Failing(list):
    """A list that cannot be read."""

    def __iter__(self):
        raise KeyError("mine")

    def __len__(self):
        raise KeyError("mine")


def test_an_error_of_the_callers_own_object_is_the_callers():
    engine = make_engine()
    with pytest.raises((KeyError, tuili.TokenIdError)):
        engine.submit(Failing([1, 2]), sampling())
    assert is_idle(engine)
    handle = engine.submit(codes("a"), sampling(max_tokens=1))
    drain(engine)
    assert handle.result(0).outputs[0].text == "b"


class Unread(list):
    """A list of which nobody looks at an entry."""

    def __iter__(self):
        raise AssertionError


@pytest.mark.parametrize(
    "ids, error",
    [
        (range(10**30), tuili.TokenIdError),
        (range(3, -(10**30), -1), tuili.TokenIdError),
        (Unread([1] * 1000), tuili.PromptTooLongError),
        (np.array([1, 2], "m8[s]"), tuili.InvalidParameterError),  # a duration counts as a signed integer
        ([np.timedelta64(5, "s")], tuili.InvalidParameterError),
    ],
    ids=["a range", "one that descends", "a long list", "durations", "a duration"],
)
def test_what_cannot_be_a_prompt_is_refused_at_once(ids, error):
    with pytest.raises(error):
        make_engine().submit(ids, sampling())


def test_an_array_may_change_once_it_was_handed_over():
    ids = np.array(codes("a"))
    engine = make_engine()
    handle = engine.submit(ids, sampling(max_tokens=3))
    ids[:] = 299
    drain(engine)
    assert handle.result(0).outputs[0].text == "bcd"


def test_memory_that_does_not_exist_is_a_typed_error():
    from tiny_engine import counting_model

    with pytest.raises((tuili.EngineOutOfMemoryError, tuili.InvalidParameterError)):
        _core.KvCache(counting_model().spec, 2**31 - 1, 64, "float32")
    assert len(counted()) == 20


def test_requests_leave_no_objects_behind():
    engine = make_engine()

    def some_requests() -> int:
        for _ in range(50):
            handle = engine.submit(codes("a"), sampling(max_tokens=2, logprobs=2, n=2))
            drain(engine)
            handle.result(0)
            with pytest.raises(tuili.TokenIdError):
                engine.submit([10**6], sampling())
        del handle
        gc.collect()
        return len(gc.get_objects())

    some_requests()
    before = some_requests()
    assert some_requests() <= before + 20


def test_the_extension_exports_its_one_symbol():
    """Other libraries of the process, another pybind11 among them, see nothing of ours."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm")
    listed = subprocess.run(
        [nm, "-D", "--defined-only", _core.__file__], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert names <= {"PyInit__core", "PyInit__core_of_main", "_init", "_fini"}, names


def test_time_is_told_by_a_clock_that_only_goes_forward():
    """The calendar is for files and for OpenAI's `created` alone."""
    allowed = {"completions.py", "packed_cache.py", "app.py"}
    found = {path.name for path in PACKAGE.rglob("*.py") if "time.time()" in path.read_text(encoding="utf-8")}
    assert found <= allowed


def test_the_core_writes_no_line():
    """stdout and stderr belong to the host; the core has nothing to say to them."""
    sources = [*TESTS.parent.glob("csrc/**/*.cc"), *TESTS.parent.glob("csrc/**/*.h")]
    assert len(sources) > 50
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("std::cerr", "std::cout", "printf(stderr", "puts(")), path


def check_ends(program: str) -> None:
    """The program says nothing and ends with its own status, 3, each time."""
    for _ in range(3):
        done = run(program)
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_the_interpreter_ends_while_a_thread_computes():
    """A daemon thread that comes back from C++ when the interpreter is gone has nothing to come back to."""
    program = """
        import sys, threading
        from tuili import _core
        started = threading.Event()
        def compute():
            while True:
                started.set()
                _core.limits.read_bandwidth(1, 1 << 24)
        threading.Thread(target=compute, daemon=True).start()
        started.wait()
        sys.exit(3)
    """
    check_ends(program)


def test_the_interpreter_ends_while_a_search_asks():
    """The same of one that comes back to C++ from what it calls in Python."""
    program = """
        import sys, threading, time
        from tuili import _core
        started = threading.Event()
        def ends(parent, token):
            started.set()
            time.sleep(1e-4)
            return False
        def compute():
            while True:
                search = _core.BeamSearch(1, [], 2, length_penalty=1, early_stopping=True)
                search.advance([([(1, -1, -1)], [])], ends)
        threading.Thread(target=compute, daemon=True).start()
        started.wait()
        sys.exit(3)
    """
    check_ends(program)


@pytest.mark.slow
def test_random_callers_get_their_answers_and_leave_nothing():
    command = [sys.executable, str(TESTS / "random_callers.py"), "--rounds", "2", "--callers", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
