"""The sampler, through whole steps: the token drawn is the reference's, given the core's own logits."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from tiny_core import built, some_ids
from tuili import _core, errors

PROMPT = some_ids(11, seed=3).tolist()
N_NEW = 12


def generate(n_new: int = N_NEW, **sampling: object) -> tuple[list[int], np.ndarray, list[object]]:
    """Tokens (prompt and continuation), logits of every row, and log-probabilities of a tiny model."""
    model = built("llama")
    cache = _core.KvCache(model.spec, 4, 32)
    pool = _core.BlockPool(4, 32, prefix_cache=False)
    runner = _core.Runner(model, cache, max_batch_tokens=64, num_threads=1)
    params = _core.SamplingParams(**sampling)
    sequence = _core.Sequence(np.array(PROMPT, np.int32), params, collect_logits=True)
    assert pool.grow(sequence, len(PROMPT) + n_new)
    logprobs = []
    for _ in range(n_new):
        result = runner.step([sequence], [sequence.n_tokens - sequence.n_computed], [True])
        logprobs.append(result.logprobs[0])
    return sequence.token_ids(), sequence.logits(), logprobs


def rows_and_choices(tokens: list[int], logits: np.ndarray) -> list[tuple[np.ndarray, list[int], int]]:
    """(logits, history, token chosen) of each step."""
    n = len(PROMPT)
    return [(logits[i - 1], tokens[:i], tokens[i]) for i in range(n, len(tokens))]


SETTINGS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 5},
    {"top_p": 0.7},
    {"top_p": 0.95, "temperature": 2.0},
    {"min_p": 0.1},
    {"typical_p": 0.6},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.02, "temperature": 1.5},
]


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 7])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draws_equal_the_reference(settings, seed):
    tokens, logits, _ = generate(seed=seed, **settings)
    for row, history, chosen in rows_and_choices(tokens, logits):
        assert chosen == reference.sample(row, seed, len(history), **settings)


N_LARGE = 70_001
RNG = np.random.default_rng(0)
LARGE = {
    "peaked": np.where(RNG.random(N_LARGE) < 2e-4, RNG.uniform(5, 12, N_LARGE), RNG.normal(-8, 2, N_LARGE)),
    "flat": RNG.normal(0, 0.5, N_LARGE),
    "tied": np.round(RNG.normal(0, 2, N_LARGE)),
    "equal": np.zeros(N_LARGE),
    "ascending": np.linspace(-9, 9, N_LARGE),
    "mostly forbidden": np.where(RNG.random(N_LARGE) < 0.01, RNG.normal(0, 1, N_LARGE), -np.inf),
}
LARGE_SETTINGS = [
    {},
    {"top_k": 7},
    {"top_k": 64, "top_p": 0.95, "temperature": 0.8},
    {"top_k": 3000},
    {"top_k": 69_000, "min_p": 1e-4},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"top_p": 1 - 1e-13},
    {"min_p": 0.2},
    {"typical_p": 0.5},
    {"typical_p": 0.95, "temperature": 1.7},
    {"top_p": 0.95, "typical_p": 0.9, "min_p": 1e-6},
]


def kept_of_many(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0):
    """Probabilities (times a constant) and the ids that may be drawn, ascending: as defined, in float64."""
    scaled = (logits - logits.max()).astype(np.float64) / temperature
    p, ids = np.exp(scaled), np.arange(len(logits))

    def until(ids, keys, mass):
        order = ids[np.lexsort((ids, keys[ids]))]
        reached = np.flatnonzero(np.cumsum(p[order]) >= mass * p[ids].sum())
        return np.sort(order[: reached[0] + 1] if len(reached) else order)

    if top_k:
        ids = np.sort(np.lexsort((ids, -scaled))[:top_k])
    if top_p < 1:
        ids = until(ids, -p, top_p)
    ids = ids[p[ids] >= min_p]
    if typical_p < 1:
        ids = ids[p[ids] > 0]
        mean = (p[ids] * scaled[ids]).sum() / p[ids].sum()
        ids = until(ids, abs(scaled - mean), typical_p)
    return p, ids


@pytest.mark.parametrize(
    "seed, counter", [(0, 0), (2**64 - 1, 2**64 - 1), (0x299F31D0A4093822, 5), (7, 2**40)]
)
def test_the_random_words_are_philox(seed, counter):
    key, count = ((value & 0xFFFFFFFF, value >> 32) for value in (seed, counter))
    assert _core.ops.philox(seed, counter) == reference.philox4x32(key, (*count, 0, 0))


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("settings", LARGE_SETTINGS, ids=str)
def test_draws_from_a_large_vocabulary(name, settings):
    """The float32 weights of the core may move a bound or the draw by a rounding, hence to a neighbour."""
    logits = LARGE[name].astype(np.float32)
    p, kept = kept_of_many(logits, **settings)
    params, history = _core.SamplingParams(seed=3, **settings), [1, 2]
    reached = np.cumsum(p[kept])
    for _ in range(4):
        history.append(5)
        chosen = _core.ops.sample(logits, params, history, 2)
        place = int(np.searchsorted(reached, reference.uniform(3, len(history)) * reached[-1], side="right"))
        slack = 1 + len(kept) // 5000
        assert chosen in kept[max(0, place - slack) : place + slack + 1], (chosen, kept[place])


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("n_best", [0, 1, 20, 68, 69, 1000])
def test_the_likeliest_of_a_large_vocabulary(name, n_best):
    logits = LARGE[name].astype(np.float32)
    expected = np.lexsort((np.arange(N_LARGE), -logits))[:n_best]
    total = np.log(np.exp(logits.astype(np.float64)).sum())
    own, best = _core.ops.logprobs(logits, 77, n_best)
    assert [token for token, _ in best] == expected.tolist()
    assert own == pytest.approx(logits[77] - total, abs=1e-5)
    assert [value for _, value in best] == pytest.approx(logits[expected] - total, abs=1e-5)


@pytest.mark.parametrize("n", [1, 31, 32, 33, 1023, 1025, 5000])
def test_the_first_maximum_of_any_length(n):
    greedy = _core.SamplingParams(temperature=0.0)
    for seed in range(20):
        logits = np.random.default_rng(seed).integers(-4, 4, n).astype(np.float32)
        assert _core.ops.sample(logits, greedy, [0], 1) == int(np.argmax(logits))
        logits[seed * 7919 % n] = np.nan
        assert _core.ops.sample(logits, greedy, [0], 1) == -1
    assert _core.ops.sample(np.full(n, -np.inf, np.float32), greedy, [0], 1) == -2


@pytest.mark.parametrize("name", LARGE)
def test_top_k_draws_from_the_first_k(name):
    logits = LARGE[name].astype(np.float32)
    first = np.lexsort((np.arange(N_LARGE), -logits))[:50].tolist()
    params = _core.SamplingParams(top_k=50, seed=1)
    assert {_core.ops.sample(logits, params, [0] * n, 1) for n in range(1, 60)} <= set(first)


def test_temperature_zero_is_the_first_maximum():
    tokens, logits, _ = generate(temperature=0.0)
    for row, _, chosen in rows_and_choices(tokens, logits):
        assert chosen == int(np.argmax(row))


@pytest.mark.parametrize(
    "repetition, presence, frequency", [(1.5, 0, 0), (0.7, 0, 0), (1, 2, 0), (1, 0, 1.5), (1.2, 1, 1)]
)
def test_penalties_equal_the_reference(repetition, presence, frequency):
    tokens, logits, _ = generate(
        temperature=0.0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    for row, history, chosen in rows_and_choices(tokens, logits):
        changed = reference.penalized(
            row, history, len(PROMPT), repetition=repetition, presence=presence, frequency=frequency
        )
        assert chosen == int(np.argmax(changed))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_is_repeated(size):
    tokens, logits, _ = generate(temperature=0.0, no_repeat_ngram_size=size)
    for row, history, chosen in rows_and_choices(tokens, logits):
        assert chosen == int(np.argmax(reference.ban_repeats(row, history, size)))


def test_bias_and_allowed_tokens():
    tokens, _, _ = generate(temperature=1.0, logit_bias=[(7, 1000.0)])
    assert tokens[len(PROMPT) :] == [7] * N_NEW
    tokens, _, _ = generate(temperature=5.0, allowed_token_ids=[3, 9])
    assert set(tokens[len(PROMPT) :]) <= {3, 9}


def test_the_end_of_a_sequence_is_biased_where_the_rest_of_it_stands():
    free, _, _ = generate(temperature=0.0)
    first, second = free[len(PROMPT) : len(PROMPT) + 2]
    other = next(i for i in range(9) if i not in free)
    biases = [([first, other], 50.0), ([PROMPT[-1], first, other], 1.5), ([second], -0.25), ([other], 0.125)]
    biases += [([*PROMPT, *PROMPT, other], 1e6), ([other, first], 1e9), ([second, other, first], -1e9)]
    tokens, logits, _ = generate(temperature=0.0, sequence_bias=biases)
    assert tokens[len(PROMPT) :][:2] == [first, other]
    for row, history, chosen in rows_and_choices(tokens, logits):
        changed = row.astype(np.float64)
        for ids, bias in biases:
            if list(history[len(history) - len(ids) + 1 :]) == ids[:-1]:
                changed[ids[-1]] += bias
        assert chosen == int(np.argmax(changed))
    large = [([first], 1e30), ([PROMPT[-1], first], -1e30)]
    tokens, _, _ = generate(temperature=0.0, sequence_bias=large)
    assert tokens[len(PROMPT)] == first, "their sum is 0"
    tokens, _, _ = generate(temperature=0.0, sequence_bias=[([first], -np.inf)])
    assert first not in tokens[len(PROMPT) :]


def test_bad_words_are_never_finished():
    free, _, _ = generate(temperature=0.0)
    first, second = free[len(PROMPT) : len(PROMPT) + 2]
    tokens, _, _ = generate(temperature=0.0, bad_words=[[first, second]])
    assert tokens[len(PROMPT)] == first and tokens[len(PROMPT) + 1] != second
    tokens, _, _ = generate(temperature=0.0, bad_words=[[first]])
    assert first not in tokens[len(PROMPT) :]


def test_banned_tokens_wait_for_min_tokens():
    free, _, _ = generate(temperature=0.0)
    first = free[len(PROMPT)]
    tokens, _, _ = generate(temperature=0.0, min_tokens=3, ending=[first])
    assert first not in tokens[len(PROMPT) : len(PROMPT) + 3]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_nothing_of_the_prompt_is_repeated_where_it_is_the_source(size):
    tokens, logits, _ = generate(temperature=0.0, source_ngram_size=size)
    for row, history, chosen in rows_and_choices(tokens, logits):
        tail = history[len(history) - size + 1 :]
        grams = [PROMPT[i : i + size] for i in range(len(PROMPT) - size + 1)]
        row = row.copy()
        row[[gram[-1] for gram in grams if gram[:-1] == tail]] = -np.inf
        assert chosen == int(np.argmax(row))
    free, _, _ = generate(temperature=0.0)
    assert (tokens == free) == (size > 1), "the prompt repeats nothing but single tokens"


@pytest.mark.parametrize("penalty", [0.5, 1.7])
def test_what_the_prompt_has_is_likelier_or_less_likely_where_it_is_the_source(penalty):
    """By the inverse of repetition_penalty, each token once, and what is generated not at all."""
    tokens, logits, _ = generate(temperature=0.0, source_penalty=penalty, repetition_penalty=1.2)
    for row, history, chosen in rows_and_choices(tokens, logits):
        changed = reference.penalized(row, PROMPT, len(PROMPT), repetition=penalty)
        assert chosen == int(np.argmax(reference.penalized(changed, history, len(PROMPT), repetition=1.2)))
    free, _, _ = generate(temperature=0.0, repetition_penalty=1.2)
    assert (tokens == free) == (penalty > 1), "which takes nothing of the prompt"


def test_tokens_that_are_not_first_come_later():
    free, _, _ = generate(temperature=0.0)
    first = free[len(PROMPT)]
    tokens, logits, _ = generate(temperature=0.0, not_first=[first])
    rows = rows_and_choices(tokens, logits)
    assert tokens[len(PROMPT)] == int(np.argsort(-rows[0][0], kind="stable")[1])
    assert all(chosen == int(np.argmax(row)) for row, _, chosen in rows[1:])
    forced, logits, _ = generate(temperature=0.0, not_first=[first], forced_first=first)
    rows = rows_and_choices(forced, logits)
    assert forced[len(PROMPT)] == first != rows[1][2]
    again = int(np.argmax(rows[1][0]))
    forced, _, _ = generate(temperature=0.0, not_first=[again], forced_first=first)
    assert forced[len(PROMPT) + 1] != again, "the first one that is not forced"


@pytest.mark.parametrize("growth, start", [(1.5, 3), (1.01, 0), (0.5, 2), (1e6, 1)])
def test_ends_grow_with_the_text(growth, start):
    ends = [5, 250, 251]
    tokens, logits, _ = generate(temperature=0.0, ending=ends, ending_growth=growth, ending_from=start)
    for row, history, chosen in rows_and_choices(tokens, logits):
        row, n = row.copy(), len(history) - len(PROMPT)
        factor = min(growth ** max(0, n - start) - 1, float(np.finfo(np.float32).max))
        with np.errstate(over="ignore"):
            row[ends] = np.minimum(row[ends] + abs(row[ends]) * np.float32(factor), np.finfo(np.float32).max)
        assert chosen == int(np.argmax(row))


def test_everything_banned_is_minus_two():
    model = built("llama")
    pool = _core.BlockPool(1, 32, prefix_cache=False)
    runner = _core.Runner(model, _core.KvCache(model.spec, 1, 32), max_batch_tokens=32, num_threads=1)
    params = _core.SamplingParams(temperature=0.0, bad_words=[[5]], allowed_token_ids=[5])
    sequence = _core.Sequence(np.array(PROMPT, np.int32), params)
    assert pool.grow(sequence, len(PROMPT))
    assert runner.step([sequence], [len(PROMPT)], [True]).token_ids == [-2]
    assert sequence.n_tokens == len(PROMPT)


def test_logprobs_are_the_log_softmax():
    """Of the model's own logits, whatever changed the draw. float32: a few units in the last place."""
    tokens, logits, logprobs = generate(temperature=2.0, top_k=3, n_logprobs=4, seed=5)
    for (row, _, chosen), (value, best) in zip(rows_and_choices(tokens, logits), logprobs, strict=True):
        expected = np.log(reference.softmax(row.astype(np.float64)))
        assert abs(value - expected[chosen]) < 4e-6
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:4]
        assert [token for token, _ in best] == order
        assert max(abs(p - expected[token]) for token, p in best) < 4e-6


