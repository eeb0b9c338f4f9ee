"""Prompt lookup: whatever is guessed, a request gives, bit for bit, what it gives without guesses.

Catalogue rows KV-03, KV-06, KV-16.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine_schedules import EOS, alone, draw_options, draw_prompt
from tiny_core import built, some_ids
from tiny_engine import codes, drain, is_idle, make_engine, sampling
from tuili import _core

GREEDY = _core.SamplingParams(temperature=0.0)


def play(seed):
    """Some requests, with guesses or without, in one engine; returns its counters."""
    rng = random.Random(seed)
    cases = [(draw_prompt(rng), draw_options(rng)) for _ in range(rng.randint(1, 8))]
    expected = [alone(*case) for case in cases]
    first = max(cases, key=lambda case: len(case[0]))[0]
    cases.append((first + expected[0][0].token_ids, {"max_tokens": 9}))  # finds what a guessed text left
    expected.append(alone(*cases[-1]))
    engine = make_engine(
        model=built("llama"),
        max_model_len=256,
        eos_ids=(EOS,),
        n_blocks=rng.choice([11, 11, 12, 256]),
        num_threads=rng.choice([1, 2]),
        prefill_chunk=rng.choice([5, 64]),
        prefix_caching=rng.random() < 0.7,
        max_num_seqs=rng.choice([3, 16]),
    )
    handles = []
    for ids, options in cases:
        n_most = rng.choice([0, 1, 4, 10, 64])
        handles.append(engine.submit(ids, sampling(**options, prompt_lookup_num_tokens=n_most)))
        for _ in range(rng.choice([0, 0, 3, 30])):
            engine.step()
            engine.scheduler.check_invariants()
    drain(engine)
    for handle, outputs in zip(handles, expected, strict=True):
        assert handle.result(timeout=0).outputs == outputs, f"seed {seed}"
    assert is_idle(engine)
    return engine.stats()


def test_guesses_change_no_bit():
    totals = {"drafted_tokens": 0, "accepted_tokens": 0, "preemptions": 0, "cached_tokens": 0}
    for seed in range(40):
        stats = play(seed)
        totals = {name: n + stats[name] for name, n in totals.items()}
    assert all(n > 20 for n in totals.values()), totals
    assert totals["accepted_tokens"] < totals["drafted_tokens"], "no guess was wrong"


@pytest.mark.slow
def test_guesses_change_no_bit_of_many():
    for seed in range(40, 1100):
        play(seed)


def counting(ids, n, **options):
    """A sequence of the counting model that has drawn one token, and what a run of it gives."""
    engine = make_engine()
    sequence = _core.Sequence(np.array(ids, np.int32), GREEDY, **options)
    pool, runner = engine._pool, engine._runner
    assert pool.grow(sequence, len(ids) + n)
    runner.step([sequence], [len(ids)], [True])
    return sequence, runner.run([sequence], max_steps=n, max_s=60), pool


def test_a_text_that_repeats_itself_takes_fewer_steps():
    ids = codes("abcdefghijklmnopqrstuvwxyz" + "a")
    sequence, run, _ = counting(ids, 20, prompt_lookup=10, max_tokens=len(ids) + 21)
    assert sequence.token_ids(len(ids)) == codes("bcdefghijklmnopqrstuv")
    assert run.token_ids == [codes("cdefghijklmnopqrstuv")] and run.n_steps < 8


@pytest.mark.parametrize("end", ["a stop id", "max_tokens", "a full block"])
def test_guesses_go_no_further_than_the_run(end):
    ids = codes("abcdefghijklmnopqrstuvwxyz" + "a")  # 27; two blocks hold 32
    options = {"a stop id": {"stop_ids": codes("j")}, "max_tokens": {"max_tokens": 36}, "a full block": {}}[
        end
    ]
    sequence, run, pool = counting(ids, 5 if end == "a full block" else 20, prompt_lookup=10, **options)
    last = "g" if end == "a full block" else "j"
    assert sequence.token_ids(len(ids)) == codes("abcdefghij"[1 : "abcdefghij".index(last) + 1])
    assert run.n_steps < len(run.token_ids[0])
    assert sequence.n_computed == sequence.n_tokens - 1
    pool.publish(sequence)
    pool.check_invariants()


def test_rejected_guesses_are_never_found_in_the_cache():
    ids = codes("abcdefghij" + "Z" * 20 + "a")  # "…hij" is guessed rightly, the Zs after it wrongly
    sequence, run, pool = counting(ids, 40, prompt_lookup=10)
    assert run.n_drafted == 1 + 3 + 7 and len(run.token_ids[0]) == run.n_steps + 1 + 3 + 2
    pool.publish(sequence)
    text = sequence.token_ids()
    again = _core.Sequence(np.array([*text, 1], np.int32), GREEDY)
    assert pool.attach_prefix(again) == sequence.n_computed // 16 * 16
    wrong = _core.Sequence(np.array([*ids, *codes("bcdefghij" + "Z" * 20)], np.int32), GREEDY)
    assert pool.attach_prefix(wrong) == (len(ids) + len("bcdefghij")) // 16 * 16


def test_guesses_that_keep_failing_become_rare():
    wrong = [code for c in codes("abcdefghijklmnopqrstuvwxyz") for code in (c, c + 1, c + 100)]
    sequence, run, _ = counting([*wrong, ord("a") - 20], 50, prompt_lookup=10)
    assert run.n_steps == 50, "each guess is wrong"
    assert 0 < run.n_drafted <= 6
    assert sequence.n_tokens == sequence.n_prompt + 51


def test_a_text_without_repetition_is_not_guessed():
    _, run, _ = counting(codes("a"), 60, prompt_lookup=10)
    assert (run.n_steps, run.n_drafted) == (60, 0)


def test_runs_with_guesses_allocate_nothing():
    ids = codes("abcdefghijklmnopqrstuvwxyz" + "a")
    engine = make_engine()
    sequence = _core.Sequence(np.array(ids, np.int32), GREEDY, prompt_lookup=10)
    assert engine._pool.grow(sequence, 60)
    engine._runner.step([sequence], [len(ids)], [True])
    before = engine._runner.n_allocations()
    assert engine._runner.run([sequence], max_steps=20, max_s=60).n_drafted > 0
    assert engine._runner.n_allocations() == before


def test_a_batch_of_many_rows_guesses_little():
    """One row more costs a fraction of a step of few rows, and a whole row's time of many."""
    engine = make_engine(model=built("llama"))
    sequences = [_core.Sequence(some_ids(9, i % 2), GREEDY, prompt_lookup=10) for i in range(14)]
    for sequence in sequences:
        assert engine._pool.grow(sequence, 60)
        engine._runner.step([sequence], [9], [True])
    run = engine._runner.run(sequences, max_steps=40, max_s=60)
    assert 0 < run.n_drafted <= 2 * run.n_steps


