"""Text generation takes the parameters that transformers documents, and `generate` those of each prompt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

import tuili
from tiny_files import write_hf_folder
from tiny_models import N_VOCAB, tiny_llama
from tiny_server import running
from tuili.tasks.generation import _steered

MODELS = Path(__file__).parent / "models"


@pytest.fixture(scope="module")
def adder():
    with tuili.pipeline("text-generation", MODELS / "adder", do_sample=False) as pipe:
        yield pipe


def test_text_generation_takes_the_parameters_of_transformers(adder, caplog):
    """max_length and min_length count the prompt's tokens, too, but not a prefix's, no part of the text."""
    sums = ["999+  1=", "  1+  1="]
    assert adder(sums, max_length=12) == [
        [{"generated_text": "999+  1=1000"}],
        [{"generated_text": "  1+  1=   2"}],
    ]
    assert adder(sums[0], max_length=10) == [{"generated_text": "999+  1=10"}]
    assert caplog.messages == []
    assert adder(sums[0], max_length=9, max_new_tokens=4) == [{"generated_text": "999+  1=1000"}]
    assert "max_length has no effect" in caplog.text
    assert adder("+  1=", prefix="999", max_length=12) == [{"generated_text": "+  1=1000"}]
    assert adder("+  1=", prefix="999", max_length=7) == [{"generated_text": "+  1=10"}]
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
    assert answer(encoder_repetition_penalty=1) == "1000" != answer(encoder_repetition_penalty=1e-6)
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


def test_a_bias_of_tokens_is_that_of_transformers(adder, tmp_path):
    prompt = "999+  1="
    zero, one, seven, eight = 0, 1, 7, 8

    def answer(bias, pipe=adder, **more):
        return pipe(prompt, return_full_text=False, max_new_tokens=4, sequence_bias=bias, **more)[0][
            "generated_text"
        ]

    assert answer({(seven,): 1e9}) == answer([[[seven], 100]]) == "7777"
    assert answer({(seven,): 1e-9}) == "1000" and answer(None) == "1000" and answer({}) == "1000"
    assert answer({(one, seven): 100.0}) == "17" + answer({(one, seven): 100.0})[2:]
    assert answer({(one, seven): 100.0, (seven, eight): 1e9, (eight, one): 99}) == "1781"
    ban = {(one, zero): float("-inf")}
    assert answer(ban) == answer(None, bad_words_ids=[[one, zero]])
    assert "0" not in answer({(zero,): float("-inf"), (one, zero): -np.inf})
    both = answer({(zero,): -100.0, (one,): np.float32(-100)})
    assert not set(both) & {"0", "1"}
    folder = shutil.copytree(MODELS / "adder", tmp_path / "own")
    (folder / "generation_config.json").write_text(json.dumps({"sequence_bias": [[[one, seven], 100.0]]}))
    with tuili.pipeline("text-generation", folder) as pipe:
        assert answer(None, pipe)[:2] == "17" and answer({(one, eight): 1e3}, pipe)[:2] == "18"
    for wrong in ([[[99], 1.0]], {(one, 99): 1.0}):
        with pytest.raises(tuili.TokenIdError, match="sequence_bias"):
            answer(wrong)
    for wrong in ({(): 1.0}, {(one,): "a"}, {(one,): float("inf")}, [[one, 1.0]], 5):
        with pytest.raises(tuili.InvalidParameterError) as error:
            answer(wrong)
        assert error.value.param == "sequence_bias"


def test_a_ban_stands_in_place_of_no_other(adder, tmp_path):
    one, zero = 1, 0
    bans = (
        ("suppress_tokens", [one], {(zero,): -np.inf}, [one, zero]),
        ("bad_words_ids", [[one, zero]], {(one, 9): -np.inf}, [[one, zero], [one, 9]]),
    )
    prompt, how = "999+  1=", {"return_full_text": False, "max_new_tokens": 4}
    for name, value, bias, both in bans:
        wanted = adder(prompt, **{name: both}, **how)
        assert wanted != adder(prompt, sequence_bias=bias, **how)
        assert adder(prompt, sequence_bias=bias, **{name: value}, **how) == wanted
        for made, called in (
            ({name: value}, {"sequence_bias": bias}),
            ({"sequence_bias": bias}, {name: value}),
        ):
            pipe = tuili.pipeline("text-generation", adder.model, **made)
            assert pipe(prompt, **called, **how) == wanted, "nor in that of the pipeline"
        folder = shutil.copytree(MODELS / "adder", tmp_path / name)
        (folder / "generation_config.json").write_text(json.dumps({name: value}))
        with tuili.pipeline("text-generation", folder) as pipe:
            assert pipe(prompt, sequence_bias=bias, **how) == wanted, "nor in that of the model's own"
        with pytest.raises(tuili.InvalidParameterError, match=name):
            adder(prompt, sequence_bias=bias, **{name: 5}, **how)


class Config:
    """As transformers' GenerationConfig tells what it holds."""

    def __init__(self, **words):
        self._words = words

    def to_diff_dict(self):
        return {**self._words, "transformers_version": "5.24.0", "_from_model_config": True}


