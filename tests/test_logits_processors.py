"""Logits processors: they see what is there, change what is drawn, and what goes wrong in one stays there.

On the counting model of tiny_engine.py. Catalogue rows CAN-07, NUM-02.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from tiny_engine import POISON, codes, drain, is_idle, make_engine, sampling
from tiny_models import N_VOCAB
from tuili import _core, errors
from tuili.generation import processors


def run(*requests, prompt="a", **limits):
    """Handles of requests that ran together."""
    engine = make_engine(**limits)
    handles = [engine.submit(codes(prompt), params) for params in requests]
    drain(engine)
    assert is_idle(engine)
    return handles


def output(**options):
    options.setdefault("max_tokens", 5)
    (handle,) = run(sampling(**options))
    return handle.result().outputs[0]


def error_of(function, **options):
    """What a request ends with whose processor is `function`; another one in the batch goes on."""
    broken, mate = run(
        sampling(max_tokens=5, logits_processors=[function], **options), sampling(max_tokens=8)
    )
    assert mate.result().outputs[0].text == "bcdefghi"
    with pytest.raises(errors.TuiliError) as caught:
        broken.result()
    return caught.value


def nothing(ids, logits):
    return None


def only(letter):
    def keep(ids, logits):
        kept = logits[ord(letter)]
        logits[:] = -np.inf
        logits[ord(letter)] = kept

    return keep


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0, "seed": 5, "top_p": 0.9}], ids=str)
def test_one_that_changes_nothing_changes_no_bit(options):
    plain = output(max_tokens=20, logprobs=3, **options)
    assert output(max_tokens=20, logprobs=3, logits_processors=[nothing], **options) == plain
    same = [lambda ids, logits: logits.copy(), lambda prompt, ids, logits: None]
    assert output(max_tokens=20, logprobs=3, logits_processors=same, **options) == plain


def test_it_sees_the_tokens_so_far_and_the_models_logits():
    seen = []
    two = lambda ids, logits: seen.append((ids, logits.dtype, logits.shape, int(logits.argmax())))  # noqa: E731
    three = lambda prompt, ids, logits: seen.append((prompt, ids))  # noqa: E731
    output(max_tokens=2, logits_processors=[two, three])
    a, b, c = codes("abc")
    here = (np.dtype(np.float32), (N_VOCAB,))
    assert seen == [([], *here, b), ([a], []), ([b], *here, c), ([a], [b])]


def test_it_may_write_or_return():
    assert output(logits_processors=[only("x")]).text == "xxxxx"
    shift = np.eye(1, N_VOCAB, ord("z"), dtype=np.float32)[0] * 1e6
    assert output(logits_processors=[lambda ids, logits: logits + shift]).text == "zzzzz"


def test_other_parameters_come_after_it():
    banned = output(logits_processors=[only("x")], logit_bias={ord("x"): -100}, max_tokens=1)
    assert banned.text == "x", "a bias on the only token left changes nothing"
    assert error_of(only("x"), bad_words=["x"]).code == "no_token_allowed"


def test_log_probabilities_are_the_models_own():
    plain = output(max_tokens=1, logprobs=2).logprobs[0]
    forced = output(max_tokens=1, logprobs=2, logits_processors=[only("x")]).logprobs[0]
    assert forced.token_id == ord("x") and forced.top == plain.top and forced.logprob < -1


def test_what_it_keeps_is_not_what_the_next_one_gets():
    kept = []

    def keep(prompt, ids, logits):
        kept.append((prompt, ids, logits))
        prompt.clear()
        ids.append(7)

    (handle,) = run(sampling(max_tokens=5, logits_processors=[keep, nothing]))
    assert handle.result().outputs[0].text == "bcdef"
    assert handle.result().prompt_token_ids == codes("a")
    assert len({id(logits) for _, _, logits in kept}) == len(kept)


def test_neither_mates_nor_preemption_change_a_text():
    requests = [sampling(max_tokens=60, logits_processors=[only("x")]), *[sampling(max_tokens=60)] * 5]
    alone = [run(params)[0].result().outputs[0] for params in requests]
    handles = run(*requests, n_blocks=13, max_model_len=100)
    assert [handle.result().outputs[0] for handle in handles] == alone


# --- what goes wrong


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), errors.QueueFullError("x")], ids=repr)
def test_its_error_ends_its_request_alone(error):
    def fail(ids, logits):
        raise error

    caught = error_of(fail)
    assert caught.code == "logits_processor" and caught.__cause__ is error
    assert type(error).__name__ in str(caught)


@pytest.mark.parametrize(
    "returned",
    [
        np.zeros(N_VOCAB),
        np.zeros(N_VOCAB - 1, np.float32),
        np.zeros((1, N_VOCAB), np.float32),
        np.full(N_VOCAB, np.nan, np.float32),
        [0.0] * N_VOCAB,
        3,
    ],
    ids=lambda value: str(getattr(value, "shape", type(value).__name__)),
)
def test_what_is_no_row_of_logits_is_refused(returned):
    caught = error_of(lambda ids, logits: returned)
    assert isinstance(caught, errors.InvalidParameterError) and caught.param == "logits_processors"


def test_an_array_of_any_layout_is_a_row_of_logits():
    assert output(logits_processors=[lambda ids, logits: np.repeat(logits, 2)[::2]]).text == "bcdef"


def test_one_that_leaves_nothing_is_an_error():
    assert error_of(lambda ids, logits: np.full_like(logits, -np.inf)).code == "no_token_allowed"


def test_certainty_is_drawn():
    def certain(ids, logits):
        logits[ord("q")] = np.inf

    assert output(logits_processors=[certain], temperature=1.0, seed=1).text == "qqqqq"


def test_one_that_takes_too_long_ends_its_request(monkeypatch):
    monkeypatch.setattr(processors, "BUDGET_S", 0.02)
    assert error_of(lambda ids, logits: time.sleep(0.03)).code == "logits_processor_time"


def test_logits_that_are_not_numbers_never_reach_it():
    called = []
    engine = make_engine()
    params = sampling(max_tokens=3, logits_processors=[lambda ids, logits: called.append(ids)])
    handle = engine.submit([POISON], params)
    drain(engine)
    with pytest.raises(errors.NumericError):
        handle.result()
    assert not called and is_idle(engine)


# --- calling back


def test_it_may_submit_and_abort_but_not_wait():
    engine = make_engine(start_thread=True)
    inner, waited = [], []

    def call_back(ids, logits):
        if not inner:
            inner.append(engine.submit(codes("k"), sampling(max_tokens=2)))
            for wait in (inner[0].result, lambda: next(iter(inner[0])), lambda: engine.call(int)):
                try:
                    wait()
                except errors.TuiliError as error:
                    waited.append(error.code)

    handle = engine.submit(codes("a"), sampling(max_tokens=3, logits_processors=[call_back]))
    assert handle.result(10).outputs[0].text == "bcd"
    assert waited == ["waits_for_itself"] * 3
    assert inner[0].result(10).outputs[0].text == "lm"
    handles = []

    def abort(ids, logits):
        if ids:
            handles[0].abort()

    handles.append(engine.submit(codes("a"), sampling(max_tokens=100, logits_processors=[abort])))
    assert handles[0].result(10).outputs[0].finish_reason == "abort"
    engine.close()


def test_it_may_close_the_engine():
    engine = make_engine(start_thread=True)
    handle = engine.submit(
        codes("a"), sampling(max_tokens=100, logits_processors=[lambda ids, logits: engine.close()])
    )
    with pytest.raises(errors.EngineClosedError):
        handle.result(10)


# --- the core's part


def test_the_core_leaves_a_deferred_token_to_the_caller():
    engine = make_engine()
    core = sys.modules["tuili"]._core
    params = core.SamplingParams(temperature=0)
    sequence = core.Sequence(np.array(codes("a"), np.int32), params, deferred=True)
    engine._pool.grow(sequence, 4)
    logits = np.zeros(N_VOCAB, np.float32)
    with pytest.raises(errors.InvalidParameterError, match="no step has left"):
        engine._runner.sample(sequence, logits)
    with pytest.raises(errors.InvalidParameterError, match="use step"):
        engine._runner.run([sequence], max_steps=2, max_s=1)
    assert engine._runner.step([sequence], [1], [True]).token_ids == [_core.DEFERRED]
    assert sequence.n_tokens == 1 and int(sequence.next_logits().argmax()) == ord("b")
    with pytest.raises(errors.InvalidParameterError, match="logits for"):
        engine._runner.sample(sequence, logits[1:])
    assert engine._runner.sample(sequence, sequence.next_logits()).token_ids == [ord("b")]
    assert sequence.token_ids() == codes("ab")
    with pytest.raises(errors.InvalidParameterError, match="no step has left"):
        engine._runner.sample(sequence, logits)
