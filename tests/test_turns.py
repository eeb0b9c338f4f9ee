"""Short calls that run on the caller's own thread: one at a time, whatever comes between.

Rows CAN-07, CAN-08, PY-01, PY-03, PY-04.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

import tuili
from patience import comes_true
from test_reentrancy import in_time
from tuili.embedding import encoder
from tuili.errors import EngineClosedError, EngineForkedError
from tuili.generation.turns import TurnWorker
from tuili.generation.worker import CLOSE_WAIT_S

TESTS = Path(__file__).parent


@pytest.fixture
def worker():
    worker = TurnWorker()
    yield worker
    worker.close()


def run(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def taken(lock) -> bool:
    """Whether it could be had; it is given back."""
    with contextlib.ExitStack() as stack:
        if lock.acquire(timeout=1):
            stack.callback(lock.release)
            return True
    return False


class Gate:
    """A function that says when it has begun and ends when it is let."""

    def __init__(self) -> None:
        self.begun, self.opened, self.thread = threading.Event(), threading.Event(), None

    def __call__(self) -> str:
        self.thread = threading.get_ident()
        self.begun.set()
        assert self.opened.wait(60)
        return "done"


def test_a_short_call_runs_here_and_a_long_one_on_the_workers_thread(worker):
    assert worker.call_here(threading.get_ident) == threading.get_ident()
    assert worker.call(threading.get_ident) not in (threading.get_ident(), None)
    with pytest.raises(ZeroDivisionError):
        worker.call_here(lambda: 1 / 0)
    assert worker.call_here(threading.get_ident) == threading.get_ident()


def test_nothing_runs_beside_a_short_call(worker):
    gate, others = Gate(), []
    first = run(lambda: worker.call_here(gate))
    assert gate.begun.wait(60)
    threads = [
        run(lambda call=call: others.append(call(threading.get_ident)))
        for call in (worker.call, worker.call_here, worker.call)
    ]
    assert comes_true(lambda: worker._thread_waits and worker._inbox.qsize() == 2), "one did not wait"
    assert others == [], "something ran beside the call"
    gate.opened.set()
    for thread in (first, *threads):
        thread.join(60)
    assert len(others) == 3 and set(others) == {worker._thread.ident}, "who waits goes through the inbox"


@pytest.mark.parametrize("started", [False, True], ids=["in the inbox", "with the thread"])
def test_short_calls_do_not_keep_a_message_waiting(worker, started):
    """Whoever comes after it does not take the turn before it, also at a moment when no call runs."""
    worker._start_thread, order = started, []
    with worker._turn:  # so that the moment lasts
        message = run(lambda: worker.call(lambda: order.append("message")))
        assert comes_true(lambda: worker._thread_waits if started else worker._inbox.qsize() == 1)
        short = run(lambda: worker.call_here(lambda: order.append("short")))
        assert comes_true(lambda: worker._inbox.qsize() == (1 if started else 2)), "it waits for the turn"
    worker._start_thread = True
    worker.call(lambda: None)
    for thread in (message, short):
        thread.join(60)
    assert order == ["message", "short"]


@pytest.mark.parametrize("inner", ["call", "call_here"])
def test_a_handler_may_call_in_the_middle_of_a_short_call(worker, inner):
    def outer():
        waiting = run(lambda: worker.call(lambda: "waited"))  # its message waits for the turn
        while worker._inbox.empty() and not worker._thread_waits:
            time.sleep(0.001)
        return getattr(worker, inner)(threading.get_ident), threading.get_ident(), waiting

    found, here, waiting = in_time(lambda: worker.call_here(outer))
    assert found == here
    waiting.join(60)
    assert not waiting.is_alive()


class Interrupted:
    """A lock; `handler` comes once, as soon as it is taken, before anything else has happened."""

    def __init__(self, lock, handler) -> None:
        self._lock, self.handler = lock, handler

    def __getattr__(self, name):
        return getattr(self._lock, name)

    def __enter__(self):
        self._lock.acquire()
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()

    def __exit__(self, *error):
        self._lock.release()


@pytest.mark.parametrize("inner", ["call", "call_here"])
def test_a_handler_may_call_as_soon_as_the_turn_is_taken(worker, inner):
    """From Python 3.14 on, signals are looked for between a lock's `__enter__` and what follows it."""
    found, waiting = [], []

    def handler():
        waiting.append(run(lambda: worker.call(lambda: None)))
        while not worker._thread_waits:
            time.sleep(0.001)
        found.append(getattr(worker, inner)(threading.get_ident))

    worker._turn = Interrupted(worker._turn, handler)
    assert in_time(lambda: worker.call_here(threading.get_ident)) == found[0]
    waiting[0].join(60)
    assert not waiting[0].is_alive()


