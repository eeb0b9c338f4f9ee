"""The engine, driven step by step: batching, chunks, preemption, prefixes, aborts, deadlines, errors, limits.

Catalogue rows KV-01 … KV-06, KV-09, KV-10, KV-12, KV-14, NUM-01, NUM-02, CAN-01, CAN-05, CAN-06, CAN-10.
"""

from __future__ import annotations

import gc

import numpy as np
import pytest

import tiny_core
from tiny_engine import POISON, Clock, codes, counted, drain, is_idle, make_engine, sampling
from tuili.errors import (
    DeadlineExceeded,
    EngineClosedError,
    InvalidParameterError,
    KVCacheExhaustedError,
    NumericError,
    PromptTooLongError,
    QueueFullError,
    RequestCancelled,
    TokenIdError,
    TuiliError,
)
from tuili.generation.core_params import derived_seed

PROMPTS = ["a", "bcd", "the quick brown fox", "x" * 33, "mnopqrstuvw" * 3, "z!"]


def text_of(handle):
    return handle.result(timeout=0).outputs[0].text


def alone(prompt, **options):
    """The prompt's tokens when nothing else runs, on the random tiny model."""
    engine = make_engine(model=tiny_core.built("llama"))
    handle = engine.submit(codes(prompt), sampling(**options))
    drain(engine)
    return handle.result(timeout=0).outputs[0].token_ids


def test_the_counting_model_counts():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=5))
    drain(engine)
    out = handle.result(timeout=0)
    assert out.outputs[0].text == "bcdef"
    assert out.outputs[0].token_ids == codes("bcdef")
    assert (out.outputs[0].finish_reason, out.outputs[0].stop_reason) == ("length", None)
    assert out.prompt_token_ids == codes("a") and not out.truncated
    assert is_idle(engine)


def test_each_request_of_a_batch_gets_its_own_answer():
    engine = make_engine(prefill_chunk=7)
    handles = [engine.submit(codes(prompt), sampling(max_tokens=3 + i)) for i, prompt in enumerate(PROMPTS)]
    drain(engine)
    for i, (prompt, handle) in enumerate(zip(PROMPTS, handles, strict=True)):
        assert text_of(handle) == counted(prompt, 3 + i)
    assert is_idle(engine)


@pytest.mark.parametrize("chunk", [1, 2, 5, 33, 512])
@pytest.mark.parametrize("seed", [None, 7])
def test_chunks_and_company_change_no_token(chunk, seed):
    options = {"max_tokens": 12} | ({} if seed is None else {"seed": seed, "temperature": 0.8, "top_p": 0.9})
    engine = make_engine(model=tiny_core.built("llama"), prefill_chunk=chunk, step_budget_s=1e-6)
    handles = []
    for prompt in PROMPTS:
        handles.append(engine.submit(codes(prompt), sampling(**options)))
        engine.step()
    drain(engine)
    for prompt, handle in zip(PROMPTS, handles, strict=True):
        assert handle.result(timeout=0).outputs[0].token_ids == alone(prompt, **options)


@pytest.mark.parametrize("n_blocks", [4, 6, 9])
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_preemption_changes_no_token(n_blocks, prefix_caching):
    options = {"max_tokens": 50, "temperature": 1.0, "seed": 3, "ignore_eos": True}
    engine = make_engine(model=tiny_core.built("llama"), n_blocks=n_blocks, prefix_caching=prefix_caching)
    handles = [engine.submit(codes(prompt[:12]), sampling(**options)) for prompt in PROMPTS]
    drain(engine)
    outs = [handle.result(timeout=0) for handle in handles]
    assert sum(out.metrics["preemptions"] for out in outs) == engine.scheduler.n_preemptions > 0
    assert outs[0].metrics["preemptions"] == 0, "the oldest request gave way"
    for prompt, out in zip(PROMPTS, outs, strict=True):
        assert out.outputs[0].token_ids == alone(prompt[:12], **options)
    assert is_idle(engine)


