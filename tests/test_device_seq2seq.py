"""Encoder-decoders on the CUDA device, or on the CPU that plays it: beside the CPU, and bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

import seq2seq_heads
import tuili
from seq2seq_models import CASES, Case, by_name, core_model, source_ids, target_ids, write
from translators import MODELS
from tuili import InvalidParameterError, _core
from tuili.embedding.rereading import Rereading, cache_for
from tuili.loading.model import load, plan_model

HAS_DEVICE = _core.build_info()["cuda"] != "none"
pytestmark = pytest.mark.skipif(not HAS_DEVICE, reason="a build without CUDA; .ci/run tests an emulated one")

BLOCK = 16
N_SOURCE, N_TARGET = 40, 9


class Bench:
    """A pool, a cache and a runner for a few sequences, where the model is."""

    def __init__(self, model: _core.Model, kv_type: str = "float16", max_source_tokens: int = 128) -> None:
        n_blocks = 64
        self.pool = _core.BlockPool(n_blocks, BLOCK)
        self.cache = _core.KvCache(model.spec, n_blocks, BLOCK, kv_type, device=model.device)
        self.cache.poison()
        self.runner = _core.Runner(
            model,
            self.cache,
            max_batch_tokens=64,
            max_seqs=8,
            max_source_tokens=max_source_tokens,
            num_threads=1,
        )

    def begin(self, source: list[int], ids: list[int], **options: object) -> _core.Sequence:
        sequence = _core.Sequence(np.array(ids, np.int32), source=np.array(source), **options)
        assert self.pool.grow(sequence, len(ids) + 8)
        return sequence

    def logits(self, source: list[int], ids: list[int], chunk: int = 99) -> np.ndarray:
        sequence = self.begin(source, ids, collect_logits=True)
        while left := sequence.n_tokens - sequence.n_computed:
            self.runner.step([sequence], [min(chunk, left)], [False])
        return sequence.logits()


def text_of(case: Case) -> tuple[list[int], list[int]]:
    return source_ids(N_SOURCE), target_ids(case)[:N_TARGET]


def check_beside_the_cpu(case: Case, **how: str) -> None:
    """As tests/test_device_engine.py: rounding the weights once shows how much a rounding moves the logits,
    and the device rounds eight times in a layer what they meet.
    """
    with tempfile.TemporaryDirectory() as folder:
        write(case, Path(folder))
        exact, rounded = (
            load(plan_model(folder, dtype=dtype, compute="float32")).model
            for dtype in ("float32", "bfloat16")
        )
    expected = Bench(rounded, **how).logits(*text_of(case))
    moved = np.abs(Bench(exact, **how).logits(*text_of(case)) - expected).max()
    found = Bench(exact.upload(), **how).logits(*text_of(case))
    assert np.abs(found - expected).max() <= 6 * moved


def test_what_a_runner_takes_is_known_before_the_cache_is_made() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(by_name("M2M100"), Path(folder))
        model = load(plan_model(folder)).model.upload()
    sizes = {"max_batch_tokens": 64, "max_seqs": 8, "max_source_tokens": 128}
    assert model.spec.max_positions <= 64 * BLOCK  # of Bench's cache
    assert Bench(model).runner.workspace_bytes == _core.Runner.most_workspace_bytes(model, **sizes)


@pytest.mark.parametrize("name", ["BartForQuestionAnswering", "T5ForSequenceClassification"])
def test_heads_of_two_halves_are_beside_the_cpu_and_ignore_mates(name: str, tmp_path: Path) -> None:
    folder = seq2seq_heads.write(seq2seq_heads.CASES[name], tmp_path)
    exact, rounded = (
        load(plan_model(folder, dtype=dtype, compute="float32")) for dtype in ("float32", "bfloat16")
    )
    shifted = Rereading(exact.decoder_start).shifted
    texts = [np.array(source_ids(n), np.int32) for n in (20, 33)]

    def rows(model: _core.Model, order: tuple[int, ...]) -> np.ndarray:
        cache = cache_for(model.spec, 64, 4, model.device)
        cache.poison()
        runner = _core.Runner(
            model, cache, max_batch_tokens=64, max_seqs=4, max_source_tokens=64, num_threads=1
        )
        return runner.answer([_core.Sequence(shifted(texts[i]), source=texts[i]) for i in order])

    expected = rows(rounded.model, (0, 1))
    moved = np.abs(rows(exact.model, (0, 1)) - expected).max()
    on_device = exact.model.upload()
    found = rows(on_device, (0, 1))
    assert np.abs(found - expected).max() <= 6 * moved
    np.testing.assert_array_equal(found[20:], rows(on_device, (1,)))


@pytest.mark.parametrize("name", ["T5", "BartFor", "MarianMTModel: two"])
def test_logits_are_the_cpus(name: str) -> None:
    check_beside_the_cpu(by_name(name))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_encoder_decoder_is_beside_the_cpu(case: Case) -> None:
    check_beside_the_cpu(case, kv_type="bfloat16")


@pytest.mark.parametrize("name, format", [("T5", "int8"), ("MarianMTModel", "f32")])
def test_bits_depend_on_no_mate_chunk_or_step(name: str, format: str) -> None:
    case, model = by_name(name), core_model(name, format, device="cuda")
    texts = [(source_ids(n, seed=n), target_ids(case)[: 4 + n % 3]) for n in (40, 1, 33)]
    alone = [Bench(model).logits(*text).tobytes() for text in texts]
    for chunk in (99, 2):
        bench = Bench(model)
        rows = [bench.begin(*text, collect_logits=True) for text in texts]
        bench.runner.step(rows[:1], [1], [False])  # the others are encoded later, beside a decoding row
        while running := [row for row in rows if row.n_computed < row.n_tokens]:
            n_new = [min(chunk, row.n_tokens - row.n_computed) for row in running]
            bench.runner.step(running, n_new, [False] * len(running))
        assert [row.logits().tobytes() for row in rows] == alone


def test_siblings_go_through_one_copy_of_their_source() -> None:
    case, model = by_name("T5"), core_model("T5", device="cuda")
    bench, (source, ids) = Bench(model), text_of(case)
    parent = bench.begin(source, ids, collect_logits=True)
    bench.runner.step([parent], [2], [False])
    child = _core.Sequence(np.array(ids[::-1], np.int32), source=np.array(source), collect_logits=True)
    bench.pool.share_source(child, parent)
    assert child.source_block_ids == parent.source_block_ids and bench.pool.grow(child, len(ids))
    bench.runner.step([parent, child], [5, len(ids)], [False, False])
    assert child.logits().tobytes() == Bench(model).logits(source, ids[::-1]).tobytes()


def test_runs_of_steps_meet_the_sources_that_are_there_now() -> None:
    """A graph of a step is played again with other rows, sources and lengths of both."""
    model = core_model("T5", device="cuda")
    greedy = _core.SamplingParams(temperature=0)

    def tokens(bench: Bench, sources: list[list[int]], n: int) -> list[list[int]]:
        rows = [bench.begin(source, [0], sampling=greedy) for source in sources]
        bench.runner.step(rows, [1] * len(rows), [True] * len(rows))
        bench.runner.run(rows, max_steps=n, max_s=60)
        for row in rows:
            bench.pool.release(row)
        return [row.token_ids() for row in rows]

    texts = [source_ids(n, seed=n) for n in (40, 7, 33, 21)]
    alone = [tokens(Bench(model), [source], 5)[0] for source in texts]
    bench = Bench(model)
    assert tokens(bench, texts[:2], 5) == alone[:2]
    assert tokens(bench, texts[2:], 5) == alone[2:]
    assert [tokens(bench, [source], 5)[0] for source in texts[::-1]] == alone[::-1]


@pytest.mark.slow
def test_a_source_of_several_splits_is_beside_the_cpu_whatever_the_chunks() -> None:
    source, ids = source_ids(530), target_ids(by_name("T5"))[:5]
    on_cpu, there = (core_model("T5", "bf16", device=device) for device in ("cpu", "cuda"))
    expected = Bench(on_cpu, max_source_tokens=530).logits(source, ids)
    bench = Bench(there, max_source_tokens=530)
    whole = bench.begin(source, ids, collect_logits=True)
    bench.runner.step([whole], [len(ids)], [False])
    assert np.abs(whole.logits() - expected).max() <= 0.05 * np.ptp(expected)
    slow = _core.Sequence(np.array(ids, np.int32), source=np.array(source), collect_logits=True)
    bench.pool.share_source(slow, whole)
    assert bench.pool.grow(slow, len(ids))
    for _ in ids:
        bench.runner.step([slow], [1], [False])
    assert slow.logits().tobytes() == whole.logits().tobytes()


def test_a_source_longer_than_the_runner_was_made_for_is_refused_though_kept() -> None:
    model = core_model("T5", device="cuda")
    bench = Bench(model)
    row = bench.begin(source_ids(40), [0, 5])
    bench.runner.step([row], [1], [False])
    other = _core.Runner(model, bench.cache, max_batch_tokens=8, max_source_tokens=39)
    with pytest.raises(InvalidParameterError, match="a source of 40 tokens; the encoder takes 1 to 39"):
        other.step([row], [1], [False])


def test_a_translator_on_the_device_writes_numbers_in_words() -> None:
    options = {"max_num_seqs": 6, "prefill_chunk": 64, "kv_cache_bytes": 1 << 22, "max_model_len": 64}
    with tuili.LLM(MODELS / "t5-numbers", device="cuda", packed_cache=False, **options) as llm:
        assert llm.config["device"] == "cuda" and llm.config["kv_cache"]["dtype"] == "float16"
        pipe = tuili.pipeline("translation_num_to_en", llm)
        assert pipe(["12", "7"], num_beams=1) == [
            {"translation_text": "twelve"},
            {"translation_text": "seven"},
        ]
        beams = pipe("12", num_beams=3, num_return_sequences=2)
        assert beams[0] == {"translation_text": "twelve"}
        together = llm.generate(["write in English: 5"] * 2, max_tokens=4, temperature=1.0, seed=3, n=2)
        alone = llm.generate("write in English: 5", max_tokens=4, temperature=1.0, seed=3, n=2)
        assert [out.outputs for out in together] == [alone.outputs] * 2
