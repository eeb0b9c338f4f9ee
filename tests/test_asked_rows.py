"""The last layer computes the rows that somebody asks for, and their bits are those of asking for all."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

import encoder_models
import seq2seq_models
from architecture_files import token_ids, write
from architecture_table import CASES
from tiny_core import How, built, encode, run, some_ids
from tuili import _core, errors
from tuili.loading.model import load, plan_model
from tuili.loading.weights import quantize_q8_0

DECODERS = ("llama", "gemma3", "parallel", "experts", "latent")
BLOCK = 16
GREEDY = _core.SamplingParams(temperature=0.0)


class Bench:
    """A pool, a poisoned cache and a runner."""

    def __init__(self, model: _core.Model, how: How | None = None, **options: int) -> None:
        how = how or How()
        self.pool = _core.BlockPool(64, how.block_size, prefix_cache=False)
        self.cache = _core.KvCache(model.spec, 64, how.block_size, how.kv_type, device=model.device)
        if model.device == "cpu":
            self.cache.poison()
        self.runner = _core.Runner(model, self.cache, num_threads=how.num_threads, isa=how.isa, **options)

    def new(self, ids: np.ndarray, **options: object) -> _core.Sequence:
        sequence = _core.Sequence(ids, GREEDY, **options)
        assert self.pool.grow(sequence, len(ids) + 1)
        return sequence

    def last_logits(self, ids: np.ndarray, chunk: int) -> np.ndarray:
        """Of the row behind a prompt, which is the only one asked for."""
        sequence = self.new(ids, deferred=True)
        while left := len(ids) - sequence.n_computed:
            self.runner.step([sequence], [min(chunk, left)], [left <= chunk])
        return sequence.next_logits()


def assert_last_row_is_that_of_all(model: _core.Model, ids: np.ndarray, *hows: How) -> None:
    whole = run(model, ids, dataclasses.replace(hows[0], isa=None)).logits()[-1].tobytes()
    for how in hows:
        bench = Bench(model, how)
        assert bench.last_logits(ids, how.chunk).tobytes() == whole, f"{how}"
        assert bench.runner.n_last_rows() == 1


@pytest.mark.parametrize("format", ["f32", "q4_0"])
@pytest.mark.parametrize("family", DECODERS)
def test_the_last_row_of_a_prompt_has_the_bits_of_all_rows(family, format, isa):
    assert_last_row_is_that_of_all(
        built(family, format),
        some_ids(75),
        How(isa=isa),
        How(isa=isa, chunk=32, num_threads=2),
        How(isa=isa, chunk=37, block_size=64),
    )


def test_a_last_row_behind_many_keys_is_shared_between_threads():
    assert_last_row_is_that_of_all(
        built("llama"), some_ids(700), How(chunk=500), How(num_threads=2, chunk=512)
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_last_row_of_every_architecture_has_the_bits_of_all_rows(case, tmp_path):
    ids = np.array(token_ids(), np.int32)
    model = load(plan_model(write(case, tmp_path), compute="float32", max_model_len=len(ids))).model
    assert_last_row_is_that_of_all(model, ids, How(), How(chunk=5))


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_rows_of_a_mixed_step_have_the_bits_of_each_alone(family, num_threads):
    """A prompt's end, a part of another, one with log-probabilities, one with all logits, a decoding row."""
    model, ids = built(family), {name: some_ids(20 + n, seed=n) for n, name in enumerate("abcde")}
    bench = Bench(model, How(num_threads=num_threads))
    ends, part = bench.new(ids["a"], deferred=True), bench.new(ids["b"], deferred=True)
    asks, all_rows = bench.new(ids["c"], prompt_logprobs=2), bench.new(ids["d"], collect_logits=True)
    decodes = bench.new(ids["e"][:-1], deferred=True)
    bench.runner.step([decodes], [len(ids["e"]) - 1], [False])
    decodes.append_token(int(ids["e"][-1]))
    rows = [ends, part, asks, all_rows, decodes]
    before = bench.runner.n_last_rows()
    bench.runner.step(rows, [20, 11, 18, 23, 1], [True, False, False, False, True])
    assert bench.runner.n_last_rows() - before == 1 + 0 + 18 + 23 + 1
    bench.runner.step([part, asks], [10, 4], [True, True])
    wanted = {name: run(model, ids[name]).logits() for name in ids}
    for sequence, name in ((ends, "a"), (part, "b"), (decodes, "e")):
        assert sequence.next_logits().tobytes() == wanted[name][-1].tobytes(), name
    assert all_rows.logits().tobytes() == wanted["d"].tobytes()
    alone = Bench(model).new(ids["c"], prompt_logprobs=2, collect_logits=True)
    Bench(model).runner.step([alone], [22], [True])
    assert asks.prompt_logprobs() == alone.prompt_logprobs() and asks.token_ids() == alone.token_ids()


