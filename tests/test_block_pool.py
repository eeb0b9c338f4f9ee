"""BlockPool as a state machine: done in whatever order, owners, free blocks and contents add up."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tiny_core import built
from tiny_models import GEMMA_WINDOW
from tuili import _core, errors

N_BLOCKS, BLOCK_SIZE = 7, 16

# Prompts are made of two kinds of block, so that prefixes coincide often.
PROMPTS = st.builds(
    lambda kinds, tail: [kind for kind in kinds for _ in range(BLOCK_SIZE)] + [9] * tail,
    st.lists(st.sampled_from([1, 2]), max_size=6),
    st.integers(1, BLOCK_SIZE),
)


def new_sequence(tokens: list[int], salt: int = 0) -> _core.Sequence:
    return _core.Sequence(np.array(tokens, np.int32), salt=salt)


class BlockPoolMachine(RuleBasedStateMachine):
    """The model knows from which prefix each block's keys and values come, and who holds the block."""

    hash_mask = 2**64 - 1
    windows: ClassVar[dict[int, int]] = {}

    def __init__(self) -> None:
        super().__init__()
        model = built("gemma3") if self.windows else built("llama", n_layers=1)
        self.pool = _core.BlockPool(
            N_BLOCKS,
            BLOCK_SIZE,
            key=1,
            hash_mask=self.hash_mask,
            windows=self.windows,
            step_tokens=BLOCK_SIZE,
        )
        self.cache = _core.KvCache(model.spec, N_BLOCKS, BLOCK_SIZE, windows=self.windows)
        self.runner = _core.Runner(model, self.cache, max_batch_tokens=BLOCK_SIZE * N_BLOCKS, num_threads=1)
        self.sequences: list[tuple[_core.Sequence, int]] = []  # with their salt
        self.raw: Counter[int] = Counter()  # blocks held through take and share
        self.contents: dict[int, tuple[int, tuple[int, ...]]] = {}  # block -> (salt, tokens up to its end)
        self.window_contents: dict[int, tuple[int, tuple[int, ...]]] = {}

    def pick(self, data: st.DataObject) -> tuple[_core.Sequence, int]:
        return self.sequences[data.draw(st.integers(0, len(self.sequences) - 1), label="sequence")]

    def n_needed(self, sequence: _core.Sequence, n_tokens: int) -> int:
        return max(0, -(-n_tokens // BLOCK_SIZE) - sequence.n_blocks)

    def first_seen(self, n_computed: int) -> int:
        """The window's first block that a token after n_computed may read: keys are read in tiles of 64."""
        return max(0, n_computed - GEMMA_WINDOW + 1) // 64 * 64 // BLOCK_SIZE

    def check_window(self, sequence: _core.Sequence, salt: int) -> None:
        """Every block that the next token sees is there, and holds what its place says."""
        tokens = tuple(sequence.token_ids())
        for ids in sequence.window_block_ids:
            for i in range(self.first_seen(sequence.n_computed), sequence.n_computed // BLOCK_SIZE):
                assert self.window_contents[ids[i]] == (salt, tokens[: (i + 1) * BLOCK_SIZE])

    @rule(tokens=PROMPTS, salt=st.integers(0, 1))
    def arrive(self, tokens, salt):
        if len(self.sequences) < 4:
            self.sequences.append((new_sequence(tokens, salt), salt))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def attach_prefix(self, data):
        sequence, salt = self.pick(data)
        if sequence.n_blocks:
            return
        n_hits = self.pool.n_hits
        n_cached = self.pool.attach_prefix(sequence)
        assert n_cached == sequence.n_computed == sequence.n_blocks * BLOCK_SIZE
        assert n_cached < sequence.n_tokens, "at least one token must be left to compute"
        assert (self.pool.n_hits > n_hits) == (n_cached > 0)
        tokens = tuple(sequence.token_ids())
        for i, block in enumerate(sequence.block_ids):
            assert self.contents[block] == (salt, tokens[: (i + 1) * BLOCK_SIZE]), "a block of another prefix"
        self.check_window(sequence, salt)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def fork(self, data):
        parent, salt = self.pick(data)
        if len(self.sequences) >= 4:
            return
        n_tokens = data.draw(st.integers(0, parent.n_computed), label="n_tokens")
        child, n_free = new_sequence([*parent.token_ids()[:n_tokens], 9], salt), self.pool.least_free
        copy = self.pool.fork(child, parent, n_tokens)
        n_whole, partial = divmod(n_tokens, BLOCK_SIZE)
        gone = any(-1 in ids[self.first_seen(n_tokens) : n_whole + 1] for ids in parent.window_block_ids)
        assert (copy is None) == ((partial > 0 and n_free == 0) or gone)
        if copy is None:
            assert child.n_blocks == child.n_computed == 0
            return
        assert child.n_computed == n_tokens and child.block_ids[:n_whole] == parent.block_ids[:n_whole]
        if partial:
            assert copy == (self.ids_at(parent, n_whole), self.ids_at(child, n_whole), (0, BLOCK_SIZE))
            self.forget(self.ids_at(child, n_whole))
        self.runner.copy_block(*copy)
        self.check_window(child, salt)
        self.sequences.append((child, salt))

    def ids_at(self, sequence: _core.Sequence, block: int) -> list[int]:
        """Of each area."""
        return [sequence.block_ids[block], *(ids[block] for ids in sequence.window_block_ids)]

    def forget(self, ids: list[int]) -> None:
        for contents, block in zip((self.contents, self.window_contents), ids, strict=False):
            contents.pop(block, None)

    def window_needs(self, sequence: _core.Sequence, n_tokens: int) -> int:
        """Blocks of the window that growing takes."""
        if not self.windows:
            return 0
        first = self.first_seen(sequence.n_computed)
        end = min(-(-n_tokens // BLOCK_SIZE), first + self.pool.windows[0].span)
        return max(0, end - max([first, *map(len, sequence.window_block_ids)]))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), n_tokens=st.integers(0, BLOCK_SIZE * (N_BLOCKS + 1)))
    def grow(self, data, n_tokens):
        sequence, salt = self.pick(data)
        self.pool.release_unseen([sequence])
        held, n_free = list(sequence.block_ids), self.pool.n_free
        windows = [list(ids) for ids in sequence.window_block_ids]
        n_needed, n_window = self.n_needed(sequence, n_tokens), self.window_needs(sequence, n_tokens)
        fits = n_needed <= n_free and all(n_window <= area.n_free for area in self.pool.windows)
        assert self.pool.grow(sequence, n_tokens) == fits
        assert sequence.block_ids[: len(held)] == held, "blocks already held moved"
        given_blocks = sequence.block_ids[len(held) :]
        assert len(given_blocks) == (n_needed if fits else 0)
        for block in given_blocks:
            self.contents.pop(block, None)
        for ids, before in zip(sequence.window_block_ids, windows or [[]], strict=False):
            assert ids[: len(before)] == before
            assert len(ids) - len(before) == (n_window if fits else 0)
            for block in ids[len(before) :]:
                self.window_contents.pop(block, None)
        self.check_window(sequence, salt)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), n_most=st.integers(1, 40))
    def compute(self, data, n_most):
        sequence, salt = self.pick(data)
        left = sequence.n_tokens - sequence.n_computed
        room = min(left, self.pool.room([sequence])) if sequence.n_blocks else 0
        if room <= 0:
            return
        self.runner.step([sequence], [min(room, n_most)], [False])
        tokens = tuple(sequence.token_ids())
        for i in range(sequence.n_computed // BLOCK_SIZE):
            self.contents[sequence.block_ids[i]] = (salt, tokens[: (i + 1) * BLOCK_SIZE])
            for ids in sequence.window_block_ids:
                if ids[i] >= 0:
                    self.window_contents[ids[i]] = (salt, tokens[: (i + 1) * BLOCK_SIZE])

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), token=st.sampled_from([1, 2, 9]))
    def append_token(self, data, token):
        self.pick(data)[0].append_token(token)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def publish(self, data):
        self.pool.publish(self.pick(data)[0])

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def preempt(self, data):
        sequence, _ = self.pick(data)
        tokens = sequence.token_ids()
        self.pool.release(sequence)
        assert sequence.n_computed == sequence.n_blocks == 0
        assert sequence.token_ids() == tokens

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def leave(self, data):
        pair = self.pick(data)
        self.pool.release(pair[0])
        self.sequences = [other for other in self.sequences if other[0] is not pair[0]]

    @rule(n=st.integers(0, 4))
    def take(self, n):
        n_free = self.pool.n_free
        blocks = self.pool.take(n)
        assert (blocks is None) == (n > n_free)
        for block in blocks or []:
            assert self.raw[block] == 0
            self.raw[block] += 1
            self.contents.pop(block, None)

    @precondition(lambda self: +self.raw)
    @rule(data=st.data())
    def share(self, data):
        block = data.draw(st.sampled_from(sorted(+self.raw)))
        self.pool.share(block)
        self.raw[block] += 1

    @precondition(lambda self: +self.raw)
    @rule(data=st.data())
    def drop(self, data):
        block = data.draw(st.sampled_from(sorted(+self.raw)))
        self.pool.drop(block)
        self.raw[block] -= 1

    @rule()
    def clear_cache(self):
        self.pool.clear_cache()
        assert self.pool.n_cached == 0

    @invariant()
    def owners_add_up(self):
        self.pool.check_invariants()
        owners = +self.raw
        for sequence, _ in self.sequences:
            assert len(set(sequence.block_ids)) == sequence.n_blocks
            assert sequence.n_computed <= sequence.n_blocks * BLOCK_SIZE
            owners.update(sequence.block_ids)
        assert [self.pool.n_owners(block) for block in range(N_BLOCKS)] == [
            owners[block] for block in range(N_BLOCKS)
        ]
        assert self.pool.n_free == N_BLOCKS - len(owners)
        for area in self.pool.windows:
            tables = [ids for sequence, _ in self.sequences for ids in sequence.window_block_ids]
            held = {id for ids in tables for id in ids if id >= 0}
            assert area.n_free == area.n_blocks - len(held)
        assert 0 <= self.pool.n_cached <= self.pool.n_free