def test_a_generation_config_is_what_it_holds(adder):
    prompt = "999+  1="

    def answer(config, **words):
        (one,) = adder(prompt, return_full_text=False, generation_config=config, **words)
        return one["generated_text"]

    for kind in (dict, Config):
        assert answer(kind(max_new_tokens=2)) == "10"
        assert answer(kind(max_new_tokens=2), max_new_tokens=3) == "100", "the call's own comes first"
        assert answer(kind(max_new_tokens=2), max_tokens=3) == "100"
        assert answer(kind(max_new_tokens=4, suppress_tokens=[1], max_length=None))[0] != "1"
        assert answer(kind(max_length=10, bos_token_id=13, eos_token_id=13, pad_token_id=13)) == "10"
        assert answer(kind(max_new_tokens=2, cache_implementation="hybrid", cache_config=None)) == "10"
        assert answer(kind(max_new_tokens=4, stop_strings=["9"]), stop="00") == "1"
        assert answer(kind(max_new_tokens=4, eos_token_id=13), stop="00") == "1"
    unused = {"temperature": 0.7, "top_k": 5, "length_penalty": 2.0, "early_stopping": True}
    for more in ({}, {"num_beams": 1}):
        assert answer(unused | {"max_new_tokens": 4} | more) == "1000", (
            "as in transformers, without do_sample"
        )
    asked = []
    generate = adder.model.generate
    adder.model.generate = lambda *args, **more: asked.append(args[1]) or generate(*args, **more)
    try:
        words = {"do_sample": True, "temperature": 0.5, "top_k": 3, "max_new_tokens": 2}
        with tuili.pipeline("text-generation", adder.model) as pipe:
            pipe.close = lambda: None
            pipe(prompt, generation_config=words)
            assert (asked[-1][0].temperature, asked[-1][0].top_k) == (0.5, 3)
            del words["do_sample"]
            tuili.pipeline("text-generation", adder.model, do_sample=True)(prompt, generation_config=words)
            assert (asked[-1][0].temperature, asked[-1][0].top_k) == (0.5, 3)
            pipe(prompt, generation_config={"num_beams": 2, "length_penalty": 2.0, "max_new_tokens": 2})
            assert (asked[-1][0].num_beams, asked[-1][0].length_penalty) == (2, 2.0)
        plain = tuili.pipeline("text-generation", adder.model)
        plain(prompt, temperature=0.5, generation_config={"top_k": 3, "max_new_tokens": 2})
        assert (asked[-1][0].temperature, asked[-1][0].top_k) == (0.5, 3), "which draws here, too"
        made = tuili.pipeline("text-generation", adder.model, generation_config=words)
        made(prompt, do_sample=True)
        assert (asked[-1][0].temperature, asked[-1][0].top_k) == (0.5, 3), "as the call says"
        made(prompt, generation_config={"max_new_tokens": 2, "do_sample": True})
        assert asked[-1][0].top_k is None, "one stands in place of another"
        made = tuili.pipeline("text-generation", adder.model, generation_config={"max_new_tokens": 3})
        assert made(prompt, return_full_text=False)[0]["generated_text"] == "100"
    finally:
        del adder.model.generate
    for wrong in (5, "greedy", [("max_new_tokens", 2)], Config, {5: 3}):
        with pytest.raises(tuili.InvalidParameterError) as error:
            answer(wrong)
        assert error.value.param == "generation_config"
    with pytest.raises(tuili.InvalidParameterError, match=r"watermarking_config.*max_new_tokens"):
        answer({"watermarking_config": {}, "max_new_tokens": 2})
    with pytest.raises(tuili.InvalidParameterError, match="generation_config"):
        adder(prompt, generation_confi={})
    with pytest.raises(tuili.InvalidParameterError) as error:
        answer({"generation_config": {}})
    assert error.value.param == "generation_config"