def assert_rows_amid_a_text_are_those_of_its_beginning(
    model: _core.Model, ids: np.ndarray, n_prompt: int, how: How
) -> None:
    """As after a preemption: log-probabilities of a prompt before whose end the step's keys do not end."""

    def prompt_logprobs(*generated: int) -> list[object]:
        bench = Bench(model, how, max_batch_tokens=1024)
        sequence = bench.new(ids[:n_prompt], prompt_logprobs=2, deferred=True)
        for token in generated:
            sequence.append_token(token)
        assert bench.pool.grow(sequence, sequence.n_tokens + 1)
        bench.runner.step([sequence], [sequence.n_tokens], [True])
        assert bench.runner.n_last_rows() == n_prompt
        return sequence.prompt_logprobs()

    assert prompt_logprobs(*map(int, ids[n_prompt:])) == prompt_logprobs()


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_rows_amid_a_text_have_the_bits_of_its_beginning(family, num_threads):
    how = How(num_threads=num_threads)
    assert_rows_amid_a_text_are_those_of_its_beginning(built(family), some_ids(700), 150, how)


# ---- encoders and encoder-decoders


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Name of a case -> the model in the core, loaded once."""
    made: dict[str, _core.Model] = {}

    def of(name: str) -> _core.Model:
        if name not in made:
            folder = encoder_models.write_folder(encoder_models.CASES[name], tmp_path_factory.mktemp(name))
            made[name] = load(plan_model(folder)).model
        return made[name]

    return of


TEXTS = [some_ids(n, seed=n, n_vocab=60) for n in (9, 1, 33)]


@pytest.mark.parametrize("pooling", ["cls", "last", "mean"])
@pytest.mark.parametrize("name", ["BertModel", "DebertaV2Model", "NomicBertModel", "ModernBertModel"])
def test_vectors_of_one_row_are_those_of_all_rows(encoders, name, pooling):
    model = encoders(name)
    wanted, sequences = encode(model, TEXTS, pooling)  # which collect the hidden states of all rows
    runner = _core.Runner(model, num_threads=1)
    vectors = runner.encode([_core.Sequence(ids) for ids in TEXTS], pooling, False)
    assert vectors.tobytes() == wanted.tobytes()
    assert runner.n_last_rows() == (43 if pooling == "mean" else 3)
    if pooling == "cls":
        assert vectors.tobytes() == b"".join(s.hidden_states()[-1][0].tobytes() for s in sequences)


HEADS = [name for name in encoder_models.CASES if re.search("For[A-Z]", name) and not name.endswith("other")]


@pytest.mark.parametrize("name", HEADS)
def test_answers_of_heads_are_those_of_all_rows(encoders, name):
    model = encoders(name)
    asked = _core.Runner(model, num_threads=1).answer([_core.Sequence(ids) for ids in TEXTS])
    all_rows = [_core.Sequence(ids, collect_hidden=True) for ids in TEXTS]
    assert asked.tobytes() == _core.Runner(model, num_threads=1).answer(all_rows).tobytes()


@pytest.mark.parametrize("name", ["BertForMaskedLM", "ModernBertForMaskedLM", "DebertaV2ForMaskedLM"])
def test_chosen_positions_are_computed_once_in_any_order(encoders, name):
    model = encoders(name)
    sequences = [_core.Sequence(ids) for ids in TEXTS]
    whole = _core.Runner(model, num_threads=1).answer(sequences)
    runner = _core.Runner(model, num_threads=1)
    some = runner.answer(sequences, [[5, 2, 5, 3], [], [32, 0, 31]])
    assert some.tobytes() == whole[[5, 2, 5, 3, 42, 10, 41]].tobytes()
    assert runner.n_last_rows() == 6
    assert runner.answer(sequences, [[], [], []]).shape == (0, whole.shape[1])
    small = _core.Runner(model, max_batch_tokens=len(whole), num_threads=1)  # a chunk is of as many rows
    many = [[*range(len(ids))] * 3 for ids in TEXTS]
    rows = np.split(whole, np.cumsum([len(ids) for ids in TEXTS])[:-1])
    wanted = np.concatenate([np.tile(one, (3, 1)) for one in rows])
    assert small.answer(sequences, many).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("format", ["f32", "int8"])
@pytest.mark.parametrize("name", ["T5", "BartFor", "MarianMTModel"])
def test_rows_behind_sources_have_the_bits_of_each_alone(name, format):
    """Siblings and a mate, of which some ask for nothing, then for a row, while another asks for all."""
    model = seq2seq_models.core_model(name, format)
    ids = np.array(seq2seq_models.target_ids(seq2seq_models.by_name(name)), np.int32)
    sources = [np.array(seq2seq_models.source_ids(n, seed=n), np.int32) for n in (40, 17)]

    def last_logits(order: list[int], n_first: list[int], **options: object) -> tuple[list[bytes], int]:
        bench = Bench(model, How(block_size=BLOCK), max_source_tokens=99)
        rows = [bench.new(ids[i:], source=sources[i // 2], deferred=True, **options) for i in order]
        bench.runner.step(rows[:1], [1], [False])
        for i, row in zip(order, rows, strict=True):
            if i == 1 and 0 in order:
                bench.pool.share_source(row, rows[order.index(0)])
        rests = [row.n_tokens - row.n_computed for row in rows]
        first = [min(n, rest) for n, rest in zip(n_first, rests, strict=True)]
        bench.runner.step(rows, first, [n == rest for n, rest in zip(first, rests, strict=True)])
        for row in rows:
            if left := row.n_tokens - row.n_computed:
                bench.runner.step([row], [left], [True])
        return [row.next_logits().tobytes() for row in rows], bench.runner.n_last_rows()

    wanted = [last_logits([i], [99], collect_logits=True)[0][0] for i in range(3)]
    assert last_logits([0, 1, 2], [4, 99, 99]) == (wanted, 3)
    assert last_logits([0, 1, 2], [99, 3, 99]) == (wanted, 3)
    assert last_logits([2, 0, 1], [5, 4, 3]) == ([wanted[2], *wanted[:2]], 3)


# ---- on a device


def on_device(test):
    has_device = _core.build_info()["cuda"] != "none"
    return pytest.mark.skipif(not has_device, reason="a build without CUDA; .ci/run tests an emulated one")(
        test
    )


@on_device
@pytest.mark.parametrize(
    "family, format, kv_type",
    [
        ("llama", "bf16", "float16"),
        ("llama", "q4_0", "int8"),
        ("gemma3", "q8_0", "bfloat16"),
        ("parallel", "bf16", "float16"),
        ("experts", "q4_0", "float16"),
        ("latent", "bf16", "float16"),
    ],
)
def test_the_last_row_on_a_device_has_the_bits_of_all_rows(family, format, kv_type):
    model = built(family, format, device="cuda")
    assert_last_row_is_that_of_all(model, some_ids(40), How(kv_type=kv_type), How(kv_type=kv_type, chunk=17))


@on_device
def test_rows_amid_a_text_on_a_device_have_the_bits_of_its_beginning():
    model, how = built("llama", "bf16", device="cuda"), How(kv_type="float16")
    assert_rows_amid_a_text_are_those_of_its_beginning(model, some_ids(40), 15, how)


@on_device
def test_rows_of_two_texts_on_a_device_have_the_bits_of_each_alone():
    model, texts = built("llama", "bf16", device="cuda"), [some_ids(n, seed=n) for n in (33, 20)]
    bench = Bench(model, How(kv_type="float16"))
    rows = [bench.new(ids, deferred=True) for ids in texts]
    bench.runner.step(rows, [7, 20], [False, True])
    bench.runner.step(rows[:1], [26], [True])
    for ids, row in zip(texts, rows, strict=True):
        wanted = run(model, ids, How(kv_type="float16")).logits()[-1]
        assert row.next_logits().tobytes() == wanted.tobytes()
    bert = built("bert", "bf16", device="cuda")
    for pooling in ("cls", "last"):
        wanted, _ = encode(bert, texts, pooling)  # which collect the hidden states of all rows
        vectors = _core.Runner(bert, num_threads=1).encode([_core.Sequence(x) for x in texts], pooling, False)
        assert vectors.tobytes() == wanted.tobytes()


@on_device
def test_rows_behind_sources_on_a_device_have_the_bits_of_each_alone():
    model = seq2seq_models.core_model("T5", "bf16", "cuda")
    ids = np.array(seq2seq_models.target_ids(seq2seq_models.by_name("T5")), np.int32)
    sources = [np.array(seq2seq_models.source_ids(n, seed=n), np.int32) for n in (40, 17)]

    def last_logits(texts: list[int], **options: object) -> list[bytes]:
        bench = Bench(model, How(kv_type="float16"), max_source_tokens=99)
        rows = [bench.new(ids[i:], source=sources[i], deferred=True, **options) for i in texts]
        bench.runner.step(rows, [row.n_tokens for row in rows], [True] * len(rows))
        return [row.next_logits().tobytes() for row in rows]

    assert last_logits([0, 1]) == [last_logits([i], collect_logits=True)[0] for i in range(2)]


# ---- what is spared


@pytest.mark.parametrize(
    "options, n_new, samples, n_rows",
    [
        ({}, [20], True, 1),
        ({}, [6, 14], True, 1),
        ({}, [6, 14], False, 0),
        ({"prompt_logprobs": 0}, [20], False, 19),
        ({"prompt_logprobs": 0}, [6, 14], True, 20),
        ({"collect_logits": True}, [20], False, 20),
        ({"collect_hidden": True}, [20], True, 20),
    ],
    ids=str,
)
def test_the_last_mlp_sees_the_rows_that_are_asked_for(options, n_new, samples, n_rows):
    bench = Bench(built("llama"))
    sequence = bench.new(some_ids(20), **options)
    for n in n_new:
        bench.runner.step([sequence], [n], [samples and sequence.n_computed + n == 20])
    assert bench.runner.n_last_rows() == n_rows


def test_a_step_of_a_prompts_end_allocates_nothing():
    bench = Bench(built("llama"))
    sequences = [bench.new(some_ids(40, seed=n)) for n in range(2)]
    bench.runner.step(sequences, [10, 3], [False, False])
    before = bench.runner.n_allocations()
    bench.runner.step(sequences, [30, 7], [True, False])
    assert bench.runner.n_allocations() == before


def test_scores_from_distances_are_refused_where_heads_turn():
    """Keys of all rows meet the queries, also where the asked rows' cos and sin would take their place."""
    layer = {"n_heads": 2, "n_kv_heads": 2, "head_dim": 8, "d_ff": 8, "attention_scale": 1.0, "causal": False}
    fields = {"kind": "encoder", "n_vocab": 4, "d_model": 16, "max_positions": 4, "norm": "layer"}
    fields |= {"has_head": False, "ropes": [_core.RopeSpec(inv_freq=np.ones(4, np.float32))]}
    fields["distances"] = _core.DistanceSpec(places=[0] * 7, n_rows=1, keys=True, queries=True)
    _core.ModelSpec(layers=[_core.LayerSpec(**layer)], **fields)
    with pytest.raises(errors.ModelFormatError, match="do not turn"):
        _core.ModelSpec(layers=[_core.LayerSpec(**layer, rope=0)], **fields)


