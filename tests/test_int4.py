"""`quantization="int4"`: blocks that the gguf package reads, of small error, the same on every machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

import tuili
from tiny_files import write_gguf, write_hf_folder
from tiny_models import WIDE, tiny_llama
from tuili.errors import ModelUnsupportedError
from tuili.loading import blocks
from tuili.loading.four_bits import int4_format, quantize_int4
from tuili.loading.model import plan_model


def some(seed: int, n: int = 64, n_in: int = 256, scale: float = 1.0) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(seed))
    return (rng.standard_normal((n, n_in)) * scale).astype(np.float32)


def decoded(data: np.ndarray, n_in: int) -> np.ndarray:
    kind = Type.Q4_K if int4_format(n_in) == "q4_k" else Type.Q4_1
    return dequantize(data.reshape(-1, n_in // 32 * (18 if kind == Type.Q4_K else 20)), kind)


def test_blocks_are_read_as_they_were_meant() -> None:
    rng = np.random.default_rng(1)
    n = 16
    scale, least = (rng.uniform(-1, 1, n).astype(np.float16) for _ in range(2))
    wide, low = scale.astype(np.float32)[:, None], least.astype(np.float32)[:, None]
    four, five = rng.integers(0, 16, (n, 32), np.uint8), rng.integers(0, 32, (n, 32), np.uint8)
    for kind, data, wanted in (
        (Type.Q4_0, blocks.encode_q4_0(scale, four), wide * (four.astype(np.float32) - 8)),
        (Type.Q4_1, blocks.encode_q4_1(scale, least, four), wide * four.astype(np.float32) + low),
        (Type.Q5_0, blocks.encode_q5_0(scale, five), wide * (five.astype(np.float32) - 16)),
    ):
        assert (dequantize(data, kind) == wanted).all(), kind
    subs = [rng.integers(0, 64, (n, 8), np.uint8) for _ in range(2)]
    codes = rng.integers(0, 16, (n, 256), np.uint8)
    data = blocks.encode_q4_k(scale, least, *subs, codes)
    slopes, starts = (np.repeat(x * sub, 32, axis=1) for x, sub in zip((wide, low), subs, strict=True))
    assert (dequantize(data, Type.Q4_K) == slopes * codes - starts).all()


@pytest.mark.parametrize("n_in", [256, 96])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_the_error_is_smaller_than_that_of_plain_rounding(n_in: int, scale: float) -> None:
    """Of Gaussian weights: 16 % below q4_0's with as many bits, 8 % below q4_1's."""
    values = some(1, n_in=n_in, scale=scale)
    error = np.square(decoded(quantize_int4(values, n_in, "w"), n_in) - values).sum()
    for kind, share in ((Type.Q4_0, 0.84), (Type.Q4_1, 0.92)):
        plain = np.square(dequantize(quantize(values, kind), kind) - values).sum()
        assert error < share**2 * plain, f"{(error / plain) ** 0.5:.3f} of {kind.name}'s"


@pytest.mark.parametrize("n_in", [256, 96])
def test_sixteen_values_on_a_grid_stay_there(n_in: int) -> None:
    values = np.resize(np.arange(-8, 8, dtype=np.float32) / 4, (8, n_in))
    assert np.allclose(decoded(quantize_int4(values, n_in, "w"), n_in), values, atol=0.02)


@pytest.mark.parametrize("n_in", [256, 96])
@pytest.mark.parametrize("value", [0.0, 0.75, -0.75])
def test_equal_values_stay_equal(n_in: int, value: float) -> None:
    values = np.full((8, n_in), value, np.float32)
    assert np.allclose(decoded(quantize_int4(values, n_in, "w"), n_in), values, rtol=1e-3)


def test_the_bits_are_those_of_every_machine() -> None:
    wanted = ["90004413f10d2ee5", "ae622e68d84a9429"]
    found = [quantize_int4(some(3, n_in=n_in), n_in, "w").tobytes() for n_in in (256, 96)]
    assert [hashlib.sha256(data).hexdigest()[:16] for data in found] == wanted


@pytest.mark.parametrize("n_in", [256, 96])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e38])
def test_what_int4_cannot_hold_is_refused(n_in: int, value: float) -> None:
    values = np.ones((1, n_in), np.float32)
    values[0, 40] = value
    with pytest.raises(ModelUnsupportedError, match="tensor w") as caught:
        quantize_int4(values, n_in, "w")
    assert caught.value.code == "dtype_overflow"


def formats(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.format for tensor in plan_model(path, quantization="int4").tensors}


@pytest.mark.parametrize("tied", [False, True])
def test_linear_maps_get_four_bits_and_heads_eight(tied: bool, tmp_path: Path) -> None:
    found = formats(write_hf_folder(tiny_llama(format="f32", tied=tied), tmp_path / "llama"))
    assert found["layers.0.query"] == found["layers.1.down"] == "q4_1"
    assert found["token_embedding" if tied else "head"] == "q8_0"
    assert found["layers.0.mlp_norm"] == "f32"
    assert int4_format(WIDE.d_model) == "q4_k"


def test_a_quantized_model_answers_about_as_its_floats_do(bert_path: Path) -> None:
    texts = ["the cat is on the house", "river of the new world"]
    with tuili.LLM(bert_path, num_threads=1) as llm:
        exact = llm.embed(texts)
    with tuili.LLM(bert_path, quantization="int4", num_threads=1) as llm:
        coded = llm.embed(texts)
        assert llm.config["quantization"] == "int4"
    assert ((exact * coded).sum(axis=1) > 0.98).all()


def test_quantized_files_stay_as_they_are(tmp_path: Path) -> None:
    path = write_gguf(tiny_llama(format="q8_0"), tmp_path / "q8.gguf")
    assert formats(path) == {tensor.name: tensor.format for tensor in plan_model(path).tensors}
