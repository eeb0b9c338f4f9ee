"""SamplingParams: every bad value is refused by name, every good one is kept. Rows REQ-01 … REQ-09, REQ-14,
TK-14.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import pickle

import numpy as np
import pytest

import tuili
from tuili.errors import InvalidParameterError, TokenIdError, TuiliError
from tuili.generation.core_params import check_vocabulary, derived_seed
from tuili.generation.params import (
    ALIASES,
    NAMES,
    SamplingParams,
    canonical_names,
    defaults_from,
    resolve,
)

BAD_INTEGERS = [-1, 2**63, 2**64, 1.5, "10", True, math.nan, math.inf, [1], np.bool_(True), np.float32(1)]
BAD_FLOATS = [math.nan, math.inf, -math.inf, "1", True, [1.0], 10**400, np.float32("nan")]

BAD = {
    "max_tokens": [*BAD_INTEGERS, 0, 2**31],
    "min_tokens": [*BAD_INTEGERS, 2**31],
    "temperature": [*BAD_FLOATS, -0.1, 1e31],
    "top_k": [*BAD_INTEGERS[1:], -2, 2**31],
    "top_p": [*BAD_FLOATS, 0.0, -0.5, 1.0001],
    "min_p": [*BAD_FLOATS, -1e-9, 1.1],
    "typical_p": [*BAD_FLOATS, 0.0, 1.1],
    "repetition_penalty": [*BAD_FLOATS, 0.0, -1.0, 1e7],
    "presence_penalty": [*BAD_FLOATS, -101, 101],
    "frequency_penalty": [*BAD_FLOATS, -101, 101],
    "encoder_repetition_penalty": [*BAD_FLOATS, 0.0, 1e-7, 1e7],
    "no_repeat_ngram_size": [*BAD_INTEGERS, 1025],
    "encoder_no_repeat_ngram_size": [*BAD_INTEGERS, 1025],
    "stop": ["", ["a", ""], [1], 3, ["x"] * 257, "x" * 4097, "é" * 2049, {"a": 1}, b"stop"],
    "stop_token_ids": [3, [-1], [1.0], [True], ["1"], list(range(1025)), [2**31]],
    "include_stop_str_in_output": [0, 1, "true", None],
    "ignore_eos": [0, "no", None],
    "skip_special_tokens": [1, None],
    "n": [*BAD_INTEGERS, 0, 129, 100_000],
    "seed": [-1, *BAD_INTEGERS[2:]],
    "logprobs": [*BAD_INTEGERS, 21, 10**9],
    "prompt_logprobs": [*BAD_INTEGERS, 21, 10**9],
    "logit_bias": [
        [(1, 2.0)],
        {"abc": 1.0},
        {-1: 1.0},
        {True: 1.0},
        {1: math.nan},
        {1: math.inf},
        {1: 1e300},
        {1: -100.5},
        {1: "x"},
        dict.fromkeys(range(1025), 1.0),
    ],
    "sequence_bias": [
        5,
        [5],
        [[5, 1.0]],
        {5: 1.0},
        {(): 1.0},
        {(-1,): 1.0},
        {("a",): 1.0},
        {(1,): "a"},
        {(1,): True},
        {(1,): math.inf},
        {(1,): math.nan},
        {(1,): 10**400},
        {(1,): 1e31},
        [[[1] * 65, 1.0]],
        [[[1], 1.0]] * 1025,
    ],
    "allowed_token_ids": [[], [-1], list(range(1025)), 5],
    "bad_words": [[""], "", ["x"] * 1025, ["x" * 257], [3]],
    "bad_words_ids": [5, [5], [[]], [[-1]], [["a"]], [[True]], [[1] * 65], [[1]] * 1025],
    "suppress_tokens": [5, [-1], [1.0], [True], list(range(1025))],
    "begin_suppress_tokens": ["1", [None]],
    "exponential_decay_length_penalty": [1.1, (1,), (1.5, 1.1), (-1, 1.1), (1, 0.0), (1, 1e7), (1, math.nan)],
    "renormalize_logits": [1, "yes"],
    "deadline_s": [*BAD_FLOATS, -1, 1e300],
    "priority": [*BAD_INTEGERS[1:], -101, 101],
    "cache_salt": ["", 3, "x" * 257, b"salt"],
    "on_nan": ["ignore", True, 1],
    "do_sample": [1, "yes", 0.0],
    "num_beams": [0, 33, -1, 1.5, "2", True],
    "max_new_tokens": [*BAD_INTEGERS, 0],
    "min_new_tokens": BAD_INTEGERS,
    "num_return_sequences": [0, 129, True],
    "json_schema": [1, [], b"{}"],
    "regex": [1, b"a", ["a"]],
    "choice": ["a", [], [1], [""], ["a", "a"]],
    "grammar": [1, ["a"]],
    "logits_processors": [print, [1], [lambda: 0], [lambda a: 0], [lambda a, b, c, d: 0], [max] * 17],
    "prompt_lookup_num_tokens": [-1, 65, 1.5, "3", True],
    "length_penalty": [11, -10.5, float("nan"), "1", True],
    "early_stopping": ["always", 1],
    "decoder_start_token_id": [*BAD_INTEGERS, 2**31],
    "truncate_prompt_tokens": [*BAD_INTEGERS[1:], 0, -2, 2**31],
}


def cases(table):
    return pytest.mark.parametrize(
        "name, value", [(n, v) for n, vs in table.items() for v in vs], ids=lambda x: repr(x)[:24]
    )


@cases(BAD)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(InvalidParameterError) as caught:
        SamplingParams(**{name: value})
    canonical = ALIASES.get(name, name)
    assert canonical in caught.value.param and canonical in str(caught.value)
    assert len(str(caught.value)) < 300, "a message must not repeat what it was given at length"


@pytest.mark.parametrize("name", NAMES)
def test_a_number_of_more_digits_than_python_writes_is_refused(name):
    huge = 10**5000
    for value in (huge, -huge, [huge], {huge: 1.0}, {1: huge}):
        with pytest.raises(TuiliError, match=name):
            SamplingParams(**{name: value})


GOOD = {
    "max_tokens": [1, 2**31 - 1, np.int64(7)],
    "temperature": [0, 0.0, 1e-45, 1e-4, 2, 1e30, np.float32(0.5)],
    "top_k": [0, -1, 1, 10**6],
    "top_p": [1e-9, 1, 1.0],
    "min_p": [0, 1],
    "typical_p": [1e-9, 1],
    "seed": [0, 2**64 - 1, np.uint64(2**63)],
    "n": [1, 128],
    "logprobs": [0, 20],
    "stop": ["x", ["a", "b"], ("a",), [], "\ud83d", "停"],
    "stop_token_ids": [[], (1, 2), {3}, np.array([4])],
    "bad_words_ids": [[], [[1], (2, 3)], [np.array([4, 5])], np.array([[4, 5], [6, 7]])],
    "sequence_bias": [[], {}, {(1,): -1e30, (2, 3): -math.inf}, [[[1, 2], np.float32(1)], ((3,), 10**9)]],
    "suppress_tokens": [[], {3}, np.array([4])],
    "exponential_decay_length_penalty": [(0, 1), [np.int64(5), np.float32(1.5)]],
    "logit_bias": [{}, {0: -100, 5: 100.0}, {np.int32(3): np.float32(1)}],
    "deadline_s": [0, 0.5, 3600],
    "prompt_lookup_num_tokens": [None, 0, 10, np.int64(64)],
    "num_beams": [1],
    "do_sample": [True, False],
    "priority": [0, -100, 100, np.int8(3)],
    "logits_processors": [None, [], [lambda ids, logits: None], (lambda prompt, ids, logits: logits,)],
    "json_schema": [{"type": "object"}, '{"type": "object"}', {}, True, "true"],
    "regex": ["a*", ""],
    "choice": [["a", "停"], ("a",)],
    "grammar": ['start: "a"'],
    "decoder_start_token_id": [None, 0, np.int64(7)],
    "truncate_prompt_tokens": [None, -1, 1, 2**31 - 1],
}


@cases(GOOD)
def test_a_good_value_is_accepted(name, value):
    SamplingParams(**{name: value})


@pytest.mark.parametrize(
    "given, meant",
    [
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("max_token", "max_tokens"),
        ("topp", "top_p"),
        ("max_length", "max_tokens"),
        ("guided_json", "json_schema"),
        ("max_lenght", "max_tokens"),
        ("max_completion_tokens", "max_tokens"),
        ("best_of", "n"),
        ("stop_sequences", "stop"),
        ("use_beam_search", "num_beams"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(given, meant):
    with pytest.raises(InvalidParameterError, match=rf"did you mean {meant}\?") as caught:
        SamplingParams(**{given: 1})
    assert caught.value.code == "unknown_parameter"


@pytest.mark.parametrize("given", ["echo", "pad_token_id", "format", "user", "prompt", "x" * 100])
def test_a_name_that_none_is_near_comes_without_a_guess(given):
    with pytest.raises(InvalidParameterError, match="unknown parameter") as caught:
        SamplingParams(**{given: 1})
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [("ends\n", r"not ends\\n$"), ("a" * 10**6, "not a{64}…$"), (["secret"], "not a value of type list$")],
)
def test_a_word_that_is_none_of_a_few_is_shown_and_nothing_else_is(given, said):
    with pytest.raises(InvalidParameterError, match=said):
        SamplingParams(on_nan=given)


def test_none_is_an_empty_list():
    params = SamplingParams(stop=None, stop_token_ids=None, bad_words=None, logit_bias=None)
    assert params == SamplingParams()


@pytest.mark.parametrize(
    "name", ["on_nan", "priority", "json_schema", "regex", "choice", "grammar", "logits_processors"]
)
def test_an_array_is_a_bad_value_like_any_other(name):
    with pytest.raises(InvalidParameterError) as caught:
        SamplingParams(**{name: np.array([1, 2])})
    assert caught.value.param == name


def test_an_unknown_name_cannot_break_the_log():
    with pytest.raises(InvalidParameterError) as caught:
        SamplingParams(**{"x\r\n\x1b[31m" + "y" * 1000: 1})
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_aliases_mean_the_same():
    theirs = SamplingParams(max_new_tokens=5, min_new_tokens=2, num_return_sequences=2, do_sample=False)
    assert theirs == SamplingParams(max_tokens=5, min_tokens=2, n=2, temperature=0.0)


def test_two_names_of_one_thing_are_both_told():
    for ours, theirs in (("max_tokens", "max_new_tokens"), ("n", "num_return_sequences")):
        for first, second in ((ours, theirs), (theirs, ours)):
            with pytest.raises(InvalidParameterError, match=f"^{second} is given twice, also as {first}$"):
                SamplingParams(**{first: 2, second: 3})


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 3, "max_new_tokens": 3},
        {"do_sample": True, "temperature": 0},
        {"do_sample": False, "temperature": 0.7},
        {"do_sample": True, "temperature": np.array([1, 2])},
        {"min_tokens": 5, "max_tokens": 4},
    ],
)
def test_contradictions_are_refused(options):
    with pytest.raises(InvalidParameterError):
        SamplingParams(**options)


def test_parameters_are_immutable_and_detached_from_what_made_them():
    stop, bias = ["a"], {1: 2.0}
    params = SamplingParams(stop=stop, logit_bias=bias)
    stop.append("b")
    bias[2] = 1.0
    assert params.stop == ("a",) and params.logit_bias == {1: 2.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.temperature = 1.0


def test_all_names_of_the_interface_exist():
    promised = [
        "max_tokens",
        "min_tokens",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty",
        "stop",
        "stop_token_ids",
        "include_stop_str_in_output",
        "ignore_eos",
        "n",
        "seed",
        "logprobs",
        "prompt_logprobs",
        "logit_bias",
        "sequence_bias",
        "allowed_token_ids",
        "bad_words",
        "bad_words_ids",
        "suppress_tokens",
        "begin_suppress_tokens",
        "skip_special_tokens",
        "deadline_s",
        "priority",
        "cache_salt",
        "prompt_lookup_num_tokens",
        "num_beams",
        "length_penalty",
        "early_stopping",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "exponential_decay_length_penalty",
        "renormalize_logits",
        "decoder_start_token_id",
        "truncate_prompt_tokens",
        "json_schema",
        "regex",
        "choice",
        "grammar",
        "logits_processors",
        "on_nan",
    ]
    assert sorted(promised) == sorted(NAMES)


# --- defaults


@pytest.mark.parametrize(
    "options, defaults, temperature",
    [
        ({}, {}, 0.0),
        ({"top_p": 0.9}, {}, 1.0),
        ({"seed": 1}, {}, 1.0),
        ({"n": 2}, {}, 1.0),
        ({"top_p": 0.9, "temperature": 0}, {}, 0),
        ({}, {"temperature": 0.6}, 0.6),
        ({"temperature": 0.2}, {"temperature": 0.6}, 0.2),
        ({"do_sample": True}, {}, 1.0),
    ],
)
def test_the_temperature_follows_the_documented_order(options, defaults, temperature):
    assert resolve(SamplingParams(**options), defaults).temperature == temperature


def test_defaults_of_a_model_count_as_in_transformers():
    assert defaults_from({"temperature": 0.6, "top_p": 0.9}) == {}, "without do_sample: greedy"
    assert defaults_from({"do_sample": True, "temperature": 0.6, "top_k": 64, "max_new_tokens": 9}) == {
        "temperature": 0.6,
        "top_k": 64,
        "max_tokens": 9,
    }
    assert defaults_from({"do_sample": True, "eos_token_id": 1}) == {"temperature": 1.0}
    with pytest.raises(InvalidParameterError, match="top_p"):
        defaults_from({"do_sample": True, "top_p": 7})


def test_tokens_that_the_model_forces_leave_a_form_alone():
    """Nobody asked for both, and None cannot say "not the model's"."""
    from_model = defaults_from({"forced_bos_token_id": 7, "forced_eos_token_id": [2]})
    assert from_model == {"forced_bos_token_id": 7, "forced_eos_token_id": 2}
    assert resolve(SamplingParams(), from_model).forced_eos_token_id == 2
    shaped = resolve(SamplingParams(choice=["a"]), from_model)
    assert (shaped.forced_bos_token_id, shaped.forced_eos_token_id) == (None, None)
    with pytest.raises(InvalidParameterError, match="forced_eos_token_id"):
        resolve(SamplingParams(choice=["a"], forced_eos_token_id=2), from_model)


def test_a_text_may_be_forced_to_end_in_one_of_several_tokens():
    from_model = defaults_from({"forced_eos_token_id": [2, 3]})
    assert from_model == {"forced_eos_token_id": (2, 3)}
    assert SamplingParams(forced_eos_token_id=[7]).forced_eos_token_id == 7
    resolved = resolve(SamplingParams(forced_eos_token_id=[9, 5, 9]), from_model)
    assert resolved.forced_eos_token_id == (9, 5)
    check_vocabulary(resolved, 10)
    with pytest.raises(TokenIdError, match="forced_eos_token_id: token id 9"):
        check_vocabulary(resolved, 9)
    with pytest.raises(InvalidParameterError, match="forced_bos_token_id"):
        defaults_from({"forced_bos_token_id": [2, 3]})
    for wrong in ([], [-1], [1.5], "2", [2**31], {"2": 1}):
        with pytest.raises(InvalidParameterError, match="forced_eos_token_id"):
            SamplingParams(forced_eos_token_id=wrong)


def test_a_models_own_length_makes_room_for_the_least_that_is_asked_for():
    for least, most in ((None, 7), (0, 7), (3, 7), (9, 9)):
        assert (
            resolve(SamplingParams(min_tokens=least), {"max_tokens": 7, "min_tokens": 2}).max_tokens == most
        )


def test_resolving_leaves_no_default_open():
    resolved = resolve(SamplingParams(), {"max_tokens": 7, "repetition_penalty": 1.1})
    assert resolved.max_tokens == 7 and resolved.repetition_penalty == 1.1
    assert (resolved.top_k, resolved.top_p, resolved.min_p, resolved.typical_p) == (0, 1.0, 0.0, 1.0)


def test_seeds_of_siblings_are_fixed_and_differ():
    seeds = [derived_seed(5, i) for i in range(128)]
    assert seeds[0] == 5 and len(set(seeds)) == 128 and all(0 <= seed < 2**64 for seed in seeds)
    assert derived_seed(5, 1) == 6170373840279617265, "the same in every version"


def test_canonical_names_keeps_values_untouched():
    given = {"max_new_tokens": 3, "top_p": 0.5, "do_sample": True}
    assert canonical_names(given) == {"max_tokens": 3, "top_p": 0.5, "temperature": 1.0}


def test_a_representation_has_what_differs_from_the_defaults():
    assert repr(SamplingParams()) == "SamplingParams()"
    assert repr(SamplingParams(stop="a", n=2)) == "SamplingParams(stop=('a',), n=2)"


def test_vllms_name_of_the_parameters_is_taken(llm):
    params = SamplingParams(max_tokens=2)
    wanted = llm.generate("the", params).outputs[0]
    assert llm.generate("the", sampling_params=params).outputs[0] == wanted
    assert llm.generate(["the"], sampling_params=[params])[0].outputs[0] == wanted
    assert llm.submit("the", sampling_params=params).result().outputs[0] == wanted
    with pytest.raises(InvalidParameterError, match="twice"):
        llm.generate("the", params, sampling_params=params)


@pytest.mark.parametrize(
    "given, meant", [("n_ctx", "max_model_len"), ("num_thread", "num_threads"), ("model_path", "model")]
)
def test_an_unknown_option_of_a_model_is_refused_with_the_nearest_one(given, meant):
    with pytest.raises(InvalidParameterError, match=f"unknown parameter {given}; did you mean {meant}"):
        tuili.LLM("no such model", **{given: 1})


def test_constructors_show_the_names_that_they_take():
    shown = list(inspect.signature(tuili.LLM).parameters)
    assert (shown[:2], shown[-1]) == (["model", "device"], "progress")
    assert tuple(inspect.signature(SamplingParams).parameters) == NAMES


def test_constructors_can_be_extended():
    class Model(tuili.LLM):
        def __init__(self, path, extra, **options):
            super().__init__(path, **options)

    class Params(SamplingParams):
        pass

    with pytest.raises(tuili.ModelIOError):
        Model("no such model", extra=1)
    with pytest.raises(InvalidParameterError, match="did you mean num_threads"):
        Model("no such model", extra=1, num_thread=1)
    assert Params(max_new_tokens=2).max_tokens == 2
    params = SamplingParams(max_new_tokens=2, do_sample=True)
    assert pickle.loads(pickle.dumps(params)) == dataclasses.replace(params) == params
    with pytest.raises(InvalidParameterError, match="unknown parameter self"):
        SamplingParams(self=1)