def test_a_prefix_is_computed_once():
    engine = make_engine()
    prompt = codes("abcdefghijkl" * 4)  # exactly three blocks
    first = engine.submit(prompt, sampling(max_tokens=2))
    drain(engine)
    second = engine.submit(prompt, sampling(max_tokens=2))
    other = engine.submit(prompt, sampling(max_tokens=2, cache_salt="other"))
    drain(engine)
    assert first.result(0).metrics["cached_tokens"] == 0
    assert second.result(0).metrics["cached_tokens"] == 32, "at least one token must be left to compute"
    assert other.result(0).metrics["cached_tokens"] == 0, "another salt must not see the prefix"
    assert text_of(first) == text_of(second) == text_of(other) == "mn"


def test_without_prefix_caching_nothing_is_shared():
    engine = make_engine(prefix_caching=False)
    for _ in range(2):
        handle = engine.submit(codes("abcdefghijkl" * 4), sampling(max_tokens=2))
        drain(engine)
    assert handle.result(0).metrics["cached_tokens"] == 0
    assert engine.stats()["cached_blocks"] == 0


def test_siblings_draw_from_seeds_of_their_own_and_share_the_prompt():
    engine = make_engine(model=tiny_core.built("llama"))
    options = {"max_tokens": 12, "temperature": 1.5, "seed": 11, "ignore_eos": True}
    prompt = "abcdefghijklm" * 4
    handle = engine.submit(codes(prompt), sampling(n=3, **options))
    drain(engine)
    outputs = handle.result(0).outputs
    assert [output.index for output in outputs] == [0, 1, 2]
    assert len({tuple(output.token_ids) for output in outputs}) == 3
    assert outputs[0].token_ids == alone(prompt, **options), "n must not change the first continuation"
    assert engine.stats()["block_hits"] >= 6, "each sibling finds the three whole blocks of the prompt"
    assert is_idle(engine)


@pytest.mark.parametrize("prefix_caching", [True, False])
@pytest.mark.parametrize("n_prompt", [1, 16, 17, 52])
def test_siblings_are_requests_of_their_own_seeds_and_compute_the_prompt_once(n_prompt, prefix_caching):
    model, options = tiny_core.built("llama"), {"max_tokens": 12, "temperature": 1.5, "ignore_eos": True}
    engine = make_engine(model=model, prefix_caching=prefix_caching, prefill_chunk=20)
    ids = codes("abcdefghijklm" * 4)[:n_prompt]
    handle = engine.submit(ids, sampling(n=3, seed=11, **options))
    drain(engine)
    assert engine.stats()["computed_tokens"] == n_prompt + 2 + 3 * 11, "of a sibling's prompt only the end"
    for output in handle.result(0).outputs:
        own = make_engine(model=model)
        seed = derived_seed(11, output.index)
        other = own.submit(ids, sampling(seed=seed, **options))
        drain(own)
        assert output.token_ids == other.result(0).outputs[0].token_ids
    assert is_idle(engine)


# --- ends


@pytest.mark.parametrize("n_steps", range(11))
def test_abort_frees_everything_within_a_step(n_steps):
    """At every state: queued, in the middle of a prompt, decoding, finished."""
    engine = make_engine(prefill_chunk=3, max_num_seqs=2)
    other = engine.submit(codes("bystander"), sampling(max_tokens=9))
    handle = engine.submit(codes("abcdefghij"), sampling(max_tokens=2, n=2))
    for _ in range(n_steps):
        engine.step()
    handle.abort()
    handle.abort()
    engine.step()
    engine.scheduler.check_invariants()
    assert handle.done
    try:
        reasons = {output.finish_reason for output in handle.result(0).outputs}
        assert reasons <= {"abort", "length"}
    except RequestCancelled:
        assert n_steps < 7, "something had been generated: the partial output is the result"
    drain(engine)
    assert text_of(other) == counted("r", 9)
    assert is_idle(engine)


def test_abort_of_a_preempted_request():
    engine = make_engine(n_blocks=3, max_model_len=48)
    oldest = engine.submit(codes("abcdefgh"), sampling(max_tokens=30))
    newest = engine.submit(codes("ijklmnop"), sampling(max_tokens=30))
    while not engine.scheduler.n_preemptions:
        assert engine.step()
    newest.abort()
    drain(engine)
    assert newest.result(0).outputs[0].finish_reason == "abort"
    assert text_of(oldest) == counted("h", 30) and is_idle(engine)


