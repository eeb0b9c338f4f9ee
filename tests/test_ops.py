"""Every op against the float64 reference: op × instruction set × format × odd shapes, with derived bounds.

And the promise of equal bits op by op: equal bits from every table, for every row count, on any number of
threads; of rows and elements also on the device, in a build that has one. Where the arithmetic is spelled
out to the last rounding (both GEMMs, the quantization of activations), the bits equal the specification's.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

import reference
from reference_formats import (
    BLOCKS,
    QUANTIZED_FORMATS,
    dequantize,
    encode_float,
    float_gemm,
    integer_gemm,
    outlier_quads,
    quantize_activations,
    quantize_kv,
    random_rows,
)
from shapes import ATTENTION, FLOAT_GEMM, INT8_GEMM, ROW_COUNTS, ROW_SIZES
from tuili._core import PackedWeight, ops

U = 2.0**-24  # unit roundoff of float32


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def assert_within(got: np.ndarray, want: np.ndarray, bound: np.ndarray | float) -> None:
    """|got - want| ≤ bound everywhere; says how far and where."""
    error = abs(np.asarray(got, np.float64) - want)
    bound = np.broadcast_to(bound, error.shape)
    worst = np.unravel_index(np.argmax(error - bound), error.shape)
    assert not np.isnan(error).any(), f"NaN at {tuple(np.argwhere(np.isnan(error))[0])}"
    assert (error <= bound).all(), f"at {worst}: error {error[worst]:.2e}, allowed {bound[worst]:.2e}"


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype
    differ = np.argwhere(got.view(np.uint32) != want.view(np.uint32))
    assert not len(differ), f"{len(differ)} of {got.size} differ, first at {tuple(differ[0])}"


# ---- linear maps


def packed(format: str, rows: np.ndarray) -> PackedWeight:
    """The stored rows, packed."""
    block, size = BLOCKS[format]
    return PackedWeight(format, len(rows), rows.shape[1] // size * block, rows.reshape(-1))


@pytest.mark.parametrize("format, n, k", FLOAT_GEMM)
def test_float_gemm_is_the_specified_chain(isa, format, n, k):
    rows = random_rows(format, np.random.default_rng(n * k), n, k)
    w = dequantize(format, rows)
    x, bias = normal(k, 17, k), normal(n, n)
    want = float_gemm(x, w.astype(np.float32), bias)
    bound = (k + 1) * U * (abs(x).astype(np.float64) @ abs(w).T + abs(bias))
    assert_within(want, reference.gemm(x, w, bias), bound)
    weight = packed(format, rows)
    for m in ROW_COUNTS:
        assert_same_bits(ops.gemm(x[:m], weight, bias, compute="float32", isa=isa), want[:m])


@pytest.mark.parametrize("compute", ["auto", "int8"])
@pytest.mark.parametrize("format, n, k", INT8_GEMM)
def test_integer_gemm_is_the_specified_chain(isa, format, n, k, compute):
    rows = random_rows(format, np.random.default_rng(n * k), n, k)
    x, bias = normal(k, 17, k), normal(n, n)
    x[::3, k // 2 : k // 2 + 40 : 7] *= 30  # outliers, in some rows
    want = integer_gemm(x, format, rows, bias, keep_outliers=compute == "auto")
    weight = packed(format, rows)
    for m in ROW_COUNTS:
        assert_same_bits(ops.gemm(x[:m], weight, bias, compute=compute, isa=isa), want[:m])


def many_rows(format: str, k: int) -> tuple[np.ndarray, PackedWeight, np.ndarray]:
    n, m = 200, 37  # panels: 8 of a piece, then 5; rows: tiles, and a rest
    x = normal(k, m, k)
    x[::3, k // 2 : k // 2 + 40 : 7] *= 30
    return x, packed(format, random_rows(format, np.random.default_rng(k), n, k)), normal(n, n)


@functools.cache
def by_few_rows(format: str, k: int) -> np.ndarray:
    x, weight, bias = many_rows(format, k)
    few = [ops.gemm(x[row : row + 4], weight, bias, isa="generic") for row in range(0, len(x), 4)]
    return np.concatenate(few)


# k: 8 panels' unpacked groups at a time fit in a thread's scratch, 4, 3, 1 and none.
@pytest.mark.parametrize("k", [256, 1536, 2304, 3328, 6656, 13_312])
@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
def test_integer_gemm_of_many_rows_has_the_bits_of_few(isa, format, k):
    x, weight, bias = many_rows(format, k)
    assert_same_bits(ops.gemm(x, weight, bias, isa=isa), by_few_rows(format, k))


def test_integer_gemm_of_rows_too_wide_for_scratch(isa):
    """AVX2 widens the activations of 4 rows once, of up to 32768 numbers."""
    n, m, k = 16, 5, 32_832
    weight = packed("q8_0", random_rows("q8_0", np.random.default_rng(n), n, k))
    x = normal(k, m, k)
    alone = [ops.gemm(x[row : row + 1], weight, isa=isa) for row in range(m)]
    assert_same_bits(ops.gemm(x, weight, isa=isa), np.concatenate(alone))


def wide_rows(n: int, k: int) -> np.ndarray:
    """Random q8_0 with one scale for each 128 values."""
    rows = random_rows("q8_0", np.random.default_rng(n * k), n, k)
    scales = rows.reshape(n, -1, 4, 34)[..., :2]
    scales[:] = scales[:, :, :1]
    return rows


@pytest.mark.parametrize("n, k", [(1, 128), (17, 384), (130, 256)])
def test_wide_scales_are_summed_before_they_are_multiplied(isa, n, k):
    rows = wide_rows(n, k)
    x, bias = normal(k, 17, k), normal(n, n)
    x[0, :128], x[1, 3], x[2, -1], x[3] = 0, np.nan, np.inf, x[3] * np.float32(2.0**-110)
    want = integer_gemm(x, "q8_0", rows, bias, keep_outliers=False)
    weight = packed("q8_0", rows)
    for m in ROW_COUNTS:
        assert_same_bits(ops.gemm(x[:m], weight, bias, compute="int8", isa=isa), want[:m])
    narrow = integer_gemm(x, "q8_0", rows, bias)
    assert_same_bits(ops.gemm(x, weight, bias, isa=isa), narrow)
    assert not np.array_equal(narrow, want, equal_nan=True)


def test_wide_sums_survive_the_largest_codes(isa):
    rows = np.full((3, 4 * 34 * 4), 0x7F, np.uint8)
    set_scales("q8_0", rows)
    x = np.full((2, 512), -3, np.float32)
    x[1, ::2] *= -1
    for byte in (0x7F, 0x80, 0x81):
        rows.reshape(3, -1, 34)[..., 2:] = byte
        want = integer_gemm(x, "q8_0", rows, keep_outliers=False)
        assert_same_bits(ops.gemm(x, packed("q8_0", rows), compute="int8", isa=isa), want)


@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_integer_gemm_survives_the_largest_codes(isa, format, sign):
    """Every code, scale and activation at its extreme: no int16 may overflow on the way."""
    k = 512
    size = random_rows(format, np.random.default_rng(0), 1, k).shape[1]
    x = np.full((2, k), sign * 3.0, np.float32)
    x[1, ::2] *= -1
    for byte in (0x00, 0x7F, 0x80, 0xFF):
        rows = np.full((3, size), byte, np.uint8)
        set_scales(format, rows)
        assert_same_bits(ops.gemm(x, packed(format, rows), isa=isa), integer_gemm(x, format, rows))


def set_scales(format: str, rows: np.ndarray) -> None:
    """Sane float16 scales in blocks whose other bytes are whatever the test wants."""
    blocks = rows.reshape(len(rows), -1, BLOCKS[format][1])
    at = {"q6_k": [208], "q4_k": [0, 2], "q5_k": [0, 2], "q4_1": [0, 2], "q5_1": [0, 2]}.get(format, [0])
    for i, offset in enumerate(at):
        blocks[..., offset : offset + 2] = np.array([0.01 + 0.02 * i], "<f2").view(np.uint8)


@pytest.mark.parametrize("format", ["f32", "bf16", "q8_0", "q4_0", "q5_1", "q4_k", "q6_k"])
@pytest.mark.parametrize("compute", ["auto", "float32"])
def test_gemm_rows_do_not_depend_on_how_many_there_are(isa, format, compute):
    """Every row count up to past the largest tile of rows, from every place in x."""
    weight = packed(format, random_rows(format, np.random.default_rng(6), 40, 256))
    x = normal(7, 27, 256)
    whole = ops.gemm(x, weight, compute=compute, isa=isa)
    for m in range(1, len(x)):
        assert_same_bits(ops.gemm(x[-m:], weight, compute=compute, isa=isa), whole[-m:])


@pytest.mark.parametrize("format", ["f32", "q4_0", "q4_k"])
def test_gemm_bits_do_not_depend_on_threads(isa, format):
    weight = packed(format, random_rows(format, np.random.default_rng(1), 700, 256))
    x = normal(2, 9, 256)
    one = ops.gemm(x, weight, isa=isa, num_threads=1)
    assert_same_bits(ops.gemm(x, weight, isa=isa, num_threads=2), one)


@pytest.mark.parametrize("keep_outliers", [True, False])
@pytest.mark.parametrize("k", [1, 31, 32, 33, 256, 1000, 2048, 2050])  # to 64 groups, coded together, and one
def test_quantized_activations_are_the_specified_codes(isa, k, keep_outliers):
    x = normal(k, 6, k)
    x[1] = 0
    x[2, :1] = 2.0**-110
    x[3] *= np.float32(1e30)
    x[4, 0] = np.nan
    x[5, -1] = np.inf
    x[0, k // 2 :: 50] *= 50  # outliers
    x[2, 1::2] *= 1000  # too many of them
    codes, scales, half_sums, scaled_sums, n_outliers = ops.quantize_rows(
        x, keep_outliers=keep_outliers, isa=isa
    )
    want_codes, want_scales = quantize_activations(x, keep_outliers=keep_outliers)
    assert np.array_equal(codes, want_codes)
    assert np.array_equal(scales, want_scales, equal_nan=True)
    assert np.array_equal(half_sums, codes.reshape(len(x), -1, 2, 16).sum(axis=-1))
    sums = half_sums.sum(axis=-1).astype(np.float32)
    assert np.array_equal(scaled_sums, scales * sums, equal_nan=True)
    assert np.array_equal(n_outliers, outlier_quads(codes).sum(axis=1))
    assert k < 128 or (n_outliers[0] > 0) == keep_outliers


def test_the_smallest_numbers_have_codes(isa):
    """The mean of the amaxes is rounded to 0, and cannot be doubled."""
    x = np.zeros((1, 128), np.float32)
    x[0, :32] = 2.0**-149
    codes, scales, *_ = ops.quantize_rows(x, isa=isa)
    assert not codes.any() and not scales.any()


@pytest.mark.parametrize("format", BLOCKS)
def test_embedding_rows_are_the_exact_values(isa, format):
    rows = random_rows(format, np.random.default_rng(5), 21, 512)
    weight, ids = packed(format, rows), np.array([20, 0, 7, 7, 16, 15], np.int32)
    for scale in (1.0, 16.0):
        want = dequantize(format, rows)[ids].astype(np.float32) * np.float32(scale)
        got = ops.embed(weight, ids, scale, isa=isa)
        assert np.array_equal(got, want)


# ---- norms


@pytest.mark.parametrize("n", ROW_SIZES)
def test_rms_norm_stays_within_its_error_bound(place, n):
    """The sum of n squares errs by (n/32 + 5) u relatively, the rest by a few u."""
    x, gain = normal(n, 5, n), normal(n + 1, n)
    want = reference.rms_norm(x, gain, 1e-5)
    got = ops.rms_norm(x, gain, 1e-5, **place)
    assert_within(got, want, (n / 64 + 8) * U * abs(want) + 1e-38)
    assert_same_bits(got, ops.rms_norm(x, gain, 1e-5, isa="generic"))


@pytest.mark.parametrize("n", ROW_SIZES)
def test_layer_norm_stays_within_its_error_bound(place, n):
    """x - mean errs by (n/32 + 5) u of the mean of |x|; the quotient inherits it."""
    x, gain, bias = normal(n, 5, n) + np.float32(0.5), normal(n + 1, n), normal(n + 2, n)
    want = reference.layer_norm(x, gain, bias, 1e-12)
    got = ops.layer_norm(x, gain, bias, 1e-5, **place)
    want = reference.layer_norm(x, gain, bias, 1e-5)
    spread = 1 / np.sqrt(x.astype(np.float64).var(axis=-1, keepdims=True) + 1e-5)
    size = (abs(x).max(axis=-1, keepdims=True) * spread + abs(want - bias)) * abs(gain) + abs(bias)
    assert_within(got, want, (n / 32 + 12) * U * size)
    assert_same_bits(got, ops.layer_norm(x, gain, bias, 1e-5, isa="generic"))


# ---- positions


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("n_heads, head_dim, half", [(1, 16, 8), (3, 80, 40), (2, 64, 16)])
def test_rope_stays_within_its_error_bound(place, interleaved, n_heads, head_dim, half):
    """Two products and a sum: 3 u of the pair's length. cos and sin are right to half an ulp."""
    positions = np.array([0, 1, 77, 4095, 131071], np.int32)
    inv_freq = (10000.0 ** (-np.arange(half) / half)).astype(np.float32)
    x = normal(head_dim, len(positions), n_heads * head_dim)
    cos, sin = ops.rope_table(positions, inv_freq)
    got = ops.rope(x, cos, sin, n_heads, interleaved=interleaved, **place)
    heads = x.reshape(len(x), n_heads, head_dim)
    want = reference.rope(heads, *reference.rope_angles(inv_freq, positions), interleaved).reshape(x.shape)
    assert_within(got, want, 6 * U * abs(x).max())
    assert_same_bits(got, ops.rope(x, cos, sin, n_heads, interleaved=interleaved, isa="generic"))


