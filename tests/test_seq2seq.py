"""Encoder-decoders: logits and searches are transformers', bits depend on nothing, blocks go back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import reference
import seq2seq_models
import tuili
from seq2seq_models import (
    CASES,
    COLUMNS,
    N_NEW,
    N_TARGET,
    SEARCHES,
    Case,
    by_name,
    core_model,
    source_ids,
    stored_tensors,
    target_ids,
    write,
)
from tiny_engine import Clock, drain, is_idle, make_engine, sampling
from tuili import _core
from tuili.errors import (
    DeadlineExceeded,
    InvalidParameterError,
    KVCacheExhaustedError,
    ModelFormatError,
    PromptTooLongError,
    TokenIdError,
)
from tuili.generation.intake import SourceLimits
from tuili.generation.sources import endings_of
from tuili.loading import packed_cache, registry
from tuili.loading.architectures.class_defaults import CLASS_DEFAULTS
from tuili.loading.config import Config
from tuili.loading.layout import our_names
from tuili.loading.model import load, plan_model
from tuili.loading.tokenizers.languages import Languages

LIMIT = 1e-4  # of the range of a position's logits
PATH = Path(__file__).parent / "goldens" / "seq2seq.npz"
GOLDENS = dict(np.load(PATH))
BLOCK = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Case -> its folder, written once."""
    made: dict[str, Path] = {}

    def of(case: Case) -> Path:
        if case.name not in made:
            made[case.name] = write(case, tmp_path_factory.mktemp("seq2seq"))
        return made[case.name]

    return of


@pytest.fixture(scope="module")
def t5_model(folders) -> _core.Model:
    return load(plan_model(folders(by_name("T5")))).model


class Bench:
    """A pool, a cache and a runner for a few sequences."""

    def __init__(self, model: _core.Model, n_blocks: int = 64, **how: object) -> None:
        self.pool = _core.BlockPool(n_blocks, BLOCK)
        self.cache = _core.KvCache(model.spec, n_blocks, BLOCK, "float32")
        self.cache.poison()
        self.runner = _core.Runner(model, self.cache, max_source_tokens=256, **how)

    def begin(self, source, ids) -> _core.Sequence:
        sequence = _core.Sequence(np.array(ids, np.int32), source=np.array(source), collect_logits=True)
        assert self.pool.grow(sequence, len(ids))
        return sequence

    def logits(self, source, ids, chunk: int = 99) -> np.ndarray:
        sequence = self.begin(source, ids)
        while left := sequence.n_tokens - sequence.n_computed:
            self.runner.step([sequence], [min(chunk, left)], [False])
        return sequence.logits()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_are_those_of_transformers(case, folders):
    plan = plan_model(folders(case), compute="float32")
    assert not plan.warnings
    model = load(plan).model
    wanted, spread = GOLDENS[case.name][:, :-1], GOLDENS[case.name][:, -1:]
    for chunk in (N_TARGET, 1):
        logits = Bench(model, num_threads=1).logits(source_ids(), target_ids(case), chunk)
        error = (abs(logits[:, COLUMNS] - wanted) / spread).max()
        assert error <= LIMIT, f"{chunk=}: {error:.1e} of the range"
        assert np.allclose(np.ptp(logits, axis=1, keepdims=True), spread, rtol=1e-3)


@pytest.mark.parametrize("name", ["T5", "BartFor", "MBart"])
def test_logits_are_those_of_the_reference(name, folders):
    case = by_name(name)
    model = load(plan_model(folders(case), compute="float32")).model
    config = Config(dict(case.config), "config.json")
    _, module = registry.hf_architecture(config)
    names = module.tensor_names(config)
    weights = {our_names(theirs, names).names[0]: x for theirs, x in stored_tensors(case).items()}
    weights |= {key: x[0] for key, x in weights.items() if key == "head.bias"}
    ids, source = (np.array(ids) for ids in (target_ids(case), source_ids()))
    wanted = reference.forward(model.spec, weights, ids, source=source)["logits"]
    error = abs(Bench(model).logits(source_ids(), target_ids(case)) - wanted).max()
    assert error <= 1e-5 * np.ptp(wanted), f"{error / np.ptp(wanted):.1e} of the range"