def test_a_handle_that_nobody_holds_aborts_its_request():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=100))
    engine.step()
    del handle
    gc.collect()
    engine.step()
    assert is_idle(engine)


def test_an_abandoned_stream_aborts_its_request():
    engine = make_engine()
    stream = iter(engine.submit(codes("a"), sampling(max_tokens=100)))
    engine.step()
    assert next(stream).text == "b"
    del stream
    engine.step()
    assert is_idle(engine)


def test_a_slow_consumer_gets_what_came_in_one_chunk():
    engine = make_engine()
    stream = iter(engine.submit(codes("a"), sampling(max_tokens=5)))
    drain(engine)
    chunk = next(stream)
    assert (chunk.text, chunk.token_ids, chunk.finish_reason) == ("bcdef", codes("bcdef"), "length")
    assert list(stream) == []


def test_a_deadline_that_has_passed_computes_nothing():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(deadline_s=0))
    engine.step()
    with pytest.raises(DeadlineExceeded):
        handle.result(0)
    assert engine.stats()["computed_tokens"] == 0 and is_idle(engine)


def test_a_deadline_gives_what_there_is():
    engine = make_engine(clock=Clock(step_s=0.02))
    handle = engine.submit(codes("a"), sampling(deadline_s=0.1, max_tokens=100))
    drain(engine)
    output = handle.result(0).outputs[0]
    assert output.finish_reason == "deadline" and 5 <= len(output.token_ids) <= 6
    assert output.text == counted("a", len(output.token_ids)) and is_idle(engine)


def test_metrics_say_when_things_happened():
    engine = make_engine(step_s=0.01)
    handle = engine.submit(codes("abcdefgh"), sampling(max_tokens=4))
    drain(engine)
    metrics = handle.result(0).metrics
    assert metrics["queue_s"] >= 0 and metrics["prefill_s"] >= 0.01 and metrics["decode_s"] >= 0.03
    assert metrics["first_token_s"] == pytest.approx(metrics["queue_s"] + metrics["prefill_s"])
    assert metrics["total_s"] == pytest.approx(metrics["first_token_s"] + metrics["decode_s"])
    assert metrics["finished_time"] > metrics["first_token_time"]
    assert (metrics["cached_tokens"], metrics["preemptions"]) == (0, 0)


# --- errors belong to a row


def test_not_a_number_fails_its_request_alone():
    engine = make_engine()
    good = engine.submit(codes("a"), sampling(max_tokens=6))
    bad = engine.submit([*codes("ab"), POISON], sampling(max_tokens=6))
    lenient = engine.submit([*codes("ab"), POISON], sampling(max_tokens=6, on_nan="eos"))
    drain(engine)
    with pytest.raises(NumericError):
        bad.result(0)
    output = lenient.result(0).outputs[0]
    assert (output.text, output.finish_reason, output.stop_reason) == ("", "error", "nan")
    assert text_of(good) == "bcdefg" and is_idle(engine)


def test_prompt_logprobs_that_are_not_numbers_fail_their_request_alone():
    engine = make_engine()
    options = {"max_tokens": 0, "prompt_logprobs": 1}
    good = engine.submit(codes("abc"), sampling(**options))
    bad = engine.submit([*codes("a"), POISON, *codes("b")], sampling(**options))
    lenient = engine.submit([*codes("a"), POISON, *codes("b")], sampling(on_nan="eos", **options))
    drain(engine)
    with pytest.raises(NumericError):
        bad.result(0)
    assert np.isnan(lenient.result(0).prompt_logprobs[2].logprob)
    assert np.isfinite([entry.logprob for entry in good.result(0).prompt_logprobs[1:]]).all()
    assert is_idle(engine)


def test_parameters_that_leave_no_token_fail_their_request_alone():
    engine = make_engine()
    good = engine.submit(codes("a"), sampling(max_tokens=6))
    bad = engine.submit(codes("a"), sampling(max_tokens=6, allowed_token_ids=[98], bad_words=["b"]))
    drain(engine)
    with pytest.raises(NumericError) as caught:
        bad.result(0)
    assert caught.value.code == "no_token_allowed"
    assert text_of(good) == "bcdefg" and is_idle(engine)


