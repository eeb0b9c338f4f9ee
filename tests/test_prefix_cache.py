"""The prefix cache under flood: who gives up blocks, in which order, and that no tenant empties it.

Catalogue rows PRIV-03, PRIV-04, KV-06, KV-16.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from architecture_files import write
from architecture_table import CASES
from tiny_core import built, some_ids
from tiny_engine import codes, drain, make_engine, sampling
from tuili import _core
from tuili.loading.model import load, plan_model

SIZE = 16  # tokens of a block


class OneBlockPrompts:
    """A pool that is fed prompts of one whole block and a token each: a prompt's number is all its tokens."""

    def __init__(self, n_blocks: int) -> None:
        model = built("llama", n_layers=1)
        self.pool = _core.BlockPool(n_blocks, SIZE)
        self._cache = _core.KvCache(model.spec, n_blocks, SIZE)
        self._runner = _core.Runner(model, self._cache, max_batch_tokens=SIZE + 1, num_threads=1)

    def ask(self, salt: int, prompt: int) -> bool:
        """Compute a prompt's whole block and let it go; returns whether it was found."""
        sequence = _core.Sequence(np.full(SIZE + 1, prompt, np.int32), salt=salt)
        found = self.pool.attach_prefix(sequence) > 0
        if not found:
            assert self.pool.grow(sequence, SIZE)
            self._runner.step([sequence], [SIZE], [False])
        self.pool.publish(sequence)
        self.pool.release(sequence)
        self.pool.check_invariants()
        return found


class Policy:
    """What the pool should do, in lists: least recently used first, but a salt that has more than half, or
    would have with the new block, gives up its own."""

    def __init__(self, n_blocks: int) -> None:
        self.n_blocks = n_blocks
        self.cached: list[tuple[int, int]] = []  # (salt, prompt), oldest first

    def ask(self, salt: int, prompt: int) -> bool:
        found = (salt, prompt) in self.cached
        if found:
            self.cached.remove((salt, prompt))
        elif len(self.cached) == self.n_blocks:
            salts = [own for own, _ in self.cached]
            counts = {own: salts.count(own) + (own == salt) for own in {*salts, salt}}
            greedy = [own for own, n in counts.items() if 2 * n > self.n_blocks and own in salts]
            greedy.sort(key=lambda own: own == salt)  # who has it already, before who would
            self.cached.pop(salts.index(greedy[0]) if greedy else 0)
        self.cached.append((salt, prompt))
        return found


@pytest.mark.parametrize("seed", range(40))
def test_blocks_are_given_up_in_the_order_of_the_policy(seed):
    rng = np.random.default_rng(seed)
    n_blocks = int(rng.integers(1, 9))
    n_salts, n_prompts = int(rng.integers(1, 5)), int(rng.integers(1, 2 * n_blocks + 2))
    pool, policy = OneBlockPrompts(n_blocks), Policy(n_blocks)
    weights = rng.dirichlet(np.full(n_salts, 0.5))  # some salts ask much more than others
    for turn in range(80):
        salt, prompt = int(rng.choice(n_salts, p=weights)), int(rng.integers(n_prompts))
        assert pool.ask(salt, prompt) == policy.ask(salt, prompt), f"turn {turn}"
        assert pool.pool.n_salts == len({own for own, _ in policy.cached})


@pytest.mark.parametrize("n_blocks", [2, 3, 8, 9])
def test_a_flood_leaves_half_of_the_cache_to_the_others(n_blocks):
    pool = OneBlockPrompts(n_blocks)
    kept = n_blocks // 2
    for prompt in range(kept):
        pool.ask(1, prompt)
    for prompt in range(5 * n_blocks):
        pool.ask(2, prompt)
    assert pool.pool.n_spared > 0
    assert [pool.ask(1, prompt) for prompt in range(kept)] == [True] * kept
    # It is a share, not a fence: what the others do not use is the first one's.
    assert all(pool.ask(2, 5 * n_blocks - 1 - i) for i in range(n_blocks - kept))


def test_who_is_alone_has_the_whole_cache():
    pool = OneBlockPrompts(8)
    for prompt in range(8):
        pool.ask(7, prompt)
    assert all(pool.ask(7, prompt) for prompt in range(8))
    assert pool.pool.n_evictions == pool.pool.n_spared == 0


def grown(pool, salt):
    """A sequence that holds four blocks."""
    sequence = _core.Sequence(np.zeros(4 * SIZE, np.int32), salt=salt)
    assert pool.pool.grow(sequence, 4 * SIZE)
    return sequence