class CollidingBlockPoolMachine(BlockPoolMachine):
    """Every prefix has the same hash: what is found must still be the right one."""

    hash_mask = 0


class WindowedBlockPoolMachine(BlockPoolMachine):
    """The layers of a sliding window have an area of their own, smaller than the other one."""

    windows: ClassVar[dict[int, int]] = {GEMMA_WINDOW: N_BLOCKS - 1}


TestBlockPoolMachine = BlockPoolMachine.TestCase
TestCollidingBlockPoolMachine = CollidingBlockPoolMachine.TestCase
TestWindowedBlockPoolMachine = WindowedBlockPoolMachine.TestCase
for machine in (BlockPoolMachine, CollidingBlockPoolMachine, WindowedBlockPoolMachine):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)


def computed(pool: _core.BlockPool, tokens: list[int], salt: int = 0) -> _core.Sequence:
    """A sequence whose tokens are all computed, in blocks of `pool`."""
    model = built("llama", n_layers=1)
    cache = _core.KvCache(model.spec, pool.n_blocks, pool.block_size)
    runner = _core.Runner(model, cache, max_batch_tokens=len(tokens), num_threads=1)
    sequence = new_sequence(tokens, salt)
    assert pool.grow(sequence, len(tokens))
    runner.step([sequence], [len(tokens)], [False])
    return sequence