@pytest.mark.parametrize("format", [{}, {"dtype": "bfloat16"}, {"quantization": "int8"}], ids=str)
@pytest.mark.parametrize("name", ["T5", "MarianMTModel"])
def test_bits_depend_on_no_mate_chunk_thread_or_instruction_set(name, format, folders):
    case = by_name(name)
    model = load(plan_model(folders(case), **format)).model
    texts = [(source_ids(n, seed=n), target_ids(case)[: 20 - n % 7]) for n in (40, 1, 33, 64)]
    alone = [Bench(model, num_threads=1, isa="generic").logits(*text).tobytes() for text in texts]
    for chunk, threads in ((99, 2), (3, 1)):
        bench = Bench(model, num_threads=threads)
        rows = [bench.begin(*text) for text in texts]
        bench.runner.step(rows[:1], [1], [False])  # the others are encoded later, beside a decoding row
        while running := [row for row in rows if row.n_computed < row.n_tokens]:
            n_new = [min(chunk, row.n_tokens - row.n_computed) for row in running]
            bench.runner.step(running, n_new, [False] * len(running))
        assert [row.logits().tobytes() for row in rows] == alone
        for row in rows:
            bench.pool.release(row)
        assert bench.pool.n_free == bench.pool.n_blocks
        bench.pool.check_invariants()


def test_int8_weights_keep_the_logits_near(folders):
    plain, small = (
        Bench(load(plan_model(folders(by_name("T5")), quantization=how)).model).logits(
            source_ids(), target_ids(by_name("T5"))
        )
        for how in (None, "int8")
    )
    assert 0 < abs(plain - small).max() <= 0.05 * np.ptp(plain)


def test_a_source_is_encoded_once_and_shared(t5_model):
    bench = Bench(t5_model)
    parent = bench.begin(source_ids(), target_ids(by_name("T5")))
    ids = target_ids(by_name("T5"))[::-1]
    child = _core.Sequence(np.array(ids), source=np.array(source_ids()), collect_logits=True)
    bench.pool.share_source(child, parent)  # nothing is computed yet
    assert child.source_block_ids == [] and parent.n_source_pending == 40
    bench.runner.step([parent], [2], [False])
    assert parent.n_source_pending == 0
    bench.pool.share_source(child, parent)
    assert child.source_block_ids == parent.source_block_ids and len(child.source_block_ids) == 3
    assert bench.pool.grow(child, 20) and child.n_source_pending == 0
    bench.runner.step([parent, child], [9, 20], [False, False])  # through the same keys, together
    assert child.logits().tobytes() == Bench(t5_model).logits(source_ids(), child.token_ids()).tobytes()
    other = _core.Sequence(np.array([0], np.int32), source=np.array(source_ids(39)))
    with pytest.raises(InvalidParameterError, match="sources"):
        bench.pool.share_source(other, parent)
    for row in (parent, child):
        bench.pool.release(row)
    assert bench.pool.n_free == bench.pool.n_blocks and child.n_source_pending == 40
    bench.pool.check_invariants()


def test_the_core_refuses_a_sequence_that_does_not_suit_the_model(t5_model):
    bench = Bench(t5_model)
    none = _core.Sequence(np.array([0], np.int32))
    assert bench.pool.grow(none, 1)
    with pytest.raises(InvalidParameterError, match="a source of 0 tokens"):
        bench.runner.step([none], [1], [False])
    with pytest.raises(TokenIdError, match="300 at position 1 of the source"):
        bench.runner.step([bench.begin([5, 300], [0])], [1], [False])
    many = [bench.begin(source_ids(129), [0]) for _ in range(2)]
    with pytest.raises(InvalidParameterError, match="max_source_tokens"):
        bench.runner.step(many, [1, 1], [False, False])
    assert [row.n_source_pending for row in many] == [129, 129]
    quiet = _core.Sequence(np.array([0], np.int32), source=np.array([5]))
    assert bench.pool.grow(quiet, 9)
    with pytest.raises(InvalidParameterError, match="source is not encoded"):
        bench.runner.run([quiet], max_steps=3, max_s=1)
    with pytest.raises(InvalidParameterError, match="at least one token"):
        _core.Sequence(np.array([0], np.int32), source=np.array([], np.int32))


