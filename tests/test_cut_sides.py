"""Which end of a text that is too long is cut off: the one that the tokenizer's files name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import encoder_models
import seq2seq_models
import tuili
from encoder_models import CASES

TEXT = "the cat is on the house and the dog"
LEFT = (
    ({"truncation_side": "left"}, None),
    ({}, "Left"),
    ({"truncation_side": "left"}, "Right"),
)


def opened(name: str, folder: Path, settings: dict[str, Any], direction: str | None) -> tuili.LLM:
    """A tiny encoder whose files say so."""
    encoder_models.write_folder(CASES[name], folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | settings))
    if direction is not None:
        cut = {"direction": direction, "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        document = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(document | {"truncation": cut}))
    return tuili.LLM(folder, num_threads=1)


@pytest.mark.parametrize("settings, direction", [*LEFT, ({"truncation_side": "right"}, "Left"), ({}, None)])
def test_a_text_loses_the_end_that_its_files_name(tmp_path, settings, direction):
    is_left = (settings, direction) in LEFT
    with opened("BertModel", tmp_path, settings, direction) as llm:
        whole = llm.tokenizer.encode(TEXT)
        kept = [whole[0], *(whole[-4:-1] if is_left else whole[1:4]), whole[-1]]
        wanted = llm.hidden_states(kept)[-1].mean(axis=0)
        got = llm.embed(TEXT, truncation=True, max_length=5, pooling="mean", normalize=False)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
        pipe = tuili.pipeline("feature-extraction", llm)
        states = pipe(TEXT, tokenize_kwargs={"truncation": True, "max_length": 5})[0]
        np.testing.assert_array_equal(states, llm.hidden_states(kept)[-1])
        long = TEXT + ", " + TEXT * 9000  # of which only an end is read
        np.testing.assert_array_equal(
            llm.embed(long, truncation=True, max_length=5),
            llm.embed(TEXT if not is_left else long[-900:], truncation=True, max_length=5),
        )


def test_the_cache_keeps_the_side(tmp_path):
    vectors = []
    for _ in range(2):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        with opened("BertModel", folder, {"truncation_side": "left"}, None) as llm:
            vectors.append(llm.embed(TEXT, truncation=True, max_length=5))
    np.testing.assert_array_equal(*vectors)


def test_windows_are_cut_from_the_end_that_stays(tmp_path):
    """So that the first of them is the whole text's last one: the library's own windows."""
    with opened("BertForTokenClassification", tmp_path, {"truncation_side": "left"}, None) as llm:
        pipe = tuili.pipeline("ner", llm, aggregation_strategy="none", ignore_labels=[])
        long = " ".join([TEXT] * 9)
        whole = pipe.tokenizer.encode(long)
        got = pipe(long, truncation=True)
        assert got[-1]["end"] == len(long) and len(got) == pipe.tasks.max_len - 2 < len(whole) - 2
        assert [pipe.tokenizer.encode(one["word"])[1] for one in got] == whole[-1 - len(got) : -1]
        assert all(long[one["start"] : one["end"]] == one["word"].removeprefix("##") for one in got)


def test_a_source_loses_the_end_that_its_files_name(tmp_path):
    folder = seq2seq_models.write(seq2seq_models.by_name("Bart"), tmp_path)
    (folder / "tokenizer_config.json").write_text('{"truncation_side": "left", "model_max_length": 6}')
    with tuili.LLM(folder, num_threads=1) as llm:
        whole, body = llm.tokenizer.encode(TEXT), llm.tokenizer.encode(TEXT, add_special=False)
        begin = next(i for i in range(len(whole)) if whole[i : i + len(body)] == body)
        n_kept = 6 - len(whole) + len(body)
        kept = [*whole[:begin], *body[-n_kept:], *whole[begin + len(body) :]]
        pipe = tuili.pipeline("text2text-generation", llm, max_new_tokens=4)
        got = pipe(TEXT, truncation=True, return_tensors=True)[0]
        assert got["truncated"]
        wanted = llm.generate(kept, max_tokens=4).outputs[0].token_ids
        assert got["generated_token_ids"][1:] == wanted


def test_a_question_that_holds_the_beginning_of_all_texts_is_answered(tmp_path):
    """[CLS], which stands for no answer, is no answer where it stands in a question."""
    with opened("BertForQuestionAnswering", tmp_path, {}, None) as llm:
        pipe = tuili.pipeline("question-answering", llm, align_to_words=False)
        for n in range(8):
            answer = pipe(question="[CLS] " * n + "the cat", context="The cat is on the house.")
            assert answer["answer"] and answer["score"] > 0


def test_an_empty_text_beside_one_that_is_cut_loses_nothing(tmp_path):
    with opened("BertForSequenceClassification", tmp_path, {}, None) as llm:
        pipe = tuili.pipeline("text-classification", llm)
        short = pipe({"text": "the cat", "text_pair": " "})
        head = llm.tokenizer.encode("the cat", add_special=False)
        text = "the cat " + TEXT
        cut = {"truncation": True, "max_length": len(head) + 3}
        assert pipe({"text": text, "text_pair": " "}, **cut) == short | {"truncated": True}
        assert pipe({"text": " ", "text_pair": text}, **cut)["truncated"]
        with pytest.raises(tuili.PromptTooLongError, match="leaves nothing"):
            pipe({"text": text, "text_pair": "the"}, truncation="only_second", max_length=8)
        with pytest.raises(tuili.PromptTooLongError, match="leaves nothing"):
            pipe({"text": " ", "text_pair": text}, truncation="only_first", max_length=8)
