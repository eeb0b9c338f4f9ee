"""Products and attention on the CUDA device, or on the CPU that plays it, against the float64 reference.

Rows and elements have the CPU's bits there: tests/test_ops.py runs them. tests/cuda_emulation holds the
kernels' own tests; here the way through bindings and ops is tested, with the shapes of the CPU's tests.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import reference
from reference_formats import QUANTIZED_FORMATS, dequantize, encode_float, random_rows
from shapes import ATTENTION, AttentionShape
from test_ops import U, assert_same_bits, assert_within, normal, packed
from tuili import InvalidParameterError, _core
from tuili._core import ops

HAS_DEVICE = _core.build_info()["cuda"] != "none"
on_device = pytest.mark.skipif(not HAS_DEVICE, reason="a build without CUDA; .ci/run tests an emulated one")
UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
FORMAT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def half(values: np.ndarray, dtype: str = "bfloat16") -> np.ndarray:
    """The bits of the rounded values."""
    rows = values.reshape(len(values), -1)
    return encode_float(FORMAT[dtype], rows).view(np.uint16).reshape(values.shape)


def rounded(values: np.ndarray, dtype: str = "bfloat16") -> np.ndarray:
    rows = values.reshape(len(values), -1)
    return dequantize(FORMAT[dtype], encode_float(FORMAT[dtype], rows)).reshape(values.shape)


@pytest.mark.skipif(HAS_DEVICE, reason="a build with CUDA")
def test_a_build_without_cuda_says_so():
    x = normal(1, 2, 4)
    with pytest.raises(InvalidParameterError, match="no CUDA"):
        ops.rms_norm(x, x[0], 1e-5, device="cuda")
    with pytest.raises(InvalidParameterError, match="no CUDA"):
        ops.add(x, x, device="cuda")
    assert not [name for name in dir(ops) if name.endswith("on_device")]


def test_an_unknown_device_is_an_error():
    x = normal(1, 2, 4)
    with pytest.raises(InvalidParameterError, match='device must be one of "cpu", "cuda"'):
        ops.add(x, x, device="tpu")


@on_device
def test_add_has_the_bits_of_the_cpu():
    x, z = normal(1, 7, 300), normal(2, 7, 300)
    assert_same_bits(ops.add(x, z, device="cuda"), ops.add(x, z))


@on_device
@pytest.mark.parametrize("n, k", [(1, 8), (33, 257), (130, 96)])
def test_dense_gemm_stays_within_its_error_bound(n, k):
    """kernels/cuda/kernels.h: 1.4 (k + 32) u."""
    x, w = normal(k, 70, k), normal(n, n, k)
    exact = rounded(x) @ rounded(w).T
    got = ops.gemm_on_device(half(x), half(w))
    assert_within(got, exact, 1.4 * (k + 32) * U * (abs(rounded(x)) @ abs(rounded(w)).T))
    for m in (1, 17):
        assert_same_bits(ops.gemm_on_device(half(x[:m]), half(w)), got[:m])


@on_device
@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
def test_quantized_gemm_stays_within_its_error_bound(format):
    """kernels/cuda/kernels.h, and what dequantize rounds: each product and sum once."""
    n, k = 21, 512
    rows = random_rows(format, np.random.default_rng(5), n, k)
    w, x = dequantize(format, rows), normal(3, 20, k)
    got = ops.gemm_on_device(half(x), packed(format, rows))
    # A min and a scaled code may cancel; each is at most 3 times the largest weight of such a row.
    size = abs(w).astype(np.float64) + 3 * abs(w).max(axis=1, keepdims=True)
    assert_within(got, rounded(x) @ w.T, (76 + k / 32) * U * (abs(rounded(x)) @ size.T))
    assert_same_bits(ops.gemm_on_device(half(x[:3]), packed(format, rows)), got[:3])


@on_device
@pytest.mark.parametrize("kv_dtype", UNIT)
@pytest.mark.parametrize("case", [*ATTENTION, AttentionShape(9, 70, 6, 2, 13)], ids=str)
def test_attention_stays_within_its_error_bound(case, kv_dtype):
    """Scores err by their chain; probabilities by that twice, by 2^-22 per tile, and by their rounding; both
    sums that are divided carry it."""
    n_queries, n_keys, n_heads, n_kv_heads, head_dim, causal, window, softcap = dataclasses.astuple(case)
    q = normal(n_keys, n_queries, n_heads, head_dim)
    k, v = (normal(n_keys + i, n_keys, n_kv_heads, head_dim) for i in (1, 2))
    scale = head_dim**-0.5
    held = [rounded(a, kv_dtype) for a in (q, k, v)]
    want = reference.attention(
        *held, scale=scale, causal=causal, sliding_window=window, score_softcap=softcap
    )
    settings = {"scale": scale, "causal": causal, "window": window, "softcap": softcap, "kv_dtype": kv_dtype}
    got = ops.attention_on_device(q, k, v, position=n_keys - n_queries, **settings)
    largest = np.linalg.norm(held[0], axis=-1).max() * np.linalg.norm(held[1], axis=-1).max() * scale
    relative = 2 * (1.4 * (head_dim + 80) + 8) * U * largest + (n_keys / 64 + 4) * 2.0**-22 + UNIT[kv_dtype]
    assert_within(got, want, 2.1 * (relative + 1.4 * (n_keys + 96) * U) * abs(v).max())
    if causal:  # the last query alone, as in decoding
        last = ops.attention_on_device(q[-1:], k, v, position=n_keys - 1, block_size=16, **settings)
        assert_same_bits(last, got[-1:])


@on_device
@pytest.mark.parametrize(
    "wrong, of",
    [
        ({"block_size": 0}, "block_size"),
        ({"block_size": -16}, "block_size"),
        ({"block_size": 24}, "block_size"),
        ({"position": 1 << 31, "causal": False}, "position"),
        ({"window": 1 << 31}, "window"),
    ],
)
def test_attention_refuses_what_it_cannot_compute(wrong, of):
    q = normal(1, 1, 2, 16)
    with pytest.raises(InvalidParameterError, match=of):
        ops.attention_on_device(q, q, q, **wrong)
    wide = normal(1, 1, 2, 264)
    with pytest.raises(InvalidParameterError, match="not 264"):
        ops.attention_on_device(wide, wide, wide)
