"""What a step leaves for a beam to go on with, and how the row of one beam becomes that of another."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from reference_formats import encode_float
from tiny_core import build, built, tiny
from tiny_models import Weight
from tuili import _core, errors

BLOCK_SIZE = 16
PROMPT = np.arange(5, 25, dtype=np.int32)
DEVICES = ["cpu", *(["cuda"] if _core.build_info()["cuda"] != "none" else [])]


@pytest.fixture(
    scope="module", params=[(device, n) for device in DEVICES for n in (64, 8)[: len(DEVICES)]], ids=str
)
def model(request):
    """A large vocabulary of equal tokens, and of some that differ by a rounding.

    Of 64 alike a device says that they are too many for its list; of 8 the list is as good as the logits.
    """
    device, n_copies = request.param
    small = tiny("llama")
    weights = dict(small.weights)
    for name in ("token_embedding", "head"):
        weight = weights[name]
        rows = np.tile(weight.rows, (n_copies, 1))
        if name == "head":
            values = rows.view(np.float32)
            values[::7] *= np.float32(1 + 2**-22)
            values[::11] *= np.float32(1 - 2**-22)
        weights[name] = dataclasses.replace(weight, shape=(len(rows), weight.shape[1]), rows=rows)
    spec = small.spec | {"n_vocab": len(rows)}
    model = build(dataclasses.replace(small, spec=spec, weights=weights))
    return model if device == "cpu" else model.upload()


def stepped(model, *, deferred, **params):
    """A beam's sequence after the step over its prompt; whether a device listed what it is ranked from."""
    cache, pool = (
        _core.KvCache(model.spec, 2, BLOCK_SIZE, device=model.device),
        _core.BlockPool(2, BLOCK_SIZE),
    )
    runner = _core.Runner(model, cache, max_batch_tokens=64, num_threads=1)
    sequence = _core.Sequence(PROMPT, _core.SamplingParams(**params), deferred=deferred)
    assert pool.grow(sequence, len(PROMPT))
    runner.step([sequence], [len(PROMPT)], [True])
    return sequence, runner.n_listed() == 1


@pytest.mark.parametrize("device", DEVICES)
def test_not_a_number_is_told_beside_a_beam_that_is_listed(device):
    small, poison = tiny("llama"), 3
    weight = small.weights["token_embedding"]
    rows = weight.rows.copy()
    rows.view(np.float32)[poison] = np.nan
    weights = dict(small.weights) | {"token_embedding": dataclasses.replace(weight, rows=rows)}
    model = build(dataclasses.replace(small, weights=weights))
    model = model if device == "cpu" else model.upload()
    cache, pool = (
        _core.KvCache(model.spec, 4, BLOCK_SIZE, device=model.device),
        _core.BlockPool(4, BLOCK_SIZE),
    )
    runner = _core.Runner(model, cache, max_batch_tokens=64, num_threads=1)
    params = _core.SamplingParams(n_candidates=4)
    poisoned = np.append(PROMPT, np.int32(poison))
    for deferred in (False, True):
        beams = [_core.Sequence(PROMPT, params), _core.Sequence(poisoned, params, deferred=deferred)]
        lengths = [len(PROMPT), len(poisoned)]
        assert all(pool.grow(beam, n) for beam, n in zip(beams, lengths, strict=True))
        drawn = runner.step(beams, lengths, [True, True]).token_ids
        assert drawn[0] != drawn[1] == -1
        for beam in beams:
            pool.release(beam)


def likeliest(logprobs, n, without=()):
    order = np.lexsort((np.arange(len(logprobs)), -logprobs)).tolist()
    return [(i, logprobs[i]) for i in order if i not in set(without)][:n]


@pytest.mark.parametrize("n", [1, 4, 15])
@pytest.mark.parametrize("n_best", [0, 3, 18])
@pytest.mark.parametrize("rule", ["none", "bad_words", "ngrams", "ending"])
def test_candidates_are_the_likeliest_that_are_allowed(model, rule, n, n_best):
    logprobs = stepped(model, deferred=True, n_candidates=n)[0].next_logits()
    first = [i for i, _ in likeliest(logprobs, 3)]
    rules, banned = {
        "none": ({}, []),
        "bad_words": ({"bad_words": [[i] for i in first]}, first),
        "ngrams": ({"no_repeat_ngram_size": 1}, PROMPT.tolist()),
        "ending": ({"min_tokens": 1, "ending": first[1:]}, first[1:]),
    }[rule]
    sequence, is_listed = stepped(model, deferred=False, n_candidates=n, n_logprobs=n_best, **rules)
    found, best = sequence.candidates()
    if rule != "ngrams":  # of those so many are forbidden that the list may be too short
        assert is_listed == (model.device == "cuda" and model.spec.n_vocab < 8192)
    assert found == [(i, own, own) for i, own in likeliest(logprobs, n, without=banned)]
    assert best == likeliest(logprobs, n_best)


