"""Steps of the runner: what it refuses and leaves untouched, and that a decode step allocates nothing."""

from __future__ import annotations

import dataclasses
import os
import threading

import numpy as np
import pytest

import reference
import tiny_models
from seq2seq_models import by_name, write
from tiny_core import How, build, built, core_spec, run, some_ids, tiny
from tiny_models import TinyModel, Weight, tiny_llama
from tuili import _core, errors
from tuili.loading.model import load, plan_model

BLOCK_SIZE = 16


class Bench:
    """One runner with its cache and pool, and a sequence of 20 tokens that is ready to run."""

    def __init__(self, model: _core.Model | None = None, **options: int) -> None:
        self.model = model or built("llama")
        self.cache = _core.KvCache(self.model.spec, 8, BLOCK_SIZE)
        self.cache.poison()
        self.pool = _core.BlockPool(8, BLOCK_SIZE, prefix_cache=False)
        self.runner = _core.Runner(
            self.model, self.cache, **({"max_batch_tokens": 64, "num_threads": 1} | options)
        )
        self.sequence = self.new(some_ids(20))

    def new(self, ids: np.ndarray, **options: object) -> _core.Sequence:
        sequence = _core.Sequence(ids, _core.SamplingParams(temperature=0.0), **options)
        assert self.pool.grow(sequence, min(len(ids), 2 * BLOCK_SIZE))
        return sequence


def test_a_step_computes_and_samples():
    bench = Bench()
    result = bench.runner.step([bench.sequence], [20], [True])
    assert result.token_ids == bench.sequence.token_ids(20)
    assert result.logprobs == [None]
    assert (bench.sequence.n_computed, bench.sequence.n_tokens) == (20, 21)