def test_rope_table_is_rounded_once():
    """cos and sin in double, so the float32 is the nearest one but for ties that a double cannot tell."""
    positions = np.arange(0, 130000, 97, dtype=np.int32)
    inv_freq = (500000.0 ** (-np.arange(32) / 32)).astype(np.float32)
    for got, want in zip(
        ops.rope_table(positions, inv_freq, 1.25),
        reference.rope_angles(inv_freq, positions, 1.25),
        strict=True,
    ):
        assert_within(got, want, 1.3 * (1 + 1e-6) * U * abs(want) + 1e-20)


# ---- attention


def attention_bound(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> float:
    """The error of a score is the relative error of its probability; sums run over tiles and splits."""
    head_dim, n_keys = q.shape[-1], len(k)
    largest = np.linalg.norm(q, axis=-1).max() * np.linalg.norm(k, axis=-1).max() * scale
    score_error = (head_dim + 2) * U * largest
    return float(abs(v).max() * (2 * score_error + (n_keys + 64 + 4 * largest) * U))


@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention_stays_within_its_error_bound(isa, case):
    n_queries, n_keys, n_heads, n_kv_heads, head_dim, causal, window, softcap = dataclasses.astuple(case)
    q = normal(n_keys, n_queries, n_heads, head_dim)
    k, v = (normal(n_keys + i, n_keys, n_kv_heads, head_dim) for i in (1, 2))
    scale = head_dim**-0.5
    want = reference.attention(
        q, k, v, scale=scale, causal=causal, sliding_window=window, score_softcap=softcap
    )
    settings = {"scale": scale, "causal": causal, "window": window, "softcap": softcap}
    settings["position"] = n_keys - n_queries
    got = ops.attention(q, k, v, isa=isa, **settings)
    assert_within(got, want, attention_bound(q, k, v, scale))
    assert_same_bits(got, ops.attention(q, k, v, isa="generic", **settings))
    assert_same_bits(got, ops.attention(q, k, v, isa=isa, num_threads=2, block_size=16, **settings))
    if causal:  # the last query alone, as in decoding
        settings["position"] = n_keys - 1
        assert_same_bits(got[-1:], ops.attention(q[-1:], k, v, isa=isa, **settings))


@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
@pytest.mark.parametrize("scale", [np.inf, -np.inf, np.nan])
def test_rows_with_a_scale_that_is_no_number_do_not_depend_on_their_neighbours(isa, format, scale):
    """Outliers differ from row to row; a row without one must not notice."""
    rows = random_rows(format, np.random.default_rng(5), 16, 512)
    block, size = BLOCKS[format]
    at = 208 if format == "q6_k" else 0
    last = rows.reshape(16, 512 // block, size)[:, -1]
    last[:, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
    x = normal(6, 8, 512)
    x[::2, :256] *= 100
    x[1::2, 256:] *= 100
    w = packed(format, rows)
    together = ops.gemm(x, w, isa=isa)
    for i in range(8):
        alone = ops.gemm(x[i : i + 1], w, isa=isa)[0]
        np.testing.assert_array_equal(alone, together[i])


@pytest.mark.parametrize("share", [1, 2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("window, softcap", [(0, 0.0), (20, 0.0), (70, 30.0)])
@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
def test_attention_rows_do_not_depend_on_their_neighbours(isa, share, window, softcap, kv_dtype):
    """A row alone, as in decoding, has the bits it has among 14, whatever the heads that share its keys."""
    n_rows, n_keys, head_dim = 14, 150, 32
    q = normal(share, n_rows, 2 * share, head_dim)
    k, v = normal(1, n_keys, 2, head_dim), normal(2, n_keys, 2, head_dim)
    settings = {"scale": head_dim**-0.5, "window": window, "softcap": softcap, "kv_dtype": kv_dtype}
    first = n_keys - n_rows
    whole = ops.attention(q, k, v, position=first, isa=isa, **settings)
    for i in range(n_rows):
        seen = first + i + 1  # keys past the row must not matter, even those that do not exist yet
        alone = ops.attention(q[i : i + 1], k[:seen], v[:seen], position=first + i, isa=isa, **settings)
        assert_same_bits(alone, whole[i : i + 1])


@pytest.mark.parametrize("kv_dtype, format", [("float16", "f16"), ("bfloat16", "bf16")])
def test_narrow_pages_hold_rounded_keys_and_values(isa, kv_dtype, format):
    q, k, v = normal(1, 3, 4, 32), normal(2, 90, 2, 32), normal(3, 90, 2, 32)
    narrow = [dequantize(format, encode_float(format, a.reshape(90, -1))).reshape(a.shape) for a in (k, v)]
    wide = [a.astype(np.float32) for a in narrow]
    settings = {"scale": 32**-0.5, "position": 87, "isa": isa}
    assert_same_bits(
        ops.attention(q, k, v, kv_dtype=kv_dtype, **settings), ops.attention(q, *wide, **settings)
    )


def kv_vectors(seed: int, n: int, head_dim: int) -> np.ndarray:
    """Keys or values [n, 2, head_dim] of all sizes, with zeros, ties and the limits of the rule."""
    x = normal(seed, n, 2, head_dim) * np.float32(10.0) ** np.random.default_rng(seed).integers(
        -20, 20, (n, 2, 1)
    )
    x = x.astype(np.float32)
    x[1], x[2], x[3, 0], x[3, 1] = 0, 2.0**-101, 2.0**-100, np.finfo(np.float32).max
    x[4, :, 0], x[5, 0, 0], x[6, 1, -1] = np.inf, -np.inf, np.nan
    x[7], x[7, :, 0] = (np.arange(head_dim) % 127 + 0.5), 127  # ties
    return x


@pytest.mark.parametrize("head_dim", [1, 16, 20, 64])
def test_int8_pages_hold_codes_and_a_scale_per_token_and_head(isa, head_dim):
    """With one key alone its probability is 1, and the result is its value, scale · code."""
    v = kv_vectors(head_dim, 12, head_dim)
    codes, scale = quantize_kv(v)
    q = normal(1, 1, 4, head_dim)
    for t in range(len(v)):
        got = ops.attention(q, q[:, :2], v[t : t + 1], scale=1.0, kv_dtype="int8", isa=isa)
        want = scale[t, :, None] * codes[t].astype(np.float32) + np.float32(0)
        assert_same_bits(got[0], np.repeat(want, 2, axis=0))


@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_int8_attention_stays_within_the_error_bound_of_what_its_pages_hold(isa, case):
    n_queries, n_keys, n_heads, n_kv_heads, head_dim, causal, window, softcap = dataclasses.astuple(case)
    q = normal(n_keys, n_queries, n_heads, head_dim)
    k, v = (normal(n_keys + i, n_keys, n_kv_heads, head_dim) for i in (1, 2))
    held = [codes * scale[..., None].astype(np.float64) for codes, scale in map(quantize_kv, (k, v))]
    scale = head_dim**-0.5
    want = reference.attention(
        q, *held, scale=scale, causal=causal, sliding_window=window, score_softcap=softcap
    )
    settings = {"scale": scale, "causal": causal, "window": window, "softcap": softcap, "kv_dtype": "int8"}
    settings["position"] = n_keys - n_queries
    got = ops.attention(q, k, v, isa=isa, **settings)
    assert_within(got, want, 2 * attention_bound(q, *held, scale))  # the scales are two more factors
    assert_same_bits(got, ops.attention(q, k, v, isa="generic", **settings))
    assert_same_bits(got, ops.attention(q, k, v, isa=isa, num_threads=2, block_size=16, **settings))
    if causal:
        settings["position"] = n_keys - 1
        assert_same_bits(got[-1:], ops.attention(q[-1:], k, v, isa=isa, **settings))


@pytest.mark.parametrize("head_dim", [20, 64])
def test_int8_attention_sums_in_the_order_of_float_pages(isa, head_dim):
    """Scales that are powers of two round nothing: what is left is codes in place of floats."""
    rng = np.random.default_rng(head_dim)
    k, v = (rng.integers(-127, 128, (600, 2, head_dim)).astype(np.float32) for _ in range(2))
    for x in (k, v):
        x[:, :, 3] = 127
        x *= np.float32(2.0) ** rng.integers(-9, -5, (600, 2, 1))
    q = normal(1, 13, 6, head_dim)
    settings = {"scale": head_dim**-0.5, "position": 587, "window": 550, "isa": isa}
    assert_same_bits(ops.attention(q, k, v, kv_dtype="int8", **settings), ops.attention(q, k, v, **settings))


@pytest.mark.parametrize("large", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", [0, 1])
def test_a_coded_key_or_value_that_is_no_number_reaches_only_who_sees_it(isa, large, where):
    q, k, v = normal(1, 3, 2, 32), normal(2, 40, 2, 32), normal(3, 40, 2, 32)
    (k, v)[where][39, 1, 5] = large
    settings = {"scale": 32**-0.5, "isa": isa, "kv_dtype": "int8"}
    together = ops.attention(q, k, v, position=37, **settings)
    assert_same_bits(together[:2], ops.attention(q[:2], k[:39], v[:39], position=37, **settings))
    assert np.isnan(together[2, 1]).any() == np.isnan(large)
    assert np.isfinite(together[2, 0]).all()


@pytest.mark.parametrize("large", [65504.0, 65520.0, -1e6, 3e38, np.inf])
def test_what_overflows_a_narrow_page_is_its_largest_number(isa, large):
    """An infinite value would give rows that do not see it 0 · Inf."""
    q, k, v = normal(1, 3, 2, 32), normal(2, 40, 2, 32), normal(3, 40, 2, 32)
    v[39, 1, 5] = large
    settings = {"scale": 32**-0.5, "isa": isa, "kv_dtype": "float16"}
    together = ops.attention(q, k, v, position=37, **settings)
    assert_same_bits(together[:2], ops.attention(q[:2], k[:39], v[:39], position=37, **settings))
    v[39, 1, 5] = np.clip(large, -65504, 65504)
    assert_same_bits(together, ops.attention(q, k, v, position=37, **settings))


# ---- elementwise

GRID = np.concatenate([np.linspace(-20, 20, 4001), [-1e30, -130, -90, 90, 1e30, 0.0, 1e-30, -1e-30]])


@pytest.mark.parametrize("kind", reference.ACTIVATIONS)
def test_activations_stay_within_a_few_ulps(place, kind):
    """A few u of the result, and of x / 2 where 1 + erf or 1 + tanh cancels."""
    x = GRID.astype(np.float32)
    if kind == "relu_squared":
        x = x[abs(x) < 1e15]
    with np.errstate(over="ignore"):
        want = reference.ACTIVATIONS[kind](x.astype(np.float64))
    got = ops.activate(x, None, kind, **place)
    exact = kind in ("silu", "relu", "relu_squared")
    scale = abs(want) + (0 if exact else np.minimum(abs(x.astype(np.float64)), 16))
    assert_within(got, want, 6 * U * scale + 1e-37)
    assert_same_bits(got, ops.activate(x, None, kind, isa="generic"))


@pytest.mark.parametrize("kind", reference.ACTIVATIONS)
def test_gated_activations_multiply(place, kind):
    gate, up = normal(1, 77), normal(2, 77)
    alone = ops.activate(gate, None, kind, **place)
    assert_same_bits(ops.activate(gate, up, kind, **place), alone * up)


def test_a_learned_activation_stays_within_a_few_ulps(place):
    """A few u of each of its terms, and of x / 2 · alpha_n where e^x - 1 and x cancel."""
    x, (alpha_p, alpha_n, beta) = GRID[abs(GRID) < 1e15].astype(np.float32), (0.75, 1.25, 0.5)
    want = reference.xielu(x.astype(np.float64), alpha_p, alpha_n, beta)
    got = ops.xielu(x, alpha_p, alpha_n, beta, **place)
    assert_within(got, want, 6 * U * (abs(want) + alpha_n * abs(x.astype(np.float64))) + 1e-37)
    assert_same_bits(got, ops.xielu(x, alpha_p, alpha_n, beta, isa="generic"))
    assert np.isnan(ops.xielu(np.full(17, np.nan, np.float32), alpha_p, alpha_n, beta, **place)).all()


def test_activations_keep_nan(place):
    x = np.array([np.nan] * 17 + [1.0], np.float32)
    for kind in reference.ACTIVATIONS:
        assert np.isnan(ops.activate(x, None, kind, **place)[:17]).all()


def test_exp_is_right_to_an_ulp(isa):
    x = np.concatenate([np.linspace(-87, 88, 20001), [0.0, -0.0]]).astype(np.float32)
    want = np.exp(x.astype(np.float64))
    got = ops.exp_shifted(x, 0.0, isa=isa)
    assert_within(got, want, 2 * U * want)
    assert_same_bits(got, ops.exp_shifted(x, 0.0, isa="generic"))
    ends = ops.exp_shifted(np.array([-np.inf, -1000, 1000, np.nan], np.float32), 0.0, isa=isa)
    assert ends[:3].tolist() == [0.0, 0.0, np.inf] and np.isnan(ends[3])


@pytest.mark.parametrize("cap", [1.0, 30.0, 50.0])
def test_softcap_stays_within_a_few_ulps(place, cap):
    x = np.concatenate([GRID, 10 * GRID]).astype(np.float32)
    want = reference.softcap(x.astype(np.float64), cap)
    got = ops.softcap(x, cap, **place)
    assert_within(got, want, 6 * U * abs(want) + 1e-37)
    assert_same_bits(got, ops.softcap(x, cap, isa="generic"))


@pytest.mark.parametrize("n_tokens", [1, 2, 31, 33, 300])
def test_mean_of_rows_stays_within_its_error_bound(place, n_tokens):
    x = normal(n_tokens, n_tokens, 70)
    got = ops.mean_rows(x, **place)
    bound = (n_tokens / 32 + 7) * U * abs(x).astype(np.float64).mean(axis=0)
    assert_within(got, x.astype(np.float64).mean(axis=0), bound)
    assert_same_bits(got, ops.mean_rows(x, isa="generic"))


@pytest.mark.parametrize("n", ROW_SIZES)
def test_normalized_rows_have_length_one(place, n):
    x = normal(n, 5, n)
    x[3], x[4] = 0, x[4] * np.float32(1e25)  # whose squares float32 cannot hold
    got = ops.l2_normalize(x, **place)
    length = np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    want = x / np.maximum(length, 1e-12)
    assert_within(got, want, (n / 64 + 8) * U * abs(want))
    assert_same_bits(got, ops.l2_normalize(x, isa="generic"))


# ---- rows of logits


@pytest.mark.parametrize("n", [1, 31, 33, 300, 5000])
def test_softmax_statistics(isa, n):
    x = normal(n, n, scale=4.0)
    largest, total = ops.softmax_stats(x, isa=isa)
    want = np.exp(x.astype(np.float64) - x.max()).sum()
    assert largest == x.max()
    assert abs(total - want) <= (n / 32 + 50) * U * want
    assert ops.softmax_stats(x, isa="generic") == (largest, total)


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf]])
def test_softmax_statistics_of_no_distribution_are_nan(isa, bad):
    assert all(np.isnan(value) for value in ops.softmax_stats(np.array(bad, np.float32), isa=isa))
