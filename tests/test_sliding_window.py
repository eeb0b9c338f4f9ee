"""Layers with a sliding window give their blocks back as a text goes on, and no bit shows it.

Catalogue rows KV-02, KV-03, KV-06, KV-09, KV-15, KV-16.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools

import numpy as np
import pytest

import tuili
from tiny_core import build, some_ids, tiny
from tiny_engine import BLOCK, drain, is_idle, make_engine, sampling
from tiny_files import write_hf_folder
from tiny_models import tiny_gemma3
from tuili import _core
from tuili.errors import KVCacheExhaustedError, RequestCancelled
from tuili.generation.capacity import areas_of, plan_capacity
from tuili.generation.scheduler import Limits, Scheduler

CHUNK = 32
W = 40  # tokens of the window
LAYERS = {  # the windows of six layers
    "mixed": [W, W, W, W, W, 0],
    "only windows": [W] * 6,
    "two windows": [W, 150, W, 150, W, 0],
    "no window": [0] * 6,
}
IDS = some_ids(400, seed=11).tolist()
N_NEW = 60
FULL = -(-(len(IDS) + N_NEW) // BLOCK)  # blocks of the whole text


def span_of(window: int) -> int:
    return _core.BlockPool.window_span(window, BLOCK, CHUNK)


@functools.cache
def model_of(layers: str) -> _core.Model:
    whole = tiny("gemma3")
    windows = LAYERS[layers]
    spec = [dict(layer, sliding_window=w) for layer, w in zip(whole.spec["layers"], windows, strict=True)]
    return build(dataclasses.replace(whole, spec=dict(whole.spec, layers=spec)))


def engine_of(layers: str, *, n_blocks: int = 3 * FULL, spare: int | None = None, **options):
    """An engine whose windows have room for one text and `spare` blocks; None: no areas of their own."""
    windows = {} if spare is None else {w: span_of(w) + spare for w in sorted({*LAYERS[layers]} - {0})}
    options = {"prefill_chunk": CHUNK, "max_model_len": 1000} | options
    return make_engine(model=model_of(layers), n_blocks=n_blocks, windows=windows, **options)


def outputs(engine, *requests):
    """Outputs of requests (ids, options) that arrive together."""
    handles = [engine.submit(ids, sampling(**options)) for ids, options in requests]
    drain(engine)
    return [handle.result(timeout=0) for handle in handles]


@functools.cache
def alone(layers: str, n_prompt: int = len(IDS), **options):
    """As it was with all blocks kept and nothing cached."""
    engine = engine_of(layers, prefix_caching=False)
    return outputs(engine, (IDS[:n_prompt], options or OPTIONS))[0].outputs


OPTIONS = {"max_tokens": N_NEW, "temperature": 1.0, "seed": 5, "logprobs": 2}


@pytest.mark.parametrize("layers", ["mixed", "only windows", "two windows"])
@pytest.mark.parametrize("n_prompt", [1, len(IDS)])
def test_a_long_text_holds_the_window_alone(layers, n_prompt):
    """Both while its prompt is computed in chunks and while it decodes, however far that goes."""
    n_new = len(IDS) + N_NEW - n_prompt
    engine = engine_of(layers, spare=0)
    handle = engine.submit(IDS[:n_prompt], sampling(max_tokens=n_new, ignore_eos=True))
    held = []
    while engine.step():
        engine.scheduler.check_invariants()
        row = engine.scheduler.running[0].sequence
        held.append([sum(id >= 0 for id in ids) for ids in row.window_block_ids])
        n_blocks = row.n_blocks
    assert len(handle.result(timeout=0).outputs[0].token_ids) == n_new
    assert n_blocks >= FULL - 5, "the blocks for all keys grow with the text"  # as before the last steps
    most = np.max(held, axis=0).tolist()
    for n, window in zip(most, engine._pool.windows, strict=True):
        assert n <= window.span < FULL
    assert is_idle(engine)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("kv_type", ["float32", "int8"])
def test_what_lies_before_the_window_is_not_missed(layers, kv_type):
    expected = outputs(engine_of(layers, kv_type=kv_type), (IDS, OPTIONS))[0].outputs
    for spare in (0, 3):
        found = outputs(engine_of(layers, spare=spare, kv_type=kv_type, num_threads=2), (IDS, OPTIONS))
        assert found[0].outputs == expected


def test_a_text_fits_that_does_not_with_all_its_keys():
    n_layer_blocks = FULL + 5 * span_of(W)  # one layer keeps all, five a window
    assert n_layer_blocks < 6 * FULL / 2
    with pytest.raises(KVCacheExhaustedError, match="the request needs"):
        outputs(engine_of("mixed", n_blocks=n_layer_blocks // 6), (IDS, OPTIONS))
    found = outputs(engine_of("mixed", n_blocks=FULL, spare=0), (IDS, OPTIONS))
    assert found[0].outputs == alone("mixed")


def test_a_window_too_small_for_a_text_is_an_error_at_once():
    engine = make_engine(model=model_of("mixed"), windows={W: span_of(W) - 1}, prefill_chunk=CHUNK)
    with pytest.raises(KVCacheExhaustedError, match=f"the window of {W} tokens has {span_of(W) - 1} of"):
        engine.submit(IDS[:150], sampling(max_tokens=50))
    assert outputs(engine, (IDS[:50], {"max_tokens": 5}))


@pytest.mark.parametrize("layers", ["mixed", "only windows", "two windows"])
def test_beams_need_of_a_window_what_decoding_does(layers):
    """Areas that have room for as many whole texts take the search, also when its beams push each other out;
    with a block less than it may need it is refused.
    """
    n_beams, options = 4, {"max_tokens": 12, "num_beams": 4, "n": 4}
    expected = outputs(engine_of(layers, n_blocks=5 * FULL, prefix_caching=False), (IDS, options))[0].outputs
    windows = {}
    for window in sorted({*LAYERS[layers]} - {0}):
        decoding = _core.BlockPool.window_span(window, BLOCK, 1)
        windows[window] = span_of(window) + (n_beams - 1) * decoding + n_beams
        assert windows[window] <= n_beams * span_of(window)
    whole = {"n_blocks": 5 * FULL, "model": model_of(layers), "prefill_chunk": CHUNK, "max_model_len": 1000}
    engine = make_engine(windows=windows, **whole)
    handle = engine.submit(IDS, sampling(**options))
    for i in range(60):
        engine.step()
        engine.scheduler.check_invariants()
        if i % 20 == 15:
            for row in engine.scheduler.running[:0:-1]:
                engine.scheduler._preempt(row)
    drain(engine)
    assert handle.result(timeout=0).outputs == expected and engine.scheduler.n_preemptions > 2
    assert is_idle(engine)
    for window, n in windows.items():
        with pytest.raises(KVCacheExhaustedError, match=f"4 beams may need {n} .*the window of {window}"):
            make_engine(windows=windows | {window: n - 1}, **whole).submit(IDS, sampling(**options))


@pytest.mark.parametrize("layers", ["mixed", "only windows", "two windows"])
def test_a_prefix_hit_after_blocks_were_given_back_changes_no_bit(layers):
    engine = engine_of(layers, spare=2 * FULL)
    first, *_ = outputs(engine, (IDS, OPTIONS))
    again, *_ = outputs(engine, (IDS, OPTIONS))
    assert again.metrics["cached_tokens"] == (len(IDS) - 1) // BLOCK * BLOCK
    assert first.outputs == again.outputs == alone(layers)
    # Another text with the same beginning finds what the first gave back on its way.
    other = IDS[:200] + IDS[100:150]
    cold = outputs(engine_of(layers, prefix_caching=False), (other, OPTIONS))[0]
    warm = outputs(engine, (other, OPTIONS))[0]
    assert warm.metrics["cached_tokens"] == 192
    assert warm.outputs == cold.outputs
    assert is_idle(engine)


def test_a_prefix_without_its_window_is_found_no_further_than_that():
    """The blocks for all keys are there, those of the window were needed for others: no hit, and no bit."""
    engine = engine_of("mixed", n_blocks=8 * FULL, spare=0)
    outputs(engine, (IDS, OPTIONS))
    outputs(engine, (IDS[::-1], OPTIONS))  # takes the whole window
    assert engine.stats()["cached_blocks"] >= 2 * (len(IDS) // BLOCK)
    again, *_ = outputs(engine, (IDS, OPTIONS))
    assert again.metrics["cached_tokens"] == 0
    assert again.outputs == alone("mixed")


@pytest.mark.parametrize("layers", ["mixed", "only windows", "two windows"])
@pytest.mark.parametrize("spare", [0, 5, 20])
def test_a_crowd_in_a_small_window_leaks_nothing_and_changes_nothing(layers, spare):
    """Rows preempt each other, siblings fork, beams too, one is cancelled; each answers as it does alone."""
    requests = [
        (IDS[:n], OPTIONS | {"max_tokens": n_new, "n": n_siblings})
        for n, n_new, n_siblings in [(400, 30, 1), (390, 40, 3), (64, 90, 1), (100, 60, 2), (3, 150, 1)]
    ]
    if spare == 20:
        requests.append((IDS[:75], {"max_tokens": 12, "num_beams": 2}))
    expected = [outputs(engine_of(layers, prefix_caching=False), request)[0].outputs for request in requests]
    engine = engine_of(layers, n_blocks=FULL + 12, spare=spare)
    cancelled = engine.submit(IDS[50:350], sampling(max_tokens=300))
    handles = [engine.submit(ids, sampling(**options)) for ids, options in requests]
    for _ in range(20):
        engine.step()
        engine.scheduler.check_invariants()
    cancelled.abort()
    drain(engine)
    with contextlib.suppress(RequestCancelled):
        cancelled.result(timeout=0)
    assert [handle.result(timeout=0).outputs for handle in handles] == expected
    assert engine.scheduler.n_preemptions > 0
    assert is_idle(engine)
    engine._pool.clear_cache()
    assert all(window.n_cached == 0 for window in engine._pool.windows)


def test_who_gives_way_to_a_prompt_in_a_window_is_out_of_the_step():
    """It decodes, and the step holds its token already."""
    engine, handles = engine_of("mixed", n_blocks=10 * FULL, spare=3), []
    arrivals = [(300, 1, 4), (70, 0, 4), (70, 0, 0), (20, 2, 2)]  # tokens, priority, steps before it comes
    for i, (n, priority, n_steps) in enumerate(arrivals):
        for _ in range(n_steps):
            engine.step()
        handles.append(engine.submit(IDS[i : i + n], sampling(max_tokens=9, priority=priority)))
    drain(engine)
    assert engine.scheduler.n_preemptions > 0 and is_idle(engine)
    for i, (handle, (n, *_)) in enumerate(zip(handles, arrivals, strict=True)):
        by_itself = outputs(engine_of("mixed", prefix_caching=False), (IDS[i : i + n], {"max_tokens": 9}))
        assert handle.result(timeout=0).outputs == by_itself[0].outputs


def test_a_fork_from_one_that_went_on_by_a_window_is_refused():
    """The parent has given back what the child would see; later beginnings can still be shared."""
    model = model_of("mixed")
    windows = {W: FULL}
    cache = _core.KvCache(model.spec, 2 * FULL, BLOCK, windows=windows)
    pool = _core.BlockPool(2 * FULL, BLOCK, windows=windows, step_tokens=len(IDS))
    runner = _core.Runner(model, cache, num_threads=1)
    parent = _core.Sequence(np.array(IDS, np.int32))
    assert pool.grow(parent, len(IDS))
    runner.step([parent], [len(IDS)], [False])
    early = _core.Sequence(np.array([*IDS[:100], 7], np.int32))
    late = _core.Sequence(np.array([*IDS[:395], 7], np.int32))
    assert pool.fork(late, parent, 395) is not None
    pool.release_unseen([parent])
    assert pool.fork(early, parent, 100) is None
    assert (early.n_computed, early.n_blocks) == (0, 0)
    pool.check_invariants()
    for sequence in (parent, late):
        pool.release(sequence)
    assert pool.n_free == 2 * FULL and pool.windows[0].n_free == FULL


def test_a_step_needs_the_blocks_of_every_window():
    model = model_of("mixed")
    cache = _core.KvCache(model.spec, 8, BLOCK, windows={W: 8})
    runner = _core.Runner(model, cache, num_threads=1)
    for pool in (_core.BlockPool(8, BLOCK), _core.BlockPool(8, BLOCK, windows={8: 8, W: 8})):
        sequence = _core.Sequence(np.array(IDS[:40], np.int32))
        assert pool.grow(sequence, 40)
        with pytest.raises(tuili.InvalidParameterError, match="areas"):
            runner.step([sequence], [40], [False])
    short, sequence = _core.BlockPool(8, BLOCK, windows={1: 8}), _core.Sequence(np.array(IDS[:120], np.int32))
    assert short.grow(sequence, 120, position=96)  # as if the window were one token
    with pytest.raises(tuili.InvalidParameterError, match="block -1 is not in the cache"):
        runner.step([sequence], [120], [False])


def test_nothing_is_allocated_in_a_step():
    model, windows = model_of("two windows"), {W: 60, 150: 60}
    cache = _core.KvCache(model.spec, 60, BLOCK, windows=windows)
    pool = _core.BlockPool(60, BLOCK, windows=windows, step_tokens=CHUNK)
    runner = _core.Runner(model, cache, max_batch_tokens=64, num_threads=2)
    sequences = [_core.Sequence(np.array(IDS[:n], np.int32)) for n in (300, 20)]
    counts = []
    while sequences[0].n_tokens < 400:
        n_new = [min(CHUNK, s.n_tokens - s.n_computed) for s in sequences]
        for sequence in sequences:
            assert pool.grow(sequence, sequence.n_tokens)
        sample = [s.n_computed + n == s.n_tokens for s, n in zip(sequences, n_new, strict=True)]
        runner.step(sequences, n_new, sample)
        counts.append(runner.n_allocations())
    assert sequences[0].window_block_ids[0].count(-1) > 10
    assert counts[0] == counts[-1], "a step allocates"


@pytest.mark.parametrize("windows", [{7: 4}, {0: 4}, {-1: 4}, {W: 0}])
def test_areas_are_those_of_windows_that_layers_have(windows):
    with pytest.raises(tuili.InvalidParameterError):
        _core.KvCache(model_of("mixed").spec, 4, BLOCK, windows=windows)


@pytest.mark.parametrize(
    "wrong",
    [{"window": 0}, {"window": 2**63 - 1}, {"block_size": 0}, {"step_tokens": -1}, {"step_tokens": 2**62}],
)
def test_a_span_of_wrong_sizes_is_an_error(wrong):
    sizes = {"window": W, "block_size": BLOCK, "step_tokens": CHUNK} | wrong
    with pytest.raises(tuili.InvalidParameterError):
        _core.BlockPool.window_span(**sizes)
    with pytest.raises(tuili.InvalidParameterError):
        _core.BlockPool(
            8, sizes["block_size"], windows={sizes["window"]: 8}, step_tokens=sizes["step_tokens"]
        )


# --- how much memory


def capacity(layers: str, max_num_seqs=64, prefill_chunk=64, **options):
    limits = Limits(max_num_seqs=max_num_seqs, prefill_chunk=prefill_chunk)
    options = {"max_model_len": None, "kv_cache_bytes": None} | options
    return plan_capacity(model_of(layers).spec, limits, kv_cache_dtype="float32", **options)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("max_num_seqs", [1, 64])
def test_a_cache_of_any_size_holds_a_text_of_max_model_len(layers, max_num_seqs):
    areas = areas_of(model_of(layers).spec, "float32", 64)
    for n_bytes in [
        areas.text_bytes(1),
        *np.geomspace(areas.text_bytes(1), 1 << 32, 40).astype(int).tolist(),
    ]:
        found = capacity(layers, kv_cache_bytes=n_bytes, max_num_seqs=max_num_seqs)
        assert found.kv_bytes <= n_bytes
        n_text = -(-found.max_model_len // 32)
        assert found.n_blocks >= n_text
        for length, n in found.windows.items():
            assert n >= min(n_text, _core.BlockPool.window_span(length, 32, 64))
        unused = n_bytes - found.kv_bytes
        assert unused < max(areas.block_bytes, *(w.block_bytes for w in areas.windows.values()), 0) * 3
        assert found.max_model_len == 2048 or areas.text_bytes(n_text + 1) > n_bytes


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("step_tokens", [1, 4, 32, 64, 96, 512])
def test_the_usual_cache_holds_as_many_beams_of_a_full_text_as_texts(layers, step_tokens):
    for n, max_model_len in itertools.product((1, 2, 3, 5, 8), (None, 30, 33, 64, 200)):
        found = capacity(layers, max_num_seqs=n, max_model_len=max_model_len, prefill_chunk=step_tokens)
        pool = _core.BlockPool(found.n_blocks, 32, windows=found.windows, step_tokens=step_tokens)
        Scheduler(pool, Limits(max_num_seqs=n), lambda *block: None).check_fits(found.max_model_len, n)


def test_many_short_texts_find_room_in_the_windows():
    """A tenth of what 64 full texts need: the windows have room for all 64, as far as that is half."""
    areas = areas_of(model_of("mixed").spec, "float32", 64)
    found = capacity("mixed", kv_cache_bytes=64 * areas.text_bytes(64) // 10)
    window_bytes = found.windows[W] * areas.windows[W].block_bytes
    assert 0.4 < window_bytes / found.kv_bytes <= 0.5


def test_a_model_serves_a_text_in_a_cache_for_a_quarter_of_its_keys(tmp_path):
    """The whole way: LLM, with a cache that would hold 480 tokens of all layers."""
    write_hf_folder(tiny_gemma3(), tmp_path)
    options = {"num_threads": 1, "prefill_chunk": 64, "max_num_seqs": 4}
    spec = model_of("mixed").spec
    n_bytes = 480 // 32 * _core.KvCache.block_bytes(spec, 32, "float16")
    prompt, params = [3 + 7 * i % 290 for i in range(1800)], {"max_tokens": 40, "temperature": 0}
    with tuili.LLM(tmp_path, **options) as llm:
        expected = llm.generate(prompt, **params).outputs
    with tuili.LLM(tmp_path, kv_cache_bytes=n_bytes, **options) as llm:
        assert llm.config["max_model_len"] >= 1840
        assert llm.generate(prompt, **params).outputs == expected
        assert llm.memory["kv_cache"] <= n_bytes
        again = llm.generate(prompt, **params)
        assert again.outputs == expected and again.metrics["cached_tokens"] > 1700