TOKENS = [i % 7 for i in range(50)]  # three whole blocks and a tail of two


def test_a_published_prefix_is_found_whole():
    pool = _core.BlockPool(8, BLOCK_SIZE)
    first = computed(pool, TOKENS)
    pool.publish(first)
    second = new_sequence(TOKENS)
    assert pool.attach_prefix(second) == 48
    assert second.block_ids == first.block_ids[:3]


def test_a_prefix_outlives_its_sequence_until_the_block_is_needed():
    pool = _core.BlockPool(4, BLOCK_SIZE)
    first = computed(pool, TOKENS)
    pool.publish(first)
    pool.release(first)
    assert (pool.n_free, pool.n_cached) == (4, 3)
    # The unused block, then the end of the cached chain: its start stays findable.
    assert pool.take(2) is not None
    assert pool.n_evictions == 1
    assert pool.attach_prefix(new_sequence(TOKENS)) == 32


def test_one_token_is_always_left_to_compute():
    pool = _core.BlockPool(8, BLOCK_SIZE)
    pool.publish(computed(pool, TOKENS[:48]))
    assert pool.attach_prefix(new_sequence(TOKENS[:48])) == 32


@pytest.mark.parametrize("change", [0, 15, 16, 47])
def test_a_different_token_ends_the_shared_prefix(change):
    pool = _core.BlockPool(8, BLOCK_SIZE)
    pool.publish(computed(pool, TOKENS))
    other = [*TOKENS[:change], 8, *TOKENS[change + 1 :]]
    assert pool.attach_prefix(new_sequence(other)) == change // BLOCK_SIZE * BLOCK_SIZE


