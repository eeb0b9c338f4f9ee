"""Rerankers give sentence-transformers' scores: classifiers, and decoders that judge by a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuili
from reranker_folders import DOCUMENTS, LONG, QUERY, RERANKERS, write
from tuili.loading import packed_cache

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "rerankers.json").read_text())
LOGIT_SCORE, SENTENCE = "1_LogitScore/config.json", "sentence_bert_config.json"


def scores_of(folder: Path, **options: Any) -> np.ndarray:
    with tuili.LLM(folder, num_threads=1, **options) as model:
        ranked = model.rank(QUERY, [*DOCUMENTS, LONG], truncation=True)
        assert model.rank(QUERY, []) == []
    assert [hit["score"] for hit in ranked] == sorted((hit["score"] for hit in ranked), reverse=True)
    return np.array([hit["score"] for hit in sorted(ranked, key=lambda hit: hit["index"])])


@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_gives_the_scores_of_sentence_transformers(name, tmp_path):
    wanted = np.array(GOLDENS[name])
    found = scores_of(write(name, tmp_path / "model"), cache_dir=tmp_path / "cache")
    assert abs(found - wanted).max() <= 1e-5 * np.ptp(wanted)


def changed(folder: Path, file: str, **settings: Any) -> Path:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | settings))
    return folder


def told(**variables: Any) -> dict[str, Any]:
    """The settings that tell a chat template so."""
    return {"processing_kwargs": {"chat_template": variables}}


def test_another_word_in_the_files_is_another_model(tmp_path, monkeypatch):
    """The packed cache notices, though no weight has changed."""
    monkeypatch.setattr(packed_cache, "MIN_WEIGHT_BYTES", 0)
    folder = write("words of texts", tmp_path / "model")
    found = []
    for word in (70, 80, 70):
        changed(folder, LOGIT_SCORE, true_token_id=word)
        found.append(scores_of(folder, cache_dir=tmp_path / "cache"))
    assert (found[1] == 0).all() and (found[0] == found[2]).all() and found[0].any()
    with tuili.LLM(folder, cache_dir=tmp_path / "cache") as model:
        assert model.config["packed_cache"].startswith("read from")


def test_a_word_is_judged_after_the_last_token_also_if_that_pads(tmp_path):
    folder, found = write("two words", tmp_path / "model"), []
    with tuili.LLM(folder) as model:
        (last,) = model.tokenizer.encode("<|assistant|>", add_special=False)
    for padding in (0, last):
        found.append(scores_of(changed(folder, "config.json", pad_token_id=padding)))
    assert (found[0] == found[1]).all()


def test_an_empty_prompt_is_none(tmp_path):
    folder, found = write("two words", tmp_path / "model"), []
    for settings in ({"prompts": {"own": ""}}, {"default_prompt_name": None}):
        found.append(scores_of(changed(folder, "config_sentence_transformers.json", **settings)))
    assert (found[0] == found[1]).all()


@pytest.mark.parametrize("name", ["two words", "words of texts", "classifier of texts"])
def test_a_prompt_is_chosen_by_its_name(name, tmp_path):
    folder, file = write(name, tmp_path / "model"), "config_sentence_transformers.json"
    prompts = {"own": "Judge it: ", "other": "the river "}
    found = {}
    for default in (None, "own", "other"):
        changed(folder, file, prompts=prompts, default_prompt_name=default)
        with tuili.LLM(folder, num_threads=1) as model:
            for chosen in (None, "own", "other"):
                ranked = model.rank(QUERY, DOCUMENTS, prompt_name=chosen)
                found.setdefault(chosen or default, []).append(ranked)
            with pytest.raises(tuili.InvalidParameterError, match="prompts are: own, other") as error:
                model.rank(QUERY, DOCUMENTS, prompt_name="query")
            assert error.value.param == "prompt_name"
    assert all(ranked == several[0] for several in found.values() for ranked in several)
    assert len({one[0][0]["score"] for one in found.values()}) == 3


def test_a_pair_is_cut_where_it_is_asked_for(tmp_path):
    with tuili.LLM(write("classifier of texts", tmp_path), num_threads=1) as model:
        whole = model.rank(QUERY, [LONG], truncation=True)
        assert whole == model.rank(QUERY, [LONG], truncation=True, max_length=120)
        short = model.rank(QUERY, [LONG], truncation=True, max_length=60)
        assert short[0]["score"] != whole[0]["score"] and short[0]["text"] == LONG
        for wrong in ({"max_length": 121}, {"max_length": 0}, {"max_length": "9"}):
            with pytest.raises(tuili.InvalidParameterError) as error:
                model.rank(QUERY, [LONG], truncation=True, **wrong)
            assert error.value.param == "max_length"
        with pytest.raises(tuili.PromptTooLongError, match="limit is 20"):
            model.rank(QUERY, DOCUMENTS[:1] * 9 + [LONG], max_length=20)


@pytest.mark.parametrize(
    "file, settings, error, message",
    [
        (LOGIT_SCORE, {"true_token_id": 9000}, tuili.ModelFormatError, "token ids"),
        (LOGIT_SCORE, {"true_token_id": -1}, tuili.ModelFormatError, "true_token_id"),
        ("config.json", {"architectures": ["BertModel"]}, tuili.ModelUnsupportedError, "BertModel"),
        ("config.json", {"architectures": ["XForCausalLM"]}, tuili.ModelUnsupportedError, "architectures"),
        (
            "config.json",
            {"architectures": ["BertForCausalLM"]},
            tuili.ModelUnsupportedError,
            "without a class",
        ),
        (SENTENCE, {"transformer_task": "fill-mask"}, tuili.ModelUnsupportedError, "transformer_task"),
        (SENTENCE, {"modality_config": {"message": {}}}, tuili.ModelFormatError, "format is missing"),
        (SENTENCE, told(tools=[]), tuili.ModelUnsupportedError, "has tools for chat_template"),
        (SENTENCE, told(_a=1), tuili.ModelUnsupportedError, "has _a for chat_template"),
        (SENTENCE, told(truncation=False), tuili.ModelUnsupportedError, "has truncation"),
        (SENTENCE, told(documents=["a"]), tuili.ModelUnsupportedError, "has documents for chat_template"),
        (
            SENTENCE,
            told(add_generation_prompt="no"),
            tuili.ModelUnsupportedError,
            "has add_generation_prompt",
        ),
        (SENTENCE, {"processing_kwargs": {"chat_template": 3}}, tuili.ModelFormatError, "chat_template"),
    ],
)
def test_a_reranker_that_cannot_be_is_an_error(tmp_path, file, settings, error, message):
    with pytest.raises(error, match=message):
        tuili.LLM(changed(write("two words", tmp_path), file, **settings))


def test_words_of_a_head_that_caps_its_logits_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(RERANKERS, "capped", RERANKERS["words of texts"].of("Gemma2ForCausalLM"))
    with pytest.raises(tuili.ModelUnsupportedError, match="a bias, a scale or a cap"):
        tuili.LLM(write("capped", tmp_path))


def test_a_template_must_show_both_texts(tmp_path):
    folder = write("two words", tmp_path)
    (folder / "chat_template.jinja").write_text("{{ messages[1].content }}")
    with tuili.LLM(folder) as model, pytest.raises(tuili.TemplateError, match="query and document"):
        model.rank(QUERY, DOCUMENTS)
    (folder / "chat_template.jinja").unlink()
    with tuili.LLM(folder) as model, pytest.raises(tuili.TemplateError, match="no chat template"):
        model.rank(QUERY, DOCUMENTS)


def test_a_template_may_change_the_texts_and_have_variables_of_any_name(tmp_path):
    """A text that a template escapes is shown, too; a variable's name is no argument of ours."""
    folder = changed(
        write("variables", tmp_path),
        SENTENCE,
        **told(query="cat", template=1, system=2.5, x=True, padding="longest", truncation=True),
    )
    shown = "{% for m in messages %}{{ m.content | tojson }}{% endfor %}"
    scores = []
    told_of = "{{ query }}{{ template }}{{ system }}{{ x }}{{ padding is defined }}"
    for template in (shown + told_of, shown + "cat12.5TrueFalse"):
        (folder / "chat_template.jinja").write_text(template)
        with tuili.LLM(folder) as model:
            scores.append(model.rank('the "cat"', ["a dog"])[0]["score"])
    assert scores[0] == scores[1]


def test_messages_that_are_too_long_are_an_error_unless_they_may_be_cut(tmp_path):
    folder = write("two words", tmp_path)
    with tuili.LLM(folder) as model, pytest.raises(tuili.PromptTooLongError, match="truncation=True cuts"):
        model.rank(QUERY, [LONG])
    shown = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(shown + "the end" * 100)
    with tuili.LLM(folder) as model, pytest.raises(tuili.PromptTooLongError, match="template alone"):
        model.rank(QUERY, [LONG], truncation=True)
