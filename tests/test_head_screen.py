"""Greedy tokens of float heads, chosen without all logits: the same as from all of them.

Catalogue row SMP-01.
"""

from __future__ import annotations

import ctypes
import dataclasses
import platform

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tuili
from architecture_files import write
from architecture_table import CASES
from reference_formats import encode_float
from tiny_core import build
from tiny_files import write_hf_folder
from tiny_models import Weight, tiny_llama
from tuili import _core
from tuili._core import ops
from tuili.benchmark import machine

N_VOCAB = 4100  # no multiple of a panel, and large enough for a screen
FORMATS = ["f32", "f16", "bf16"]


def head_of(rows: np.ndarray, format: str) -> _core.PackedWeight:
    return _core.PackedWeight(format, *rows.shape, encode_float(format, rows).reshape(-1))


def check(
    rows: np.ndarray, x: np.ndarray, format: str = "f32", bias=None, factor: float = 1.0, **where
) -> bool:
    """Whether the screen chose; what it chose must be the first maximum of all logits."""
    w = head_of(rows, format)
    logits = ops.gemm(x, w, bias, **where) * np.float32(factor)
    tokens = ops.screened_argmax(x, w, bias, factor=factor, **where)
    if tokens is not None:
        assert tokens == logits.argmax(1).tolist()
    return tokens is not None


def random_rows(seed: int, k: int = 64, scale: float = 0.1) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (N_VOCAB, k)).astype(np.float32), rng


@pytest.mark.parametrize("format", FORMATS)
def test_the_token_is_that_of_all_logits(isa, format):
    rows, rng = random_rows(1)
    x = rng.normal(0, 1, (9, 64)).astype(np.float32)
    x[:, 5] *= 30  # an outlier
    bias = rng.normal(0, 0.1, N_VOCAB).astype(np.float32)
    assert check(rows, x, format, bias, isa=isa)
    assert check(rows, x, format, factor=0.3, isa=isa, num_threads=2)


@given(st.integers(0, 2**32 - 1), st.sampled_from(FORMATS), st.sampled_from([32, 64, 96, 544]))
@settings(max_examples=25, deadline=None)
def test_near_ties_are_decided_by_the_head_itself(seed, format, k):
    """Rows that differ in their last bits, far from each other and in one panel, beside the likeliest."""
    rows, rng = random_rows(seed, k, scale=10.0 ** (seed % 7 - 5))
    x = rng.normal(0, 1, (4, k)).astype(np.float32) * rng.choice([1, 50], (1, k), p=[0.9, 0.1]).astype(
        np.float32
    )
    best = (rows @ x[0]).argmax()
    for to in rng.choice(N_VOCAB, 40, replace=False):
        rows[to] = rows[best] * rng.choice(np.float32([1, 1, 1 + 2**-23, 1 - 2**-24, 1 + 2**-11]), k)
    check(rows, x, format, factor=float(rng.choice([1.0, 0.0625, 1 / 3])))


def with_rows(rows: dict[int, list[float]]) -> np.ndarray:
    """Zeros, but for the first elements of some rows of 32."""
    all_rows = np.zeros((N_VOCAB, 32), np.float32)
    for i, row in rows.items():
        all_rows[i, : len(row)] = row
    return all_rows


def chosen(rows: dict[int, list[float]], x: list[float], bias: np.ndarray | None = None) -> int:
    x = np.float32([x + [0] * (32 - len(x))])
    (token,) = ops.screened_argmax(x, head_of(with_rows(rows), "f32"), bias)
    assert token == ops.gemm(x, head_of(with_rows(rows), "f32"), bias).argmax()
    return token


def test_what_the_codes_of_the_input_lack_is_bounded():
    """All but the first value have code 0; the row that they make the likeliest has product 0 in the copy."""
    assert chosen({100: [0.118], 3000: [0] + [1] * 31}, [127] + [0.49] * 31) == 3000


def test_what_the_copy_of_a_row_lacks_is_bounded():
    """The row's codes are 0 but for the first, which the input does not see."""
    assert chosen({100: [0] + [0.47] * 31, 3000: [127] + [0.49] * 31}, [0] + [1] * 31) == 3000


def test_what_a_bias_rounds_is_bounded():
    """Both logits are 2^20 + 1/8, but in the copy the first is 2^20."""
    bias = np.zeros(N_VOCAB, np.float32)
    bias[[100, 3000]] = 2**20
    assert chosen({100: [0.0626, 0.98], 3000: [0.07]}, [1], bias) == 100