def test_a_salt_separates_tenants():
    pool = _core.BlockPool(8, BLOCK_SIZE)
    pool.publish(computed(pool, TOKENS, salt=1))
    assert pool.attach_prefix(new_sequence(TOKENS, salt=2)) == 0
    assert pool.attach_prefix(new_sequence(TOKENS, salt=1)) == 48


def test_prefixes_whose_hashes_are_equal_are_told_apart():
    pool = _core.BlockPool(8, BLOCK_SIZE, key=1, hash_mask=0)
    pool.publish(computed(pool, TOKENS, salt=1))
    other = [8, *TOKENS[1:]]
    assert pool.attach_prefix(new_sequence(TOKENS, salt=2)) == 0
    assert pool.attach_prefix(new_sequence(other, salt=1)) == 0
    pool.publish(computed(pool, other[:BLOCK_SIZE], salt=1))
    assert pool.attach_prefix(new_sequence(other, salt=1)) == BLOCK_SIZE, "what follows it followed another"


@pytest.mark.parametrize(
    "window, block_size, step_tokens", [(8, 16, 1), (40, 48, 32), (100, 7, 64), (1, 1024, 3)]
)
def test_a_span_is_what_the_worst_step_needs(window, block_size, step_tokens):
    def n_blocks(position):
        first = max(0, position - window + 1) // 64 * 64 // block_size
        return -(-(position + step_tokens) // block_size) - first

    span = _core.BlockPool.window_span(window, block_size, step_tokens)
    assert span == max(map(n_blocks, range(10_000)))


def test_without_prefix_cache_nothing_is_found():
    pool = _core.BlockPool(8, BLOCK_SIZE, prefix_cache=False)
    pool.publish(computed(pool, TOKENS))
    assert pool.attach_prefix(new_sequence(TOKENS)) == 0


def test_growing_is_all_or_nothing():
    pool = _core.BlockPool(4, BLOCK_SIZE)
    sequence = new_sequence(TOKENS)
    assert not pool.grow(sequence, 5 * BLOCK_SIZE)
    assert (sequence.n_blocks, pool.n_free) == (0, 4)
    assert pool.grow(sequence, 4 * BLOCK_SIZE)
    assert pool.n_free == 0


@pytest.mark.parametrize("n_blocks, n_window", [(4, 9), (9, 4)])
def test_what_is_taken_ahead_leaves_what_is_to_be_spared_of_every_area(n_blocks, n_window):
    pool = _core.BlockPool(n_blocks, BLOCK_SIZE, windows={GEMMA_WINDOW: n_window}, step_tokens=BLOCK_SIZE)
    sequence = new_sequence(TOKENS)
    assert pool.grow(sequence, BLOCK_SIZE) and pool.least_free == 3
    assert not pool.grow_ahead([sequence], 2 * BLOCK_SIZE, n_spare=3)
    assert (sequence.n_blocks, pool.least_free) == (1, 3)
    assert pool.grow_ahead([sequence], 2 * BLOCK_SIZE, n_spare=2)
    assert (sequence.n_blocks, pool.least_free) == (2, 2)


def test_growing_takes_the_blocks_of_a_source_too_or_none():
    sequence = _core.Sequence(np.array(TOKENS[:17], np.int32), source=np.array(TOKENS[:17], np.int32))
    pool = _core.BlockPool(3, BLOCK_SIZE)
    assert not pool.grow(sequence, 17) and (sequence.n_blocks, pool.n_free) == (0, 3)
    pool = _core.BlockPool(4, BLOCK_SIZE)
    assert pool.grow(sequence, 17) and pool.n_free == 0


def test_those_that_decode_grow_together_up_to_the_first_that_finds_no_block():
    pool = _core.BlockPool(6, BLOCK_SIZE, prefix_cache=False)
    whole = TOKENS[: 2 * BLOCK_SIZE]

    def drawn(n):
        sequence = computed(pool, whole)
        for _ in range(n):
            sequence.append_token(1)
        return sequence

    waiting, one, done, two = new_sequence(whole), drawn(1), drawn(0), drawn(2)
    begun = new_sequence(TOKENS[:1])  # lacks one token, too, of its prompt
    assert pool.grow_decoding([]) == pool.grow_decoding([waiting, begun, done, two]) == []
    pool.release(two)
    assert pool.grow_decoding([waiting, one, done]) == [1] and one.n_blocks == 3
    last = computed(pool, whole[:1])
    for sequence, n in ((last, BLOCK_SIZE), (done, 1)):
        for _ in range(n):
            sequence.append_token(1)
    assert pool.n_free == 0 and pool.grow_decoding([one, done]) is None
    assert pool.grow_decoding([one]) == [0], "what it has is enough"
    pool.check_invariants()
    pool.release(last)
    assert pool.grow_decoding([last, done, one]) == [1, 2] and done.n_blocks == 3


FORKS_REFUSED = {
    "more than is computed": lambda parent: (new_sequence([*TOKENS, 1, 2]), 51),
    "all of the child": lambda parent: (new_sequence(TOKENS), 50),
    "other tokens": lambda parent: (new_sequence([8, *TOKENS]), 3),
    "another salt": lambda parent: (new_sequence([*TOKENS, 1], salt=3), 3),
    "a negative number": lambda parent: (new_sequence([*TOKENS, 1]), -1),
    "itself": lambda parent: (parent, 3),
    "what collects": lambda parent: (
        _core.Sequence(np.array([*TOKENS, 1], np.int32), collect_logits=True),
        3,
    ),
}


@pytest.mark.parametrize("name", FORKS_REFUSED)
def test_a_refused_fork_changes_nothing(name):
    pool = _core.BlockPool(8, BLOCK_SIZE)
    parent = computed(pool, TOKENS)
    child, n_tokens = FORKS_REFUSED[name](parent)
    with pytest.raises(errors.InvalidParameterError):
        pool.fork(child, parent, n_tokens)
    pool.check_invariants()
    assert pool.n_free == 4


def test_a_fork_needs_a_block_of_every_area():
    model, windows = built("gemma3"), {GEMMA_WINDOW: 2}
    pool = _core.BlockPool(8, BLOCK_SIZE, windows=windows, step_tokens=32)
    cache = _core.KvCache(model.spec, 8, BLOCK_SIZE, windows=windows)
    parent, child = new_sequence(TOKENS[:20]), new_sequence([*TOKENS[:20], 9])
    assert pool.grow(parent, 20)
    _core.Runner(model, cache, max_batch_tokens=32, num_threads=1).step([parent], [20], [False])
    assert (pool.n_free, pool.least_free) == (6, 0)
    assert pool.fork(child, parent, 20) is None and child.n_blocks == 0
    assert pool.fork(child, parent, BLOCK_SIZE) is not None and child.n_blocks == 1
    pool.check_invariants()


def test_a_fork_goes_on_as_its_parent_would():
    """The copy is made before either computes on; neither sees what the other writes."""
    model = built("llama")
    cache, pool = _core.KvCache(model.spec, 16, BLOCK_SIZE), _core.BlockPool(16, BLOCK_SIZE)
    cache.poison()
    runner = _core.Runner(model, cache, max_batch_tokens=64, num_threads=1)
    greedy = _core.SamplingParams(temperature=0.0)
    parent = _core.Sequence(np.array(TOKENS, np.int32), greedy)
    assert pool.grow(parent, 70)
    runner.step([parent], [50], [True])
    child = _core.Sequence(np.array([*TOKENS, 200], np.int32), greedy)
    runner.copy_block(*pool.fork(child, parent, 50))
    alone = _core.Sequence(np.array([*TOKENS, 200], np.int32), greedy)
    for sequence in (child, alone):
        assert pool.grow(sequence, 70)
    runner.step([alone], [51], [True])
    runner.step([parent, child], [1, 1], [True, True])
    runner.run([parent, alone, child], max_steps=9, max_s=60)
    runner.run([child], max_steps=1, max_s=60)
    assert child.token_ids()[:61] == alone.token_ids()[:61]
    assert child.token_ids(50) != parent.token_ids(50)


def test_a_pool_at_a_dead_ones_address_is_another_pool():
    runner_pool = _core.BlockPool(64, BLOCK_SIZE)
    sequence = computed(runner_pool, TOKENS)
    del runner_pool
    pools = [_core.BlockPool(1, BLOCK_SIZE) for _ in range(20)]  # one of them takes the freed address
    for pool in pools:
        with pytest.raises(errors.InvalidParameterError, match="another pool"):
            pool.publish(sequence)
