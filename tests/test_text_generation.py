"""Text generation takes the parameters that transformers documents, and `generate` those of each prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tuili
from tiny_files import write_hf_folder
from tiny_models import tiny_llama
from tuili.chat import Prompt, left_open

MODELS = Path(__file__).parent / "models"


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
    assert adder(sums[0], max_length=12, return_text=False) == [{"generated_token_ids": ids}]
    assert adder(sums[0], max_length=12, return_text=True, clean_up_tokenization_spaces=True) == [
        {"generated_text": "999+  1=1000"}
    ]
    stops = {"stop_token_ids": ids[-1:], "ignore_eos": True}
    lengths = [{"min_length": 12}, {"min_new_tokens": 4}, {"min_length": 3}]
    answers = [adder(sums[0], max_length=12, return_full_text=False, **stops, **one)[0] for one in lengths]
    assert [len(one["generated_text"]) for one in answers] == [4, 4, 1]
    assert adder([]) == []
    assert list(adder(iter(sums), max_length=12)) == adder(sums, max_length=12)


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
        ({"return_tensors": True, "return_text": True}, "return_text"),
        ({"clean_up_tokenization_spaces": 1}, "clean_up_tokenization_spaces"),
        ({"clean_up_tokenization_spaces": 1, "return_tensors": True}, "clean_up_tokenization_spaces"),
        ({"max_lengths": 8}, "max_lengths"),
        ({"stop_strings": "0", "stop": "1"}, "stop"),
        ({"eos_token_id": 3, "stop_token_ids": [4]}, "stop_token_ids"),
        ({"eos_token_id": "x"}, "eos_token_id"),
        ({"eos_token_id": [-1]}, "eos_token_id"),
        ({"eos_token_id": True}, "eos_token_id"),
        ({"pad_token_id": -1}, "pad_token_id"),
        ({"max_time": -1.0}, "deadline_s"),
        ({"diversity_penalty": 0.5}, "diversity_penalty"),
        ({"use_cache": 1}, "use_cache"),
        ({"suppress_tokens": [[3]]}, "suppress_tokens"),
    ],
)
def test_wrong_parameters_of_text_generation_are_named(adder, options, param):
    with pytest.raises(tuili.InvalidParameterError) as error:
        adder("999+  1=", **options)
    assert error.value.param == param


def test_an_end_that_is_named_twice_grows_once(adder):
    [end] = adder.model.config["eos_token_ids"]
    growing = {"num_beams": 3, "n": 3, "exponential_decay_length_penalty": (0, 1.2), "max_tokens": 6}
    once, twice = (adder.model.generate("=1+", stop_token_ids=ids, **growing).outputs for ids in ([], [end]))
    assert any(out.token_ids[-1] == end for out in once)
    assert [(out.token_ids, out.score) for out in twice] == [(out.token_ids, out.score) for out in once]


def test_the_words_of_transformers_generate_are_taken(adder):
    prompt = "999+  1="
    one, zero, space = adder.model.tokenizer.encode("10 ")
    free = adder(prompt, max_new_tokens=4, return_full_text=False)
    plain = {"use_cache": True, "num_beam_groups": 1, "diversity_penalty": 0, "output_scores": False}
    plain |= {"pad_token_id": zero, "max_time": 600, "eos_token_id": None, "penalty_alpha": None}
    assert adder(prompt, max_new_tokens=4, return_full_text=False, **plain) == free

    def answer(**words):
        (one,) = adder(prompt, return_full_text=False, **{"max_new_tokens": 4} | words)
        return one["generated_text"]

    assert answer() == "1000" and answer(eos_token_id=zero) == answer(eos_token_id=[zero, space]) == "10"
    assert answer(eos_token_id=np.array([zero, space])) == answer(eos_token_id={zero, space}) == "10"
    assert answer(stop_strings=["00"]) == "100" and answer(stop="00") == "1"
    assert answer(eos_token_id=zero, min_new_tokens=3)[:2] != "10"
    assert "0" not in answer(suppress_tokens=[zero]) and answer(bad_words_ids=[[one, zero]])[:2] != "10"
    assert answer(begin_suppress_tokens=[one])[0] != "1" and answer(forced_eos_token_id=one)[-1] == "1"
    assert "9" not in answer(encoder_no_repeat_ngram_size=1) and "1" not in answer(
        encoder_no_repeat_ngram_size=1
    )
    grown = {"eos_token_id": space, "exponential_decay_length_penalty": (1, 1e6), "max_new_tokens": 9}
    assert answer(**grown)[2] == " "
    assert answer(num_beams=2, renormalize_logits=True, length_penalty=0.5) == "1000"
    with pytest.raises(
        tuili.InvalidParameterError, match=r"did you mean max_length.*bad_words_ids, .*eos_tok"
    ):
        adder(prompt, max_lenght=3)
    with pytest.raises(tuili.InvalidParameterError) as error:
        adder(prompt, penalty_alpha=0.6)
    assert error.value.code == "not_supported_yet"


def test_an_answer_goes_on_with_an_assistants_message(tmp_path):
    """As in transformers: by default where the chat ends in one, up to the end of its text."""
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day "}]
    texts = {
        True: "<|user|>hello\n<|assistant|>good day ",
        False: "<|user|>hello\n<|assistant|>good day \n<|assistant|>",
    }
    path = write_hf_folder(tiny_llama(), tmp_path)
    with tuili.pipeline("text-generation", path, do_sample=False, max_new_tokens=4) as pipe:
        for chosen, text in texts.items():
            options = {} if chosen else {"continue_final_message": False}
            prompt = pipe.model.tokenizer.encode_chat([(text, False)])
            (ids,) = pipe(messages, return_tensors=True, **options)
            assert ids["generated_token_ids"][: len(prompt)] == prompt
            answer = pipe.model.generate(prompt, max_tokens=4, temperature=0).outputs[0].text
            (got,) = pipe(messages, **options)
            wanted = messages[-1] | {"content": "good day " + answer}
            added = {"role": "assistant", "content": answer}
            assert got["generated_text"] == [messages[0], *([wanted] if chosen else [messages[1], added])]
        (got,) = pipe(messages[:1], continue_final_message=True, return_full_text=False)
        wanted = pipe.model.generate(
            pipe.model.tokenizer.encode_chat([("<|user|>hello", False)]), max_tokens=4, temperature=0
        )
        assert got["generated_text"] == wanted.outputs[0].text
        with pytest.raises(tuili.TemplateError) as error:
            pipe([messages[0] | {"content": " "}], continue_final_message=True)
        assert error.value.code == "template_continue"
        with pytest.raises(tuili.InvalidParameterError):
            pipe(messages, prefix="a")


@pytest.mark.parametrize("content", ["<", "e", "_", "im"])
def test_a_message_is_not_looked_for_in_the_templates_own_text(content):
    begin = "<|im_start|>assistant\n"
    rendered = Prompt(f"{begin}{content}<|im_end|>\n", ((len(begin), len(begin) + len(content)),))
    assert left_open(rendered, [{"role": "assistant", "content": content}]).text == begin + content


def test_each_prompt_may_have_parameters_of_its_own(adder):
    greedy = [tuili.SamplingParams(max_tokens=n, temperature=0) for n in (1, 3)]
    outputs = adder.model.generate(["999+  1="] * 2, greedy)
    assert [one.outputs[0].text for one in outputs] == ["1", "100"]
    with pytest.raises(tuili.InvalidParameterError, match="2, for 1 prompts") as error:
        adder.model.generate(["999+  1="], greedy)
    assert error.value.param == "params"


def test_texts_to_texts_of_an_iterable_come_as_transformers_gives_them():
    """A list for each, also where a list of inputs gives dicts."""
    numbers = ["12", "7", "345"]
    with tuili.pipeline("text2text-generation", MODELS / "t5-numbers", max_new_tokens=8) as pipe:
        assert list(pipe(iter(numbers), batch_size=2)) == [[one] for one in pipe(numbers)]