def test_a_generation_config_stands_before_the_models_own_file(tmp_path):
    """Which goes on to say whether its words are drawn by or searched by, as in transformers."""
    shown = {}
    for name, model, file in (
        ("text-generation", "adder", {"do_sample": True, "temperature": 0.9, "top_k": 7}),
        ("text2text-generation", "t5-numbers", {"num_beams": 3, "decoder_start_token_id": 0}),
    ):
        folder = shutil.copytree(MODELS / model, tmp_path / model)
        (folder / "generation_config.json").write_text(json.dumps(file))
        with tuili.pipeline(name, folder) as pipe:
            generate, asked = pipe.model.generate, []

            def recorded(ids, params=None, generate=generate, asked=asked, **words):
                asked.append(params[0] if params else tuili.SamplingParams(**words))
                return generate(ids, params, **words)

            pipe.model.generate = recorded
            config = {"temperature": 0.5, "length_penalty": 2.0, "max_new_tokens": 2}
            pipe("12", generation_config=config)
            pipe("12", generation_config=config | {"do_sample": False, "num_beams": 1})
            shown[model] = [(one.temperature, one.length_penalty) for one in asked]
            del pipe.model.generate
    assert shown == {
        "adder": [(0.5, None), (0.0, None)],
        "t5-numbers": [(None, 2.0), (0.0, None)],
    }


def test_lengths_of_the_models_files_count_the_prompt(adder, tmp_path):
    """As in transformers (tests/compare_generation_configs.py), where max_new_tokens does not say another."""
    folder = shutil.copytree(MODELS / "adder", tmp_path / "adder")
    ends = list(range(adder.model.loaded.spec.n_vocab - 1))
    file = {"max_length": 12, "min_length": 10, "eos_token_id": ends}
    (folder / "generation_config.json").write_text(json.dumps(file))
    ids = [5] * 8
    with tuili.LLM(folder) as llm:
        pipe = tuili.pipeline("text-generation", llm)

        def n_new(ids=ids, **words):
            return len(llm.generate(ids, **words).outputs[0].token_ids)

        assert [n_new(), n_new(ids[:2]), n_new(min_tokens=1)] == [3, 9, 2]
        assert n_new(ignore_eos=True) == 4
        assert n_new(ignore_eos=True, max_tokens=6) == 6
        assert n_new(ids * 2, ignore_eos=True, truncation=True) == 6
        (answer,) = pipe("12+3=", ignore_eos=True, return_tensors=True)
        assert len(answer["generated_token_ids"]) == 12
        with pytest.raises(tuili.PromptTooLongError, match=r"max_length = 12, .*; truncation=True cuts it"):
            n_new(ids[:4] * 3)
        assert n_new(ids[:4] * 3, max_tokens=1) == 1
        with pytest.raises(tuili.PromptTooLongError, match="max_model_len"):  # whatever max_tokens says
            n_new(ids * llm.config["max_model_len"])
    (folder / "generation_config.json").write_text(json.dumps(file | {"min_length": 14}))
    with tuili.LLM(folder) as llm:  # max_length goes before
        assert [len(llm.generate([5, 5], max_tokens=n).outputs[0].token_ids) for n in (None, 5, 14)] == [
            10,
            5,
            13,
        ]


