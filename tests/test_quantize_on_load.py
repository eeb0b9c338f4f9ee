"""`quantization="int8"`: float matrices become q8_0 while loading, bit for bit as the gguf package has it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest

import tiny_models
import tuili
from oracle.model_files import BUILT_IN
from tiny_files import SIZES, write_gguf, write_hf_folder
from tiny_models import WIDE, Weight, tiny_bert, tiny_llama
from tuili.errors import InvalidParameterError, ModelIOError, ModelUnsupportedError
from tuili.loading.model import plan_model
from tuili.loading.weights import quantize_q8_0

DATA = Path(__file__).parent / "data"


def reference(values: np.ndarray) -> bytes:
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0).tobytes()


def quantized_rows(weight: Weight) -> np.ndarray:
    data = reference(weight.values().astype(np.float32))
    return np.frombuffer(data, np.uint8).reshape(weight.shape[0], -1)


@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1.0, 1e3])
def test_it_is_ggufs_quantizer_bit_for_bit(scale):
    values = (np.random.default_rng(7).standard_normal((64, 512)) * scale).astype(np.float32)
    assert quantize_q8_0(values, "w").tobytes() == reference(values)


def test_so_are_zeros_and_ties():
    steps = np.arange(-127, 128, dtype=np.float32) / 2  # amax 63.5: every other value is a tie
    values = np.concatenate([np.zeros(32, np.float32), np.resize(steps, 32 * 16)]).reshape(1, -1)
    values[0, 32::32] = 127  # d = 1
    assert quantize_q8_0(values, "w").tobytes() == reference(values)


def test_wide_scales_are_those_of_128_values():
    values = np.random.default_rng(3).standard_normal((3, 256)).astype(np.float32)
    blocks = np.frombuffer(quantize_q8_0(values, "w", 128), np.uint8).reshape(-1, 34)
    scales, codes = blocks[:, :2].view(np.float16)[:, 0], blocks[:, 2:].view(np.int8)
    want = (abs(values.reshape(-1, 128)).max(axis=1) / np.float32(127)).repeat(4)
    assert np.array_equal(scales, want.astype(np.float16))
    assert abs(codes * want[:, None] - values.reshape(-1, 32)).max() <= 0.501 * want.max()
    assert np.array_equal(abs(codes.reshape(-1, 128)).max(axis=1), np.full(6, 127))


@pytest.mark.parametrize(
    "make, as_embedder, shared", [(tiny_bert, False, 4), (tiny_llama, False, 1), (tiny_llama, True, 1)]
)
def test_encoders_get_wide_scales_but_no_decoder(tmp_path, monkeypatch, make, as_embedder, shared):
    monkeypatch.setattr(tiny_models, "SMALL", WIDE)
    path = write_hf_folder(make(), tmp_path / "model")
    if as_embedder:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaModel"]}))
    with tuili.LLM(path, quantization="int8", num_threads=1) as llm:
        packed = {name: data for name, _, data in llm._model.packed_tensors()}
    codes = WIDE.d_ff * WIDE.d_model
    scales = packed["layers.0.up"][codes : codes + codes // 16].view(np.float16).reshape(-1, 4, 16)
    assert (scales == scales[:, :1]).all() == (shared == 4)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e38])
def test_what_int8_cannot_hold_is_refused(value):
    values = np.ones((1, 64), np.float32)
    values[0, 40] = value
    with pytest.raises(ModelUnsupportedError, match="tensor w"):
        quantize_q8_0(values, "w")


def formats(path, **options):
    return {tensor.name: tensor.format for tensor in plan_model(path, **options).tensors}


@pytest.mark.parametrize("format", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("tied", [False, True])
def test_only_what_is_multiplied_is_quantized(tmp_path, format, tied):
    path = write_hf_folder(tiny_llama(format=format, tied=tied), tmp_path / "llama")
    found = formats(path, quantization="int8")
    quantized = {name for name, chosen in found.items() if chosen == "q8_0"}
    linear = {f"layers.{i}.{name}" for i in range(2) for name in
              ("query", "key", "value", "output", "gate", "up", "down")}  # fmt: skip
    assert quantized <= linear | {"head", "token_embedding"} and quantized
    assert ("token_embedding" in quantized) == tied and ("head" in quantized) == (not tied)
    plan = plan_model(path, quantization="int8")
    assert set(plan.not_quantized) == linear - quantized


def test_rows_that_are_no_whole_blocks_stay_and_config_says_so(bert_path):
    with tuili.LLM(bert_path, quantization="int8", num_threads=1) as llm:
        plan = plan_model(bert_path, quantization="int8")
        odd = [tensor.name for tensor in plan.tensors if len(tensor.shape) == 2
               and tensor.name.startswith("layers") and tensor.shape[1] % 32]  # fmt: skip
        assert sorted(llm.config["not_quantized"]) == sorted(odd)
        assert llm.config["quantization"] == "int8"
        found = formats(bert_path, quantization="int8")
        assert found["token_embedding"] != "q8_0" and found["position_embedding"] == "f32"


def test_a_quantized_model_is_the_one_that_a_file_would_hold(tmp_path):
    """The logits of floats that are quantized on the way are those of a file of the reference's blocks."""
    floats = tiny_llama(format="f32")
    planned = formats(write_gguf(floats, tmp_path / "float.gguf"), quantization="int8")
    assert "q8_0" in planned.values()
    weights = {
        name: Weight("q8_0", weight.shape, quantized_rows(weight)) if planned[name] == "q8_0" else weight
        for name, weight in floats.weights.items()
    }
    stored = write_gguf(dataclasses.replace(floats, weights=weights), tmp_path / "stored.gguf")
    logits = []
    for path, options in ((tmp_path / "float.gguf", {"quantization": "int8"}), (stored, {})):
        with tuili.LLM(path, **SIZES, **options) as llm:
            logits.append(llm.logits(list(range(1, 30))))
    assert logits[0].tobytes() == logits[1].tobytes()


