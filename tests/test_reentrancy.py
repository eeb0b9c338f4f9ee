"""Signals and finalisers in the middle of a submission, where the engine's locks are held.

Rows CAN-07, CAN-08, PY-01, PY-10. What a signal's handler does, it does on the thread that it finds, at any
moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from interrupts import at_each_function
from tiny_engine import codes, is_idle, make_engine, sampling
from tiny_grammars import make_grammars
from tuili.errors import EngineClosedError, QueueFullError, TuiliError
from tuili.generation.request import Stream
from tuili.generation.turns import TurnWorker
from tuili.generation.worker import Call, Worker


def in_time(function):
    """What `function` returns or raises, on a thread that may hang without hanging the tests."""
    found = []

    def run():
        try:
            found.append((function(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)  # half of what closing waits at most
    assert found, "it hangs"
    result, error = found[0]
    if error is not None:
        raise error
    return result


def interrupted(monkeypatch, owner, name, handler):
    """Let `handler` run once in the middle of the next call of a method."""
    function = getattr(owner, name)

    def call(*args, **kwargs):
        monkeypatch.undo()
        handler()
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("started", [False, True])
def test_a_handler_may_close_the_engine_in_the_middle_of_a_submission(monkeypatch, started):
    engine = make_engine(start_thread=True, step_s=0.01)
    handles = []
    if started:
        handles.append(engine.submit(codes("a"), sampling(max_tokens=199)))
        next(iter(handles[0]))  # it runs, and its steps need the lock that the submission holds
    interrupted(monkeypatch, engine._intake, "submission", engine.close)
    handles.append(in_time(lambda: engine.submit(codes("a"), sampling(max_tokens=2))))
    for handle in handles:
        with pytest.raises(EngineClosedError):
            handle.result(10)
    engine.close()
    assert not engine._lives()


@pytest.mark.parametrize("kind", [Worker, TurnWorker])
def test_a_handler_may_close_a_worker_that_waits_for_its_thread(kind):
    worker, begun, go_on = kind(), threading.Event(), threading.Event()
    results = []
    caller = threading.Thread(
        target=lambda: results.append(worker.call(lambda: (begun.set(), go_on.wait(10)))), daemon=True
    )
    caller.start()
    begun.wait(10)

    def make():
        go_on.set()
        time.sleep(0.1)  # so that the call has ended and its thread wants the lock
        worker.close()

    in_time(lambda: worker.post(make))
    caller.join(10)
    assert results == [(None, True)]
    worker.close()
    assert not worker._lives()


def test_a_handler_may_submit_in_the_middle_of_a_submission(monkeypatch):
    engine, inner = make_engine(start_thread=True), []
    interrupted(
        monkeypatch,
        engine._intake,
        "submission",
        lambda: inner.append(engine.submit(codes("x"), sampling(max_tokens=2))),
    )
    handle = in_time(lambda: engine.submit(codes("a"), sampling(max_tokens=2)))
    assert (handle.result(10).outputs[0].text, inner[0].result(10).outputs[0].text) == ("bc", "yz")
    engine.close()


def test_a_handler_may_submit_while_the_thread_is_made(monkeypatch):
    engine = make_engine(start_thread=True)
    answers = []

    def submit():
        answers.append(engine.submit(codes("b"), sampling(max_tokens=2)))

    interrupted(monkeypatch, threading, "stack_size", submit)
    answers.append(in_time(lambda: engine.submit(codes("a"), sampling(max_tokens=2))))
    assert [len(handle.result(10).outputs) for handle in answers] == [1, 1]
    assert sum(thread.name == engine.thread_name for thread in threading.enumerate()) >= 1
    thread = engine._thread
    engine.close()
    assert not thread.is_alive()
    assert engine._inbox.qsize() <= 1  # the word to stop, read by the only one


def test_a_handler_may_look_while_a_full_queue_is_told(monkeypatch):
    engine = make_engine(max_num_seqs=1, max_queue=0)
    handle = engine.submit(codes("a"), sampling(max_tokens=2))

    def full(message):
        with pytest.raises(QueueFullError):
            engine.submit(codes("x"), sampling(max_tokens=2))
        return QueueFullError(message)

    with monkeypatch.context() as patch:
        patch.setattr(
            "tuili.generation.load.QueueFullError", lambda message: (patch.undo(), full(message))[1]
        )
        with pytest.raises(QueueFullError):
            in_time(lambda: engine.submit(codes("x"), sampling(max_tokens=2)))
    handle.abort()
    engine.step()
    assert is_idle(engine)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_ctrl_c_while_the_thread_starts_leaves_one_thread_or_none(monkeypatch, late):
    engine = make_engine(start_thread=True)
    start = threading.Thread.start
    strays = []

    def interrupt(thread):
        strays.append(thread)
        if late:
            start(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.submit(codes("a"), sampling(max_tokens=2))
    handles = [engine.submit(codes("a"), sampling(max_tokens=9)) for _ in range(8)]
    assert {in_time(handle.result).outputs[0].text for handle in handles} == {"bcdefghij"}
    if late and engine._thread is not strays[0]:
        strays[0].join(60)
        assert not strays[0].is_alive(), "two threads compute"
    engine.close()
    assert not engine._thread.is_alive()


class CtrlC:
    """KeyboardInterrupt before the n-th line that the engine's own files run; `came` says whether it did."""

    OWN = tuple(f"generation/{name}.py" for name in ("engine", "load", "worker"))

    def __init__(self, n):
        self.n_left, self.came = n, False

    def trace(self, frame, event, argument):
        if not frame.f_code.co_filename.endswith(self.OWN):
            return None
        if event == "line" and not self.came:
            self.n_left -= 1
            if self.n_left < 0:
                self.came = True
                raise KeyboardInterrupt
        return self.trace