def test_lengths_count_what_is_left_of_a_prompt(adder):
    cut = {"truncate_prompt_tokens": 8, "return_full_text": False}
    assert adder("123+456=999+  1=", max_length=11, **cut)[0]["generated_text"] == "100"
    ends = {"stop_token_ids": [1], "ignore_eos": True, "max_new_tokens": 4}
    assert len(adder("123+456=999+  1=", min_length=10, **cut, **ends)[0]["generated_text"]) > 2


def test_a_least_length_may_be_nothing(adder):
    prompt = "999+  1="
    assert adder(prompt, min_length=0, max_new_tokens=2) == adder(prompt, max_new_tokens=2)
    own = dict.fromkeys(("stop_sequence", "max_length", "min_length", "min_new_tokens"))
    assert _steered({}, own | {"min_length": 3}, 5) == {"min_tokens": 0}
    assert _steered({"truncate_prompt_tokens": 1}, own | {"max_length": 9}, 5)["max_tokens"] == 8


def test_an_answer_whose_length_nobody_says_has_as_many_tokens_as_in_transformers(adder, monkeypatch):
    monkeypatch.setattr("tuili.tasks.generation.ANSWER_LEN", 3)
    n_prompt = len(adder.tokenizer.encode("12+3="))
    for options, n in (
        ({}, 3),
        ({"max_new_tokens": 5}, 5),
        ({"min_new_tokens": 4}, 4),
        ({"max_length": n_prompt + 2}, 2),
        ({"generation_config": {"max_length": n_prompt + 2}}, 2),
        ({"generation_config": {"max_new_tokens": 4}, "max_time": 60}, 4),
        ({"min_length": n_prompt + 4}, 4),
        ({"max_time": 60.0, "stop_strings": "no such text"}, 3),
        ({"params": tuili.SamplingParams(max_tokens=6, ignore_eos=True)}, 6),
        ({"params": tuili.SamplingParams(ignore_eos=True)}, 3),
    ):
        more = {} if "params" in options else {"ignore_eos": True}
        pipe = tuili.pipeline("text-generation", adder.model)
        [answer] = pipe("12+3=", return_tensors=True, **more, **options)
        assert len(answer["generated_token_ids"]) == n_prompt + n, options


def test_only_a_source_is_answered_from_a_token_of_ones_own(adder):
    with pytest.raises(tuili.InvalidParameterError) as error:
        adder("1+  1=", decoder_start_token_id=3)
    assert error.value.param == "decoder_start_token_id"


def test_an_answer_goes_on_with_an_assistants_message(llama_path):
    """As in transformers: by default where the chat ends in one, up to the end of its text."""
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day "}]
    texts = {
        True: "<|user|>hello\n<|assistant|>good day ",
        False: "<|user|>hello\n<|assistant|>good day \n<|assistant|>",
    }
    with tuili.pipeline("text-generation", llama_path, do_sample=False, max_new_tokens=4) as pipe:
        for chosen, text in texts.items():
            options = {} if chosen else {"add_generation_prompt": True}
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
        with pytest.raises(tuili.InvalidParameterError):
            pipe(messages, prefix="a")
        twice = {"tokenizer_encode_kwargs": {"a": 1}, "chat_template_kwargs": {"a": 1}}
        with pytest.raises(tuili.InvalidParameterError, match="is given next to chat_template_kwargs"):
            pipe(messages, **twice)
        with pytest.raises(tuili.InvalidParameterError, match="role"):
            pipe([{"role": np.arange(2), "content": "hello"}])


