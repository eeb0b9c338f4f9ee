"""A request is ended at every state of its life, in every way, and nothing is left behind.

Catalogue rows CAN-01, CAN-02, CAN-06, CAN-07. The states are reached by driving the engine step by step:
queued behind others, in the middle of a prompt, decoding, preempted, finished, consumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import warnings
from collections.abc import Callable

import pytest

import tuili
from patience import comes_true
from tiny_engine import codes, drain, is_idle, make_engine, sampling
from tiny_files import write_hf_folder
from tiny_models import tiny_llama
from tuili.errors import DeadlineExceeded, RequestCancelled, TuiliError
from tuili.generation.engine import Engine
from tuili.generation.request import Handle

PROMPT, N_NEW = codes("0123456789"), 6  # four steps of prompt, then one per token


def n_steps(count: int) -> Callable[[Engine, Handle], None]:
    def advance(engine: Engine, handle: Handle) -> None:
        for _ in range(count):
            engine.step()

    return advance


def until_preempted(engine: Engine, handle: Handle) -> None:
    row = engine._live.rows[handle.request_id][0]
    for _ in range(200):
        if row.preemptions and not row.running:
            return
        engine.step()
    raise AssertionError("the row was never preempted")


def until_done(engine: Engine, handle: Handle) -> None:
    drain(engine)


def until_consumed(engine: Engine, handle: Handle) -> None:
    drain(engine)
    handle.result(0)


STATES = {
    "submitted": n_steps(0),
    "queued": n_steps(1),
    "prefill 1": n_steps(3),
    "prefill 2": n_steps(4),
    "decode 1": n_steps(7),
    "decode 2": n_steps(8),
    "decode 5": n_steps(11),
    "preempted": until_preempted,
    "finished": until_done,
    "consumed": until_consumed,
}


def make(state: str) -> tuple[Engine, Handle, list[Handle]]:
    """An engine in which the last request has reached the state, and the requests beside it."""
    if state == "preempted":
        engine = make_engine(n_blocks=3, max_model_len=48)
        others = [engine.submit(codes("abcdefgh"), sampling(max_tokens=30))]
        handle = engine.submit(codes("ijklmnop"), sampling(max_tokens=30))
        engine.step()
    else:
        engine = make_engine(prefill_chunk=3, max_num_seqs=2, prefix_caching=False)
        others = [engine.submit(codes("ab"), sampling(max_tokens=n)) for n in (2, 30)]
        handle = engine.submit(PROMPT, sampling(max_tokens=N_NEW))
    STATES[state](engine, handle)
    return engine, handle, others


def finish(engine: Engine, others: list[Handle]) -> None:
    """The others go on as if nothing had happened, and nothing is left."""
    drain(engine)
    for other in others:
        request = other._request
        first = request.prompt_token_ids[-1] + 1
        expected = list(range(first, first + request.params.max_tokens))
        assert other.result(0).outputs[0].token_ids == expected
    assert is_idle(engine)
    assert not engine._live.rows


def outcome(handle: Handle) -> str:
    try:
        return str(handle.result(0).outputs[0].finish_reason)
    except (RequestCancelled, DeadlineExceeded) as error:
        return type(error).__name__


def stream_outcome(handle: Handle) -> str:
    try:
        return str([chunk.finish_reason for chunk in handle][-1])
    except (RequestCancelled, DeadlineExceeded) as error:
        return type(error).__name__


async def async_outcome(handle: Handle) -> str:
    try:
        return str((await handle).outputs[0].finish_reason)
    except (RequestCancelled, DeadlineExceeded) as error:
        return type(error).__name__


READ = {
    "sync": outcome,
    "stream": stream_outcome,
    "async": lambda handle: asyncio.run(async_outcome(handle)),
}


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("state", STATES)
def test_abort_at_every_state(state, read):
    engine, handle, others = make(state)
    had = len(handle._request.tracks[0].token_ids)
    was_done = handle.done
    handle.abort()
    engine.step()
    engine.scheduler.check_invariants()
    assert handle.done, "an abort takes one step at most"
    assert handle.request_id not in engine._live.rows
    expected = "length" if was_done else "abort" if had else "RequestCancelled"
    assert READ[read](handle) == expected
    assert READ[read](handle) == expected, "an end stays as it is"
    finish(engine, others)


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("state", STATES)
def test_a_deadline_at_every_state(state, read):
    engine, handle, others = make(state)
    request = handle._request
    had, was_done = len(request.tracks[0].token_ids), handle.done
    request.params = sampling(max_tokens=request.params.max_tokens, deadline_s=1)
    request.deadline = 0.0  # long past
    engine._live._keep_deadline(request)
    engine.step()
    engine.scheduler.check_invariants()
    assert handle.done, "a deadline takes one step at most"
    assert len(request.tracks[0].token_ids) == had, "nothing is computed past it"
    assert READ[read](handle) == ("length" if was_done else "deadline" if had else "DeadlineExceeded")
    finish(engine, others)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("way", ["task", "wait_for", "aclose", "dropped"])
def test_coroutines_are_cancelled_at_every_state(state, way):
    engine, handle, others = make(state)
    was_done = handle.done

    async def consume():
        if way == "aclose":
            stream = handle.__aiter__()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(read_all(stream), 0.01)
        elif way == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(handle, 0.01)
        elif way == "task":
            task = asyncio.create_task(async_outcome(handle))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if way != "dropped" and not was_done:
            asyncio.run(consume())
        if way == "dropped":
            request_id = handle.request_id
            del handle
            gc.collect()
        else:
            request_id = handle.request_id
        engine.step()
    engine.scheduler.check_invariants()
    assert request_id not in engine._live.rows
    finish(engine, others)


async def read_all(stream):
    async for _ in stream:
        pass


class Mine(Exception):
    pass


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_callback_that_fails_at_any_token(at, read):
    engine = make_engine(prefill_chunk=3, max_num_seqs=2, prefix_caching=False)
    others = [engine.submit(codes("ab"), sampling(max_tokens=30))]

    def fails(ids, logits):
        if len(ids) == at:
            raise Mine

    handle = engine.submit(PROMPT, sampling(max_tokens=N_NEW, logits_processors=[fails]))
    for _ in range(30):
        engine.step()
        engine.scheduler.check_invariants()
        if handle.done:
            break
    assert handle.request_id not in engine._live.rows
    with pytest.raises(TuiliError) as caught:
        READ[read](handle)
    assert isinstance(caught.value.__cause__, Mine)
    finish(engine, others)


async def _awaited(llm: tuili.LLM) -> None:
    await llm.submit(TEXT, **ANSWER)


async def _streamed(llm: tuili.LLM) -> None:
    async for _ in llm.stream(TEXT, **ANSWER):
        pass


async def _gathered(llm: tuili.LLM) -> None:
    await asyncio.gather(_awaited(llm), _streamed(llm), _awaited(llm))


TEXT = "the cat sat on the mat " * 6
ANSWER = {"max_tokens": 6, "ignore_eos": True, "temperature": 1.0, "seed": 3}


@pytest.mark.parametrize("ask", [_awaited, _streamed, _gathered])
def test_a_task_may_be_cancelled_at_every_turn_of_its_loop(tmp_path, ask):
    """CAN-02: after the first turn, the second, … until it is done before it is cancelled."""
    problems = []

    async def cancelled_after(n_turns: int) -> bool:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        task = asyncio.ensure_future(ask(llm))
        for _ in range(n_turns):
            await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return done

    path = write_hf_folder(tiny_llama(), tmp_path / "llama")
    with tuili.LLM(path, num_threads=1, kv_cache_bytes=1 << 20) as llm:
        ids = llm.generate(TEXT, **ANSWER).outputs[0].token_ids
        n_turns = 0
        while not asyncio.run(cancelled_after(n_turns)):
            n_turns += 1 + n_turns // 50
        assert n_turns > 1 and not problems
        assert llm.generate(TEXT, **ANSWER).outputs[0].token_ids == ids
        assert comes_true(lambda: llm.stats()["free_blocks"] == llm.stats()["n_blocks"])


@pytest.mark.parametrize("n_read", [0, 1])
def test_a_closed_stream_ends_and_aborts_its_request(n_read):
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=150, logprobs=0))  # a token a step
    stream = iter(handle)
    engine.step()
    engine.step()
    for _ in range(n_read):
        assert next(stream).text
    stream.close()
    engine.step()
    stream.close()
    assert list(stream) == [] and is_idle(engine)
    assert handle.result(0).outputs[0].finish_reason == "abort"
    assert "".join(chunk.text for chunk in handle), "other streams keep what came before"


def test_closing_a_stream_wakes_who_reads_it():
    engine = make_engine(start_thread=True, step_s=0.002)
    stream = iter(engine.submit(codes("a"), sampling(max_tokens=150, logprobs=0)))
    read = []
    reader = threading.Thread(target=lambda: read.extend(stream))
    with contextlib.closing(stream):
        reader.start()
        assert comes_true(lambda: read)
    reader.join(20)
    assert not reader.is_alive() and len(read) < 150 and comes_true(lambda: is_idle(engine))
    engine.close()


def test_a_closed_async_stream_ends():
    engine = make_engine()

    async def close_early():
        async with contextlib.aclosing(aiter(engine.submit(codes("a"), sampling(max_tokens=150)))) as stream:
            engine.step()
            first = await anext(stream)
        return first.text, [chunk async for chunk in stream]

    assert asyncio.run(close_early()) == ("b", [])
    engine.step()
    assert is_idle(engine)