def test_every_class_is_tested_twice():
    tested = [case.architecture for case in CASES]
    assert set(tested) == set(registry.HF_SEQ2SEQ) and min(map(tested.count, tested)) >= 2


@pytest.mark.parametrize("name", registry.HF_SEQ2SEQ)
def test_a_setting_left_out_is_that_of_transformers_class(name):
    usual, case = CLASS_DEFAULTS[name], by_name(name)
    config = Config({key: x for key, x in case.config.items() if key not in usual}, "config.json")
    stated = Config(case.config | usual, "config.json")
    specs = [registry.hf_architecture(settings)[1].spec(settings) for settings in (config, stated)]
    assert _core.ModelBuilder(specs[0]).expected() == _core.ModelBuilder(specs[1]).expected()
    assert usual.items() <= config.defaults.items()


@pytest.mark.parametrize("name", ["PegasusForConditionalGeneration", "MarianMTModel"])
def test_a_table_of_positions_in_the_files_is_used(name, tmp_path):
    """Halved files hold a rounded one, which transformers computes with."""
    case = by_name(name)
    shape = (case.config["max_position_embeddings"], case.config["d_model"])
    stored = {
        f"model.{half}.embed_positions.weight": np.full(shape, 0.5, np.float32)
        for half in ("encoder", "decoder")
    }
    for more in ({}, stored):
        plan = plan_model(write(case, tmp_path / str(len(more)), more=more))
        tables = [tensor.place for tensor in plan.tensors if tensor.name.endswith("position_embedding")]
        assert [place.constant is None for place in tables] == [bool(more)] * 2 and not plan.warnings


# ---- an LLM


def open_llm(folder: Path, **options: object) -> tuili.LLM:
    return tuili.LLM(folder, packed_cache=False, num_threads=1, max_num_seqs=8, **options)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_searches_find_what_those_of_transformers_find(case, folders):
    with open_llm(folders(case), max_model_len=64) as llm:
        assert llm.kind == "encoder-decoder"
        assert llm.config["tasks"] == ["text2text-generation", "translation", "summarization"]
        for i, search in enumerate(SEARCHES):
            wanted = GOLDENS[f"{case.name} {i}"]
            options = dict(search)
            if "min_new_tokens" in options:
                options["min_tokens"] = options.pop("min_new_tokens")
            out = llm.generate(source_ids(), max_tokens=N_NEW, n=search["num_beams"], **options)
            assert out.prompt_token_ids == source_ids()
            for row, found in zip(wanted.tolist(), out.outputs, strict=True):
                assert found.token_ids == row[: len(found.token_ids)]
            if search["num_beams"] > 1:
                scores = [found.score for found in out.outputs]
                assert np.allclose(scores, GOLDENS[f"{case.name} {i} scores"], atol=1e-4)


GENERATION = {
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "num_beams": 3,
    "length_penalty": 2.0,
    "early_stopping": True,
    "no_repeat_ngram_size": 2,
    "max_length": 11,
    "min_length": 4,
    "bad_words_ids": [[296], [7, 8]],
    "forced_bos_token_id": 9,
}