@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.0},
        {"top_p": -1.0},
        {"min_p": 2.0},
        {"typical_p": 0.0},
        {"temperature": float("inf"), "allowed_token_ids": [1], "top_p": 0.5},
        {"temperature": float("nan")},
    ],
    ids=str,
)
def test_settings_that_may_leave_no_token_are_refused(settings):
    params = _core.SamplingParams(**settings)
    with pytest.raises(errors.InvalidParameterError):
        _core.ops.sample(np.arange(10, dtype=np.float32), params, [1], 1)


# --- beams


CHANGES = {
    "nothing": {},
    "a bias": {"logit_bias": [(5, 2.0), (9, -50.0)]},
    "allowed ones": {"allowed_token_ids": [3, 70, 4]},
    "penalties": {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.25},
    "a penalty of the source": {"source_penalty": 1.5, "repetition_penalty": 0.9},
    "a bias of a sequence": {"sequence_bias": [([7], 2.0), ([PROMPT[-1], 8], -3.0)]},
    "a ban": {"bad_words": [[7], [PROMPT[-1], 8]]},
    "a forced token": {"forced_first": 42},
    "another one at the end": {"forced_first": 42, "forced_last": [43], "n_before_last": 0},
    "one of several at the end": {"forced_last": [43, 7, 80], "n_before_last": 0},
}


