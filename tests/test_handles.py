"""Handles across threads, event loops, processes and the interpreter's end.

Catalogue rows CAN-01 … CAN-04, CAN-08, CAN-09, PY-01, PY-03, PY-04, PY-05, PY-10, PY-13.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import pytest

from patience import comes_true, least
from test_watchdog import Hanging
from tiny_engine import codes, drain, is_idle, make_engine, sampling
from tuili.errors import (
    EngineClosedError,
    EngineOutOfMemoryError,
    InvalidParameterError,
    ModelIOError,
    RequestCancelled,
    TuiliError,
)
from tuili.generation import request as request_module
from tuili.generation import worker

TESTS = Path(__file__).parent


@pytest.fixture
def engine():
    engine = make_engine(start_thread=True, step_s=0.002, num_threads=2)
    yield engine
    engine.close()


def settles(engine):
    """Whether the engine becomes idle."""
    return comes_true(lambda: is_idle(engine))


def test_result_waits_and_times_out():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=50))
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.01)
    for wrong in (-1, float("nan"), float("inf"), 10**5000, "1", True):
        with pytest.raises(InvalidParameterError, match="timeout"):
            handle.result(timeout=wrong)
    drain(engine)
    assert len(handle.result(timeout=0).outputs[0].token_ids) == 50, (
        "a timeout of the wait must not end the request"
    )


def test_two_streams_of_one_handle_see_the_same(engine):
    handle = engine.submit(codes("a"), sampling(max_tokens=20))
    texts = ["".join(chunk.text for chunk in handle) for _ in range(2)]
    assert texts == ["bcdefghijklmnopqrstu"] * 2 and handle.result().outputs[0].text == texts[0]


def test_streams_of_siblings_say_whose_chunk_it_is(engine):
    chunks = list(engine.submit(codes("a"), sampling(max_tokens=5, n=3, temperature=0)))
    for index in range(3):
        own = [chunk for chunk in chunks if chunk.index == index]
        assert "".join(chunk.text for chunk in own) == "bcdef"
        assert [chunk.finish_reason for chunk in own][-1] == "length"


def test_a_slow_reader_of_siblings_hears_each_of_them():
    engine = make_engine()
    stream = iter(engine.submit(codes("a"), sampling(max_tokens=20, n=3, temperature=0, logprobs=0)))
    engine.step()
    heard = []
    for _ in range(6):
        engine.step()  # a token for each
        heard.append(next(stream).index)
    assert heard == [0, 1, 2, 0, 1, 2]


def test_a_search_may_find_fewer_while_a_stream_begins(monkeypatch):
    """Between counting the continuations and reading them."""
    request = (handle := make_engine().submit(codes("a"), sampling(n=3, temperature=0)))._request
    threads = []

    class Begun(request_module.Reader):
        def __init__(self, *arguments):
            if not threads:
                threads.append(threading.Thread(target=request.keep, args=(1,)))
                threads[0].start()
                threads[0].join(0.1)
            super().__init__(*arguments)

    monkeypatch.setattr(request_module, "Reader", Begun)
    assert not iter(handle).has_news()
    threads[0].join()
    assert len(request.tracks) == 1


def test_a_hundred_threads_submit_at_once(engine):
    results = {}

    def ask(i):
        letter = chr(ord("a") + i % 20)
        results[i] = engine.submit(codes(letter), sampling(max_tokens=3)).result(20).outputs[
            0
        ].text == "".join(chr(ord(letter) + k) for k in (1, 2, 3))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 100 and all(results.values())
    assert settles(engine)


def test_a_storm_of_aborts_leaves_nothing(engine):
    def storm():
        for _ in range(200):
            engine.submit(codes("ab"), sampling(max_tokens=50)).abort()

    threads = [threading.Thread(target=storm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settles(engine)


# --- asyncio


def test_await_and_async_for(engine):
    async def both():
        handle = engine.submit(codes("a"), sampling(max_tokens=10))
        text = "".join([chunk.text async for chunk in handle])
        return text, (await handle).outputs[0].text

    assert asyncio.run(both()) == ("bcdefghijk", "bcdefghijk")


def test_many_requests_on_one_loop(engine):
    async def all_of_them():
        handles = [engine.submit(codes("a"), sampling(max_tokens=5)) for _ in range(100)]
        return [(await handle).outputs[0].text for handle in handles]

    assert asyncio.run(all_of_them()) == ["bcdef"] * 100


def test_a_cancelled_task_cancels_its_request():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=150))
    engine.step()

    async def wait():
        return await handle

    async def cancel():
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    engine.step()
    assert is_idle(engine) and handle.result(0).outputs[0].finish_reason == "abort"


def test_wait_for_cancels_the_request():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=150))
    engine.step()

    async def impatient():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle._output_later(), 0.02)

    asyncio.run(impatient())
    engine.step()
    assert is_idle(engine) and handle.result(0).outputs[0].finish_reason == "abort"


def test_leaving_an_async_stream_cancels_the_request():
    engine = make_engine()

    async def leave():
        stream = aiter(engine.submit(codes("a"), sampling(max_tokens=150)))
        engine.step()
        async for _ in stream:
            break

    asyncio.run(leave())
    engine.step()
    assert is_idle(engine)


def test_errors_reach_coroutines(engine):
    async def poisoned():
        await engine.submit([299], sampling(max_tokens=5))

    with pytest.raises(ArithmeticError):
        asyncio.run(poisoned())


def test_a_closed_event_loop_harms_nobody():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=150, logprobs=0))  # a token a step
    loop = asyncio.new_event_loop()
    task = loop.create_task(handle._output_later())
    loop.run_until_complete(asyncio.sleep(0))
    engine.step()
    task._log_destroy_pending = False
    loop.close()
    other = engine.submit(codes("a"), sampling(max_tokens=5))
    drain(engine)
    assert other.result(0).outputs[0].text == "bcdef"
    assert handle.result(0).outputs[0].finish_reason == "abort", "only a dead loop waited for it"


@pytest.mark.parametrize("other", ["a thread", "a loop"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_closed_event_loop_ends_nothing_that_others_wait_for(other, streamed):
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=4, logprobs=0))  # a token a step
    engine.step()
    if streamed:
        list(itertools.islice(handle, 1))
    loop = asyncio.new_event_loop()
    task = loop.create_task(handle._output_later())
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False
    loop.close()
    results = []

    async def wait():
        results.append(await handle)

    waits = (
        (lambda: results.append(handle.result(10))) if other == "a thread" else lambda: asyncio.run(wait())
    )
    thread = threading.Thread(target=waits)
    thread.start()
    while not handle._request.waiting and len(handle._request.waiters) < 2:
        time.sleep(0.001)
    while engine.step():
        time.sleep(0.01)  # so that it waits again
    thread.join()
    assert results[0].outputs[0].text == "bcde" and results[0].outputs[0].finish_reason == "length"


def test_two_loops_in_two_threads(engine):
    results = []

    async def ask():
        return (await engine.submit(codes("a"), sampling(max_tokens=5))).outputs[0].text

    threads = [threading.Thread(target=lambda: results.append(asyncio.run(ask()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["bcdef"] * 4


# --- closing


def test_close_ends_what_is_under_way_within_a_second():
    def closing():
        engine = make_engine(start_thread=True, step_s=0.1)  # 15 s for the first ones
        handles = [engine.submit(codes("a"), sampling(max_tokens=150)) for _ in range(100)]
        start = time.monotonic()
        engine.close()
        seconds = time.monotonic() - start
        for handle in handles:
            with pytest.raises(EngineClosedError):
                handle.result(1)
        with pytest.raises(EngineClosedError):
            engine.submit(codes("a"), sampling(max_tokens=1))
        engine.close()
        return seconds

    assert least(closing, 1.0) <= 1.0


def test_a_request_that_the_thread_takes_when_the_engine_is_closed_ends():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=3))
    engine._closed = True  # as `close` does first, while the thread takes the message
    worker._run(weakref.ref(engine), engine._inbox, threading.Lock())
    with pytest.raises(EngineClosedError):
        handle.result(0)


def test_close_wakes_a_waiting_coroutine():
    engine = make_engine()

    async def wait():
        handle = engine.submit(codes("a"), sampling(max_tokens=150))
        threading.Timer(0.03, engine.close).start()
        with pytest.raises(EngineClosedError):
            await handle

    asyncio.run(wait())


def test_the_thread_ends_with_the_last_reference():
    engine = make_engine(start_thread=True)
    engine.submit(codes("a"), sampling(max_tokens=5)).result(10)
    thread, dead = engine._thread, weakref.ref(engine)
    del engine
    gc.collect()
    thread.join(20)
    assert not thread.is_alive() and dead() is None


def test_a_handle_keeps_its_engine_alive():
    handle = make_engine(start_thread=True, step_s=0.002).submit(codes("a"), sampling(max_tokens=20))
    gc.collect()
    assert len(handle.result(10).outputs[0].token_ids) == 20


def test_requests_are_not_kept_by_their_errors(engine):
    def fail():
        handle = engine.submit([299], sampling(max_tokens=5))
        with pytest.raises(ArithmeticError):
            handle.result(10)
        return weakref.ref(handle._request)

    dead = fail()
    assert comes_true(
        lambda: gc.collect() >= 0 and dead() is None
    )  # once the engine's thread has let go, too


def test_calls_run_between_steps(engine):
    handle = engine.submit(codes("a"), sampling(max_tokens=50))
    assert engine.call(threading.current_thread).name == "tuili-engine"
    for function, error in ((lambda: 1 / 0, ZeroDivisionError), (sys.exit, SystemExit)):
        with pytest.raises(error):
            engine.call(function)
    assert len(handle.result(10).outputs[0].token_ids) == 50


@pytest.mark.parametrize("action", [pickle.dumps, copy.copy, copy.deepcopy])
def test_engines_and_handles_cannot_be_copied(engine, action):
    handle = engine.submit(codes("a"), sampling(max_tokens=2))
    for thing in (engine, handle):
        with pytest.raises(TypeError, match="cannot be pickled"):
            action(thing)


def test_errors_can_be_pickled():
    error = pickle.loads(pickle.dumps(ModelIOError("no such file", code="config_missing", errno=2)))
    assert (str(error), error.code, error.errno) == ("no such file", "config_missing", 2)


def test_parameters_can_be_pickled():
    from tuili import SamplingParams

    params = SamplingParams(max_tokens=3, logit_bias={1: 2.0}, stop="x")
    assert pickle.loads(pickle.dumps(params)) == params
    with pytest.raises(InvalidParameterError):
        copy.copy(params).__class__(max_tokens=-1)


def test_an_error_keeps_no_engine_alive(caplog):
    engine = make_engine()

    def fails(ids, logits):
        raise KeyError("mine")

    handle = engine.submit(codes("a"), sampling(max_tokens=3, logits_processors=[fails]))
    engine.step()
    with pytest.raises(TuiliError) as caught:
        handle.result(0)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "in fails" in caplog.text, "where it was raised is in the log"
    kept, there = caught.value.with_traceback(None), weakref.ref(engine)
    del engine, handle, caught
    gc.collect()
    assert kept.__cause__ is not None and there() is None


def test_a_thread_that_cannot_start_is_a_typed_error(monkeypatch):
    engine = make_engine(start_thread=True)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EngineOutOfMemoryError):
            engine.submit(codes("a"), sampling(max_tokens=2))
    assert is_idle(engine)
    assert engine.submit(codes("a"), sampling(max_tokens=2)).result(10).outputs[0].text == "bc"
    engine.close()


def test_what_comes_between_two_looks_of_a_coroutine_is_not_lost(monkeypatch):
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=3))
    stream = handle.__aiter__()
    look = stream._next

    def look_and_finish():
        chunk = look()
        while engine.step():
            pass
        return chunk

    monkeypatch.setattr(stream, "_next", look_and_finish)

    async def read():
        return "".join([chunk.text async for chunk in stream])

    assert asyncio.run(read()) == "bcd"


@pytest.mark.parametrize("error", [ValueError, SystemExit, BaseException])  # the last as a panic of Rust's
def test_a_step_that_fails_outside_the_model_is_told_to_whoever_waits(engine, monkeypatch, caplog, error):
    def broken():
        raise error("a defect")

    monkeypatch.setattr(engine, "wakes_in", broken)
    with pytest.raises(TuiliError, match="step failed"):
        engine.submit(codes("a"), sampling(max_tokens=5)).result(10)
    monkeypatch.undo()
    assert engine.submit(codes("a"), sampling(max_tokens=2)).result(10).outputs[0].text == "bc"


# --- signals, fork, exit


def test_ctrl_c_is_heard_while_waiting():
    engine = make_engine(start_thread=True, step_s=0.1)

    def interrupted():
        handle, sent = engine.submit(codes("a"), sampling(max_tokens=199)), []  # for 20 s

        def interrupt():
            comes_true(lambda: handle._request.waiting)  # anywhere else it would end all tests
            sent.append(time.monotonic())
            signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            threading.Thread(target=interrupt).start()
            handle.result()
        return time.monotonic() - sent[0]

    assert least(interrupted, 0.2) <= 0.2
    engine.close()


def in_a_child(*uses):
    """What becomes of each in a forked child, and how the child ended."""

    def outcome(use):
        try:
            return str(use())
        except BaseException as error:
            return type(error).__name__

    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # no assert, no pytest here: only what is reported through the pipe
        signal.alarm(60)
        os.write(write, " ".join(map(outcome, uses)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return pipe.read().split(), os.waitpid(child, 0)[1]


def test_a_fork_cannot_use_the_parents_engine(engine):
    engine.submit(codes("a"), sampling(max_tokens=5)).result(10)
    engine._runner = hanging = Hanging(engine._runner)  # so that it is under way at the fork
    running = engine.submit(codes("a"), sampling(max_tokens=50))
    assert comes_true(lambda: engine.stats()["running"])
    uses = lambda: engine.submit(codes("a"), sampling()), running.result, running.__iter__, engine.stats
    found, status = in_a_child(*uses, lambda: engine.healthy, engine.close, running.abort)
    assert found == ["EngineForkedError"] * 4 + ["False", "None", "None"] and status == 0
    assert engine.healthy and not running.done
    hanging.go.set()
    assert len(running.result(10).outputs[0].token_ids) == 50, "the parent's request must not notice"


def test_a_fork_that_finds_every_lock_taken_cannot_hang_anybody(engine):
    """The thread that holds a lock at that moment does not exist in the child."""
    handle = engine.submit(codes("a"), sampling(max_tokens=5))
    stream, unread = handle.__aiter__(), handle.result(10)
    held, go = threading.Event(), threading.Event()

    def hold():
        with stream._turn, handle._request.lock:
            held.set()
            go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    coroutines = handle._output_later, stream.__anext__, lambda: handle.__aiter__().__anext__()
    uses = [lambda use=use: asyncio.run(use()) for use in coroutines]
    found, status = in_a_child(*uses, handle.totals)
    go.set()
    thread.join()
    assert found == ["EngineForkedError"] * 4 and status == 0
    assert unread.outputs[0].text == "bcdef"


EXITS = {
    "idle": "handle.result()",
    "while generating": "",
    "in a stream": "next(iter(handle))",
    "by an exception": "raise SystemExit(3)",
    "with a waiting daemon thread": "threading.Thread(target=wait, daemon=True).start(); time.sleep(0.02)",
    "by an unhandled error": "1 / 0",
    "after a fork": "import os; child = os.fork(); child or sys.exit(0); os.waitpid(child, 0)",
}
CODES = {"by an exception": 3, "by an unhandled error": 1}


@pytest.mark.parametrize("how", EXITS)
def test_the_interpreter_ends_quickly_and_quietly(how):
    program = f"""
        import contextlib, sys, threading, time
        sys.path[:0] = {[str(TESTS), *sys.path]!r}
        import tuili
        from tiny_engine import codes, make_engine, sampling
        engine = make_engine(start_thread=True, step_s=0.03, num_threads=2)
        handle = engine.submit(codes("a"), sampling(max_tokens=190 if {how!r} != "idle" else 2))  # for 6 s
        def wait():
            with contextlib.suppress(tuili.TuiliError):
                handle.result()
        time.sleep(0.03)
        print("ready", flush=True)
        {EXITS[how]}
    """
    forks = "ignore:This process:DeprecationWarning"  # Python 3.12 warns of forks where there are threads
    command = [sys.executable, "-X", "dev", f"-W{forks}", "-c", textwrap.dedent(program)]

    def ending():
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            ready = process.stdout.readline()
            start = time.monotonic()
            _, errors = process.communicate(timeout=60)
            seconds = time.monotonic() - start
        assert ready == "ready\n", errors
        assert process.returncode == CODES.get(how, 0), errors
        expected = "ZeroDivisionError" if how == "by an unhandled error" else ""
        assert (errors == "") if not expected else (expected in errors and "terminate called" not in errors)
        return seconds

    assert least(ending, 2.0) <= 2.0


def test_abort_before_the_first_token_is_an_error():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=5))
    handle.abort()
    engine.step()
    with pytest.raises(RequestCancelled):
        handle.result(0)
    with pytest.raises(RequestCancelled):
        list(handle)
