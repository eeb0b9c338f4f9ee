"""What pipelines answer at the edges: strides, lengths, ties, several forms of what is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tuili
from encoder_models import CASES, write_folder
from pipeline_cases import DOCUMENT, LONG, QUESTION, TEXT
from tuili.errors import InvalidParameterError
from tuili.tasks.encoding import _shortened
from tuili.tasks.scores import best
from tuili.tasks.tokens import Task as Labelling
from tuili.tasks.tokens import _without_overlaps


def opened(tmp_path_factory: pytest.TempPathFactory, name: str, **settings: Any) -> Iterator[tuili.LLM]:
    case = dataclasses.replace(CASES[name], config=CASES[name].config | settings)
    with tuili.LLM(write_folder(case, tmp_path_factory.mktemp(name)), num_threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    for llm in opened(tmp_path_factory, "BertForQuestionAnswering"):
        yield tuili.pipeline("question-answering", llm)


@pytest.fixture(scope="module")
def entailing(tmp_path_factory):
    labels = {"0": "entailment", "1": "not_entailment"}
    yield from opened(tmp_path_factory, "BertForSequenceClassification", id2label=labels)


def test_a_long_document_is_read_in_windows_the_model_takes_that_share_half_of_theirs(answering):
    length = answering.model.config["max_model_len"]
    assert answering(QUESTION, LONG) == answering(
        question=QUESTION, context=LONG, max_seq_len=length, doc_stride=length // 2
    )
    short = [
        answering(question=QUESTION, context=LONG, max_seq_len=18, **stride)
        for stride in ({}, {"doc_stride": 9}, {"doc_stride": 6})
    ]
    assert short[0] == short[1] != short[2]


def test_a_long_question_is_cut_where_that_is_asked_for(answering):
    asked = {"context": DOCUMENT, "max_question_len": 3}
    with pytest.raises(tuili.PromptTooLongError, match="the question has 12 tokens; max_question_len is 3"):
        answering(question=QUESTION * 4, **asked)
    cut = answering(question=QUESTION * 4, truncation=True, **asked)
    assert cut == answering(question=QUESTION, **asked) | {"truncated": True}


def test_no_answer_stands_at_the_documents_beginning(answering):
    found = answering(question=QUESTION, context=DOCUMENT, top_k=999, handle_impossible_answer=True)
    (none,) = [one for one in found if not one["answer"]]
    assert (none["start"], none["end"]) == (0, 0) and 0 < none["score"] < 1


def test_each_question_has_its_own_document(answering):
    asked = [(QUESTION, DOCUMENT), ("the dog?", TEXT)]
    questions, contexts = ([one[i] for one in asked] for i in (0, 1))
    assert answering(question=questions, context=contexts) == [answering(*one) for one in asked]
    assert answering([]) == []
    document = {"question": QUESTION, "context": DOCUMENT}
    wrong: tuple[tuple[list[Any], dict[str, Any]], ...] = (
        ([document], {"question": QUESTION}),
        ([[document, {"question": QUESTION}]], {}),
        ([], {"question": 3, "context": DOCUMENT}),
        ([], {"question": questions, "context": [DOCUMENT]}),
    )
    for inputs, named in wrong:
        with pytest.raises(InvalidParameterError):
            answering(*inputs, **named)


def test_a_model_of_two_labels_entails(entailing):
    """The other label is what contradicts."""
    classify = tuili.pipeline("text-classification", entailing)
    pipe = tuili.pipeline("zero-shot-classification", entailing, hypothesis_template="{}")
    shares = classify([{"text": TEXT, "text_pair": label} for label in ("cat", "dog")], top_k=None)
    wanted = sorted(one["score"] for labels in shares for one in labels if one["label"] == "entailment")
    assert pipe(TEXT, ["cat", "dog"], multi_label=True)["scores"] == pytest.approx(wanted[::-1], abs=1e-12)
    assert pipe([], ["cat"]) == []


def test_all_scores_may_come_in_the_order_of_labels(entailing):
    pipe = tuili.pipeline("text-classification", entailing, num_workers=0)
    scores = entailing.classify(TEXT)["scores"]
    every = [{"label": label, "score": score} for label, score in scores.items()]
    assert pipe(TEXT, return_all_scores=True) == [every]
    assert pipe(TEXT, function_to_apply="default") == pipe(TEXT)
    assert pipe([]) == [] == entailing.classify([])


def test_a_window_that_begins_within_a_word_has_an_entity_of_its_rest(tmp_path_factory):
    for llm in opened(tmp_path_factory, "BertForTokenClassification"):
        pipe = tuili.pipeline("ner", llm, ignore_labels=[])
        n_room = llm.config["max_model_len"] - 2
        text = "the " * (n_room - 1) + "catdog"
        found = pipe(text, stride=0, aggregation_strategy="first")
        assert len(llm.tokenizer.encode("catdog", add_special=False)) > 1
        assert found[-1]["start"] == text.index("catdog") + len("cat") and found[-1]["end"] == len(text)
        assert pipe([]) == []


def test_a_token_at_the_beginning_continues_no_word():
    """As in transformers: of a first character that is several tokens each is a word."""
    assert not Labelling._continues(SimpleNamespace(_has_word_pieces=False), "ä", 0, 1, "你")


def test_of_entities_that_overlap_the_longest_or_surest_stays():
    def entity(start: int, end: int, score: float) -> dict[str, Any]:
        return {"start": start, "end": end, "score": score}

    apart = [entity(6, 9, 0.1), entity(0, 3, 0.2), entity(3, 6, 0.3)]
    assert _without_overlaps(apart) == [apart[1], apart[2], apart[0]]
    longer, surer = entity(0, 3, 0.9), entity(0, 3, 0.91)
    assert _without_overlaps([longer, entity(2, 4, 0.99)]) == [longer]
    assert _without_overlaps([longer, surer]) == [surer] == _without_overlaps([surer, longer])


def test_of_equal_scores_the_first_comes_first():
    scores = np.tile([0.0, 1.0], 50)
    assert best(scores, 75) == [*range(1, 100, 2), *range(0, 50, 2)]


def test_of_texts_of_one_length_the_second_keeps_a_token_more():
    """As in the tokenizers library."""
    assert _shortened([9, 9], 7, "longest_first", 10) == [3, 4]