REFUSED = {
    "nothing": lambda b: ([], [], []),
    "lengths disagree": lambda b: ([b.sequence], [1, 1], [False]),
    "no token": lambda b: ([b.sequence], [0], [False]),
    "a negative number": lambda b: ([b.sequence], [-1], [False]),
    "more tokens than there are": lambda b: ([b.sequence], [21], [False]),
    "a sample before the end": lambda b: ([b.sequence], [19], [True]),
    "one sequence twice": lambda b: ([b.sequence, b.sequence], [1, 1], [False, False]),
    "no blocks": lambda b: ([_core.Sequence(some_ids(3))], [3], [False]),
    "too few blocks": lambda b: ([b.new(some_ids(40))], [40], [False]),
    "a token type of a model without": lambda b: (
        [b.new(some_ids(3), token_type_ids=[0, 0, 1])],
        [3],
        [False],
    ),
    "a batch too large": lambda b: ([b.new(some_ids(32)) for _ in range(3)], [32] * 3, [False] * 3),
    "too many sequences": lambda b: (
        [b.sequence, b.new(some_ids(1)), b.new(some_ids(1))],
        [1] * 3,
        [False] * 3,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_step_changes_nothing(name):
    bench = Bench(max_seqs=3 if name == "a batch too large" else 2)
    with pytest.raises(errors.InvalidParameterError):
        bench.runner.step(*REFUSED[name](bench))
    assert (bench.sequence.n_computed, bench.sequence.n_tokens) == (0, 20)
    assert len(bench.runner.step([bench.sequence], [20], [True]).token_ids) == 1


@pytest.mark.parametrize("token_id", [300, 2**31 - 1])
def test_a_token_outside_the_vocabulary_is_refused(token_id):
    bench = Bench()
    ids = some_ids(5)
    ids[3] = token_id
    with pytest.raises(errors.TokenIdError, match=str(token_id)):
        bench.runner.step([bench.sequence, bench.new(ids)], [20, 5], [False, False])
    assert bench.sequence.n_computed == 0


@pytest.mark.parametrize("ids", [[], [-1], [1.5], [[1, 2]], ["a"], [2**31]], ids=str)
def test_ids_that_are_no_ids_make_no_sequence(ids):
    with pytest.raises((errors.TuiliError, TypeError)):
        _core.Sequence(np.array(ids))


def test_the_token_after_a_step_is_checked_when_its_probability_is_asked_for():
    bench = Bench()
    sequence = bench.new(np.array([1, 2, 2**31 - 1]), prompt_logprobs=0)
    with pytest.raises(errors.TokenIdError, match="position 2"):
        bench.runner.step([sequence], [2], [False])


def test_a_history_of_another_models_tokens_is_refused(monkeypatch):
    monkeypatch.setattr(tiny_models, "N_VOCAB", 70_000)
    wide = Bench(build(tiny_llama(n_layers=2)))
    monkeypatch.undo()
    bench = Bench()
    sequence = _core.Sequence([69_999, 2, 3], _core.SamplingParams(repetition_penalty=1.5))
    assert wide.pool.grow(sequence, 8)
    wide.runner.step([sequence], [3], [False])
    sequence.append_token(1)
    with pytest.raises(errors.TokenIdError, match="69999 at position 0"):
        bench.runner.step([sequence], [1], [True])


def test_a_sequence_is_decoded_or_encoded_not_both():
    bench = Bench()
    encoder = _core.Runner(built("bert"), max_batch_tokens=64, num_threads=1)
    with pytest.raises(errors.InvalidParameterError, match="blocks"):
        encoder.encode([bench.sequence], "mean", False)
    sequence = _core.Sequence(some_ids(9))
    encoder.encode([sequence], "mean", False)
    with pytest.raises(errors.InvalidParameterError, match="encoded"):
        bench.pool.grow(sequence, 9)
    child = _core.Sequence(np.append(some_ids(9), np.int32(1)))
    with pytest.raises(errors.InvalidParameterError, match="9 tokens of 0 computed"):
        bench.pool.fork(child, sequence, 9)


def test_a_sequence_longer_than_the_model_takes_is_refused():
    model = built("llama")
    n = model.spec.max_positions + 1
    cache = _core.KvCache(model.spec, 33, 64)
    pool = _core.BlockPool(33, 64, prefix_cache=False)
    runner = _core.Runner(model, cache, max_batch_tokens=n, num_threads=1)
    sequence = _core.Sequence(some_ids(n))
    assert pool.grow(sequence, n)
    with pytest.raises(errors.InvalidParameterError, match=str(model.spec.max_positions)):
        runner.step([sequence], [n], [False])


def test_a_cache_of_another_model_is_refused():
    with pytest.raises(errors.InvalidParameterError, match="cache"):
        _core.Runner(built("llama"), _core.KvCache(built("gemma3").spec, 4, 16))
    with pytest.raises(errors.InvalidParameterError, match="cache"):
        _core.Runner(built("llama"))
    with pytest.raises(errors.InvalidParameterError, match="cache"):
        _core.Runner(built("bert"), _core.KvCache(built("bert").spec, 4, 16))
    gemma = tiny("gemma3")
    layers = [layer | {"sliding_window": layer["sliding_window"] and 9} for layer in gemma.spec["layers"]]
    wider = core_spec(dataclasses.replace(gemma, spec=gemma.spec | {"layers": layers}))
    with pytest.raises(errors.InvalidParameterError, match="cache"):
        _core.Runner(built("gemma3"), _core.KvCache(wider, 4, 16, windows={9: 4}))


def test_blocks_of_a_source_are_of_the_cache(tmp_path):
    model = load(plan_model(write(by_name("T5"), tmp_path))).model
    runner = _core.Runner(
        model, _core.KvCache(model.spec, 4, BLOCK_SIZE), max_source_tokens=64, num_threads=1
    )
    pool = _core.BlockPool(8, BLOCK_SIZE)
    pool.take(8)
    for block in (0, 7):  # the last one is given first, and to the source
        pool.drop(block)
    sequence = _core.Sequence(some_ids(1), source=some_ids(5))
    assert pool.grow(sequence, 1) and (sequence.source_block_ids, sequence.block_ids) == ([7], [0])
    with pytest.raises(errors.InvalidParameterError, match="block 7 is not in the cache"):
        runner.step([sequence], [1], [False])


def test_a_part_of_a_block_is_copied_in_its_own_area_alone():
    model, windows = built("gemma3"), {tiny_models.GEMMA_WINDOW: 2}
    cache = _core.KvCache(model.spec, 2, 32, windows=windows)
    pool = _core.BlockPool(2, 32, windows=windows, step_tokens=64)
    runner = _core.Runner(model, cache, max_batch_tokens=64, num_threads=1)
    sequence = _core.Sequence(some_ids(64))
    assert pool.grow(sequence, 64)
    runner.step([sequence], [64], [False])
    before = cache.read(sequence, 64, 0, 2)
    (first, second), ((beside, _),) = sequence.block_ids, sequence.window_block_ids
    runner.copy_block([first, beside], [second, beside], (0, 16))
    after = cache.read(sequence, 64, 0, 2)
    n_beside = _core.KvCache.block_bytes(model.spec, 32, "float32", window=tiny_models.GEMMA_WINDOW)
    assert (after != before)[:-n_beside].any() and (after == before)[-n_beside:].all()


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_a_block_has_the_bytes_of_its_keys_and_values(dtype, size):
    layer = tiny("gemma3").spec["layers"][0]
    expected = 2 * 6 * BLOCK_SIZE * layer["n_kv_heads"] * layer["head_dim"] * size
    spec = core_spec(tiny("gemma3"))
    assert _core.KvCache.block_bytes(spec, BLOCK_SIZE, dtype) == expected
    assert _core.KvCache(spec, 3, BLOCK_SIZE, dtype).bytes >= 3 * expected


# ---- one row does not touch another


def poisoned() -> TinyModel:
    """A llama whose embedding of token 299 is not a number."""
    model = tiny_llama(n_layers=1)
    table = model.weights["token_embedding"].values().astype(np.float32)
    table[299] = np.nan
    model.weights["token_embedding"] = Weight("f32", table.shape, table.view(np.uint8))
    return model


def test_a_row_that_is_not_a_number_stays_alone():
    model = build(poisoned())
    bench = Bench(model)
    good_ids = some_ids(20, n_vocab=299)
    good, bad = bench.new(good_ids, collect_logits=True), bench.new(np.array([1, 299, 2]))
    result = bench.runner.step([bad, good], [3, 20], [True, True])
    assert result.token_ids[0] == -1 and bad.n_tokens == 3
    assert result.token_ids[1] >= 0
    assert good.logits().tobytes() == run(model, good_ids).logits().tobytes()


def test_blocks_are_cleaned_before_they_are_used():
    """Whatever the pages held, NaN included, no bit changes."""
    ids = some_ids(20)
    bench = Bench()
    sequence = bench.new(ids, collect_logits=True)
    for _ in range(20):
        bench.runner.step([sequence], [1], [False])
    assert sequence.logits().tobytes() == run(built("llama"), ids).logits().tobytes()


# ---- memory


@pytest.mark.parametrize("family, format", [("llama", "f32"), ("llama", "q4_0"), ("gemma3", "q8_0")])
def test_a_decode_step_allocates_nothing(family, format):
    model = built(family, format)
    bench = Bench(model)
    sampling = _core.SamplingParams(temperature=0.8, top_k=20, top_p=0.9, repetition_penalty=1.1)
    sequences = [_core.Sequence(some_ids(n), sampling) for n in (3, 17)]
    for sequence in sequences:
        assert bench.pool.grow(sequence, 40)
    bench.runner.step(sequences, [3, 17], [True, True])
    for sequence in sequences:  # room for their own tokens is made while they grow: let them grow first
        while sequence.n_tokens < 33:
            sequence.append_token(5)
    bench.runner.step(sequences, [s.n_tokens - s.n_computed for s in sequences], [True, True])
    before = bench.runner.n_allocations()
    for _ in range(4):
        bench.runner.step(sequences, [1, 1], [True, True])
    assert bench.runner.n_allocations() == before


# ---- runs


def ready(bench: Bench, n: int = 20, n_blocks: int = 4, **options: object) -> _core.Sequence:
    """A sequence that has drawn its first token."""
    sampling = _core.SamplingParams(temperature=1.5, seed=n, **options.pop("sampling", {}))
    sequence = _core.Sequence(some_ids(n), sampling, **options)
    assert bench.pool.grow(sequence, n_blocks * BLOCK_SIZE)
    bench.runner.step([sequence], [n], [True])
    return sequence


@pytest.mark.parametrize("max_steps", [1, 2, 7, 30])
@pytest.mark.parametrize("family, format", [("llama", "f32"), ("llama", "q4_0"), ("gemma3", "q8_0")])
def test_a_run_is_as_many_steps(family, format, max_steps):
    model = built(family, format)
    one_by_one, in_runs = Bench(model), Bench(model)
    for bench in (one_by_one, in_runs):
        bench.pool.release(bench.sequence)
    expected = [ready(one_by_one, n) for n in (3, 17)]
    sequences = [ready(in_runs, n) for n in (3, 17)]
    for _ in range(30):
        one_by_one.runner.step(expected, [1, 1], [True, True])
    while sequences[0].n_tokens < expected[0].n_tokens:
        left = expected[0].n_tokens - sequences[0].n_tokens
        before = [s.n_tokens for s in sequences]
        run = in_runs.runner.run(sequences, max_steps=min(max_steps, left), max_s=60)
        assert run.n_steps == min(max_steps, left)
        assert run.token_ids == [s.token_ids(n) for s, n in zip(sequences, before, strict=True)]
    assert [s.token_ids() for s in sequences] == [s.token_ids() for s in expected]
    assert [s.n_computed for s in sequences] == [s.n_computed for s in expected]


def test_what_ends_a_run():
    bench = Bench()
    free = ready(bench)
    drawn = bench.runner.run([free], max_steps=30, max_s=60).token_ids[0]
    bench.pool.release(free)
    at = next(i for i in range(3, 30) if drawn[i] not in drawn[:i])
    ends = {
        "a stop id": ({"stop_ids": [299, drawn[at]]}, 60, at + 1),
        "a full block": ({"n_blocks": 2}, 60, 2 * BLOCK_SIZE - 20),
        "time": ({}, 0, 1),
        "steps": ({}, 60, 30),
    }
    for why, (options, max_s, n_steps) in ends.items():
        sequence = ready(bench, **options)
        run = bench.runner.run([sequence], max_steps=30, max_s=max_s)
        assert run.n_steps == n_steps and run.token_ids == [drawn[:n_steps]], why
        if why == "a full block":
            with pytest.raises(errors.InvalidParameterError, match="room for"):
                bench.runner.run([sequence], max_steps=1, max_s=60)
        bench.pool.release(sequence)


def test_an_interruption_ends_one_run_after_a_step():
    bench = Bench()
    sequence = ready(bench)
    bench.runner.interrupt()
    assert [bench.runner.run([sequence], max_steps=5, max_s=60).n_steps for _ in range(2)] == [1, 5]


def test_an_interruption_is_heard_during_a_run():
    """2,048 steps take some 20 ms; of several tries one meets them in the middle."""
    model = built("llama")
    n = model.spec.max_positions
    runner = _core.Runner(model, _core.KvCache(model.spec, n // 16, 16), num_threads=1)
    pool, n_steps = _core.BlockPool(n // 16, 16), []
    while not any(1 < steps < n for steps in n_steps):
        sequence = _core.Sequence([1], _core.SamplingParams(temperature=0.0))
        assert pool.grow(sequence, n)
        timer = threading.Timer(0.003, runner.interrupt)
        timer.start()
        n_steps.append(runner.run([sequence], max_steps=n, max_s=60).n_steps)
        timer.join()
        pool.release(sequence)
        assert len(n_steps) < 50, n_steps


def test_a_run_ends_at_the_models_length():
    model = built("llama")
    n = model.spec.max_positions
    runner = _core.Runner(model, _core.KvCache(model.spec, n // 16 + 1, 16), num_threads=1)
    sequence = _core.Sequence([1], _core.SamplingParams(temperature=0.0))
    assert _core.BlockPool(n // 16 + 1, 16).grow(sequence, n + 16)
    assert runner.run([sequence], max_steps=10**9, max_s=60).n_steps == n
    assert (sequence.n_computed, sequence.n_tokens) == (n, n + 1)


def test_a_run_ends_when_nothing_can_be_drawn():
    bench = Bench(build(poisoned()))
    good, bad = ready(bench), ready(bench, 3, 1)
    bad.append_token(299)
    bench.runner.step([bad], [1], [False])
    run = bench.runner.run([good, bad], max_steps=9, max_s=60)
    assert run.n_steps == 1 and run.token_ids == [good.token_ids(21), [-1]]


RUNS_REFUSED = {
    "nothing": lambda b: [],
    "a prompt": lambda b: [b.sequence],
    "logits": lambda b: [ready(b, 3, 1, collect_logits=True)],
    "hidden states": lambda b: [ready(b, 3, 1, collect_hidden=True)],
    "token types": lambda b: [ready(b, 3, 1, token_type_ids=[0] * 3)],
    "none": lambda b: [None],
}


@pytest.mark.parametrize("name", RUNS_REFUSED)
def test_a_refused_run_changes_nothing(name):
    bench = Bench()
    sequences = [ready(bench, 9, 1), *RUNS_REFUSED[name](bench)][name == "nothing" :]
    before = [(s.n_computed, s.n_tokens) for s in sequences if s]
    with pytest.raises(errors.InvalidParameterError):
        bench.runner.run(sequences, max_steps=5, max_s=60)
    with pytest.raises(errors.InvalidParameterError):
        bench.runner.run(sequences[:1], max_steps=0, max_s=60)
    assert [(s.n_computed, s.n_tokens) for s in sequences if s] == before


def test_a_run_allocates_nothing():
    bench = Bench()
    sequences = [ready(bench, n, 2) for n in (3, 9)]
    before = bench.runner.n_allocations()
    assert bench.runner.run(sequences, max_steps=20, max_s=60).n_steps == 20
    assert bench.runner.n_allocations() == before


def test_what_an_encoders_runner_does_not_do_is_refused():
    bench = Bench()
    runner = _core.Runner(built("bert"), max_batch_tokens=32, num_threads=1)
    deferred = bench.new(some_ids(20), deferred=True)
    bench.runner.step([deferred], [20], [True])
    with pytest.raises(errors.InvalidParameterError, match="chooses no tokens"):
        runner.sample(deferred, deferred.next_logits())
    with pytest.raises(errors.InvalidParameterError, match="use encode"):
        runner.step([bench.sequence], [20], [True])


@pytest.mark.parametrize("n", [-1, 2**20 + 1, 2**62])
@pytest.mark.parametrize("name", ["max_batch_tokens", "max_seqs", "max_source_tokens"])
def test_a_size_out_of_range_is_refused(name, n):
    with pytest.raises(errors.InvalidParameterError, match=f"{name} must be in .*, not {n}"):
        Bench(**{name: n})


# ---- what a sequence may collect


def test_prompt_logprobs_are_the_log_softmax_of_the_row_before():
    ids = some_ids(20)
    bench = Bench()
    sequence = bench.new(ids, prompt_logprobs=3)
    bench.runner.step([sequence], [7], [False])
    bench.runner.step([sequence], [13], [True])
    expected = np.log(reference.softmax(run(built("llama"), ids).logits().astype(np.float64)))
    entries = sequence.prompt_logprobs()
    assert len(entries) == 19
    for i, (value, best) in enumerate(entries):
        assert abs(value - expected[i, ids[i + 1]]) < 4e-6
        assert [token for token, _ in best] == sorted(range(300), key=lambda t: (-expected[i, t], t))[:3]


def test_only_what_was_asked_for_is_collected():
    bench = Bench()
    bench.runner.step([bench.sequence], [20], [False])
    for collected in (bench.sequence.logits, bench.sequence.hidden_states, bench.sequence.prompt_logprobs):
        with pytest.raises(errors.InvalidParameterError):
            collected()


def test_collected_rows_start_again_after_preemption():
    ids = some_ids(20)
    bench = Bench()
    sequence = bench.new(ids, collect_logits=True, collect_hidden=True)
    bench.runner.step([sequence], [13], [False])
    bench.pool.release(sequence)
    assert sequence.logits().shape[0] == 0
    assert bench.pool.grow(sequence, 20)
    bench.runner.step([sequence], [20], [False])
    alone = run(built("llama"), ids, How())
    assert sequence.logits().tobytes() == alone.logits().tobytes()
    assert sequence.hidden_states().tobytes() == alone.hidden_states().tobytes()


def test_token_types_choose_rows_of_their_table():
    model = tiny("bert")
    ids, types = some_ids(9), np.array([0, 0, 0, 0, 1, 1, 1, 1, 1], np.int32)
    runner = _core.Runner(built("bert"), max_batch_tokens=32, num_threads=1)
    plain, typed = _core.Sequence(ids), _core.Sequence(ids, token_type_ids=types)
    vectors = runner.encode([plain, typed], "mean", False)
    final = reference.forward(core_spec(model), model.values(), ids)["final"]
    assert abs(vectors[0] - final.mean(axis=0)).max() < 1e-5
    final = reference.forward(core_spec(model), model.values(), ids, types)["final"]
    assert abs(vectors[1] - final.mean(axis=0)).max() < 1e-5
    with pytest.raises(errors.InvalidParameterError):
        runner.encode([_core.Sequence(ids, token_type_ids=types + 1)], "mean", False)


def test_threads_that_expect_work_change_nothing():
    """They may be told so at any moment: in the middle of a step, and in a fork, which has no threads."""
    model, done = built("llama"), threading.Event()
    bench = Bench(model, num_threads=2)

    def tokens(**options):
        bench = Bench(model, **options)
        return [bench.runner.step([bench.sequence], [n], [True]).token_ids for n in (20, *[1] * 10)]

    def expect():
        while not done.is_set():
            bench.runner.expect_work()

    thread = threading.Thread(target=expect)
    thread.start()
    try:
        found = [tokens(num_threads=2) for _ in range(20)]
    finally:
        done.set()
        thread.join()
    assert found == [tokens()] * 20
    child = os.fork()
    if child == 0:  # no assert, no pytest here
        bench.runner.expect_work()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