def test_a_handler_may_close_in_the_middle_of_a_short_call(worker):
    errors = []

    def wait():
        with pytest.raises(EngineClosedError) as caught:
            worker.call(lambda: None)
        errors.append(caught)

    def outer():
        waiting = run(wait)
        while not worker._thread_waits:
            time.sleep(0.001)
        worker.close()
        waiting.join(60)

    start = time.monotonic()
    in_time(lambda: worker.call_here(outer))
    assert len(errors) == 1 and time.monotonic() - start < CLOSE_WAIT_S / 2
    with pytest.raises(EngineClosedError):
        worker.call_here(lambda: None)


def test_closing_waits_for_the_short_call_of_another_thread(worker):
    gate = Gate()
    calling = run(lambda: worker.call_here(gate))
    assert gate.begun.wait(60)
    closing = run(worker.close)
    assert comes_true(lambda: worker.closed)
    closing.join(0.05)
    assert closing.is_alive(), "it closed under a call"
    gate.opened.set()
    closing.join(60)
    assert not closing.is_alive()
    calling.join(60)


def test_a_fork_in_the_middle_of_a_short_call_leaves_nothing_to_wait_for(worker):
    gate = Gate()
    calling = run(lambda: worker.call_here(gate))
    assert gate.begun.wait(60)
    child = os.fork()
    if child == 0:  # no assert, no pytest here
        try:
            worker.call_here(lambda: None)
        except EngineForkedError:
            worker.close()
            os._exit(0)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    gate.opened.set()
    calling.join(60)
    assert status == 0


def test_ctrl_c_anywhere_in_a_short_call_leaves_the_turn_free(worker):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    places = set()
    try:
        for i in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + 1e-7 * i)
                while True:
                    worker.call_here(lambda: None)
            except KeyboardInterrupt as error:
                places.add(traceback.extract_tb(error.__traceback__)[-1].lineno)
            assert worker._holder is None and threading.get_ident() not in worker._awaited
            assert in_time(lambda: taken(worker._turn)), f"the turn is kept, {i}"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert worker.call_here(threading.get_ident) == threading.get_ident()
    assert len(places) > 1, "it came at one place only"


def test_a_vector_is_the_same_on_either_thread(bert_path, monkeypatch):
    texts = ["the cat", "a dog sat on the mat", "the cat"]
    with tuili.LLM(bert_path, num_threads=2) as llm:
        threads = set()
        encode = llm._encoder._run

        def seen(*arguments):
            threads.add(threading.get_ident())
            return encode(*arguments)

        monkeypatch.setattr(llm._encoder, "_run", seen)
        monkeypatch.setattr(encoder, "SHORT_S", 0.0)
        there = [llm.embed([text]) for text in texts]
        assert threading.get_ident() not in threads
        monkeypatch.setattr(encoder, "SHORT_S", 10.0)
        here = [llm.embed([text]) for text in texts]
        assert threading.get_ident() in threads and len(threads) == 2
        small = []
        before = threading.stack_size(64 * 1024)
        try:
            thread = run(lambda: small.append(llm.embed([texts[1]])))
        finally:
            threading.stack_size(before)
        thread.join(60)
    np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(small, there[1:2])


def test_the_interpreter_ends_cleanly_under_short_calls(bert_path):
    program = f"""
        import contextlib, sys, threading, time
        sys.path[:0] = {[str(TESTS), *sys.path]!r}
        import tuili
        llm = tuili.LLM({str(bert_path)!r}, num_threads=2)
        llm.embed("the cat")
        def storm():
            with contextlib.suppress(tuili.TuiliError):
                while True:
                    llm.embed("the cat")
        for _ in range(3):
            threading.Thread(target=storm, daemon=True).start()
        time.sleep(0.05)
    """
    for _ in range(3):
        command = [sys.executable, "-X", "dev", "-c", textwrap.dedent(program)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