def test_what_the_flooder_still_holds_counts_as_its_own():
    pool = OneBlockPrompts(8)
    for prompt in range(3):
        pool.ask(1, prompt)
    assert grown(pool, salt=2).n_blocks == 4
    for prompt in range(20):
        pool.ask(2, prompt)
    assert all(pool.ask(1, prompt) for prompt in range(3))


def test_a_running_request_gets_its_blocks_whoever_cached_them():
    pool = OneBlockPrompts(4)
    for prompt in range(4):
        pool.ask(1, prompt)
    assert grown(pool, salt=2).n_blocks == 4
    pool.pool.check_invariants()
    assert (pool.pool.n_salts, pool.pool.n_cached) == (1, 0)


def test_a_tenant_finds_its_prompt_after_anothers_flood():
    engine = make_engine(n_blocks=16)
    prompt = codes("abcdefghijkl" * 5)  # three whole blocks
    first = engine.submit(prompt, sampling(max_tokens=2, cache_salt="quiet"))
    drain(engine)
    for i in range(40):
        flood = codes(chr(97 + i % 20) * (40 + i))
        handle = engine.submit(flood, sampling(max_tokens=1, cache_salt="loud"))
        drain(engine)
        assert handle.done
    again = engine.submit(prompt, sampling(max_tokens=2, cache_salt="quiet"))
    drain(engine)
    assert again.result(0).metrics["cached_tokens"] == 48
    assert again.result(0).outputs[0].text == first.result(0).outputs[0].text
    stats = engine.stats()
    assert stats["spared_blocks"] > 0
    assert stats["cache_salts"] == 2
    assert stats["cached_blocks"] <= stats["n_blocks"]


@pytest.mark.parametrize("seed", range(1, 7))
def test_blocks_of_siblings_are_found_once_whoever_publishes_them(seed):
    """Siblings of a row that publishes nothing share its blocks, and meet others' copies of them."""
    draw = random.Random(seed)
    engine = make_engine(n_blocks=14, max_num_seqs=4, max_model_len=160)
    prompt = [draw.randrange(1, 250) for _ in range(33)]
    engine.submit(prompt, sampling(max_tokens=2, ignore_eos=True)).abort()
    drain(engine)
    handles = [engine.submit(prompt, sampling(max_tokens=2, ignore_eos=True))]
    drain(engine)
    for _ in range(6):
        params = sampling(max_tokens=draw.randrange(5, 40), n=3, temperature=1.0, prompt_logprobs=0)
        handles.append(engine.submit([*prompt, *[draw.randrange(1, 250)] * 17], params))
        other = [draw.randrange(1, 250) for _ in range(draw.randrange(20, 90))]
        handles.append(engine.submit(other, sampling(max_tokens=draw.randrange(2, 40))))
    drain(engine)
    assert all(handle.done for handle in handles)


# ---- positions of what follows a cached prefix


def test_padding_in_a_prompt_is_not_counted_behind_it_however_the_prompt_is_computed(tmp_path):
    """In pieces, found in the cache, shared by continuations, or computed again after a preemption."""
    case = next(case for case in CASES if case.architecture == "CamembertForCausalLM")
    model, padding = load(plan_model(write(case, tmp_path))).model, case.config["pad_token_id"]
    ids = some_ids(90)
    ids[[0, 3, 30, 31, 32, 33, 50, 64, 70]] = padding
    prompts = [ids.tolist(), [*ids[:70].tolist(), 7, padding, 9]]
    params = {"max_tokens": 16, "temperature": 0.0, "logprobs": 2}

    def answers(engine, *asked, **options):
        handles = [engine.submit(prompt, sampling(**params, **options)) for prompt in asked]
        drain(engine)
        return [(out.token_ids, out.logprobs) for handle in handles for out in handle.result().outputs]

    expected = [answers(make_engine(model=model), prompt)[0] for prompt in prompts]
    one, other = expected
    for n_blocks in (256, 9):
        engine = make_engine(model=model, n_blocks=n_blocks, max_model_len=120, prefill_chunk=7)
        assert answers(engine, prompts[0]) == [one]
        assert answers(engine, *prompts, prompts[0]) == [one, other, one]
        assert answers(engine, prompts[1], n=3, prompt_lookup_num_tokens=4) == [other] * 3
    assert engine.stats()["preemptions"] > 0
