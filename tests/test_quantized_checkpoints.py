"""GPTQ, AWQ and MXFP4 folders: their weights exactly, so the bits of the same model in float32."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import load_file, save_file

import tuili
from architecture_files import token_ids
from gguf_families import FAMILIES
from gguf_families import write as write_gguf
from quantized_folders import (
    Quantized,
    case_of,
    write_gpt_oss,
    write_pair,
)
from tiny_core import run
from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading import group_quantized, packed_cache
from tuili.loading.model import LoadPlan, load, plan_model

LLAMA = case_of("LlamaForCausalLM")
F, U = ModelFormatError, ModelUnsupportedError


def logits(path: Path, **options: Any) -> np.ndarray:
    plan = plan_model(path, **options)
    return run(load(plan).model, np.array(token_ids(), np.int32)).logits()


def formats(plan: LoadPlan) -> set[str]:
    """Of the linear maps in the layers."""
    names = ("query", "key", "value", "output", "gate", "up", "down")
    return {tensor.format for tensor in plan.tensors if tensor.name.rsplit(".", 1)[-1] in names}


def same_bits(pair: tuple[Path, Path], format: str) -> None:
    plan = plan_model(pair[0], compute="float32")
    assert formats(plan) == {format}
    assert bool(plan.warnings) == (format == "f32")
    assert logits(pair[0], compute="float32").tobytes() == logits(pair[1]).tobytes()


@pytest.mark.parametrize("method", ["gptq", "gptq_v2", "awq"])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
@pytest.mark.parametrize("sym", [True, False])
def test_groups_give_the_bits_of_their_values(
    method: str, group_size: int, sym: bool, tmp_path: Path
) -> None:
    pair = write_pair(LLAMA, Quantized(method, group_size, sym), tmp_path)
    same_bits(pair, "q4_0" if sym else "q5_0")


@pytest.mark.parametrize("bits, sym, format", [(2, True, "q4_0"), (2, False, "q4_0"), (8, True, "q8_0"),
                                               (8, False, "f32")])  # fmt: skip
@pytest.mark.parametrize("method", ["gptq", "gptq_v2"])
def test_other_bits_give_the_bits_of_their_values(
    method: str, bits: int, sym: bool, format: str, tmp_path: Path
) -> None:
    same_bits(write_pair(LLAMA, Quantized(method, sym=sym, bits=bits), tmp_path), format)


@pytest.mark.parametrize("how", [Quantized(desc_act=True, sym=False), Quantized(group_size=16),
                                 Quantized("awq", 48, sym=False)])  # fmt: skip
def test_groups_that_are_no_blocks_become_floats(how: Quantized, tmp_path: Path) -> None:
    same_bits(write_pair(LLAMA, how, tmp_path), "f32")


@pytest.mark.parametrize("scales, format", [((np.float16, np.float32), "q5_0"), ((np.float32,), "f32")])
def test_scales_of_other_types_stay_exact(scales: Any, format: str, tmp_path: Path) -> None:
    same_bits(write_pair(LLAMA, Quantized(sym=False, scales=scales), tmp_path), format)


@pytest.mark.parametrize(
    "architecture, settings",
    [
        ("Phi3ForCausalLM", {}),
        ("Qwen2ForCausalLM", {"vocab_size": 304}),
        ("Qwen2MoeForCausalLM", {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 64}),
        ("GPT2LMHeadModel", {}),
    ],
)
def test_fused_tied_routed_and_turned_weights_come_apart(
    architecture: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    case = case_of(architecture, **settings)
    if "Moe" in architecture:
        case = dataclasses.replace(case, leave_out=r"experts\.(gate_up|down)_proj$")
    pair = write_pair(case, Quantized(sym=False), tmp_path, conv1d=architecture.startswith("GPT2"))
    same_bits(pair, "q5_0")


@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("scale", [np.inf, np.nan, 65504.0])
def test_scales_that_are_not_finite_load_as_others_do(desc_act: bool, scale: float, tmp_path: Path) -> None:
    folder, _ = write_pair(LLAMA, Quantized(sym=False, desc_act=desc_act), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.scales"][:] = scale
    save_file(tensors, folder / "model.safetensors")
    load(plan_model(folder))
    checked = plan_model(folder, check_finite=True)
    if np.isfinite(scale):
        load(checked)
        return
    with pytest.raises(F, match="not numbers") as caught:
        load(checked)
    assert caught.value.code == "not_finite"


def test_every_code_and_zero_is_kept(tmp_path: Path) -> None:
    """Values read back by the gguf package equal scale · (code - zero), all 256 pairs among them."""
    for method in ("gptq", "gptq_v2", "awq"):
        pair = write_pair(LLAMA, Quantized(method, sym=False), tmp_path / method)
        name = "model.layers.0.mlp.up_proj.weight"
        data = plan_model(pair[0]).source.checkpoint.read(name).reshape(96, -1)
        wanted = load_file(pair[1] / "model.safetensors")[name]
        assert (dequantize(data, GGMLQuantizationType.Q5_0) == wanted).all()


def test_a_part_of_the_rows_is_that_part(tmp_path: Path) -> None:
    pair = write_pair(LLAMA, Quantized(sym=False), tmp_path)
    checkpoint = plan_model(pair[0]).source.checkpoint
    name = "model.layers.0.mlp.up_proj.weight"
    whole = checkpoint.read(name).reshape(96, -1)
    size = whole.shape[1]
    for first, last in ((0, 1), (3, 17), (95, 96)):
        part = checkpoint.read(name, first * size, (last - first) * size)
        assert (part.reshape(-1, size) == whole[first:last]).all()


@pytest.mark.parametrize("settings, said", [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"gptq, awq, mxfp4; .*\.dequantize\(\)"),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FineGrainedFP8Config.dequantize=True"),
    ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "CompressedTensorsConfig"),
    ({"quant_method": "hqq"}, "supported methods: gptq, awq, mxfp4; or load"),
    ({"quant_method": "gptq", "bits": 3}, "supported bits: 2, 4, 8; or load"),
    ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "supported: gemm; or load"),
])  # fmt: skip
def test_other_methods_are_refused_with_a_way_to_go_on(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder, _ = write_pair(LLAMA, Quantized(), tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(U, match=f"{said}.*quantization='int8' or 'int4'") as caught:
        plan_model(folder)
    assert caught.value.code == "quantization_config"


def test_settings_may_be_in_a_file_of_their_own(tmp_path: Path) -> None:
    for method, file, settings in (
        ("gptq", "quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False, "sym": False}),
        ("awq", "quant_config.json", {"w_bit": 4, "q_group_size": 32, "zero_point": True, "version": "GEMM"}),
    ):
        pair = write_pair(LLAMA, Quantized(method, sym=False), tmp_path / method)
        (pair[0] / "config.json").write_text(json.dumps(LLAMA.config), encoding="utf-8")
        with pytest.raises(F, match="no quantization_config"):
            plan_model(pair[0])
        (pair[0] / file).write_text(json.dumps(settings), encoding="utf-8")
        same_bits(pair, "q5_0")
        (pair[0] / file).write_text(json.dumps(settings | {"quant_method": "other"}), encoding="utf-8")
        with pytest.raises(U, match="supported methods"):
            plan_model(pair[0])


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_biases_of_zeros_are_left_out_in_silence(value: float, tmp_path: Path) -> None:
    """Old AutoGPTQ gave every map a bias, also in families that have none."""
    pair = write_pair(LLAMA, Quantized(), tmp_path)
    tensors = load_file(pair[0] / "model.safetensors")
    stem = "model.layers.0.mlp.up_proj"
    tensors[f"{stem}.bias"] = np.full(tensors[f"{stem}.scales"].shape[1], value, np.float16)
    save_file(tensors, pair[0] / "model.safetensors")
    plan = plan_model(pair[0], compute="float32")
    assert plan.ignored_tensors == [f"{stem}.bias"]
    assert len(plan.warnings) == (value != 0)
    assert logits(pair[0], compute="float32").tobytes() == logits(pair[1]).tobytes()


def test_int8_applies_to_what_became_floats(tmp_path: Path) -> None:
    pair = write_pair(LLAMA, Quantized(desc_act=True), tmp_path)
    assert formats(plan_model(pair[0], quantization="int8")) == {"q8_0"}
    options = {"quantization": "int8", "compute": "float32"}
    assert logits(pair[0], **options).tobytes() == logits(pair[1], **options).tobytes()


def test_the_engine_runs_them(tmp_path: Path) -> None:
    pair = write_pair(LLAMA, Quantized(sym=False), tmp_path)
    with tuili.LLM(pair[0], num_threads=1, kv_cache_bytes=1 << 20) as llm:
        quick = llm.logits(token_ids())
        assert llm.config["weight_bytes"]["q5_0"] > 0
    exact = logits(pair[1])
    assert abs(quick - exact).max() <= 0.05 * np.ptp(exact)  # int8 activations of a model of noise


# ---- MXFP4


def test_mxfp4_experts_give_the_bits_of_their_values(tmp_path: Path) -> None:
    pair = write_gpt_oss(tmp_path)
    plan = plan_model(pair[0], compute="float32")
    experts = {
        tensor.format for tensor in plan.tensors if ".experts." in tensor.name and len(tensor.shape) == 2
    }
    assert experts == {"q5_0"} and not plan.warnings
    assert logits(pair[0], compute="float32").tobytes() == logits(pair[1]).tobytes()


@pytest.mark.parametrize(
    "scale, error, code",
    [
        (255, F, "not_finite"),
        (103, U, "dtype_overflow"),
        (144, U, "dtype_overflow"),
        (104, None, ""),
        (143, None, ""),
    ],
)
def test_scales_that_float16_cannot_hold_are_refused(
    scale: int, error: Any, code: str, tmp_path: Path
) -> None:
    folder, _ = write_gpt_oss(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.experts.down_proj_scales"
    tensors[name].flat[5] = scale
    save_file(tensors, folder / "model.safetensors")
    if error is None:
        load(plan_model(folder))
        return
    with pytest.raises(error) as caught:
        load(plan_model(folder))
    assert caught.value.code == code


def test_a_block_of_zeros_may_have_any_scale(tmp_path: Path) -> None:
    folder, _ = write_gpt_oss(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.experts.down_proj"
    tensors[f"{name}_blocks"][0, 0, 0], tensors[f"{name}_scales"][0, 0, 0] = 0, 0
    save_file(tensors, folder / "model.safetensors")
    load(plan_model(folder))


def test_they_come_back_from_the_packed_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_cache, "MIN_WEIGHT_BYTES", 0)
    family = next(family for family in FAMILIES if family.architecture == "GptOssForCausalLM")
    options: dict[str, Any] = {"num_threads": 1, "kv_cache_bytes": 1 << 20, "cache_dir": tmp_path / "cache"}
    for path in (
        write_pair(LLAMA, Quantized(sym=False), tmp_path / "gptq")[0],
        write_gpt_oss(tmp_path / "mxfp4")[0],
        write_gguf(family, next(family.cases()), tmp_path / "model.gguf", mxfp4=True),
    ):
        found = []
        for _ in range(2):
            with tuili.LLM(path, **options) as llm:
                found.append((llm.logits(token_ids()).tobytes(), llm.config["weight_bytes"]))
                state = llm.config["packed_cache"]
        assert state.startswith("read from"), f"{path}: {state}"
        assert found[0] == found[1]


@pytest.mark.parametrize(
    "bits, zeros, wanted",
    [
        (4, [8], "q4_0"), (4, [7], "q5_0"), (4, [9], "q5_0"), (4, [15], "q5_0"), (4, [0, 16], "q5_0"),
        (8, [128], "q8_0"), (8, [127], "f32"), (8, [129], "f32"),
    ],
)  # fmt: skip
def test_a_format_is_the_smallest_that_holds_every_code_less_its_zero(bits, zeros, wanted):
    packing = group_quantized.Packing("gptq", bits)
    assert group_quantized._format(np.array(zeros, np.uint8), packing) == wanted
