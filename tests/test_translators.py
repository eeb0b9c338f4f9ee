"""Encoder-decoders trained to write numbers in words do so through pipelines, with transformers' beams.

tests/models/train_translators.py made them; their folders have no tokenizer.json.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuili
from translators import HELD_OUT, MODELS, NAMES, WORDS
from tuili.cli import main as cli
from tuili.errors import InvalidParameterError, ModelUnsupportedError, PromptTooLongError

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "translator_beams.json").read_text("utf-8"))
CODES = {"zh": "cmn", "en": "eng"}
N, RIGHT = 250, 0.99


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def models():
    made = {name: tuili.LLM(MODELS / name, dtype="float32", num_threads=2) for name in NAMES}
    yield made
    for llm in made.values():
        llm.close()


def translator(models: dict[str, Any], name: str, language: str, **options: Any) -> Any:
    if name == "t5-numbers":
        return tuili.pipeline(f"translation_num_to_{language}", models[name], **options)
    return tuili.pipeline("translation", models[name], tgt_lang=CODES[language], **options)


def share_right(pipe: Any, language: str, numbers: list[int], **options: Any) -> float:
    answers = pipe([str(n) for n in numbers], **options)
    right = [one["translation_text"] == WORDS[language](n) for one, n in zip(answers, numbers, strict=True)]
    return sum(right) / len(right)


@pytest.mark.parametrize("language", WORDS)
def test_numbers_become_words(models, name, language):
    rng = random.Random(20_261_126)
    numbers = [*rng.sample(HELD_OUT, N // 2), *rng.sample(range(10_000), N // 2)]
    assert share_right(translator(models, name, language), language, numbers, num_beams=1) >= RIGHT


@pytest.mark.slow
@pytest.mark.parametrize("language", WORDS)
def test_all_numbers_become_words(models, name, language):
    pipe = translator(models, name, language)
    assert share_right(pipe, language, list(range(10_000)), num_beams=1) >= RIGHT
    assert share_right(pipe, language, HELD_OUT[::5], num_beams=4) >= RIGHT


@pytest.mark.parametrize(
    "options, dtype",
    [
        ({}, "float32"),
        ({"quantization": "int8"}, "float16"),
        ({"quantization": "int8", "compute": "float32"}, "float32"),
        ({"quantization": "int8", "kv_cache_dtype": "bfloat16"}, "bfloat16"),
    ],
    ids=str,
)
def test_keys_and_values_are_as_exact_as_the_products(name, options, dtype):
    with tuili.LLM(MODELS / name, packed_cache=False, num_threads=1, **options) as llm:
        assert llm.config["kv_cache"]["dtype"] == dtype
        pipe = translator({name: llm}, name, "zh")
        assert share_right(pipe, "zh", HELD_OUT[:100], num_beams=4) >= RIGHT


@pytest.mark.parametrize("width", [1, 4, 8])
def test_beams_are_those_of_transformers(models, name, width):
    goldens = [one for one in GOLDENS[name] if one["width"] == width]
    outputs = models[name].beam_search([one["ids"] for one in goldens], width, 24)
    for one, output in zip(goldens, outputs, strict=True):
        assert [list(beam.token_ids) for beam in output.outputs] == one["sequences"]
        assert [beam.score for beam in output.outputs] == pytest.approx(one["scores"], abs=1e-4)


# ---- results


@pytest.mark.parametrize("task", ["translation", "summarization"])
def test_white_space_is_its_own_answer(models, task):
    """Of an end of text alone the model makes a number."""
    options = {"tgt_lang": "cmn"} if task == "translation" else {}
    pipe = tuili.pipeline(task, models["marian-numbers"], **options)
    key = {"translation": "translation_text", "summarization": "summary_text"}[task]
    seven, *blank = pipe(["7", "", " \n"])
    assert seven[key] and blank == [{key: ""}, {key: " \n"}]
    assert pipe("", num_beams=2, num_return_sequences=2) == [{key: ""}] * 2
    [ids] = pipe("", return_tensors=True)
    assert list(ids.values()) == [[models["marian-numbers"].config["decoder_start_token_id"]]]
    with pytest.raises(InvalidParameterError):
        pipe("", max_tokens=-1)


def test_sampling_params_are_taken_as_generate_takes_them(models):
    pipe = tuili.pipeline("translation", models["marian-numbers"], tgt_lang="eng")
    short, twice = (
        tuili.SamplingParams(max_tokens=1),
        tuili.SamplingParams(n=2, temperature=1.0, max_tokens=1),
    )
    assert pipe("777", params=short) == pipe("777", max_tokens=1) != pipe("777")
    assert [len(one) for one in pipe(["7", "", "8"], params=[short, twice, twice])] == [1, 2, 2]
    assert models["marian-numbers"].translate(["777", ""], tgt_lang="eng", params=short) == [
        one["translation_text"] for one in pipe(["777", ""], max_tokens=1)
    ]
    with pytest.raises(InvalidParameterError, match="next to SamplingParams"):
        pipe("7", params=short, max_tokens=1)


@pytest.mark.parametrize(
    "texts, options",
    [
        (iter(["7"]), {}),
        ("7", {"return_tensors": True}),
        ("7", {"params": tuili.SamplingParams(n=2, temperature=1.0)}),
        (["7"], {"params": [tuili.SamplingParams(n=2, temperature=1.0)]}),
    ],
)
def test_translate_gives_one_text_each(models, texts, options):
    with pytest.raises(InvalidParameterError):
        models["marian-numbers"].translate(texts, tgt_lang="eng", **options)


def test_results_are_shaped_as_in_transformers(models):
    t5 = models["t5-numbers"]
    pipe = tuili.pipeline("translation_num_to_en", t5)
    assert pipe("12") == [{"translation_text": "twelve"}]
    assert pipe(["12", "7"]) == [{"translation_text": "twelve"}, {"translation_text": "seven"}]
    assert pipe([]) == []
    several = pipe("12", num_beams=3, num_return_sequences=2)
    assert len(several) == 2 and several[0] == {"translation_text": "twelve"}
    assert [len(one) for one in pipe(["12", "7"], num_beams=3, num_return_sequences=2)] == [2, 2]
    (ids,) = pipe("12", return_tensors=True)
    assert list(ids) == ["translation_token_ids"] and ids["translation_token_ids"][0] == 0  # <pad>
    assert t5.tokenizer.decode(ids["translation_token_ids"]) == "twelve"
    plain = tuili.pipeline("text2text-generation", t5)
    assert plain("write in Chinese: 12") == [{"generated_text": "十二"}]
    summary = tuili.pipeline("summarization", t5)
    assert summary("write in English: 1005", max_length=24) == [{"summary_text": "one thousand five"}]


def test_a_list_answers_as_its_texts_do_alone(models, name):
    numbers = [str(n) for n in (0, 9, 10, 110, 999, 1001, 4321, 9999)]
    pipe = translator(models, name, "zh", num_beams=3)
    assert pipe(numbers) == [pipe(one)[0] for one in numbers]


def test_lengths_are_those_of_transformers(models):
    """max_length and min_length count the token that begins an answer."""
    pipe = tuili.pipeline("translation_num_to_en", models["t5-numbers"])
    assert pipe("1005", max_length=3) == [{"translation_text": "one thousand"}]
    assert pipe("1005", max_new_tokens=1) == [{"translation_text": "one"}]
    assert pipe("1005", max_tokens=1, max_length=9) == [{"translation_text": "one"}]
    assert pipe("5", min_length=4, max_length=8)[0]["translation_text"].startswith("five ")


def test_translate_and_summarize_give_texts(models):
    marian, t5 = models["marian-numbers"], models["t5-numbers"]
    assert marian.translate("1005", tgt_lang="cmn") == "一千零五"
    assert marian.translate(["12", "7"], tgt_lang="eng", num_beams=1) == ["twelve", "seven"]
    assert marian.translate(">>eng<< 12") == "twelve"
    assert t5.translate("1005", src_lang="num", tgt_lang="zh") == "一千零五"
    assert t5.summarize(["write in English: 12"]) == ["twelve"]
    for none in (None, ["12", None]):
        with pytest.raises(InvalidParameterError, match=r"texts must be .* not null"):
            marian.translate(none)
    with pytest.raises(InvalidParameterError, match="pipeline"):
        t5.summarize("write in English: 12", n=2, num_beams=2)
    wrongs: list[tuple[str, Any]] = [
        ("n", np.arange(3)),
        ("return_tensors", True),
        ("return_tensors", np.arange(3)),
        ("return_text", False),
        ("temperature", np.arange(3)),
    ]
    for name, wrong in wrongs:
        with pytest.raises(InvalidParameterError, match=name):
            t5.summarize("write in English: 12", **{name: wrong})


# ---- what cannot be


def test_languages_that_do_not_exist_are_errors_that_list_those_that_do(models):
    marian, t5 = models["marian-numbers"], models["t5-numbers"]
    for call in (
        lambda: marian.translate("12", tgt_lang="tlh"),
        lambda: marian.translate(">>tlh<< 12"),
        lambda: tuili.pipeline("translation", marian)(">>tlh<< 12"),
    ):
        with pytest.raises(InvalidParameterError, match="cmn, eng") as error:
            call()
        assert error.value.code == "language"
    with pytest.raises(InvalidParameterError, match="src_lang"):
        marian.translate("12", src_lang="cmn", tgt_lang="eng")
    with pytest.raises(InvalidParameterError, match="translation_num_to_en"):
        t5.translate("12", src_lang="num", tgt_lang="fr")


def test_tasks_that_a_model_cannot_do_are_errors_that_say_what_it_can(models):
    t5 = models["t5-numbers"]
    assert {"text2text-generation", "translation", "summarization"} <= set(t5.config["tasks"])
    for task, says in (
        ("translation_en_to_fr", "translation_num_to_zh"),
        ("text-generation", "summarization"),
        ("fill-mask", "translation"),
        ("sentiment-analysis", "text2text-generation"),
    ):
        with pytest.raises(ModelUnsupportedError, match=says) as error:
            tuili.pipeline(task, t5)
        assert error.value.code == "task"
    with tuili.LLM(MODELS / "sentiment") as encoder:
        for task in ("translation", "summarization", "translation_en_to_fr", "text2text-generation"):
            with pytest.raises(ModelUnsupportedError, match="text-classification"):
                tuili.pipeline(task, encoder)


def test_long_texts_are_cut_only_where_allowed(models):
    pipe = tuili.pipeline("translation", models["marian-numbers"], tgt_lang="eng", num_beams=1)
    long = "12 " * 200
    with pytest.raises(PromptTooLongError):
        pipe(long)
    (answer,) = pipe([long], truncation=True)
    assert answer["truncated"] is True and answer["translation_text"]
    assert "truncated" not in pipe(["12"], truncation=True)[0]


@pytest.mark.parametrize(
    "inputs, options, param",
    [
        ([5], {}, "inputs"),
        (5, {}, "inputs"),
        ("12", {"truncation": "yes"}, "truncation"),
        ("12", {"max_length": 0}, "max_length"),
        ("12", {"max_length": "24"}, "max_length"),
        ("12", {"num_beam": 2}, "num_beam"),
        ([], {"num_beam": 2}, "num_beam"),
        ("12", {"prefix": "write: "}, "prefix"),
        ("12", {"tgt_lang": 5}, "tgt_lang"),
        ("12", {"num_beams": 2, "num_return_sequences": 3}, "n"),
    ],
)
def test_wrong_options_are_named(models, inputs, options, param):
    with pytest.raises(InvalidParameterError) as error:
        tuili.pipeline("translation", models["marian-numbers"])(inputs, **options)
    assert error.value.param == param


def test_unknown_options_are_named_when_a_pipeline_is_made(models):
    with pytest.raises(InvalidParameterError, match="num_beams") as error:
        tuili.pipeline("translation", models["marian-numbers"], num_beam=2)
    assert error.value.param == "num_beam"


# ---- the command line


def test_the_command_line_translates_summarizes_and_classifies(capsys):
    marian, t5, sentiment = (str(MODELS / name) for name in ("marian-numbers", "t5-numbers", "sentiment"))
    assert cli.main(["translate", marian, "12", "1005", "--tgt-lang", "cmn", "--num-beams", "1"]) == 0
    assert capsys.readouterr().out == "十二\n一千零五\n"
    assert cli.main(["summarize", t5, "write in English: 12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "summarization" and found["results"] == [{"summary_text": "twelve"}]
    assert cli.main(["classify", sentiment, "the film was good.", "--top-k", "2"]) == 0
    assert capsys.readouterr().out.startswith("positive ")
    assert cli.main(["translate", marian, "12", "--tgt-lang", "tlh"]) == 1
    assert "cmn, eng" in capsys.readouterr().err
    assert cli.main(["translate", sentiment, "12"]) == 1
    assert "this model can do" in capsys.readouterr().err


SEARCHES = {
    ("--max-tokens", "2"): {"max_tokens": 2},
    ("--bad-words", "twelve", "--num-beams", "2"): {"bad_words": ["twelve"], "num_beams": 2},
    ("--no-repeat-ngram-size", "1", "--min-tokens", "9"): {"no_repeat_ngram_size": 1, "min_tokens": 9},
    ("--repetition-penalty", "1e6", "--min-tokens", "9"): {"repetition_penalty": 1e6, "min_tokens": 9},
    ("--encoder-no-repeat-ngram-size", "1"): {"encoder_no_repeat_ngram_size": 1},
    ("--num-beams", "3", "--length-penalty", "-9"): {"num_beams": 3, "length_penalty": -9.0},
    ("--num-beams", "4", "--early-stopping"): {"num_beams": 4, "early_stopping": True},
}


@pytest.mark.parametrize("arguments", SEARCHES)
def test_a_search_of_the_command_line_is_that_of_the_library(models, capsys, monkeypatch, arguments):
    text, asked = "write in English: 12", []
    generate = models["t5-numbers"].generate
    monkeypatch.setattr(
        tuili.LLM, "generate", lambda self, ids, **how: asked.append(how) or generate(ids, **how)
    )
    assert cli.main(["summarize", str(MODELS / "t5-numbers"), text, *arguments]) == 0
    assert asked == [SEARCHES[arguments]]
    monkeypatch.undo()
    own = models["t5-numbers"].summarize(text, **SEARCHES[arguments])
    assert capsys.readouterr().out == own + "\n"


def test_lines_of_standard_input_are_translated_and_blank_ones_stay():
    command = [sys.executable, "-m", "tuili", "translate", str(MODELS / "t5-numbers"), "--src-lang", "num"]
    ran = subprocess.run(
        [*command, "--tgt-lang", "zh"], input="12\n\n1005\n", capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert ran.stdout == "十二\n\n一千零五\n"