def expected_scores(logprobs, change):
    scores = logprobs
    for name in ("source_penalty", "repetition_penalty"):
        scores = reference.penalized(scores, PROMPT, len(PROMPT), repetition=change.get(name, 1.0))
    for token_id, bias in change.get("logit_bias", ()):
        scores[token_id] += bias
    for ids, bias in change.get("sequence_bias", ()):
        scores[ids[-1]] += bias * (ids[:-1] == PROMPT[len(PROMPT) - len(ids) + 1 :])
    banned = [word[-1] for word in change.get("bad_words", ())]
    banned += sorted({*range(len(scores))} - {*change.get("allowed_token_ids", range(len(scores)))})
    forced = change.get("forced_last") or [change[name] for name in ("forced_first",) if name in change]
    if forced:
        banned, scores[forced] = [i for i in range(len(scores)) if i not in forced], 0.0
    scores[banned] = -np.inf
    return scores


def test_of_several_forced_tokens_the_first_is_chosen_or_any_alike_is_drawn():
    """Whatever their logits are: all get 0, as in transformers."""
    last = {"forced_last": [80, 7, 43], "n_before_last": 2}
    first, logits, _ = generate(3, temperature=0.0, **last)
    assert first[-1] == 7 and first[-2] == np.argmax(logits[-2]), "only where it is the last"
    row = np.arange(100, dtype=np.float32)
    sampled = [
        _core.ops.sample(row, _core.SamplingParams(temperature=0.1, seed=seed, **last), [1, 2, 3], 1)
        for seed in range(300)
    ]
    assert {i: 70 < sampled.count(i) < 130 for i in set(sampled)} == dict.fromkeys((7, 43, 80), True)