@pytest.mark.parametrize("options", [{"stop": ["zz"]}, {"logprobs": 2}, {"stop": ["j"], "logprobs": 0}])
def test_texts_that_are_looked_at_after_every_step_are_guessed_too(options):
    engine = make_engine()
    ids = codes("abcdefghijklmnopqrstuvwxyz" + "a")
    params = sampling(max_tokens=20, prompt_lookup_num_tokens=10, **options)
    handle = engine.submit(ids, params)
    drain(engine)
    output = handle.result(timeout=0).outputs[0]
    assert output.text == "bcdefghijklmnopqrstu"[: 8 if "j" in params.stop else 20]
    assert output.logprobs is None or [entry.token_id for entry in output.logprobs] == output.token_ids
    assert engine.stats()["steps"] < len(output.token_ids) / 1.5
    assert is_idle(engine)


def test_a_stream_gets_guessed_tokens_together():
    engine = make_engine()
    handle = engine.submit(
        codes("abcdefghijklmnopqrstuvwxyza"),
        sampling(max_tokens=20, prompt_lookup_num_tokens=10, stop=["zz"]),
    )
    stream, chunks = iter(handle), []
    while engine.step():
        chunks.append(next(stream).text)
    chunks += [chunk.text for chunk in stream]
    assert "".join(chunks) == "bcdefghijklmnopqrstu" and max(map(len, chunks)) > 3


def test_the_guesses_of_a_step_have_sixteen_rows_with_all_that_run():
    engine = make_engine(max_num_seqs=4)
    ids = codes("abcdefghijklmnopqrstuvwxyz{|}~ab")
    sequences = [_core.Sequence(np.array(ids, np.int32), GREEDY, prompt_lookup=10) for _ in range(4)]
    assert all(engine._pool.grow(sequence, 100) for sequence in sequences)
    engine._runner.step(sequences, [len(ids)] * 4, [True] * 4)
    drafted = [engine._runner.run(sequences, max_steps=1, max_s=60).n_drafted for _ in range(4)]
    assert max(drafted) == 16 - 4
