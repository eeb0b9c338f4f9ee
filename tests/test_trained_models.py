"""Models that were trained on templated sentences answer new ones of them, through pipelines.

tests/models/train_encoders.py and train_adder.py made them; their folders have no tokenizer.json.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

import tuili

MODELS = Path(__file__).parent / "models"
sys.path.insert(0, str(MODELS))
import sentences  # noqa: E402
import sums  # noqa: E402

N = 400
RIGHT = 0.99


def share(right: list[bool]) -> float:
    return sum(right) / len(right)


@pytest.fixture(scope="module")
def rng() -> random.Random:
    return random.Random(20_261_126)  # another one than in training


def test_sentiments_are_right(rng):
    made = [sentences.sentiment(rng) for _ in range(N)]
    with tuili.pipeline("sentiment-analysis", MODELS / "sentiment") as pipe:
        answers = pipe([text for text, _ in made])
        assert share([got["label"] == label for got, (_, label) in zip(answers, made, strict=True)]) >= RIGHT
        assert pipe("the film was not really good.")[0]["label"] == "negative"
        assert pipe("the film was lovely and the hotel was lovely.")[0]["label"] == "positive"
        assert pipe("我觉得那个酒店非常舒服！")[0]["label"] == "positive"


def test_entities_are_right(rng):
    made = [sentences.entities(rng) for _ in range(N)]
    with tuili.pipeline("ner", MODELS / "entities", aggregation_strategy="simple") as pipe:
        answers = pipe([text for text, _ in made])
        right = [
            [(one["entity_group"], text[one["start"] : one["end"]]) for one in got] == wanted
            for got, (text, wanted) in zip(answers, made, strict=True)
        ]
        assert share(right) >= RIGHT
        found = pipe("zoe king and ada hill met otto davis in rome.")
        assert [one["word"] for one in found] == ["zoe king", "ada hill", "otto davis", "rome"]
        found = pipe("李华和王明昨天在上海见到了张伟。")
        assert [one["entity_group"] for one in found] == ["PER", "PER", "LOC", "PER"]


def test_questions_are_answered(rng):
    made = [sentences.question(rng) for _ in range(N)]
    with tuili.pipeline("question-answering", MODELS / "questions") as pipe:
        answers = pipe([{"question": question, "context": context} for question, context, *_ in made])
        right = [
            (got["answer"], got["start"], got["end"]) == (answer, begin, begin + len(answer))
            for got, (_, _, answer, begin) in zip(answers, made, strict=True)
        ]
        assert share(right) >= RIGHT
        assert set(answers[0]) == {"score", "start", "end", "answer"} and answers[0]["score"] > 0.5
        context = "zoe king lives in rome and works at nova. ada hill lives in oslo and works at acme. "
        context += "yesterday orbit said that omar frank was in paris."
        for question, answer in (
            ("who lives in oslo?", "ada hill"),
            ("where does zoe king work?", "nova"),
            ("where was omar frank?", "paris"),
        ):
            assert pipe(question=question, context=context)["answer"] == answer


def test_sums_are_right(rng):
    made = [sums.summands(rng) for _ in range(N)]
    settings = {"do_sample": False, "max_new_tokens": 8}
    with tuili.pipeline("text-generation", MODELS / "adder", **settings) as pipe:
        answers = pipe([sums.prompt(a, b) for a, b in made], return_full_text=False)
        right = [
            got[0]["generated_text"] == sums.answer(a, b) for got, (a, b) in zip(answers, made, strict=True)
        ]
        assert share(right) >= RIGHT
        assert pipe("999+  1=") == [{"generated_text": "999+  1=1000"}]


def test_the_first_text_of_unknown_words_is_a_warning_in_the_log(caplog):
    for task, folder, known, unknown in (
        ("sentiment-analysis", "sentiment", "the film was lovely 🙂 .", "龘龘"),
        ("translation", "marian-numbers", "12", ">>cmn<< 龘"),
    ):
        with tuili.pipeline(task, MODELS / folder) as pipe:
            pipe(known) if task != "translation" else pipe(">>cmn<< " + known)
            assert caplog.messages == []
            pipe([unknown, unknown])
        (said,) = caplog.messages
        assert "unk" in said.lower() and "look alike" in said
        caplog.clear()