@pytest.mark.parametrize("name", CHANGES)
def test_a_beam_gets_candidates_ranked_by_what_the_parameters_made_of_them(name):
    change = CHANGES[name]
    model = built("llama")
    pool = _core.BlockPool(4, 32, prefix_cache=False)
    runner = _core.Runner(model, _core.KvCache(model.spec, 4, 32), max_batch_tokens=64, num_threads=1)
    params = _core.SamplingParams(n_candidates=6, n_logprobs=2, **change)
    beam = _core.Sequence(np.array(PROMPT, np.int32), params, collect_logits=True)
    deferred = _core.Sequence(np.array(PROMPT, np.int32), params, deferred=True)
    assert pool.grow(beam, len(PROMPT)) and pool.grow(deferred, len(PROMPT))
    result = runner.step([beam, deferred], [len(PROMPT)] * 2, [True] * 2)
    assert result.token_ids == [_core.DEFERRED] * 2 and beam.n_tokens == len(PROMPT)
    likeliest, best = beam.candidates()
    logprobs = np.log(reference.softmax(beam.logits()[-1].astype(np.float64)))
    scores = expected_scores(logprobs, change)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:6]
    assert [token_id for token_id, _, _ in likeliest] == order
    for token_id, score, own in likeliest:
        assert score == scores[token_id] or abs(score - scores[token_id]) < 1e-5
        assert abs(own - logprobs[token_id]) < 4e-6
    assert [token_id for token_id, _ in best] == list(np.argsort(-logprobs, kind="stable")[:2])
    assert runner.sample(deferred, deferred.next_logits()).token_ids == [_core.DEFERRED]
    assert deferred.candidates() == (likeliest, best)


