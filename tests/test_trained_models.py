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
        context = "yesterday nova said that zoe king was in rome. ada hill lives in oslo and works at acme."
        assert pipe(question="who lives in oslo?", context=context)["answer"] == "ada hill"


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


@pytest.fixture(scope="module")
def adder():
    with tuili.pipeline("text-generation", MODELS / "adder", do_sample=False) as pipe:
        yield pipe


def test_text_generation_takes_the_parameters_of_transformers(adder):
    """max_length and min_length count the prompt's tokens, too; a prefix is no part of the text."""
    sums = ["999+  1=", "  1+  1="]
    assert adder(sums, max_length=12) == [
        [{"generated_text": "999+  1=1000"}],
        [{"generated_text": "  1+  1=   2"}],
    ]
    assert adder(sums[0], max_length=10) == [{"generated_text": "999+  1=10"}]
    assert adder(sums[0], max_length=9, max_new_tokens=4) == [{"generated_text": "999+  1=1000"}]
    assert adder("+  1=", prefix="999", max_length=12) == [{"generated_text": "+  1=1000"}]
    assert adder(sums[0], stop_sequence="0", max_length=12) == [{"generated_text": "999+  1=10"}]
    ids = adder.model.tokenizer.encode("999+  1=1000")
    assert adder(sums[0], max_length=12, return_tensors=True) == [{"generated_token_ids": ids}]
    stops = {"stop_token_ids": ids[-1:], "ignore_eos": True}
    lengths = [{"min_length": 12}, {"min_new_tokens": 4}, {"min_length": 3}]
    answers = [adder(sums[0], max_length=12, return_full_text=False, **stops, **one)[0] for one in lengths]
    assert [len(one["generated_text"]) for one in answers] == [4, 4, 1]
    assert adder([]) == []


@pytest.mark.parametrize(
    "options, param",
    [
        ({"max_length": 8}, "max_length"),
        ({"max_length": "12"}, "max_length"),
        ({"min_length": -1}, "min_length"),
        ({"prefix": 3}, "prefix"),
        ({"stop_sequence": "0", "stop": "1"}, "stop_sequence"),
        ({"return_tensors": True, "return_full_text": False}, "return_tensors"),
        ({"return_full_text": "no"}, "return_full_text"),
        ({"max_lengths": 8}, "max_lengths"),
    ],
)
def test_wrong_parameters_of_text_generation_are_named(adder, options, param):
    with pytest.raises(tuili.InvalidParameterError) as error:
        adder("999+  1=", **options)
    assert error.value.param == param


def test_each_prompt_may_have_parameters_of_its_own(adder):
    greedy = [tuili.SamplingParams(max_tokens=n, temperature=0) for n in (1, 3)]
    outputs = adder.model.generate(["999+  1="] * 2, greedy)
    assert [one.outputs[0].text for one in outputs] == ["1", "100"]
    with pytest.raises(tuili.InvalidParameterError, match="2, for 1 prompts") as error:
        adder.model.generate(["999+  1="], greedy)
    assert error.value.param == "params"
