"""What translation and summarization ask of an encoder-decoder: sources, languages, searches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import seq2seq_models
import tuili
from translation_folders import FOLDERS, GOLDENS, load
from tuili.errors import InvalidParameterError, ModelFormatError, ModelUnsupportedError, PromptTooLongError
from tuili.loading.config import Config
from tuili.loading.task_parameters import task_parameters
from tuili.tasks.sources import Direction, SourceTokenizer
from tuili.tasks.text2text import Task


class Recorder:
    """Stands for an LLM: answers every source with its length, and keeps what it was asked."""

    kind = "encoder-decoder"

    def __init__(self, tokenizer: Any, **config: Any) -> None:
        self.tokenizer = tokenizer
        self.config = {"max_source_len": 512, "sampling_defaults": {}, "task_parameters": {}, **config}
        self.asked: list[tuple[list[list[int]], dict[str, Any]]] = []
        self.says: str | None = None

    def generate(self, sources: list[list[int]], **options: Any) -> list[Any]:
        self.asked.append((sources, options))
        n = options.get("n", 1)
        return [
            SimpleNamespace(
                outputs=[SimpleNamespace(text=self.says or str(len(ids)), token_ids=[])] * n, truncated=False
            )
            for ids in sources
        ]


@pytest.fixture
def recorder(tmp_path):
    def of(name: str, **config: Any) -> Recorder:
        return Recorder(load(FOLDERS[name], tmp_path / name), **config)

    return of


def asked(llm: Recorder, task: str, *args: Any, **options: Any) -> tuple[list[list[int]], dict[str, Any]]:
    Task(task, llm)(*args, **options)  # type: ignore[arg-type]
    return llm.asked[-1]


def test_a_source_is_cut_to_what_the_tokenizer_says(recorder):
    """As in transformers; uncut it may be as long as the model reads."""
    llm = recorder("bart")
    llm.tokenizer.loaded = replace(llm.tokenizer.loaded, max_tokens=5)
    text = "The cat sat on the mat"
    assert Task("summarization", llm)([text], truncation=True) == [{"summary_text": "5", "truncated": True}]
    n_whole = len(llm.tokenizer.encode(text))
    assert n_whole > 6 and Task("summarization", llm)([text]) == [{"summary_text": str(n_whole)}]
    Task("summarization", llm)([text], truncation=True, truncate_prompt_tokens=6)
    assert len(llm.asked[-1][0][0]) == n_whole, "the engine cuts to what is asked for"


def test_an_answer_whose_length_nobody_says_ends(tmp_path):
    """Of a model that writes no end; as `generate` has it, so do the tasks, and llm.config says so."""
    case = seq2seq_models.by_name("T5")
    never = {"suppress_tokens": [1]}
    with tuili.LLM(seq2seq_models.write(case, tmp_path / "a", never), num_threads=1) as llm:
        assert llm.config["sampling_defaults"]["max_tokens"] == 256
        for beams in (1, 2):
            answer = llm.generate([5, 6, 7, 1], num_beams=beams).outputs[0]
            assert (len(answer.token_ids), answer.finish_reason, answer.stop_reason) == (256, "length", None)
        assert len(Task("summarization", llm)("a", return_tensors=True)[0]["summary_token_ids"]) == 1 + 256
        assert len(llm.generate([5, 6, 7, 1], min_tokens=258).outputs[0].token_ids) == 258
        assert len(llm.generate([5, 6, 7, 1], max_tokens=257).outputs[0].token_ids) == 257
    with tuili.LLM(
        seq2seq_models.write(case, tmp_path / "b", never | {"max_length": 31}), num_threads=1
    ) as llm:
        assert len(llm.generate([5, 6, 7, 1]).outputs[0].token_ids) == 30


# ---- languages


@pytest.mark.parametrize(
    "name, source, target",
    [
        ("mbart", "ro_RO", "zh_CN"),
        ("mbart50", "sl_SI", "fr_XX"),
        ("m2m100", "zh", "en"),
        ("m2m100-pairs", "zh", "en"),
        ("nllb", "fra_Latn", "eng_Latn"),
        ("nllb-legacy", "fra_Latn", "zho_Hans"),
    ],
)
def test_a_source_tells_its_language_and_an_answer_begins_with_its_own(recorder, name, source, target):
    llm = recorder(name)
    sources, options = asked(llm, "translation", "The cat 你好", src_lang=source, tgt_lang=target)
    assert sources == [GOLDENS[name]["other"]]
    assert options == {"forced_bos_token_id": llm.tokenizer.loaded.languages.ids[target]}
    both = asked(llm, f"translation_{source}_to_{target}", "The cat 你好")
    assert both == (sources, options)
    cut = Recorder(llm.tokenizer, max_source_len=5)
    ((shorter,), _) = asked(
        cut, "translation", "The cat 你好", src_lang=source, tgt_lang=target, truncation=True
    )
    assert len(shorter) == 5
    own = llm.tokenizer.loaded.languages.ids[source]
    assert (shorter[0] if llm.tokenizer.loaded.languages.where == "before" else shorter[-1]) == own


@pytest.mark.parametrize("name", ["mbart", "nllb"])
def test_a_target_must_be_named_where_the_model_has_several(recorder, name):
    with pytest.raises(InvalidParameterError, match=r"tgt_lang.*zh") as error:
        asked(recorder(name), "translation", "The cat")
    assert error.value.param == "tgt_lang"
    llm = recorder(name, sampling_defaults={"forced_bos_token_id": 7})  # as mbart-large-en-ro has it
    assert asked(llm, "translation", "The cat")[1] == {}
    assert asked(llm, "text2text-generation", "The cat")[1] == {}


@pytest.mark.parametrize("name", ["mbart", "marian", "mt5"])
@pytest.mark.parametrize("param", ["src_lang", "tgt_lang", "decoder_start_token_id"])
def test_a_language_is_a_text_and_a_first_token_a_number(recorder, name, param):
    for wrong in (10**5000, np.arange(3), ["en"]):
        for task in ("translation", "translation_en_to_de"):
            with pytest.raises(InvalidParameterError) as error:
                asked(recorder(name), task, "The cat", **{param: wrong})
            assert error.value.param == param


def test_an_answer_that_begins_after_a_language_is_in_it(recorder):
    """decoder_start_token_id of an mBART that was made for one direction."""
    ids = recorder("mbart").tokenizer.loaded.languages.ids
    llm = recorder("mbart", decoder_start_token_id=ids["ro_RO"])
    assert asked(llm, "translation", "The cat")[1] == {}
    assert asked(llm, "translation", "The cat", tgt_lang="ro_RO")[1] == {}
    assert asked(llm, "translation", "The cat", tgt_lang="zh_CN")[1] == {"forced_bos_token_id": ids["zh_CN"]}
    llm, start = recorder("mbart"), {"decoder_start_token_id": ids["ro_RO"]}
    for target in ({}, {"tgt_lang": "ro_RO"}):
        assert asked(llm, "translation", "The cat", **target, **start)[1] == start
    forced = {"forced_bos_token_id": ids["zh_CN"]}
    assert asked(llm, "translation", "The cat", tgt_lang="zh_CN", **start)[1] == start | forced


def test_marian_is_told_the_targets_language_in_front_of_the_text(recorder):
    llm = recorder("marian")
    opened = [llm.tokenizer.encode(">>fra<< The cat")]
    assert asked(llm, "translation", "The cat", tgt_lang="fra")[0] == opened
    assert asked(llm, "translation", ">>fra<< The cat")[0] == opened
    assert asked(llm, "translation", ">>fra<< The cat", tgt_lang="cmn")[0] == opened
    assert asked(llm, "translation_en_to_fra", "The cat")[0] == opened
    assert asked(llm, "translation_en_to_fr", "The cat")[0] == [llm.tokenizer.encode("The cat")]
    assert asked(llm, "translation_cmn_to_fra", "The cat")[0] == opened
    with pytest.raises(InvalidParameterError, match="cmn, fra"):
        asked(llm, "translation", ">>tlh<< The cat")


# ---- searches

T5_TASKS = {
    "summarization": {"prefix": "summarize: ", "max_length": 200, "min_length": 30, "num_beams": 4,
                      "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3},
    "translation_en_to_de": {"prefix": "translate English to German: ", "max_length": 300, "num_beams": 4,
                             "early_stopping": True},
}  # fmt: skip


def test_config_jsons_parameters_of_a_task_count_where_nothing_is_given(recorder):
    llm = recorder("mt5", task_parameters=T5_TASKS)
    sources, options = asked(llm, "summarization", "The cat")
    assert sources == [llm.tokenizer.encode("summarize: The cat")]
    usual = {"max_tokens": 199, "min_tokens": 29, "num_beams": 4, "length_penalty": 2.0}
    assert options == {**usual, "early_stopping": True, "no_repeat_ngram_size": 3}
    for given, wanted in (
        ({"max_length": 60, "min_length": 0}, {"max_tokens": 59, "min_tokens": 0}),
        ({"max_new_tokens": 60}, {"max_tokens": 60}),
        ({"max_tokens": 60, "max_length": 9}, {"max_tokens": 60}),
        ({"max_length": 10}, {"max_tokens": 9, "min_tokens": 9}),
        ({"min_new_tokens": 3}, {"min_tokens": 3, "max_tokens": 199}),
    ):
        options = asked(llm, "summarization", "The cat", **given)[1]
        assert all(options[key] == value for key, value in wanted.items())
        assert not {"max_new_tokens", "max_length", "min_length"} & set(options)
    options = asked(llm, "summarization", "The cat", num_beams=1)[1]
    assert options == {"max_tokens": 199, "min_tokens": 29, "num_beams": 1, "no_repeat_ngram_size": 3}
    for drawing in ({"do_sample": True}, {"temperature": 0.5}, {"top_k": 5}, {"seed": 1}):
        assert "num_beams" not in asked(llm, "summarization", "The cat", **drawing)[1]
    both = asked(llm, "translation_en_to_de", "The cat")
    assert both[0] == [llm.tokenizer.encode("translate English to German: The cat")]
    assert asked(llm, "translation", "The cat", src_lang="en", tgt_lang="de") == both


def test_words_of_transformers_generate_replace_the_tasks(recorder):
    tasks = {"summarization": {"encoder_no_repeat_ngram_size": 3, "num_beams": 4}}
    llm = recorder("bart", task_parameters=tasks)
    assert asked(llm, "summarization", "The cat")[1] == tasks["summarization"]
    bans = {"bad_words_ids": [[5]], "suppress_tokens": [6], "begin_suppress_tokens": [7]}
    rules = {"exponential_decay_length_penalty": (3, 1.1), "renormalize_logits": True}
    options = bans | rules | {"encoder_no_repeat_ngram_size": 0, "num_beams": 4}
    assert asked(llm, "summarization", "The cat", use_cache=True, **options)[1] == options
    words = {"eos_token_id": 9, "max_time": 5, "stop_strings": "a", "pad_token_id": 1, "num_beams": None}
    ends = {"stop_token_ids": (9,), "ignore_eos": True, "include_stop_str_in_output": True}
    found = asked(llm, "summarization", "The cat", **words)[1]
    assert found == tasks["summarization"] | ends | {"deadline_s": 5, "stop": "a"}
    assert asked(llm, "summarization", "The cat", eos_token_id=9, stop="b")[1] == tasks["summarization"] | {
        "stop_token_ids": (9,),
        "ignore_eos": True,
        "stop": "b",
    }


def test_what_is_no_number_is_named_where_a_tasks_parameters_stand_beside(recorder):
    llm = recorder("bart", task_parameters={"summarization": {"num_beams": 4}})
    for config in ({}, {"generation_config": {"num_beams": 2}}):
        for name in ("temperature", "top_k", "seed", "num_beams"):
            with pytest.raises(InvalidParameterError) as error:
                asked(llm, "summarization", "The cat", **config, **{name: np.arange(3)})
            assert error.value.param == name


def test_config_jsons_own_prefix_is_for_tasks_without_one(recorder):
    """As that of bart-large-cnn, a space."""
    llm = recorder("bart", task_parameters={"": {"prefix": " "}, "summarization": {"num_beams": 4}})
    sources, options = asked(llm, "summarization", "The cat")
    assert sources == [llm.tokenizer.encode(" The cat")] and options == {"num_beams": 4}
    assert asked(llm, "text2text-generation", "The cat")[0] == sources


def test_the_first_direction_of_config_json_is_taken_where_none_is_named(recorder, caplog):
    """As in transformers 4, which warns of it, too."""
    tasks = T5_TASKS | {"translation_en_to_fr": {"prefix": "translate English to French: "}}
    llm = recorder("mt5", task_parameters=tasks)
    first = asked(llm, "translation_en_to_de", "The cat")
    assert not caplog.records
    assert asked(llm, "translation", "The cat") == first
    assert "translation_en_to_de" in caplog.text
    chosen = asked(llm, "translation", "The cat", src_lang="en", tgt_lang="fr")
    assert chosen == asked(llm, "translation_en_to_fr", "The cat") != first
    assert asked(llm, "text2text-generation", "The cat")[0] == [llm.tokenizer.encode("The cat")]


def test_a_translation_without_a_direction_is_of_the_text_alone(recorder):
    llm = recorder("mt5")
    assert asked(llm, "translation", "The cat")[0] == [llm.tokenizer.encode("The cat")]


def test_a_text_of_nothing_is_its_own_summary(recorder):
    llm = recorder("mt5")
    assert Task("summarization", llm)([" "]) == [{"summary_text": " "}]
    assert Task("text2text-generation", llm)([" "]) != [{"generated_text": " "}]


def test_answers_are_texts_or_token_ids(recorder):
    llm = recorder("mt5", decoder_start_token_id=0)
    task = Task("summarization", llm)
    (text,), (ids,) = (task("The cat", return_text=wanted) for wanted in (True, False))
    assert list(text) == ["summary_text"] and list(ids) == ["summary_token_ids"]
    assert (
        task("The cat", return_tensors=True)
        == [ids]
        == task("The cat", return_tensors=True, return_text=False)
    )
    for both in (True, False):
        with pytest.raises(InvalidParameterError, match="one of both") as error:
            task("The cat", return_text=both, return_tensors=both)
        assert error.value.param == "return_text"


def test_no_space_is_left_before_punctuation_where_that_is_asked_for(recorder):
    llm = recorder("mt5")
    llm.says = "I do n't know , he 's out ! We do not ."
    task = Task("text2text-generation", llm)
    for options, wanted in (({}, llm.says), ({"clean_up_tokenization_spaces": False}, llm.says)):
        assert task("a", **options) == [{"generated_text": wanted}]
    tidy = [{"generated_text": "I don't know, he's out! We do not."}]
    assert task("a", clean_up_tokenization_spaces=True) == tidy
    with pytest.raises(InvalidParameterError):
        task("a", clean_up_tokenization_spaces="yes")


def test_other_directions_than_config_jsons_are_refused(recorder):
    llm = recorder("mt5", task_parameters=T5_TASKS)
    with pytest.raises(ModelUnsupportedError, match="translation_en_to_de"):
        Task("translation_en_to_zh", llm)
    with pytest.raises(InvalidParameterError, match="translation_en_to_de"):
        asked(llm, "translation", "The cat", src_lang="en", tgt_lang="zh")
    with pytest.raises(InvalidParameterError, match="none to choose from"):
        asked(recorder("bart"), "translation", "The cat", tgt_lang="zh")


def test_of_a_source_a_token_stays_at_least(recorder):
    sources = SourceTokenizer(recorder("mt5"))
    whole, _ = sources.encode("The cat", Direction(), cut=None)
    assert sources.encode("The cat", Direction(), cut=2) == ([whole[0], whole[-1]], True)
    with pytest.raises(PromptTooLongError):
        sources.encode("The cat", Direction(), cut=1)


def test_what_is_too_long_is_cut_at_its_end_where_that_is_allowed(recorder):
    tokenizer = recorder("bart").tokenizer
    llm = Recorder(tokenizer, max_source_len=6)
    with pytest.raises(PromptTooLongError):
        asked(llm, "summarization", "The cat sat on the mat")
    whole = tokenizer.encode("The cat sat on the mat")
    result = Task("summarization", llm)(["The cat sat on the mat", "a"], truncation=True)
    assert llm.asked[-1][0] == [[*whole[:5], whole[-1]], tokenizer.encode("a")]
    assert result == [{"summary_text": "6", "truncated": True}, {"summary_text": "3"}]


# ---- config.json


def test_parameters_of_tasks_are_checked():
    def of(**values: Any) -> Any:
        return task_parameters(Config(values, "config.json"))

    assert of() == {} and of(task_specific_params=None, prefix=None) == {}
    assert of(task_specific_params={"summarization": T5_TASKS["summarization"] | {"vocab": 5}}) == {
        "summarization": T5_TASKS["summarization"]
    }
    assert of(prefix=" ", task_specific_params={"x": {"early_stopping": "never", "num_beams": None}}) == {
        "": {"prefix": " "},
        "x": {"early_stopping": "never"},
    }
    for wrong in (
        {"task_specific_params": []},
        {"task_specific_params": {"a": 5}},
        {"task_specific_params": {"a": {"prefix": 5}}},
        {"task_specific_params": {"a": {"prefix": "x" * 2000}}},
        {"task_specific_params": {"a": {"num_beams": 0}}},
        {"task_specific_params": {"a": {"num_beams": True}}},
        {"task_specific_params": {"a": {"max_length": "5"}}},
        {"task_specific_params": {"a": {"length_penalty": "x"}}},
        {"task_specific_params": {"a": {"early_stopping": "soon"}}},
        {"prefix": 5},
    ):
        with pytest.raises(ModelFormatError):
            of(**wrong)


def test_unknown_tasks_are_errors(tmp_path: Path):
    with pytest.raises(InvalidParameterError, match="translation_xx_to_yy"):
        tuili.pipeline("translation_to", tmp_path)
