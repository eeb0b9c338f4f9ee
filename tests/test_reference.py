"""The specification itself, against known answers and other people's code."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import reference
from reference_formats import (
    BLOCKS,
    QUANTIZED_FORMATS,
    dequantize,
    encode_float,
    float_gemm,
    fma32,
    integer_gemm,
    quantize_activations,
    random_rows,
    row_bytes,
)


@pytest.mark.parametrize("format", BLOCKS)
def test_dequantization_equals_the_gguf_package(format):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    rows = random_rows(format, np.random.default_rng(1), 7, 768)
    kind = getattr(gguf.GGMLQuantizationType, format.upper().replace("_k", "_K"))
    stored = rows.view({"f32": np.float32, "f16": np.float16}.get(format, np.uint8))
    theirs = gguf.quants.dequantize(stored, kind)
    assert rows.shape == (7, row_bytes(format, 768))
    assert np.array_equal(dequantize(format, rows).astype(np.float32), theirs)


def test_fma_rounds_once():
    rng = np.random.default_rng(2)
    a, b, c = (rng.standard_normal(3000) * 2.0 ** rng.integers(-20, 20, 3000) for _ in range(3))
    a, b = a.astype(np.float32), b.astype(np.float32)
    c = np.where(rng.random(3000) < 0.5, -(a * b), c).astype(np.float32)  # half of them cancel
    for x, y, z, got in zip(a, b, c, fma32(a, b, c), strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        neighbours = [np.nextafter(got, np.float32(side)) for side in (-np.inf, np.inf)]
        assert all(abs(exact - Fraction(float(got))) <= abs(exact - Fraction(float(n))) for n in neighbours)


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8]], np.float32)
    expected = [[1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -1.0]]
    assert dequantize("bf16", encode_float("bf16", values)).tolist() == expected


# From kat_vectors of Random123, the library of the paper's authors.
PHILOX = [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("key, counter, expected", PHILOX)
def test_philox_known_answers(key, counter, expected):
    assert reference.philox4x32(key, counter) == expected


def test_activation_quantization_corner_cases():
    x = np.zeros((7, 40), np.float32)
    x[1, 3] = 2.0**-101  # below the threshold: zero
    x[2, [3, 35]] = 2.0**-99
    x[3, 35] = np.inf
    x[4, :4] = x[4, 32:36] = [127, -127, 0.5, 1.5]  # ties go to even
    x[5, :4], x[5, 35] = [1000, -500, 127, 1], 1  # 1000 is above the mean amax, 500.5
    x[6, 3] = 1000  # base is amax / 128
    codes, scale = quantize_activations(x)
    assert codes.shape == (7, 64) and scale.shape == (7, 2)
    assert not codes[:2].any() and not scale[:2].any()
    assert codes[2, 3] == 127 and scale[2, 0] == np.float32(2.0**-99) / np.float32(127)
    assert np.isnan(scale[3, 1]) and not codes[3, 32:].any()
    assert codes[4, :4].tolist() == [127, -127, 0, 2]
    assert codes[5, :4].tolist() == [254, -127, 32, 0] and codes[5, 35] == 127
    assert codes[6, 3] == 16256


@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
def test_integer_gemm_is_near_the_exact_product(format):
    """Half a code of each activation, plus float32 rounding."""
    rng = np.random.default_rng(3)
    x, rows = rng.standard_normal((3, 512)).astype(np.float32), random_rows(format, rng, 5, 512)
    w = dequantize(format, rows)
    scale = np.repeat(quantize_activations(x)[1], 32, axis=1)
    bound = (0.5 * scale) @ abs(w).T * 1.001 + 1e-4
    assert (abs(integer_gemm(x, format, rows) - reference.gemm(x, w)) <= bound).all()


def test_float_gemm_is_within_its_error_bound():
    """k·u·|x||w|ᵀ (Jeannerod & Rump 2013)."""
    rng = np.random.default_rng(4)
    x, w = (rng.standard_normal((n, 1100)).astype(np.float32) for n in (3, 5))
    bound = 1100 * 2.0**-24 * (abs(x).astype(np.float64) @ abs(w).astype(np.float64).T)
    assert (abs(float_gemm(x, w) - reference.gemm(x, w)) <= bound).all()