def test_what_a_model_recommends_is_the_default(folders, tmp_path):
    case = by_name("T5")
    named = {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 2}
    named |= {"max_tokens": 10, "min_tokens": 3, "forced_bos_token_id": 9}
    with open_llm(write(case, tmp_path, GENERATION)) as llm:
        assert llm.config["ignored_generation_keys"] == []
        found = llm.generate(source_ids())
        assert found.outputs[0].score is not None and len(found.outputs[0].token_ids) == 10
        explicit = llm.generate(source_ids(), **named)
        assert explicit.outputs == found.outputs
        wider = llm.generate(source_ids(), num_beams=5)  # by the same rules
        assert wider.outputs == llm.generate(source_ids(), **named | {"num_beams": 5}).outputs
        assert wider.outputs != llm.generate(source_ids(), num_beams=5, length_penalty=0.0).outputs
        greedy = llm.generate(source_ids(), num_beams=1)
        assert greedy.outputs[0].score is None and greedy.outputs[0].token_ids[0] == 9
        assert len(llm.generate(source_ids(), max_tokens=2).outputs[0].token_ids) == 2
        drawn = llm.generate(source_ids(), temperature=1.0, seed=1, n=2, forced_bos_token_id=5)
        assert [out.token_ids[0] for out in drawn.outputs] == [5, 5] and drawn.outputs[0].score is None
        for out in (*found.outputs, *greedy.outputs, *drawn.outputs):
            assert 296 not in out.token_ids
    with open_llm(folders(case)) as llm:  # no generation_config.json, and nothing in config.json
        assert 296 in llm.generate(source_ids(), **named).outputs[0].token_ids


def test_rules_for_searches_need_no_recommended_search(tmp_path):
    case = by_name("T5")
    with open_llm(write(case, tmp_path, {"length_penalty": 3.0, "early_stopping": "never"})) as llm:
        assert llm.config["ignored_generation_keys"] == []
        asked, rules = {"num_beams": 4, "max_tokens": 9}, {"length_penalty": 3.0, "early_stopping": "never"}
        found = llm.generate(source_ids(), **asked)
        assert found.outputs == llm.generate(source_ids(), **asked, **rules).outputs
        assert found.outputs != llm.generate(source_ids(), **asked, length_penalty=1.0).outputs
        assert llm.generate(source_ids(), max_tokens=9).outputs[0].score is None


def test_beams_are_ranked_by_what_is_not_forbidden_where_the_model_asks_for_it(tmp_path):
    """renormalize_logits, as Marian has it: what the model gives to forbidden padding counts nowhere."""
    case, banned = by_name("T5"), range(100, 200)
    asks = {"renormalize_logits": True, "bad_words_ids": [[i] for i in banned]}
    with open_llm(write(case, tmp_path, asks)) as llm:
        assert llm.config["ignored_generation_keys"] == []
        best = llm.generate(source_ids(), num_beams=3, max_tokens=6, logprobs=0).outputs[0]
        logits = llm.logits(source_ids(), [0, *best.token_ids]).astype(np.float64)[:-1]
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        picked = logits[np.arange(6), best.token_ids]
        allowed = np.exp(np.delete(logits, banned, axis=1)).sum(axis=1)
        assert allowed.max() < 0.9
        assert abs(best.score - (picked - np.log(allowed)).mean()) < 1e-5
        assert np.allclose([entry.logprob for entry in best.logprobs], picked, atol=1e-5)  # the model's


def test_padding_has_no_position_in_m2m100(tmp_path):
    """What transformers finds where a text begins with it, and a source holds it, unmasked."""
    case = seq2seq_models.by_name("M2M100")
    source = [1 if i in (3, 7, 8) else token_id for i, token_id in enumerate(source_ids())]
    with open_llm(write(case, tmp_path, {"decoder_start_token_id": 1}), compute="float32") as llm:
        assert llm.generate(source, num_beams=3, max_tokens=12).outputs[0].token_ids == [48] * 6 + [146] * 6