def test_a_failing_step_fails_its_rows_and_no_others():
    engine = make_engine(max_num_seqs=1)
    runner, engine._runner = engine._runner, None  # calling a step is an AttributeError now
    broken = engine.submit(codes("a"), sampling(max_tokens=3))
    waiting = engine.submit(codes("k"), sampling(max_tokens=3))
    engine.step()
    engine._runner = runner
    drain(engine)
    with pytest.raises(TuiliError) as caught:
        broken.result(0)
    assert caught.value.code == "internal" and isinstance(caught.value.__cause__, AttributeError)
    assert text_of(waiting) == "lmn" and is_idle(engine)


def test_memory_errors_of_the_core_keep_their_class():
    from tuili.errors import EngineOutOfMemoryError

    class Full:
        def step(self, *args):
            raise EngineOutOfMemoryError("no memory")

    engine = make_engine()
    engine._runner = Full()
    handle = engine.submit(codes("a"), sampling(max_tokens=3))
    drain(engine)
    with pytest.raises(EngineOutOfMemoryError):
        handle.result(0)
    assert is_idle(engine)


# --- limits


def test_the_queue_has_an_end():
    engine = make_engine(max_num_seqs=2, max_queue=1)
    handles = [engine.submit(codes("a"), sampling(max_tokens=2)) for _ in range(3)]
    with pytest.raises(QueueFullError):
        engine.submit(codes("a"), sampling(max_tokens=2))
    drain(engine)
    assert [text_of(handle) for handle in handles] == ["bc"] * 3
    again = engine.submit(codes("a"), sampling(max_tokens=2))
    drain(engine)
    assert text_of(again) == "bc"


def test_the_queue_bounds_tokens():
    engine = make_engine(max_queued_tokens=20)
    long = engine.submit(codes("a" * 30), sampling(max_tokens=1))  # into an empty queue goes anything
    with pytest.raises(QueueFullError):
        engine.submit(codes("a"), sampling(max_tokens=1))
    drain(engine)
    assert text_of(long) == "b" and is_idle(engine)


def test_a_request_that_never_fits_is_refused():
    engine = make_engine(n_blocks=3, max_model_len=100)
    assert engine.submit(codes("abcd"), sampling(max_tokens=45)) is not None  # 48 are computed
    with pytest.raises(KVCacheExhaustedError, match="4 cache blocks"):
        engine.submit(codes("abcd"), sampling(max_tokens=46))


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
def test_tiny_pools_work(n_blocks):
    engine = make_engine(n_blocks=n_blocks, max_model_len=16 * n_blocks)
    handles = [engine.submit(codes("a"), sampling()) for _ in range(3)]
    drain(engine)
    assert {text_of(handle) for handle in handles} == {counted("a", 16 * n_blocks)}


def test_the_context_ends_a_text_and_says_so():
    engine = make_engine(max_model_len=10)
    exact = engine.submit(codes("abcdefghij"), sampling(max_tokens=5))
    open_end = engine.submit(codes("abcdefgh"), sampling())
    fits = engine.submit(codes("abcdefgh"), sampling(max_tokens=3))
    drain(engine)
    for handle, n, reason in ((exact, 1, "max_model_len"), (open_end, 3, "max_model_len"), (fits, 3, None)):
        output = handle.result(0).outputs[0]
        assert (len(output.token_ids), output.finish_reason, output.stop_reason) == (n, "length", reason)
    with pytest.raises(PromptTooLongError, match=r"11 tokens.*10"):
        engine.submit(codes("abcdefghijk"), sampling(max_tokens=1))


BAD_IDS = [
    ([], InvalidParameterError),
    ([-1], TokenIdError),
    ([300], TokenIdError),
    ([2**31], TokenIdError),
    ([2**80], TokenIdError),
    ([1.0], InvalidParameterError),
    ([True], InvalidParameterError),
    (["a"], InvalidParameterError),
    (np.zeros((2, 2), np.int64), InvalidParameterError),
    (np.zeros(3, np.float32), InvalidParameterError),
    (np.zeros(3, bool), InvalidParameterError),
    (np.array(3), InvalidParameterError),
]