@pytest.fixture
def no_finalisers():
    """Of other tests' engines, which would run in a submission, and be where Ctrl-C comes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("options", [{}, {"n": 3, "temperature": 1.0}, {"regex": "[a-z]+"}], ids=str)
def test_ctrl_c_anywhere_in_a_submission_leaves_nothing_of_it(options, no_finalisers):
    grammars = make_grammars(start_thread=False)
    engine, params = make_engine(grammars=grammars, eos_ids=(0,)), sampling(max_tokens=3, **options)
    n = 0
    while True:
        ctrl_c = CtrlC(n)
        sys.settrace(ctrl_c.trace)
        try:
            handle = engine.submit(codes("ab"), params)
        except KeyboardInterrupt:
            handle = None
        finally:
            sys.settrace(None)
        if not ctrl_c.came:
            break
        assert handle is None
        while engine._lock._is_owned():  # a tracer comes between a with's body and its end, a signal does not
            engine._lock.release()
        for _ in range(2):
            engine.step()
            grammars.step()
        assert is_idle(engine), f"something is left of a submission that line {n} ended"
        n += 1
    assert n > 20, "the trace saw nothing"
    while not handle.done:
        engine.step()
        grammars.step()
    assert handle.result(0).outputs[0].token_ids
    assert is_idle(engine)


def test_a_finaliser_that_waits_in_the_middle_of_a_call_is_refused_and_hangs_nobody(monkeypatch):
    """Its thread holds what the engine's thread needs for the answer."""
    engine, codes_of_errors = make_engine(start_thread=True), []

    def finaliser():
        with pytest.raises(TuiliError) as error:
            engine.submit(codes("a"), sampling(max_tokens=2)).result()
        codes_of_errors.append(error.value.code)

    async def read():
        return "".join([chunk.text async for chunk in engine.submit(codes("a"), sampling(max_tokens=9))])

    interrupted(monkeypatch, Stream, "has_news", finaliser)
    assert in_time(lambda: asyncio.run(read())) == "bcdefghij"
    assert codes_of_errors == ["waits_for_itself"]
    engine.close()