def test_an_empty_text_goes_on_from_the_token_that_texts_begin_with(llama_path):
    """As transformers' generate does; the tokenizer of this model puts none in front."""
    with tuili.LLM(llama_path, num_threads=1) as llm:
        pipe, [begin] = tuili.pipeline("text-generation", llm), llm.tokenizer.encode("<|bos|>")
        wanted = llm.generate([begin], max_tokens=5, temperature=0).outputs[0]
        assert llm.tokenizer.encode("") == []
        assert pipe("", max_new_tokens=5) == [{"generated_text": wanted.text}]
        assert pipe(["", "a"], max_new_tokens=5)[0] == pipe("", max_length=6)
        [found] = pipe("", max_new_tokens=5, return_tensors=True)
        assert found == {"generated_token_ids": [begin, *wanted.token_ids]}
        with pytest.raises(tuili.InvalidParameterError) as error:
            llm.generate("")
        assert error.value.code == "empty_prompt"


def test_each_prompt_may_have_parameters_of_its_own(adder):
    greedy = [tuili.SamplingParams(max_tokens=n, temperature=0) for n in (1, 3)]
    outputs = adder.model.generate(["999+  1="] * 2, greedy)
    assert [one.outputs[0].text for one in outputs] == ["1", "100"]
    with pytest.raises(tuili.InvalidParameterError, match="2, for 1 prompts") as error:
        adder.model.generate(["999+  1="], greedy)
    assert error.value.param == "params"


def test_an_answer_begins_after_the_token_that_is_asked_for():
    with tuili.pipeline("text2text-generation", MODELS / "t5-numbers", max_new_tokens=4) as pipe:
        own = pipe.model.config["decoder_start_token_id"]
        (plain,), (same,), (other,) = (
            pipe("12", return_tensors=True, decoder_start_token_id=start) for start in (None, own, 7)
        )
        assert plain == same and plain["generated_token_ids"][0] == own
        ids = other["generated_token_ids"]
        assert ids[0] == 7 and ids[1:] != plain["generated_token_ids"][1:]
        logits = pipe.model.logits(pipe.model.tokenizer.encode("12"), decoder_token_ids=ids[:-1])
        assert logits.argmax(axis=1).tolist() == ids[1:]
        assert pipe("12 34 56", truncate_prompt_tokens=3)[0]["truncated"]
        assert "truncated" not in pipe("12 34 56", truncate_prompt_tokens=30)[0]
        long, cut = "12 " * pipe.model.config["max_source_len"], {"truncate_prompt_tokens": 20}
        own = pipe.model.generate(long, max_tokens=4, **cut).outputs[0].text
        assert pipe(long, **cut) == [{"generated_text": own, "truncated": True}]
        assert pipe.model.summarize([long, "12"], max_tokens=4, **cut)[0] == own
        each = [tuili.SamplingParams(max_tokens=4, **how) for how in (cut, {})]
        with tuili.pipeline("text2text-generation", pipe.model) as again:
            again.close = lambda: None
            assert again([long, "12"], params=each)[0] == {"generated_text": own, "truncated": True}
            with pytest.raises(tuili.PromptTooLongError):
                again([long, long], params=each)
        beams = pipe("12", decoder_start_token_id=7, num_beams=3, num_return_sequences=2)
        assert len(beams) == 2
        params = tuili.SamplingParams(decoder_start_token_id=7, max_tokens=4)
        with tuili.pipeline("text2text-generation", pipe.model) as again:
            again.close = lambda: None
            assert again("12", params=params, return_tensors=True) == [other]
        for wrong in (-1, [7], "7", 10**6):
            with pytest.raises(tuili.TuiliError, match="decoder_start_token_id"):
                pipe("12", decoder_start_token_id=wrong)


def test_texts_to_texts_of_an_iterable_come_as_transformers_gives_them():
    """A list for each, also where a list of inputs gives dicts."""
    numbers = ["12", "7", "345"]
    with tuili.pipeline("text2text-generation", MODELS / "t5-numbers", max_new_tokens=8) as pipe:
        assert list(pipe(iter(numbers), batch_size=2)) == [[one] for one in pipe(numbers)]