@pytest.mark.parametrize("ids, error", BAD_IDS, ids=[str(i) for i in range(len(BAD_IDS))])
def test_token_ids_are_checked_before_anything_is_queued(ids, error):
    engine = make_engine()
    with pytest.raises(error):
        engine.submit(ids, sampling(max_tokens=1))
    assert is_idle(engine)


def test_an_array_that_hides_some_of_its_ids_is_refused() -> None:
    engine = make_engine()
    for hidden in (codes("b")[0], 10**8):
        with pytest.raises(InvalidParameterError, match="masked"):
            engine.submit(np.ma.array([*codes("a"), hidden], mask=[False, True]), sampling(max_tokens=2))


@pytest.mark.parametrize(
    "ids",
    [
        np.array([97, 0, 98, 0, 99])[::2],
        np.array([99, 98, 97])[::-1],
        np.array([97, 98, 99], ">i8"),
        (97, 98, 99),
    ],
    ids=["strided", "reversed", "big-endian", "tuple"],
)
def test_any_integer_array_is_a_prompt(ids):
    engine = make_engine()
    handle = engine.submit(ids, sampling(max_tokens=2))
    drain(engine)
    assert text_of(handle) == "de"


@pytest.mark.parametrize(
    "options", [{"logit_bias": {300: 1.0}}, {"stop_token_ids": [300]}, {"allowed_token_ids": [300]}]
)
def test_ids_in_parameters_are_checked_against_the_vocabulary(options):
    with pytest.raises(TokenIdError, match="300"):
        make_engine().submit(codes("a"), sampling(**options))


# --- what the core collects


def test_logits_and_hidden_states_of_a_prompt():
    engine = make_engine(model=tiny_core.built("llama"), prefill_chunk=5, start_thread=True)
    ids = codes("the quick brown fox")
    alone = tiny_core.run(tiny_core.built("llama"), np.array(ids, np.int32))
    np.testing.assert_array_equal(engine.collect(ids, "logits"), alone.logits())
    np.testing.assert_array_equal(engine.collect(ids, "hidden_states"), alone.hidden_states())
    engine.close()


def test_prompt_logprobs_do_not_need_generated_tokens():
    engine = make_engine(model=tiny_core.built("llama"))
    ids = codes("the quick brown fox")
    handle = engine.submit(ids, sampling(max_tokens=0, prompt_logprobs=2))
    drain(engine)
    out = handle.result(0)
    assert out.outputs[0].token_ids == [] and out.prompt_logprobs[0] is None
    logits = tiny_core.run(tiny_core.built("llama"), np.array(ids, np.int32)).logits().astype(np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    for position, entry in enumerate(out.prompt_logprobs[1:]):
        assert entry.token_id == ids[position + 1]
        assert entry.logprob == pytest.approx(log_p[position, entry.token_id], abs=1e-4)
        best = np.argsort(-log_p[position], kind="stable")[:2]
        assert [token_id for token_id, _ in entry.top] == best.tolist()


def test_logprobs_of_generated_tokens():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=3, logprobs=1))
    drain(engine)
    output = handle.result(0).outputs[0]
    assert [entry.token_id for entry in output.logprobs] == codes("bcd")
    assert all(entry.top[0] == (entry.token_id, entry.logprob) for entry in output.logprobs), (
        "greedy takes the best"
    )
    assert output.cumulative_logprob == sum(entry.logprob for entry in output.logprobs)


# --- parameters, alone and together


EXTREMES = [
    {"temperature": 1e-45},
    {"temperature": 1e-4, "top_p": 1e-9},
    {"temperature": 1e30},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_k": 10**6},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 1.0, "typical_p": 1e-9},
    {"repetition_penalty": 1e6},
    {"repetition_penalty": 1e-6, "presence_penalty": 100.0, "frequency_penalty": -100.0},
    {"logit_bias": {5: 100.0, 6: -100.0}, "no_repeat_ngram_size": 1},
    {"exponential_decay_length_penalty": (0, 1e6), "stop_token_ids": [5], "min_tokens": 20},
]


