"""Runs: the engine lets the core decode on while nobody misses anything."""

from __future__ import annotations

import threading

import pytest

import tiny_core
from patience import comes_true
from tiny_engine import POISON, Clock, codes, counted, drain, is_idle, make_engine, sampling
from tuili.errors import NumericError


class Watched:
    """A runner that writes down what it is asked.

    Its runs first wait up to run_s for an interruption; `interruptions` says of each whether one came.
    """

    def __init__(self, runner, run_s=0.0):
        self.runner, self.run_s, self.calls, self.interruptions = runner, run_s, [], []
        self.interrupted = threading.Event()

    def step(self, *args):
        self.calls.append("step")
        return self.runner.step(*args)

    def run(self, sequences, *, max_steps, max_s):
        self.calls.append((max_steps, max_s))
        if self.run_s:
            self.interruptions.append(self.interrupted.wait(self.run_s))
            self.interrupted.clear()
        return self.runner.run(sequences, max_steps=max_steps, max_s=max_s)

    def interrupt(self):
        self.interrupted.set()
        self.runner.interrupt()


def watched_engine(run_s=0.0, **options):
    engine = make_engine(**options)
    engine._runner = Watched(engine._runner, run_s)
    engine._interrupt = engine._runner.interrupt
    return engine


def test_a_row_that_nobody_streams_takes_few_looks():
    engine = watched_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=150))
    drain(engine)
    assert handle.result(0).outputs[0].text == counted("a", 150) and is_idle(engine)
    assert engine._runner.calls[0] == "step", "the first token is shown at once"
    assert [steps for steps, _ in engine._runner.calls[1:]] == [64, 64, 21]
    stats = engine.stats()
    assert (stats["steps"], stats["computed_tokens"], stats["generated_tokens"]) == (150, 150, 150)


def test_a_stream_gets_its_tokens_soon():
    engine = watched_engine()
    stream = iter(engine.submit(codes("a"), sampling(max_tokens=20)))
    drain(engine)
    assert "".join(chunk.text for chunk in stream) == counted("a", 20)
    assert engine._runner.calls[1:] == [(8, 0.03), (8, 0.03), (3, 0.03)]


def test_a_new_stream_ends_the_run_that_is_under_way():
    engine = watched_engine(run_s=30, start_thread=True)
    handle = engine.submit(codes("a"), sampling(max_tokens=100))
    assert comes_true(lambda: engine._runner.calls[1:])
    assert not handle._request.streamed
    next(iter(handle))
    engine.close()
    assert all(engine._runner.interruptions)


@pytest.mark.parametrize(
    "options", [{"stop": ["zz"]}, {"logprobs": 1}, {"n": 2, "stop": ["zz"]}, {"logprobs": 0, "n": 2}], ids=str
)
def test_rows_that_need_a_look_at_every_token_get_it(options):
    engine = watched_engine()
    free = engine.submit(codes("k"), sampling(max_tokens=9))
    handle = engine.submit(codes("a"), sampling(max_tokens=9, **options))
    drain(engine)
    assert {output.text for output in handle.result(0).outputs} == {counted("a", 9)}
    assert free.result(0).outputs[0].text == counted("k", 9)
    assert set(engine._runner.calls) == {"step"}


def test_a_stop_token_ends_its_row_and_the_others_go_on():
    engine = watched_engine(eos_ids=(ord("g"),))
    ended = engine.submit(codes("a"), sampling(max_tokens=30))
    ignoring = engine.submit(codes("a"), sampling(max_tokens=30, ignore_eos=True))
    stopped = engine.submit(codes("a"), sampling(max_tokens=30, stop_token_ids=[ord("i")], ignore_eos=True))
    waits = engine.submit(codes("a"), sampling(max_tokens=30, min_tokens=6, stop_token_ids=[ord("k")]))
    least = engine.submit(codes("a"), sampling(max_tokens=30, min_tokens=30, ignore_eos=True))
    drain(engine)
    assert ended.result(0).outputs[0].text == "bcdef"
    assert least.result(0).outputs[0].text == counted("a", 30), "what ends nothing need not wait"
    assert ignoring.result(0).outputs[0].text == counted("a", 30)
    assert (stopped.result(0).outputs[0].text, stopped.result(0).outputs[0].stop_reason) == ("bcdefgh", 105)
    assert waits.result(0).outputs[0].finish_reason in ("stop", "length")
    assert is_idle(engine) and len(engine._runner.calls) < 15


def test_a_run_whose_row_turns_into_nothing_ends_it_with_its_tokens():
    engine = watched_engine()
    options = {"max_tokens": 40, "ignore_eos": True}
    lenient = engine.submit([POISON - 9], sampling(on_nan="eos", **options))
    strict = engine.submit([POISON - 9], sampling(**options))
    drain(engine)
    output = lenient.result(0).outputs[0]
    assert output.token_ids == list(range(POISON - 8, POISON + 1))
    assert (output.finish_reason, output.stop_reason) == ("error", "nan")
    with pytest.raises(NumericError):
        strict.result(0)
    assert is_idle(engine)


@pytest.mark.parametrize("what", ["abort", "submit", "call", "close"])
def test_messages_end_a_run(what):
    engine = watched_engine(run_s=30, start_thread=True, max_model_len=2000, n_blocks=300)
    handle = engine.submit(codes("a"), sampling(max_tokens=190))
    assert comes_true(lambda: engine._runner.calls[1:])
    if what == "submit":
        other = engine.submit(codes("k"), sampling(max_tokens=1))
        assert other.result(60).outputs[0].text == "l"
    elif what == "call":
        assert engine.call(lambda: 3) == 3
    elif what == "close":
        engine.close()
    else:
        handle.abort()
        assert handle.result(60).outputs[0].finish_reason == "abort"
    engine.close()
    assert all(engine._runner.interruptions)


def test_a_deadline_ends_a_run():
    clock = Clock(step_s=0.01)
    engine = watched_engine(clock=clock)
    handle = engine.submit(codes("a"), sampling(max_tokens=190, deadline_s=0.05))
    drain(engine)
    assert handle.result(0).outputs[0].finish_reason == "deadline" and clock.now < 0.07
    assert [round(max_s, 9) for _, max_s in engine._runner.calls[1:]] == [0.04, 0.03, 0.02, 0.01]


def test_blocks_ahead_push_nobody_out():
    """In a pool that holds both requests exactly, blocks ahead for one must not cost the other its own."""
    model = tiny_core.built("llama")
    options = {"max_tokens": 60, "ignore_eos": True, "temperature": 1.0, "seed": 5}
    engine = watched_engine(model=model, n_blocks=8, prefix_caching=False)
    handles = [engine.submit(codes("abcd"), sampling(**options)) for _ in range(2)]
    drain(engine)
    alone = watched_engine(model=model)
    expected = alone.submit(codes("abcd"), sampling(**options))
    drain(alone)
    assert engine.scheduler.n_preemptions == 0
    for handle in handles:
        assert handle.result(0).outputs[0].token_ids == expected.result(0).outputs[0].token_ids