@pytest.mark.parametrize("wide", [("query",), ("key", "value"), ("query", "key", "value")], ids="+".join)
def test_a_row_is_the_same_where_some_maps_of_its_input_have_wide_scales(wide):
    """Of the last layer the asked rows' queries are made apart from all rows' keys and values."""
    layer = {"n_heads": 2, "n_kv_heads": 2, "head_dim": 16, "d_ff": 128, "attention_scale": 0.01}
    spec = _core.ModelSpec(
        kind="encoder",
        n_vocab=50,
        d_model=128,
        max_positions=16,
        layers=[_core.LayerSpec(**layer, causal=False)],
        has_head=False,
    )
    builder = _core.ModelBuilder(spec, compute="int8")
    for seed, (name, shape) in enumerate(builder.expected()):
        values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32).reshape(-1)
        part = name.rsplit(".", 1)[-1]
        if part in ("query", "key", "value"):
            builder.add(name, "q8_0", shape, quantize_q8_0(values, name, 128 if part in wide else 32))
        else:
            builder.add(name, "f32", shape, values.view(np.uint8))
    runner = _core.Runner(builder.finish(), None)
    asked, whole = (
        _core.Sequence(some_ids(9, n_vocab=50), collect_hidden=all_rows) for all_rows in (False, True)
    )
    last = runner.encode([asked], "last", False)[0]
    runner.encode([whole], "last", False)
    assert last.tobytes() == whole.hidden_states()[-1][-1].tobytes()