@pytest.mark.parametrize("options", EXTREMES, ids=str)
def test_extreme_parameters_draw_tokens_of_the_vocabulary(options):
    engine = make_engine(model=tiny_core.built("llama"))
    handle = engine.submit(codes("abcdef"), sampling(max_tokens=20, seed=1, **options))
    drain(engine)
    token_ids = handle.result(0).outputs[0].token_ids
    assert len(token_ids) == 20 and all(0 <= token_id < 300 for token_id in token_ids)


def random_options(rng):
    """Some of everything that changes what is drawn."""
    values = {
        "temperature": 0.9,
        "top_k": 40,
        "top_p": 0.8,
        "min_p": 0.01,
        "typical_p": 0.9,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.3,
        "no_repeat_ngram_size": 2,
        "encoder_no_repeat_ngram_size": 2,
        "stop": ["ab", "q"],
        "stop_token_ids": [7],
        "min_tokens": 3,
        "ignore_eos": True,
        "n": 2,
        "logprobs": 3,
        "prompt_logprobs": 1,
        "logit_bias": {5: 2.0},
        "allowed_token_ids": list(range(100)),
        "bad_words": ["c", "de"],
        "bad_words_ids": [[8], [9, 10]],
        "suppress_tokens": [11, 12],
        "begin_suppress_tokens": list(range(13, 99)),
        "exponential_decay_length_penalty": (4, 1.5),
    }
    chosen = [name for name in values if rng.random() < 0.4]
    return {name: values[name] for name in chosen} | {"seed": int(rng.integers(2**62)), "max_tokens": 24}


@pytest.mark.parametrize("seed", range(12))
def test_any_combination_of_parameters_gives_the_same_alone_and_in_company(seed):
    rng = np.random.default_rng(seed)
    requests = [
        (codes("the quick brown fox jumps over"[: rng.integers(1, 30)]), random_options(rng))
        for _ in range(8)
    ]
    model = tiny_core.built("llama")
    crowd = make_engine(model=model, n_blocks=7, prefill_chunk=11, eos_ids=(1,), max_model_len=100)
    handles = [crowd.submit(ids, sampling(**options)) for ids, options in requests]
    drain(crowd)
    for (ids, options), handle in zip(requests, handles, strict=True):
        alone = make_engine(model=model, eos_ids=(1,), max_model_len=100)
        single = alone.submit(ids, sampling(**options))
        drain(alone)
        assert single.result(0).outputs == handle.result(0).outputs
        assert single.result(0).prompt_logprobs == handle.result(0).prompt_logprobs


# --- the whole life, at random


@pytest.mark.parametrize("seed", range(10))
def test_random_lives_leave_nothing_behind(seed):
    rng = np.random.default_rng(seed)
    engine = make_engine(n_blocks=6, max_model_len=60, max_num_seqs=5, prefill_chunk=int(rng.integers(1, 20)))
    handles = []
    for _ in range(200):
        action = rng.random()
        if action < 0.35:
            prompt = codes("abcdefghijklmnopqrstuvwxyz"[: rng.integers(1, 20)])
            options = {"max_tokens": int(rng.integers(1, 40)), "n": int(rng.integers(1, 3))}
            handles.append(engine.submit(prompt, sampling(temperature=0, **options)))
        elif action < 0.45 and handles:
            handles[rng.integers(len(handles))].abort()
        else:
            engine.step()
            engine.scheduler.check_invariants()
    drain(engine)
    for handle in handles:
        assert handle.done
        if handle._request.error is None:
            for output in handle.result(0).outputs:
                assert output.text == counted(
                    chr(handle._request.prompt_token_ids[-1]), len(output.token_ids)
                )
    assert is_idle(engine)


def test_a_closed_engine_refuses_and_releases():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=3))
    engine.step()
    engine.close()
    engine.close()
    with pytest.raises(EngineClosedError):
        handle.result(0)
    with pytest.raises(EngineClosedError):
        engine.submit(codes("a"), sampling(max_tokens=3))
    assert is_idle(engine)
