"""What a step costs the engine's thread outside the core, counted in calls, and each event loop in wake-ups.

`python bench/serving.py --only overhead` has the microseconds.
"""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest

from tiny_engine import codes, counted, is_idle, make_engine, sampling
from tuili.generation import pace

WARM = 20  # steps; then every deque is full


def n_calls(function):
    """How many functions it calls, of Python and of C, all the way down."""
    n = 0

    def count(frame, event, argument):
        nonlocal n
        n += event in ("call", "c_call")

    gc.disable()  # what it finds would run finalizers of tests before this one
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return n


def calls_of_a_step(n_rows, options):
    engine = make_engine(max_num_seqs=n_rows, n_blocks=512)
    handles = [engine.submit(codes("a"), sampling(max_tokens=60, **options)) for _ in range(n_rows)]
    for _ in range(WARM):
        engine.step()
    before = engine.stats()["steps"]
    n = n_calls(engine.step)
    assert engine.stats()["steps"] == before + 1 and not any(handle.done for handle in handles)
    return n


@pytest.mark.parametrize(
    "options, first, each",
    [({"logprobs": 1}, 45, 7), ({"stop": ["zz"]}, 48, 11)],
    ids=["log-probabilities", "a stop string"],
)
def test_a_step_makes_few_calls(options, first, each):
    """They fit 100 µs and 8 µs a row where weights of 100 MB pass through the caches between two steps."""
    one, many = calls_of_a_step(1, options), calls_of_a_step(33, options)
    per_row = (many - one) / 32
    assert one <= first and per_row <= each, f"{one} calls with a row, {per_row:.1f} for each more"


# --- event loops


def wake_ups(engine, handles, consume, meanwhile=lambda step: None):
    """How often the loop of the consumers of all handles was woken in each step, and what they got."""

    async def drive():
        loop, counts = asyncio.get_running_loop(), []
        call_soon, n_calls = loop.call_soon_threadsafe, 0

        def counting(*arguments):
            nonlocal n_calls
            n_calls += 1
            return call_soon(*arguments)

        loop.call_soon_threadsafe = counting
        tasks = [asyncio.create_task(consume(handle)) for handle in handles]
        busy, step = True, 0
        while busy:
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # all consumers wait again
            meanwhile(step)
            n_calls = 0
            busy, step = engine.step(), step + 1
            counts.append(n_calls)
        return counts, await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(drive())


async def streamed(handle):
    return "".join([chunk.text async for chunk in handle])


async def awaited(handle):
    return (await handle).outputs[0].text


@pytest.mark.parametrize("options", [{}, {"stop": ["zz"]}, {"logprobs": 0}], ids=str)
def test_a_step_wakes_a_loop_of_64_consumers_once(options, monkeypatch):
    monkeypatch.setattr(pace, "STREAMED_S", 600.0)  # after which a run of tokens is cut
    engine = make_engine(max_num_seqs=64)
    handles = [engine.submit(codes("a"), sampling(max_tokens=12, **options)) for _ in range(64)]
    counts, texts = wake_ups(engine, handles, streamed)
    assert texts == [counted("a", 12)] * 64
    assert set(counts) == {1}
    assert len(counts) == (12 if options else 3), "8 tokens at a time where nobody looks at each"


def test_who_waits_for_the_end_is_woken_by_nothing_else():
    engine = make_engine(max_num_seqs=64)
    handles = [engine.submit(codes("a"), sampling(max_tokens=12, stop=["zz"])) for _ in range(64)]
    counts, texts = wake_ups(engine, handles, awaited)
    assert texts == [counted("a", 12)] * 64
    assert counts == [0] * 11 + [1]


def test_aborts_that_come_together_wake_a_loop_once_before_the_step_and_its_tokens_once_after():
    engine = make_engine(max_num_seqs=64)
    handles = [engine.submit(codes("a"), sampling(max_tokens=12, stop=["zz"])) for _ in range(64)]

    def abort(step):
        for handle in handles[:32] if step == 5 else ():
            handle.abort()

    counts, texts = wake_ups(engine, handles, streamed, abort)
    assert texts == [counted("a", 5)] * 32 + [counted("a", 12)] * 32
    assert counts[5] == 2 and set(counts[:5] + counts[6:]) == {1}
    assert is_idle(engine)