def spaced_tokenizer():
    """Of words: each takes the space before it, and the first of a text is written without."""
    words = ["<s>", "▁", "▁the", "▁sea", "▁is", "sea", "▁yes", "yes", "?"]
    words += [f"▁{i}" for i in range(N_VOCAB - len(words))]
    scores = [(word, -float(len(word) < 3)) for word in words]
    backend = tokenizers.Tokenizer(models.Unigram(scores, unk_id=8))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.add_special_tokens(["<s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return backend


def test_an_answer_keeps_the_space_before_it(tmp_path):
    """Its text follows the prompt's, as in transformers, which decodes both together."""
    write_hf_folder(tiny_llama(), tmp_path)
    backend = spaced_tokenizer()
    backend.save(str(tmp_path / "tokenizer.json"))
    settings = {"chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    sea = {"allowed_token_ids": [backend.token_to_id("▁sea")], "max_tokens": 2, "temperature": 0}
    with tuili.LLM(tmp_path) as llm:
        ids = llm.tokenizer.encode("the")
        whole = llm.generate("the", **sea)
        assert llm.tokenizer.decode(ids + whole.outputs[0].token_ids) == "the" + whole.outputs[0].text
        assert whole.outputs[0].text == " sea sea"
        assert "".join(chunk.text for chunk in llm.stream("the", **sea)) == " sea sea"
        assert llm.generate("the", num_beams=2, **sea).outputs[0].text == " sea sea"
        stopped = llm.generate("the", stop=" sea", **sea).outputs[0]
        assert (stopped.text, stopped.finish_reason, len(stopped.token_ids)) == ("", "stop", 1)
        assert llm.generate("the", stop="?", **sea).outputs[0].text == " sea sea"
        assert llm.generate([0], **sea).outputs[0].text == "sea sea", "no text stands before it"
        assert llm.generate([0], **sea, skip_special_tokens=False).outputs[0].text == " sea sea"
        formed = llm.generate("the", choice=["yes"], max_tokens=3).outputs[0]
        assert formed.text == "yes", "a form has no space before it"
        pipe = tuili.pipeline("text-generation", llm)
        assert pipe("the", **sea)[0]["generated_text"] == "the sea sea"
        chat = [{"role": "user", "content": "is"}, {"role": "assistant", "content": " the"}]
        assert pipe(chat, **sea)[0]["generated_text"][-1]["content"] == " the sea sea"
        assert llm.chat(chat[:1], **sea).outputs[0].text == " sea sea"
        with running(llm) as server:
            fields = {"prompt": "the", "max_tokens": 2, "allowed_token_ids": sea["allowed_token_ids"]}
            answer = server.ask("/v1/completions", fields | {"echo": True, "logprobs": 1}).json()
            (choice,) = answer["choices"]
        assert choice["text"] == "the sea sea" and choice["logprobs"]["text_offset"] == [0, 0, 3, 7]


def test_numbers_are_no_texts_to_go_on_from(llama_path):
    with tuili.pipeline("text-generation", llama_path) as pipe:
        for wrong in ([3], ["a", 3], [[1], None]):
            with pytest.raises(tuili.InvalidParameterError) as caught:
                pipe(wrong, max_new_tokens=1)
            assert caught.value.param == "text_inputs"


def test_an_iterables_messages_are_no_chat(llama_path):
    """Each of what it gives is one input, and a message is none."""
    chat = [{"role": "user", "content": "a"}]
    with tuili.pipeline("text-generation", llama_path) as pipe:
        assert list(pipe(iter([chat, "b"]), max_new_tokens=1)) == pipe([chat, "b"], max_new_tokens=1)
        with pytest.raises(tuili.InvalidParameterError, match="texts or chats"):
            list(pipe(iter(chat), max_new_tokens=1))