def test_recommendations_that_do_not_go_together(tmp_path):
    """A search with drawing, which is a search here; an end that is forbidden, which none is."""
    case = by_name("T5")
    drawing = {"do_sample": True, "temperature": 0.7, "forced_eos_token_id": [5]}
    with open_llm(write(case, tmp_path / "a", GENERATION | drawing)) as llm:
        assert llm.config["ignored_generation_keys"] == ["do_sample"]
        first, again = (llm.generate(source_ids()).outputs[0] for _ in range(2))
        assert first == again and first.score is not None and first.token_ids[-1] == 5
    with open_llm(write(case, tmp_path / "b", {"eos_token_id": 1, "bad_words_ids": [[1], [9]]})) as llm:
        out = llm.generate(source_ids(), logit_bias={1: 100.0}, max_tokens=3).outputs[0]
        assert out.finish_reason == "stop"


def test_tokens_that_a_model_suppresses_are_never_generated(folders, tmp_path):
    case = by_name("T5")
    with open_llm(folders(case)) as llm:
        met = llm.generate(source_ids(), max_tokens=6).outputs[0].token_ids
    settings = {"suppress_tokens": met[:3], "bad_words_ids": [[met[3]]]}
    old = Case(case.architecture, "old", case.config | settings)  # an old config.json has them itself
    for folder in (write(case, tmp_path / "new", settings), write(old, tmp_path / "old")):
        with open_llm(folder) as llm:
            assert llm.config["ignored_generation_keys"] == []
            for how in ({}, {"num_beams": 3, "n": 3}):
                for out in llm.generate(source_ids(), max_tokens=6, **how).outputs:
                    assert not {*met[:4]} & {*out.token_ids}


def test_everything_that_searches_are_told_may_stand_in_the_models_files(folders, tmp_path):
    case = by_name("T5")
    for i in (4, 5):
        settings = SEARCHES[i] | {"max_length": N_NEW + 1}
        with open_llm(write(case, tmp_path / str(i), settings)) as llm:
            assert llm.config["ignored_generation_keys"] == []
            found = llm.generate(source_ids()).outputs
        with open_llm(folders(case)) as llm:
            assert found == llm.generate(source_ids(), max_tokens=N_NEW, **SEARCHES[i]).outputs
            assert found != llm.generate(source_ids(), max_tokens=N_NEW).outputs


def test_an_own_ban_takes_the_place_of_the_models(tmp_path):
    case = by_name("T5")
    with open_llm(write(case, tmp_path, {"suppress_tokens": [*range(2, 150)]})) as llm:
        assert min(llm.generate(source_ids(), max_tokens=6).outputs[0].token_ids) >= 150
        own = llm.generate(source_ids(), max_tokens=6, suppress_tokens=[*range(150, 300)])
        assert max(own.outputs[0].token_ids) < 150
        with pytest.raises(TokenIdError, match="bad_words_ids"):
            llm.generate(source_ids(), bad_words_ids=[[5, 300]])


def test_tokens_of_a_source_beyond_the_decoders_vocabulary_ban_nothing(tmp_path):
    case = by_name("MarianMTModel: two")
    config = case.config | {"vocab_size": 320, "decoder_vocab_size": 300}
    with open_llm(write(Case(case.architecture, "small", config), tmp_path)) as llm:
        out = llm.generate([310, 319, 5, 0], max_tokens=8, encoder_no_repeat_ngram_size=1).outputs[0]
        assert 5 not in out.token_ids and out.token_ids


def test_what_an_old_config_recommends_is_the_default(tmp_path):
    case = by_name("BartFor")
    folder = write(Case(case.architecture, "old", case.config | {"max_length": 6, "num_beams": 2}), tmp_path)
    with open_llm(folder) as llm:
        out = llm.generate(source_ids()).outputs[0]
        assert len(out.token_ids) == 5 and out.score is not None


