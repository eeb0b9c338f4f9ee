"""How a step's rows are dealt out to threads changes no bit, with as many sequences as all threads share."""

from __future__ import annotations

import numpy as np
import pytest

from tiny_core import How, built, run, some_ids
from tuili import _core

BLOCK_SIZE = 16
# Around the ends of pages, more than two for each of eight threads; and one whose heads these share.
LENGTHS = [1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 79, 80, 81, 95, 300]
N_DECODED = 3  # single tokens of each, behind those


def logits_of_all(model: _core.Model, how: How) -> list[np.ndarray]:
    """Each text's logits: most of it in one step with all others, then some by single tokens of all at once,
    while another text is read by pieces."""
    texts = [some_ids(n + N_DECODED, seed) for seed, n in enumerate(LENGTHS)] + [some_ids(100, 99)]
    n_blocks = sum(-(-len(ids) // BLOCK_SIZE) for ids in texts)
    cache = _core.KvCache(model.spec, n_blocks, BLOCK_SIZE, how.kv_type)
    cache.poison()
    pool = _core.BlockPool(n_blocks, BLOCK_SIZE, prefix_cache=False)
    n_rows = sum(LENGTHS)
    runner = _core.Runner(model, cache, max_batch_tokens=n_rows, num_threads=how.num_threads, isa=how.isa)
    sequences = [_core.Sequence(ids, collect_logits=True) for ids in texts]
    assert all(pool.grow(s, len(ids)) for s, ids in zip(sequences, texts, strict=True))
    n, (*known, other) = len(LENGTHS), sequences
    runner.step(known, LENGTHS, [False] * n)
    for n_read in (0, 40, 60):
        step = [*known, other] if n_read else known
        runner.step(step, [1] * n + [n_read] * (len(step) - n), [False] * len(step))
    return [s.logits() for s in sequences]


@pytest.mark.parametrize("kv_type", ["float32", "int8"])
def test_bits_do_not_depend_on_how_threads_share_many_sequences(kv_type):
    model = built("llama", "q4_k")  # wide enough that a step has work for eight threads
    texts = [some_ids(n + N_DECODED, seed) for seed, n in enumerate(LENGTHS)] + [some_ids(100, 99)]
    alone = [run(model, ids, How(kv_type=kv_type)).logits() for ids in texts]
    for num_threads in (1, 3, 8):
        found = logits_of_all(model, How(num_threads=num_threads, kv_type=kv_type))
        for text, (got, expected) in enumerate(zip(found, alone, strict=True)):
            np.testing.assert_array_equal(got, expected[: len(got)], f"{num_threads} threads, text {text}")