def test_quantized_files_stay_as_they_are(tmp_path):
    path = write_gguf(tiny_llama(format="q4_0"), tmp_path / "q4.gguf")
    assert formats(path) == formats(path, quantization="int8")


@pytest.mark.parametrize(
    "format, options, said",
    [
        ("q4_0", {"quantization": "int4"}, ["quantization='int4'"]),
        ("q4_0", {"dtype": "float32", "quantization": "int8"}, ["quantization='int8'", "dtype='float32'"]),
        ("q4_0", {"compute": "int8"}, []),
        ("f32", {"compute": "int8"}, ["compute='int8'"]),
        ("f32", {"compute": "int8", "quantization": "int8", "dtype": "bfloat16"}, []),
    ],
)
def test_an_option_that_the_files_formats_leave_without_effect_is_a_warning(tmp_path, format, options, said):
    path = write_gguf(tiny_llama(format=format), tmp_path / "model.gguf")
    with tuili.LLM(path, **SIZES, **options) as llm:
        assert [line.split()[0] for line in llm.config["warnings"]] == said
    assert plan_model(path).warnings == []


@pytest.mark.parametrize("value", ["int3", 8])
def test_other_values_are_refused(tmp_path, value):
    path = write_gguf(tiny_llama(), tmp_path / "model.gguf")
    with pytest.raises(InvalidParameterError):
        tuili.LLM(path, quantization=value)


@pytest.mark.models
def test_minilm_keeps_its_vectors():
    """Mean cosine to float32 over 100 sentences at least 0.995."""
    stories = [(DATA / f"{name}.txt").read_text(encoding="utf-8") for name in ("english", "chinese")]
    halves = [re.findall(r"[^.。!?！？\n]{4,200}[.。!?！？]", story)[:30] for story in stories]
    texts = [*(DATA / "sentences.txt").read_text(encoding="utf-8").splitlines(), *halves[0], *halves[1]]
    assert len(set(texts)) == 100
    try:
        with tuili.LLM(BUILT_IN["minilm"]) as llm:
            exact = llm.embed(texts)
    except ModelIOError as error:
        if error.code != "pull_failed":
            raise
        pytest.skip(f"{BUILT_IN['minilm']} could not be pulled: {error}")
    with tuili.LLM(BUILT_IN["minilm"], quantization="int8") as llm:
        coded = llm.embed(texts)
    cosines = (exact * coded).sum(axis=1)
    assert cosines.mean() >= 0.995, f"mean cosine {cosines.mean():.5f}, least {cosines.min():.5f}"