def test_streams_siblings_and_logprobs_agree_with_the_logits(folders):
    case = by_name("M2M100")
    with open_llm(folders(case), max_model_len=64) as llm:
        assert llm.config["decoder_start_token_id"] == 2 and llm.config["max_source_len"] == 64
        out = llm.generate(source_ids(), max_tokens=9, logprobs=2, ignore_eos=True).outputs[0]
        logits = llm.logits(source_ids(), [2, *out.token_ids]).astype(np.float64)
        assert logits[:-1].argmax(axis=1).tolist() == out.token_ids
        own = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        for i, entry in enumerate(out.logprobs):
            assert abs(entry.logprob - own[i, out.token_ids[i]]) < 1e-4
        assert llm.logits(source_ids()).tobytes() == llm.logits(source_ids(), [2]).tobytes()
        chunks = list(llm.stream(source_ids(), max_tokens=9, ignore_eos=True))
        assert [i for chunk in chunks for i in chunk.token_ids] == out.token_ids
        twins = llm.generate([source_ids(), source_ids(5)], max_tokens=9, temperature=1.0, seed=3, n=3)
        again = llm.generate(source_ids(), max_tokens=9, temperature=1.0, seed=3, n=3)
        assert again.outputs == twins[0].outputs and len({tuple(o.token_ids) for o in again.outputs}) > 1
        stats = llm.stats()
        assert stats["free_blocks"] == stats["n_blocks"] and stats["queued_tokens"] == 0


def test_what_does_not_go_with_a_source_is_an_error(folders):
    with open_llm(folders(by_name("PegasusFor")), max_model_len=48) as llm:
        with pytest.raises(PromptTooLongError, match="the source has 49 tokens; max_source_len is 48"):
            llm.generate(source_ids(49))
        assert not llm.generate(source_ids(48), max_tokens=3, truncation=True).truncated
        for most in (48, 20):
            llm.tokenizer.loaded = dataclasses.replace(llm.tokenizer.loaded, max_tokens=most)
            cut = llm.generate([*source_ids(50), 1], max_tokens=3, truncation=True)
            assert cut.truncated and cut.prompt_token_ids == [*source_ids(50)[: most - 1], 1]
        for odd in (np.array(5), np.zeros((50, 2), int), [[5]] * 50):
            for truncation in (False, True):
                with pytest.raises((InvalidParameterError, PromptTooLongError), match=r"prompt|source"):
                    llm.submit(odd, truncation=truncation)
        with pytest.raises(InvalidParameterError, match="prompt_logprobs"):
            llm.generate(source_ids(), prompt_logprobs=1)
        with pytest.raises(InvalidParameterError, match="encoder-decoder"):
            llm.save_prefix(source_ids())
        with pytest.raises(TokenIdError):
            llm.generate([300])
        with pytest.raises(TokenIdError):
            llm.logits(source_ids(), [0, 300])
        long = llm.generate(source_ids(), max_tokens=100, ignore_eos=True).outputs[0]
        assert long.stop_reason == "max_model_len" and len(long.token_ids) == 48
    with (
        open_llm(folders(by_name("T5")), kv_cache_bytes=3 * 2 * 2 * 4 * 64 * 32) as llm,
        pytest.raises(KVCacheExhaustedError, match=r"4 cache blocks for 80 tokens, the whole cache has 3"),
    ):
        llm.generate(source_ids(), max_tokens=40)


@pytest.mark.parametrize(
    "name, settings, said",
    [
        ("T5", {"decoder_start_token_id": None}, "decoder_start_token_id"),
        ("T5", {"decoder_start_token_id": 300}, "decoder_start_token_id must be .*, not 300"),
        ("T5", {"feed_forward_proj": "gated-swiglu"}, "feed_forward_proj"),
        ("T5ForConditionalGeneration: gated", {"feed_forward_proj": "relu"}, "layers.0.up"),
        ("T5", {"is_gated_act": True}, "layers.0.(gate|up)"),
        ("T5", {"dense_act_fn": "swiglu"}, "dense_act_fn is 'swiglu'"),
        ("T5", {"relative_attention_num_buckets": 2}, "relative_attention_num_buckets must be .*, not 2"),
        ("T5", {"num_decoder_layers": 3}, "tensor layers.2.attention_norm"),
        ("T5", {"num_layers": 1000}, "1000 layers, but the files hold"),
        ("UMT5", {"num_heads": 1024, "num_layers": 20}, "num_heads must be .*, not 1024"),
        ("M2M100", {"max_position_embeddings": 1 << 24}, "max_position_embeddings must be .*, not 16777216"),
        ("BartFor", {"decoder_attention_heads": 5}, "decoder_attention_heads must be .*, not 5"),
        ("M2M100", {"d_model": 2}, "d_model must be .*, not 2"),
        ("MarianMTModel: two", {"decoder_vocab_size": 300}, "shape"),
    ],
)
def test_a_config_that_cannot_be_is_an_error_that_names_the_key(name, settings, said, tmp_path):
    case = by_name(name)
    folder = write(case, tmp_path)
    (folder / "config.json").write_text(json.dumps(case.config | settings))
    with pytest.raises((ModelFormatError, tuili.ModelUnsupportedError), match=said):
        open_llm(folder)


