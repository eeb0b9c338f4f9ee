"""Encoder-decoders under task heads equal transformers', in the core and through pipelines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tuili
from seq2seq_heads import CALLS, CASES, COLUMNS, ROWS, TEXT, write
from test_pipelines import difference
from tuili import _core
from tuili.embedding.rereading import Rereading, cache_for
from tuili.loading.model import plan_model

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "seq2seq_heads.json").read_text())


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Class -> the model, loaded once."""
    made: dict[str, tuili.LLM] = {}

    def of(name: str) -> tuili.LLM:
        if name not in made:
            folder = write(CASES[name], tmp_path_factory.mktemp(name))
            made[name] = tuili.LLM(folder, packed_cache=False)
        return made[name]

    yield of
    for model in made.values():
        model.close()


def answers(model: tuili.LLM, texts: list[list[int]]) -> list[np.ndarray]:
    """What the head, or without one the last layer, gives for texts of token ids."""
    tasks = model.task_model("test")
    encoded = [tasks.encode("")] * len(texts)
    encoded = [type(one)(ids, [0] * len(ids), [], [], False) for one, ids in zip(encoded, texts, strict=True)]
    if model.config["labels"] or "question-answering" in model.config["tasks"]:
        return tasks.answers(encoded)
    return [model.hidden_states(ids)[-1] for ids in texts]


@pytest.mark.parametrize("name", CASES)
def test_a_head_of_two_halves_equals_transformers(opened, name):
    golden = GOLDENS["answers"][name]
    (got,) = answers(opened(name), [CASES[name].ids])
    rows = got[list(ROWS), :COLUMNS] if len(golden["rows"]) > 1 else got[:, :COLUMNS]
    assert abs(rows - np.array(golden["rows"])).max() <= 1e-5 * golden["range"]


@pytest.mark.parametrize("call", range(len(CALLS)))
def test_a_pipeline_of_two_halves_equals_transformers(opened, call):
    name, task, args, kwargs = CALLS[call]
    assert not difference(tuili.pipeline(task, opened(name))(*args, **kwargs), GOLDENS["calls"][call])


SOME = ("BartForSequenceClassification", "MBartForQuestionAnswering", "T5ForSequenceClassification")


@pytest.mark.parametrize("name", SOME)
def test_their_bits_do_not_depend_on_mates_threads_or_instruction_set(opened, name):
    loaded, end = opened(name).loaded, CASES[name].config["eos_token_id"]
    reading = Rereading(loaded.decoder_start)
    texts = [
        np.array(ids, np.int32) for ids in (CASES[name].ids, [9, end], range(5, 38), CASES[name].ids[:33])
    ]
    one_row = bool(loaded.head.labels)

    def rows(order: list[int], **how: object) -> dict[int, bytes]:
        cache = cache_for(loaded.spec, 160, 8, "cpu")
        cache.poison()
        runner = _core.Runner(loaded.model, cache, max_batch_tokens=160, max_source_tokens=160, **how)
        batch = [_core.Sequence(reading.shifted(texts[i]), source=texts[i]) for i in order]
        wanted = [[len(texts[i]) - 1] for i in order] if one_row else None
        found = runner.answer(batch, wanted)
        ends = np.cumsum([1 if one_row else len(texts[i]) for i in order])
        return {i: part.tobytes() for i, part in zip(order, np.split(found, ends[:-1]), strict=True)}

    alone = {i: rows([i], num_threads=1, isa="generic")[i] for i in range(len(texts))}
    assert rows([0, 1, 2, 3], num_threads=2) == alone
    assert rows([3, 1, 2, 0], num_threads=3) == alone


def test_what_they_cannot_do_is_an_error_that_says_what_they_can(opened):
    model = opened("BartForSequenceClassification")
    with pytest.raises(tuili.ModelUnsupportedError, match="text-classification, zero-shot-classification"):
        tuili.pipeline("translation", model)
    with pytest.raises(tuili.ModelUnsupportedError, match="zero-shot-classification"):
        tuili.pipeline("question-answering", model)
    with pytest.raises(tuili.ModelUnsupportedError):
        model.generate(TEXT)


def test_a_long_text_is_an_error_unless_it_may_be_cut(opened):
    pipe = tuili.pipeline("text-classification", opened("BartForSequenceClassification"))
    with pytest.raises(tuili.PromptTooLongError):
        pipe(TEXT * 20)
    assert pipe(TEXT * 20, truncation=True)[0]["truncated"]


def test_a_text_that_nothing_ends_is_an_error(opened):
    model = opened("BartForSequenceClassification")
    with pytest.raises(tuili.InvalidParameterError, match="no token that ends it"):
        answers(model, [[5, 6, 7]])


def test_how_texts_are_generated_does_not_change_how_they_are_read(tmp_path):
    case = CASES["T5ForSequenceClassification"]
    folder = write(case, tmp_path)
    (folder / "generation_config.json").write_text('{"decoder_start_token_id": 9}')
    assert plan_model(folder).source.decoder_start == case.config["decoder_start_token_id"] != 9


def test_settings_that_cannot_be_are_errors(tmp_path):
    folder = write(CASES["BartForSequenceClassification"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"decoder_start_token_id": None}))
    with pytest.raises(tuili.ModelFormatError, match="decoder_start_token_id is missing"):
        plan_model(folder)
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": []}))
    with pytest.raises(tuili.ModelFormatError, match="eos_token_id"):
        plan_model(folder)
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "one"}}))
    with pytest.raises(tuili.ModelFormatError, match="out_proj"):
        plan_model(folder)


def test_a_decoder_with_words_of_its_own_cannot_read_the_text_again(tmp_path):
    folder = write(CASES["MarianModel"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    own = {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config | own))
    with pytest.raises(tuili.ModelUnsupportedError, match="share_encoder_decoder_embeddings is false"):
        plan_model(folder)


def test_a_runner_checks_what_two_halves_need(opened):
    loaded = opened("BartForSequenceClassification").loaded
    with pytest.raises(tuili.InvalidParameterError, match="needs a cache"):
        _core.Runner(loaded.model, None, max_source_tokens=64)
    cache = _core.KvCache(loaded.spec, 3)
    runner = _core.Runner(loaded.model, cache, max_batch_tokens=64, max_source_tokens=64)
    ids = np.arange(5, 38, dtype=np.int32)
    for text, message in (
        (_core.Sequence(ids), "a source of 0 tokens"),
        (_core.Sequence(ids, source=ids), "needs 4 blocks; the cache has 3"),
        (_core.Sequence(ids[:9], source=np.array([5000], np.int32)), "token id 5000"),
    ):
        with pytest.raises(tuili.TuiliError, match=message):
            runner.answer([text], [[0]])
    assert runner.answer([_core.Sequence(ids[:9], source=ids[:9])], [[0]]).shape == (1, 3)


def test_int8_weights_keep_their_answers_near(tmp_path):
    case = CASES["BartForQuestionAnswering"]
    folder = write(case, tmp_path)
    exact, rounded = (
        answers(tuili.LLM(folder, quantization=how, packed_cache=False), [case.ids])[0]
        for how in (None, "int8")
    )
    assert 0 < abs(rounded - exact).max() <= 0.1 * np.ptp(exact)
