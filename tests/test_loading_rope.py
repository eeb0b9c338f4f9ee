"""Rotary frequencies against values that transformers computed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tuili.loading.config import Config
from tuili.loading.rope import inverse_frequencies

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}

# (theta, head_dim, scaling) -> inv_freq as float32 bit patterns, by LlamaRotaryEmbedding of transformers 5.23
# on torch 2.13 (max_position_embeddings 131072), and its attention scaling.
GOLDEN: list[tuple[float, int, dict[str, Any] | None, str, float]] = [
    (
        100000.0,
        64,
        None,
        "3f8000003f32a5063ef953cf3eadfcff3e72d4233e2974093dec7fd63da509563d6655c23d20bc1d3ce054d23c9c8b97"
        "3c5a7bf23c1877053bd4ca153b947dae3b4f3e383b109edb3ac9d75c3a8cd9db3a44948c3a092e0239bf74d739859aa9"
        "393a775339021f2b38b59b1b387d75d43830df5237f6da9637ac431d37706b6d",
        1.0,
    ),
    (
        10000.0,
        32,
        None,
        "3f8000003f0ff59a3ea1e89b3e3618873dcccccd3d6655c23d0186e33c91ad393c23d70a3bb8449c3b4f3e383ae91528"
        "3a83126f3a136a1639a5cb60393a7753",
        1.0,
    ),
    (
        10000.0,
        64,
        {"rope_type": "linear", "factor": 2.5},
        "3ecccccd3e99940e3e6655c33e2cba163e0186e23dc2434f3d91ad393d5a7bf23d23d70a3cf5b9ae3cb8449b3c8a2e77"
        "3c4f3e383c1b690c3be915283baec98e3b83126e3b44948d3b136a163add17253aa5cb603a78a8153a3a77533a0bd472"
        "39d1b718399d43a3396bdcf03930df513904a2b338c6ecde38952c42385fba50",
        1.0,
    ),
    (
        500000.0,
        64,
        LLAMA3,
        "3f8000003f29e1c63ee177bc3e959ee33e4693b03e03c6a03daee4ad3d681e673d1a08c83ccc6f493c87a9c33c340d6d"
        "3beef74f3b9e94023b5277203aa9279b39e1362038cb98f737a3418d3758ac81370fc8f836bed4f4367d45c33628126b"
        "35df10c4359406cb3544761035025f3434ad07a73465a54d341864a733ca41b0",
        1.0,
    ),
    (
        10000.0,
        64,
        LLAMA3,
        "3f8000003f3ff9113f0ff59a3ed7e89b3ea1e89b3e72d4233e3618873e088d773dcccccd3d99940d3d6655c23d2cba15"
        "3d0186e33cc2434f3c91ad393c5a7bf23c23d70a3bf5b9b03bb8449c3b8a2e773b4f3e383adbaa1b3a550c1739bc9bf8"
        "3907a27637c4948c37936a16375d17253725cb6036f8a81536ba7753368bd472",
        1.0,
    ),
    (
        10000.0,
        64,
        YARN,
        "3f8000003f3ff9113f0ff59a3ed7e89b3ea1e89b3e72d4233e3618873e088d773dcccccd3d99940d3d6655c23d22c30a"
        "3ce529b93ca0a3f73c601e303c1b75ba3bd640983b927d783b4671453b04dde83aaf5c083a6323623a0f6f7b39aec98e"
        "3983126f3944948c39136a1638dd172538a5cb603878a815383a7753380bd472",
        1.138629436111989,
    ),
    (
        1000000.0,
        32,
        YARN | {"truncate": False, "mscale": 1.0, "mscale_all_dim": 0.7},
        "3f8000003ed7e89b3e3618873d99940d3cea67173c1cde353b43bd183a5602a03983126f38dd1725383a7753379d43a4"
        "3704a2b2365fba4f35bcb0c1351f23e4",
        1.0379100195867799,
    ),
]


@pytest.mark.parametrize(("theta", "head_dim", "scaling", "bits", "scale"), GOLDEN)
def test_frequencies_are_those_of_transformers(
    theta: float, head_dim: int, scaling: dict[str, Any] | None, bits: str, scale: float
) -> None:
    config = None if scaling is None else Config(scaling, "config.json")
    found, found_scale = inverse_frequencies(theta, head_dim, config, 131_072)
    assert np.array(found, ">f4").tobytes().hex() == bits
    assert found_scale == scale


@pytest.mark.parametrize("theta", [1e4, 1e5, 5e5, 1e6, 1e7])
@pytest.mark.parametrize("head_dim", [2, 64, 80, 96, 128, 256])
def test_frequencies_are_the_nearest_float32_but_for_two_roundings(theta: float, head_dim: int) -> None:
    """The power and the quotient are each rounded once: within 2 units in the last place of exact."""
    found, scale = inverse_frequencies(theta, head_dim, None, 2048)
    exponents = (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)).astype(np.float64)
    exact = np.float64(theta) ** -exponents
    assert scale == 1.0
    assert (abs(np.array(found) - exact) <= 2 * 2.0**-24 * exact).all()


def test_linear_scaling_divides() -> None:
    plain, _ = inverse_frequencies(1e4, 64, None, 2048)
    scaled, _ = inverse_frequencies(1e4, 64, Config({"type": "linear", "factor": 4.0}, "x"), 2048)
    assert scaled == [x / 4 for x in plain]


def test_yarn_defaults_come_from_the_context() -> None:
    given = Config({"rope_type": "yarn", "original_max_position_embeddings": 1024}, "x")
    explicit = Config(
        json.loads(json.dumps(YARN | {"factor": 2.0, "original_max_position_embeddings": 1024})), "x"
    )
    assert inverse_frequencies(1e4, 64, given, 2048) == inverse_frequencies(1e4, 64, explicit, 2048)
    assert given.defaults["factor"] == 2.0


def test_yarn_rounds_no_range_where_truncate_is_null() -> None:
    whole, none, null = (
        inverse_frequencies(1e4, 64, Config(YARN | more, "x"), 2048)
        for more in ({}, {"truncate": False}, {"truncate": None})
    )
    assert null == none != whole