def test_what_is_written_beside_t5s_activation_goes_before_it(tmp_path):
    """As in transformers, whose classes take dense_act_fn and is_gated_act from files as they are."""

    def logits(settings: dict[str, object]) -> np.ndarray:
        case = by_name("T5ForConditionalGeneration: gated")
        case = Case(case.architecture, "", case.config | settings)
        with open_llm(write(case, tmp_path / str(len(list(tmp_path.iterdir()))))) as llm:
            return llm.logits(source_ids(), target_ids(case))

    wanted = logits({"feed_forward_proj": "gated-silu"})
    assert (logits({"feed_forward_proj": "gated-gelu", "dense_act_fn": "silu"}) == wanted).all()
    assert (logits({"feed_forward_proj": "silu", "is_gated_act": True}) == wanted).all()
    assert (logits({}) != wanted).any()


def test_a_head_that_the_files_hold_is_used(tmp_path):
    """transformers 5 writes tie_word_embeddings = true whether T5's head is the embedding or not."""
    case = by_name("T5ForConditionalGeneration: gated")
    folder = write(case, tmp_path)
    rewritten = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    (folder / "config.json").write_text(json.dumps(case.config | rewritten))
    logits = Bench(load(plan_model(folder)).model).logits(source_ids(), target_ids(case))
    assert abs(logits[:, COLUMNS] - GOLDENS[case.name][:, :-1]).max() <= LIMIT * np.ptp(logits)


@pytest.mark.parametrize("name", ["T5", "BartFor", "MarianMTModel: plain"])
def test_an_embedding_may_have_the_name_of_any_copy(name, tmp_path, monkeypatch):
    """safetensors keeps one name of a shared tensor: of BART's it may be the decoder's."""
    case, stored = by_name(name), stored_tensors(by_name(name))
    for half in ("encoder", "decoder"):
        renamed = {key.replace("shared", f"{half}.embed_tokens"): x for key, x in stored.items()}
        assert renamed.keys() != stored.keys()
        monkeypatch.setattr(seq2seq_models, "stored_tensors", lambda case, renamed=renamed: renamed)
        plan = plan_model(write(case, tmp_path / half), compute="float32")
        logits = Bench(load(plan).model).logits(source_ids(), target_ids(case))
        assert abs(logits[:, COLUMNS] - GOLDENS[case.name][:, :-1]).max() <= LIMIT * np.ptp(logits)