@pytest.mark.parametrize(
    "settings, kind",
    [
        ({"n_candidates": 301}, errors.InvalidParameterError),
        ({"n_candidates": -1}, errors.InvalidParameterError),
        ({"forced_first": 300}, errors.TokenIdError),
        ({"forced_last": [5, 300]}, errors.TokenIdError),
        ({"not_first": [300]}, errors.TokenIdError),
        ({"ending": [-1]}, errors.TokenIdError),
        ({"ending_growth": 0.0}, errors.InvalidParameterError),
    ],
    ids=str,
)
def test_candidates_and_forced_tokens_are_of_the_vocabulary(settings, kind):
    with pytest.raises(kind):
        generate(1, **settings)


def test_a_beam_does_not_decode_on():
    model = built("llama")
    pool = _core.BlockPool(4, 32, prefix_cache=False)
    runner = _core.Runner(model, _core.KvCache(model.spec, 4, 32), max_batch_tokens=64, num_threads=1)
    beam = _core.Sequence(np.array(PROMPT[:1], np.int32), _core.SamplingParams(n_candidates=2))
    assert pool.grow(beam, 8)
    with pytest.raises(errors.InvalidParameterError, match="say in each token"):
        runner.run([beam], max_steps=3, max_s=60)


def test_top_p_keeps_no_more_than_reach_it():
    """Two quarters are a half: a third token would be one too many."""
    params = _core.SamplingParams(top_p=0.5, seed=1)
    drawn = {_core.ops.sample(np.zeros(4, np.float32), params, [0] * n, 1) for n in range(1, 60)}
    assert drawn == {0, 1}