def test_squares_that_a_float_does_not_hold_are_bounded():
    """The row's codes are 0, and in floats so are its squares; a large input makes it the likeliest."""
    bias = np.full(N_VOCAB, -np.inf, np.float32)
    bias[[100, 3000]] = 1, 1 - 1e-5
    assert chosen({3000: [1e-25] * 32}, [1e20] * 32, bias) == 3000


@pytest.mark.parametrize(
    ("x", "bias", "factor"),
    [(1e-16, 0, 1e-30), (1e20, 0, 1e20), (1, 1e35, 1e6), (0, 2e-40, 1e-6)],
    ids=["underflow", "overflow", "overflow of biases", "underflow of biases"],
)
def test_logits_that_a_factor_makes_equal_are_left_to_all_logits(x, bias, factor):
    """The first of those is the token, not the one that was largest."""
    rows = with_rows({50: [0.25], 100: [1]} if x else {})
    biases = np.zeros(N_VOCAB, np.float32)
    biases[[50, 100]] = bias / 2, bias
    with np.errstate(over="ignore"):
        assert not check(rows, np.float32([[x] + [0] * 31]), bias=biases, factor=factor)


@pytest.mark.parametrize("extreme", [0.0, 1e-41, 1e-8, 6e4, 7e6])
def test_weights_of_any_size_are_screened_soundly(extreme):
    rows, rng = random_rows(2)
    rows[::3] *= np.float32(extreme * 10)
    rows[1::3, ::2] = 0
    x = rng.normal(0, 1, (5, 64)).astype(np.float32)
    for of in (x, x * np.float32(1e-30), x * np.float32(1e20)):
        check(rows, of)


def test_the_first_of_equal_rows_is_chosen():
    rows, rng = random_rows(3)
    x = np.abs(rng.normal(0, 1, (1, 64))).astype(np.float32)
    rows[[70, 1800, 4099]] = 0.5
    assert ops.screened_argmax(x, head_of(rows, "f32")) == [70]


def test_where_every_row_is_near_all_logits_are_looked_at():
    rows = np.ones((N_VOCAB, 64), np.float32)
    assert ops.screened_argmax(np.ones((1, 64), np.float32), head_of(rows, "f32")) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("where", ["weight", "bias", "x"])
def test_what_may_not_be_finite_is_left_to_all_logits(value, where):
    rows, rng = random_rows(4)
    x, bias = rng.normal(0, 1, (2, 64)).astype(np.float32), np.zeros(N_VOCAB, np.float32)
    {"weight": rows, "bias": bias[None], "x": x}[where][0, 0] = value
    if where == "bias" and value in (-np.inf, 1e30):
        assert check(rows, x, bias=bias) or value == 1e30
    else:
        assert ops.screened_argmax(x, head_of(rows, "f32"), bias) is None


# --- in an engine


def with_large_head(model, seed: int = 7):
    """The tiny model with a vocabulary that has a screen."""
    rng = np.random.default_rng(seed)
    model.spec["n_vocab"] = model.config["vocab_size"] = N_VOCAB
    for name in ("token_embedding", "head"):
        if name in model.weights:
            k = model.weights[name].shape[1]
            rows = encode_float("f32", rng.normal(0, 0.3, (N_VOCAB, k)).astype(np.float32))
            model.weights[name] = Weight("f32", (N_VOCAB, k), rows)
    return model


@pytest.fixture(scope="module", params=["untied", "tied", "BertLMHeadModel"])
def llm(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m"
    if request.param.startswith("Bert"):  # whose head has a map and a norm before its rows
        case = next(case for case in CASES if case.architecture == request.param)
        write(dataclasses.replace(case, config=case.config | {"vocab_size": N_VOCAB}), path)
    else:
        write_hf_folder(with_large_head(tiny_llama(tied=request.param == "tied")), path)
    with tuili.LLM(path, num_threads=2, kv_cache_bytes=1 << 20, max_model_len=64) as llm:
        yield llm


PROMPTS = [[3], [5, 9, 1000, 4099], [8, 8, 8, 8], list(range(40, 60))]


def tokens_of(llm, prompts, **params) -> list[list[int]]:
    outputs = llm.generate(prompts, tuili.SamplingParams(max_tokens=20, ignore_eos=True, **params))
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"top_k": 1},
        {"temperature": 0, "min_tokens": 5},
        {"temperature": 0, "bad_words_ids": [[7], [1, 2]]},
        {"temperature": 0, "no_repeat_ngram_size": 2},
    ],
)
def test_greedy_answers_are_those_of_all_logits(llm, params):
    before = llm._runner.n_screened()
    screened = tokens_of(llm, PROMPTS, **params)
    assert llm._runner.n_screened() > before
    middle = llm._runner.n_screened()
    assert tokens_of(llm, PROMPTS, logprobs=0, **params) == screened
    assert llm._runner.n_screened() == middle
    assert [tokens_of(llm, [prompt], **params)[0] for prompt in PROMPTS] == screened