@pytest.mark.parametrize("name", ["T5", "MarianMTModel"])
def test_the_packed_cache_holds_both_halves(name, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(packed_cache, "MIN_WEIGHT_BYTES", 0)
    found = []
    for _ in range(2):
        with tuili.LLM(folders(by_name(name)), cache_dir=tmp_path, num_threads=1) as llm:
            found.append(
                (llm.logits(source_ids()).tobytes(), llm.generate(source_ids(), max_tokens=5).outputs)
            )
            state = llm.config["packed_cache"]
    assert found[0] == found[1] and state.startswith("read from"), state


def test_the_end_of_a_source_stays_when_it_is_cut():
    """What ends texts, and its language behind that, as mBART has it."""
    languages = Languages({"en_XX": 250, "zh_CN": 251}, "after", "en_XX")
    endings = endings_of(languages, [2])
    assert endings == {2, 250, 251} and endings_of(None, [2]) == {2}
    assert endings_of(dataclasses.replace(languages, where="before"), [2]) == {2}
    ids = [*range(10, 20), 2, 251]
    cuts = [SourceLimits(300, n, start=0).cut(ids, endings) for n in (1, 2, 3, 11, 12)]
    assert cuts == [[251], [2, 251], [10, 2, 251], [*range(10, 19), 2, 251], ids]


# ---- the engine


def an_engine(clock=None, **options):
    sources = SourceLimits(300, 64, start=0)
    return make_engine(model=core_model("T5"), sources=sources, clock=clock, max_num_seqs=4, **options)


def test_a_long_source_and_its_mates_share_steps():
    """A source is encoded whole, alone if it must; those that fit come together."""
    engine = an_engine(clock=(clock := Clock(step_s=0.001)), prefill_chunk=32)
    handles = [engine.submit(source_ids(n), sampling(max_tokens=2)) for n in (60, 10, 12, 40)]
    drain(engine)
    encoded = [handle._request.times.first_token for handle in handles]
    assert encoded[0] < encoded[1] == encoded[2] < encoded[3] and clock.now > 0
    assert all(len(handle.result(timeout=0).outputs[0].token_ids) == 2 for handle in handles)
    assert engine.stats()["computed_tokens"] == 60 + 10 + 12 + 40 + 4 * 2 and is_idle(engine)


def test_a_refused_request_leaves_its_place_to_no_source_that_does_not_fit():
    engine = an_engine(clock=Clock(step_s=0.001), prefill_chunk=32)
    for _ in range(6):  # what steps cost
        known = engine.submit(source_ids(20), sampling(max_tokens=6))
        drain(engine)
        known.result(timeout=0)
    first = engine.submit(source_ids(20), sampling(max_tokens=2, priority=-5))
    late = engine.submit([5], sampling(max_tokens=2, priority=-1, deadline_s=0.0012, ignore_eos=True))
    long = engine.submit(source_ids(60), sampling(max_tokens=2))  # with the first, more than a step takes
    drain(engine)
    with pytest.raises(DeadlineExceeded):
        late.result(timeout=0)
    assert all(len(handle.result(timeout=0).outputs[0].token_ids) == 2 for handle in (first, long))
    assert is_idle(engine)


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize(
    "how", [{}, {"n": 3, "temperature": 1.0, "seed": 1}, {"num_beams": 3, "n": 3}], ids=str
)
def test_blocks_go_back_whenever_a_request_ends(steps, how):
    engine = an_engine()
    handle = engine.submit(source_ids(), sampling(max_tokens=20, **how))
    other = engine.submit(source_ids(9), sampling(max_tokens=5))
    for _ in range(steps):
        engine.step()
        engine.scheduler.check_invariants()
    handle.abort()
    drain(engine)
    assert len(other.result(timeout=0).outputs[0].token_ids) == 5
    assert is_idle(engine)


def test_a_deadline_ends_what_is_decoded_behind_a_source():
    clock = Clock(step_s=0.1)
    engine = an_engine(clock)
    decoding = engine.submit(source_ids(), sampling(max_tokens=50, deadline_s=1.05, ignore_eos=True))
    drain(engine)
    out = decoding.result(timeout=0).outputs[0]
    assert out.finish_reason == "deadline" and 8 <= len(out.token_ids) <= 12 and is_idle(engine)


def test_siblings_hold_one_copy_of_their_source():
    engine = an_engine()
    handle = engine.submit(source_ids(), sampling(max_tokens=9, n=4, temperature=1.0, seed=2))
    engine.step()
    engine.step()
    rows = engine.scheduler.running
    assert len(rows) == 4 and len({tuple(row.sequence.source_block_ids) for row in rows}) == 1
    assert engine.stats()["n_blocks"] - engine.stats()["free_blocks"] == 3 + 4
    drain(engine)
    assert len(handle.result(timeout=0).outputs) == 4 and is_idle(engine)