@pytest.mark.parametrize(
    "params, first",
    [
        ({"source_penalty": 0.01}, PROMPT),
        ({"repetition_penalty": 0.01}, PROMPT),
        ({"logit_bias": [(7, 99.0)]}, [7]),
        ({"sequence_bias": [([7], 99.0)]}, [7]),
        ({"allowed_token_ids": [7]}, [7]),
        ({"forced_first": 7}, [7]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_candidates_are_ranked_by_what_parameters_make_of_them(model, params, first):
    found, _ = stepped(model, deferred=False, n_candidates=4, **params)[0].candidates()
    assert found[0][0] in first


def test_candidates_that_rounding_makes_equal_are_ranked_by_id():
    """Logits that differ by less than their log-probabilities can."""
    n_vocab, small = 4096, tiny("llama")
    logits = np.full(n_vocab, 0.1, np.float32)
    logits[100::64] = np.nextafter(np.float32(0.1), np.float32(1))
    weights = {
        name: dataclasses.replace(weight, shape=(n_vocab, 64), rows=np.resize(weight.rows, (n_vocab, 64 * 4)))
        for name, weight in small.weights.items()
        if name in ("token_embedding", "head")
    }
    weights["head"].rows[:] = 0
    weights["head.bias"] = Weight("f32", (n_vocab,), encode_float("f32", logits[None]))
    spec = small.spec | {"n_vocab": n_vocab, "head_bias": True}
    model = build(dataclasses.replace(small, spec=spec, weights=small.weights | weights))
    found, _ = stepped(model, deferred=False, n_candidates=4)[0].candidates()
    assert [i for i, _, _ in found] == [0, 1, 2, 3] and len({own for _, own, _ in found}) == 1


class Rows:
    """Two sequences of one prompt, of which each went on by itself."""

    def __init__(self, kv_type, n_common, n_apart, device="cpu"):
        self.model = built("llama", device=device)
        self.cache = _core.KvCache(self.model.spec, 16, BLOCK_SIZE, kv_type, device=device)
        self.cache.poison()
        self.pool = _core.BlockPool(16, BLOCK_SIZE)
        self.runner = _core.Runner(self.model, self.cache, max_batch_tokens=64, num_threads=1)
        self.parent, self.child = self.sequence(PROMPT), self.sequence(PROMPT)
        for sequence in (self.parent, self.child):
            self.compute(sequence, len(PROMPT))
        for i in range(n_common + n_apart):
            for sequence, own in ((self.parent, 100), (self.child, 200)):
                sequence.append_token(i if i < n_common else own + i)
                self.compute(sequence, 1)

    def sequence(self, ids):
        return _core.Sequence(ids, _core.SamplingParams(n_candidates=9))

    def compute(self, sequence, n_new):
        assert self.pool.grow(sequence, sequence.n_tokens)
        self.runner.step([sequence], [n_new], [True])
        return sequence.candidates()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_type", ["float32", "float16", "int8"])
@pytest.mark.parametrize(
    "n_common, n_apart", [(0, 0), (0, 1), (2, 3), (0, 12), (11, 1), (13, 2), (3, 20), (9, 3)]
)
def test_a_row_that_follows_another_goes_on_as_that_one_would(kv_type, n_common, n_apart, device):
    rows = Rows(kv_type, n_common, n_apart, device)
    pool, parent, child = rows.pool, rows.parent, rows.child
    before, n = child.block_ids, parent.n_computed
    from_ids, to_ids, (begin, end) = pool.follow(child, parent, 77)
    pool.check_invariants()
    n_same, first = len(PROMPT) + n_common, n // BLOCK_SIZE * BLOCK_SIZE
    if n_apart and first <= n_same:
        assert child.block_ids[-1] == before[-1], "it keeps its block"
        assert (begin, end) == (n_same - first, n - first), "and is given what differs"
    if n_apart:
        assert child.block_ids[: n // BLOCK_SIZE] == parent.block_ids[: n // BLOCK_SIZE]
    rows.runner.copy_block(from_ids, to_ids, (begin, end))
    alone = rows.sequence(np.array([*parent.token_ids(), 77], np.int32))
    expected = rows.compute(alone, n + 1)
    assert rows.compute(child, 1) == expected
    parent.append_token(78)
    rows.compute(parent, 1)  # which writes where the child does not
    for sequence in (child, alone):
        sequence.append_token(9)
    assert rows.compute(child, 1) == rows.compute(alone, 1)


@pytest.mark.parametrize("what", ["itself", "salt", "prompt", "token", "encoded"])
def test_a_row_cannot_follow_a_stranger(what):
    rows = Rows("float32", 0, 1)
    strangers = {
        "itself": rows.child,
        "salt": _core.Sequence(PROMPT, salt=1),
        "prompt": _core.Sequence(PROMPT[:3]),
        "encoded": _core.Sequence(np.array([*PROMPT, 100], np.int32)),
    }
    encoder = _core.Runner(built("bert"), max_batch_tokens=64, num_threads=1)
    encoder.encode([strangers["encoded"]], "mean", False)  # which computes its tokens, and keeps none
    with pytest.raises(errors.TokenIdError if what == "token" else errors.InvalidParameterError):
        rows.pool.follow(rows.child, strangers.get(what, rows.parent), -1 if what == "token" else 5)
    rows.pool.check_invariants()
    assert rows.child.n_computed == len(PROMPT) + 1