def stepped(mask=None, **options) -> tuple[_core.Sequence, int]:
    """A sequence that has drawn its first token, and how many tokens the screen chose."""
    model = build(with_large_head(tiny_llama()))
    pool, cache = _core.BlockPool(1, 16), _core.KvCache(model.spec, 1, 16)
    runner = _core.Runner(model, cache, max_batch_tokens=16, num_threads=1)
    sequence = _core.Sequence(np.array([3], np.int32), _core.SamplingParams(temperature=0.0), **options)
    assert pool.grow(sequence, 1)
    if mask is not None:
        sequence.allow(mask)
    runner.step([sequence], [1], [True])
    return sequence, runner.n_screened()


def test_logits_that_are_collected_are_all_made():
    sequence, n_screened = stepped(collect_logits=True)
    assert n_screened == 0 and sequence.logits().argmax(axis=1).tolist() == sequence.token_ids(1)
    assert stepped()[0].token_ids(1) == sequence.token_ids(1) and stepped()[1] == 1


def test_a_likeliest_token_outside_the_mask_is_not_chosen():
    (likeliest,) = stepped()[0].token_ids(1)
    mask = np.full(-(-N_VOCAB // 32), 2**32 - 1, np.uint32)
    assert stepped(mask)[0].token_ids(1) == [likeliest]
    mask[likeliest // 32] ^= np.uint32(1 << likeliest % 32)
    sequence, n_screened = stepped(mask)
    assert sequence.token_ids(1) != [likeliest] and n_screened == 0


def test_a_forbidden_likeliest_token_is_not_chosen(llm):
    plain = tokens_of(llm, [[3]], temperature=0)[0]
    banned = tokens_of(llm, [[3]], temperature=0, bad_words_ids=[[plain[0]]])[0]
    assert banned[0] != plain[0]
    assert tokens_of(llm, [[3]], temperature=0, bad_words_ids=[[plain[0]]], logprobs=0)[0] == banned


def test_other_choices_look_at_all_logits(llm):
    before = llm._runner.n_screened()
    tokens_of(llm, PROMPTS, temperature=1.0, seed=3)
    tokens_of(llm, PROMPTS, temperature=0, repetition_penalty=1.3)
    assert llm._runner.n_screened() == before


def test_the_benchmark_counts_the_screen_and_not_the_head(llm):
    """All weights are f32 here, so that averages are exact."""
    model = llm.loaded.model
    spec = model.spec
    table = 4 * N_VOCAB * spec.d_model  # tied, it is embedding and head
    n_tables = 1 if spec.tied_head else 2
    read = machine.decode_bytes(model, 0, "float32")
    assert 0 < model.screen_bytes < table / 2
    assert read == pytest.approx(4 * model.n_parameters - n_tables * table + model.screen_bytes, rel=0.01)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the mode's number is this machine's")
def test_a_model_is_screened_alike_in_any_rounding_mode(tmp_path):
    """Rounded upward, 190.5 · (1 / 1.5) is more than 127: a code that a byte does not hold."""
    model = with_large_head(tiny_llama(tied=False))
    k = model.weights["head"].shape[1]
    rows = np.random.default_rng(1).uniform(-0.3, 0.3, (N_VOCAB, k)).astype(np.float32)
    rows[:, ::32] = np.random.default_rng(2).choice(np.float32([190.5, -190.5]) / 512, (N_VOCAB, k // 32))
    model.weights["head"] = Weight("f32", (N_VOCAB, k), encode_float("f32", rows))
    path, libm = write_hf_folder(model, tmp_path / "m"), ctypes.CDLL("libm.so.6")
    try:
        assert libm.fesetround(0x800) == 0  # FE_UPWARD
        llm = tuili.LLM(path, num_threads=1, kv_cache_bytes=1 << 20, max_model_len=64)
    finally:
        libm.fesetround(0)
    with llm:
        screened = tokens_of(llm, PROMPTS, temperature=0)
        assert screened == tokens_of(llm, PROMPTS, temperature=0, logprobs=0)