def test_ctrl_c_at_any_function_of_a_wait_leaves_no_lock_taken():
    """A signal is heard where a function of Python's begins, be it one of its library."""
    handle = make_engine().submit(codes("a"), sampling(max_tokens=2))

    def wait():
        with contextlib.suppress(TimeoutError):
            handle.result(0)

    for n_calls in at_each_function(wait):
        assert not handle._request.lock._is_owned(), f"after {n_calls} functions"
    assert n_calls > 3, "the trace saw nothing"


def test_finalisers_of_two_engines_may_post_to_each_other_at_one_moment():
    """One came in the middle of each engine's call."""
    first, second = Worker(), Worker()
    both = threading.Barrier(2)

    def post(own, other):
        def make():
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.5)
            return other.post(lambda: "from a finaliser")

        return own.post(make)

    posting = [
        threading.Thread(target=post, args=pair, daemon=True) for pair in ((first, second), (second, first))
    ]
    for thread in posting:
        thread.start()
    for thread in posting:
        thread.join(30)
    assert not any(thread.is_alive() for thread in posting), "they wait for each other"
    first.close()
    second.close()


@pytest.mark.parametrize("kinds", [("call", "call"), ("call", "call_here"), ("call_here", "call_here")])
def test_finalisers_of_two_engines_that_wait_for_each_other_hang_nobody(kinds):
    """One came in the middle of each engine's work; who would close the circle is told."""
    first, second = TurnWorker(), TurnWorker()
    both = threading.Barrier(2)

    def work(own, other, kind):
        def function():
            both.wait(30)
            try:
                return getattr(other, kind)(lambda: "from a finaliser")
            except TuiliError as error:
                return error.code

        return getattr(own, kind)(function)

    with ThreadPoolExecutor(2) as pool:
        pairs = (first, second, kinds[0]), (second, first, kinds[1])
        found = {future.result(30) for future in [pool.submit(work, *pair) for pair in pairs]}
    assert found in ({"waits_for_itself"}, {"waits_for_itself", "from a finaliser"})
    assert not {first, second} & {worker for worker, _ in Worker._awaited.values()}
    first.close()
    second.close()


def test_a_thread_that_has_what_it_waited_for_closes_no_circle():
    """Though it has not woken up yet."""
    first, second = Worker(), Worker()
    posted = []

    def earlier():
        posted.append(second.post(lambda: Call(lambda: first.call(lambda: 2), Worker._lock)))

    for _ in range(20):
        first.call(lambda: second.call(earlier))
        assert posted.pop().result() == 2
    first.close()
    second.close()


def test_functions_that_engines_call_may_not_wait_for_each_other_in_a_circle():
    first, second = make_engine(start_thread=True), make_engine(start_thread=True)
    codes_of_errors = []
    ready = first.submit(codes("d"), sampling(max_tokens=1))
    in_time(ready.result)

    def outer(ids, logits):
        second.submit(codes("b"), sampling(max_tokens=1, logits_processors=[inner])).result()
        return logits

    def inner(ids, logits):
        with pytest.raises(TuiliError) as error:
            first.submit(codes("c"), sampling(max_tokens=1)).result()
        codes_of_errors.append(error.value.code)
        assert ready.result().outputs[0].text == "e"  # is there: waits for nothing
        return logits

    params = sampling(max_tokens=1, logits_processors=[outer])
    assert in_time(lambda: first.submit(codes("a"), params).result()).outputs[0].text == "b"
    assert codes_of_errors == ["waits_for_itself"]
    first.close()
    second.close()


def test_a_child_takes_no_lock_that_another_thread_of_its_parent_had():
    taken, done = threading.Event(), threading.Event()

    def hold():
        with Worker._lock:
            taken.set()
            done.wait(30)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    taken.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(Worker().call(lambda: 7))
    done.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
