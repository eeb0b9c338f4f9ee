"""GGUF files of every family give the bits of the Hugging Face folder of the same weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

import encoder_models
import gguf_families
import tuili
from architecture_files import token_ids
from architecture_files import write as write_folder
from architecture_table import Case
from gguf_encoders import write_encoder
from gguf_families import FAMILIES, GGUF_NAMES, Family, write
from test_foreign_blocks import random_blocks
from tiny_core import run
from tuili import _core
from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.absorbed import take_absorbed
from tuili.loading.architectures.from_gguf import rope_scaling
from tuili.loading.checkpoint import Checkpoint, TensorInfo
from tuili.loading.foreign_blocks import widen_tensors
from tuili.loading.gguf import open_gguf
from tuili.loading.gguf_index import to_index
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.model import load, plan_model
from tuili.loading.registry import GGUF_ARCHITECTURES

TRIED = [(family, case) for family in FAMILIES for case in family.cases()]


@pytest.mark.parametrize("family, case", TRIED, ids=lambda x: x.name if isinstance(x, Case) else "")
def test_a_file_gives_the_bits_of_the_folder(family: Family, case: Case, tmp_path: Path) -> None:
    ids = np.array(token_ids(), np.int32)
    folder = run(load(plan_model(write_folder(case, tmp_path / "folder"), compute="float32")).model, ids)
    plan = plan_model(write(family, case, tmp_path / "model.gguf"), compute="float32")
    assert not plan.warnings
    assert run(load(plan).model, ids).logits().tobytes() == folder.logits().tobytes()


@pytest.mark.parametrize("architecture", ["Phi3ForCausalLM", "MiniCPMForCausalLM"])
def test_a_file_has_the_folders_long_factors_of_longrope(architecture: str, tmp_path: Path) -> None:
    family, case = next(
        (family, case)
        for family, case in TRIED
        if family.architecture == architecture and "rope_scaling" in case.config
    )
    ids = np.array(token_ids() * 2, np.int32)  # 48, of an original context of 32
    paths = write_folder(case, tmp_path / "folder"), write(family, case, tmp_path / "model.gguf")
    plans = [plan_model(path, compute="float32", max_model_len=len(ids)) for path in paths]
    folder, file = (run(load(plan).model, ids).logits() for plan in plans)
    assert file.tobytes() == folder.tobytes()
    short = load(plan_model(paths[1], compute="float32")).model
    assert (run(short, ids[:32]).logits() != file[:32]).any()


def test_every_gguf_architecture_is_tested() -> None:
    tested = {*GGUF_NAMES.values(), "bert", "nomic-bert", "llama with experts"}
    tested |= {"t5", "t5encoder"}  # test_gguf_t5.py
    assert tested == set(GGUF_ARCHITECTURES)


def test_mxfp4_experts_of_a_file_are_read_exactly(tmp_path: Path) -> None:
    """Blocks of the gguf package, whose own values the folder has."""
    family = next(family for family in FAMILIES if family.architecture == "GptOssForCausalLM")
    case = next(family.cases())
    plan = plan_model(write(family, case, tmp_path / "model.gguf", mxfp4=True), compute="float32")
    assert {tensor.format for tensor in plan.tensors if ".experts.1." in tensor.name} == {"q5_0", "f32"}
    checkpoint, reader = plan.source.checkpoint, gguf.GGUFReader(tmp_path / "model.gguf")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in stored.items():
        if tensor.tensor_type == Type.MXFP4:
            wanted = dequantize(tensor.data, Type.MXFP4)
            found = checkpoint.read(name).reshape(*wanted.shape[:-1], -1)
            assert (dequantize(found, Type.Q5_0) == wanted).all()
    load(plan)


def test_a_short_header_knows_what_the_file_holds(tmp_path: Path) -> None:
    """As the packed cache keeps it: tensors that are read as others among them."""
    family = next(family for family in FAMILIES if family.architecture == "GptOssForCausalLM")
    path = str(write(family, next(family.cases()), tmp_path / "model.gguf", mxfp4=True))
    plan = plan_model(path)
    assert isinstance(plan.source.tokenizer, Metadata)
    index = to_index(plan.source.tokenizer, plan.source.checkpoint)
    again = plan_model(path, packed={"gguf": json.loads(json.dumps(index))})
    assert [(t.name, t.format, t.stored) for t in again.tensors] == [
        (t.name, t.format, t.stored) for t in plan.tensors
    ]


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "MixtralForCausalLM", "ApertusForCausalLM"])
def test_divisors_of_frequencies_count(architecture: str, tmp_path: Path) -> None:
    """Llama 3's scaling, as files have it; models of several experts are made of Llamas, too."""
    family = next(family for family in FAMILIES if family.architecture == architecture)
    case = next(family.cases())
    plain = plan_model(write(family, case, tmp_path / "plain.gguf")).spec.ropes[0].inv_freq
    divisors = np.linspace(1, 8, len(plain), dtype=np.float32)
    scaled = dataclasses.replace(case, config=case.config | {"divisors": divisors.tolist()})
    plan = plan_model(write(family, scaled, tmp_path / "scaled.gguf"))
    assert not plan.warnings
    assert plan.spec.ropes[0].inv_freq == (np.array(plain, np.float32) / divisors).tolist()


def test_long_positions_need_both_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_of_them(writer: gguf.GGUFWriter, config: dict[str, Any], old: int) -> None:
        writer.add_rope_scaling_orig_ctx_len(old)
        long = np.array(config["rope_scaling"]["long_factor"], np.float32)
        writer.add_tensor("rope_factors_long.weight", long)

    monkeypatch.setattr(gguf_families, "_longrope", one_of_them)
    family, case = next(
        (family, case)
        for family, case in TRIED
        if family.architecture == "Phi3ForCausalLM" and case.config.get("rope_scaling")
    )
    with pytest.raises(ModelFormatError, match=r"rope_factors_short\.weight and"):
        plan_model(write(family, case, tmp_path / "model.gguf"))


YARN_OF_8: dict[str, object] = {"scaling__type": "yarn", "scaling__factor": 8.0}


def metadata(**values: object) -> Metadata:
    types = {float: 6, str: 8, int: 4}
    pairs = {f"x.rope.{key.replace('__', '.')}": (types[type(x)], x) for key, x in values.items()}
    return Metadata("file", b"", pairs)


@pytest.mark.parametrize(
    "values, kind, factor",
    [
        ({}, None, None),
        ({"scaling__type": "none", "scaling__factor": 4.0}, None, None),
        ({"scaling__factor": 1.0}, None, None),
        ({"scale_linear": 0.0}, None, None),
        ({"scaling__factor": 4.0}, "linear", 4.0),
        ({"scale_linear": 2.0}, "linear", 2.0),
        ({"scaling__type": "linear", "scaling__factor": 4.0, "scale_linear": 2.0}, "linear", 4.0),
        (YARN_OF_8 | {"scaling__attn_factor": 1.2079442}, "yarn", 8.0),
        (
            {"scaling__type": "yarn", "scaling__factor": 8.0, "scaling__yarn_attn_factor": 1.2079442},
            "yarn",
            8.0,
        ),
        ({"scaling__type": "yarn", "scaling__factor": 8.0, "scaling__yarn_ext_factor": -1.0}, "yarn", 8.0),
    ],
)
def test_positions_are_scaled_as_llama_cpp_takes_a_file(
    values: dict[str, object], kind: str | None, factor: float | None
) -> None:
    found = rope_scaling(metadata(**values), "x")
    assert found is None if kind is None else found is not None
    assert found is None or (found["rope_type"], found["factor"]) == (kind, factor)


@pytest.mark.parametrize(
    "key, given",
    [("attn", 1.5), ("attn", float("nan")), ("yarn_attn", 1.0), ("yarn_attn", 1.5), ("yarn_ext", 0.5)],
)
def test_an_unusual_sharpening_is_refused(key: str, given: float) -> None:
    values = YARN_OF_8 | {f"scaling__{key}_factor": given}
    with pytest.raises(ModelUnsupportedError, match=rf"x\.rope\.scaling\.{key}_factor"):
        rope_scaling(metadata(**values), "x")


def llama_with(path: Path, architecture: str = "LlamaForCausalLM", **more: object) -> Path:
    """A file of the first case and these keys, in which a dot is written as two lines."""
    family = next(family for family in FAMILIES if family.architecture == architecture)
    case = next(family.cases())
    keys = {key.replace("__", "."): value for key, value in more.items()}
    return write(family, dataclasses.replace(case, config=case.config | {"more": keys}), path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("attention__scale", 0.5),
        ("attention__sliding_window", 100),
        ("attention__causal", False),
        ("attn_logit_softcapping", 30.0),
        ("logit_scale", float("nan")),
        ("rope__freq_base_swa", 5e5),
        ("rope__scaling__attn_factor", 1.5),
        ("rope__scaling__yarn_log_multiplier", 0.1),
    ],
)
def test_a_key_that_would_change_the_result_is_refused(key: str, value: object, tmp_path: Path) -> None:
    name = key.replace("__", ".")
    with pytest.raises(ModelUnsupportedError, match=rf"llama\.{name} is "):
        plan_model(llama_with(tmp_path / "model.gguf", **{key: value}))


def test_keys_that_change_nothing_are_none_of_our_business(tmp_path: Path) -> None:
    more = {"attention__sliding_window": 128, "rope__freq_base_swa": 1e4, "attention__causal": True}
    path = llama_with(tmp_path / "model.gguf", **more, logit_scale=1.0, something__new=3)
    assert not plan_model(path).warnings


def test_sizes_may_be_said_layer_by_layer(tmp_path: Path) -> None:
    """As files of Granite 4 without Mamba layers do, which the converter of mixed ones writes."""
    plain = plan_model(llama_with(tmp_path / "plain.gguf", "GraniteForCausalLM"))
    layer, n = plain.spec.layers[0], len(plain.spec.layers)
    for more in (
        {"attention__head_count_kv": [layer.n_kv_heads] * n, "rope__scaling__finetuned": True},
        {"feed_forward_length": [layer.d_ff] * n},
    ):
        found = plan_model(llama_with(tmp_path / "arrays.gguf", "GraniteForCausalLM", **more))
        assert [(one.n_kv_heads, one.d_ff) for one in found.spec.layers] == [
            (layer.n_kv_heads, layer.d_ff)
        ] * n
    for key, value in (
        ("attention__head_count_kv", [layer.n_kv_heads] * (n - 1) + [0]),
        ("attention__head_count_kv", [-1] * n),
        ("rope__scaling__finetuned", False),
    ):
        with pytest.raises(ModelUnsupportedError, match=key.replace("__", ".")):
            plan_model(llama_with(tmp_path / "wrong.gguf", "GraniteForCausalLM", **{key: value}))


def test_a_file_without_a_base_of_rotations_means_ten_thousand(tmp_path: Path) -> None:
    """Also where the class of config.json has another."""
    family = next(family for family in FAMILIES if family.architecture == "SmolLM3ForCausalLM")
    for theta in (1e4, None):
        case = next(family.cases())
        case = dataclasses.replace(case, config=case.config | {"rope_theta": theta})
        plan = plan_model(write(family, case, tmp_path / f"{theta}.gguf"))
        if theta is not None:
            wanted = plan.spec.ropes[0].inv_freq
    assert plan.spec.ropes[0].inv_freq == wanted
    assert plan.source.config.defaults["rope_theta"] == 1e4


def test_a_gate_of_one_row_may_be_a_vector(tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.architecture == "Qwen2MoeForCausalLM")
    case = next(family.cases())
    plain, flat = (
        plan_model(write(family, case, tmp_path / f"{flat}.gguf", flat=flat)) for flat in (False, True)
    )
    assert [(t.name, t.shape) for t in plain.tensors] == [(t.name, t.shape) for t in flat.tensors]


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q5_0])
def test_quantized_keys_of_absorbed_attention_are_turned_exactly(kind: Type) -> None:
    rng = np.random.default_rng(5)
    data = quantize(rng.standard_normal((3, 5, 64), dtype=np.float32), kind)
    stored = TensorInfo("blk.0.attn_k_b.weight", kind.name.lower(), (3, 5, 64), 0, data.nbytes)

    class One(Checkpoint):
        def read_stored(self, tensor: TensorInfo, begin: int, n_bytes: int) -> np.ndarray:
            return data.reshape(-1)[begin : begin + n_bytes]

    checkpoint = One(tensors={stored.name: stored})
    take_absorbed(checkpoint)
    assert checkpoint.tensors[stored.name].shape == (3 * 64, 5)
    wanted = dequantize(data, kind).swapaxes(1, 2).reshape(3 * 64, 5)
    assert (checkpoint.read(stored.name).view(np.float32).reshape(3 * 64, 5) == wanted).all()


@pytest.mark.parametrize("format", ["iq4_nl", "mxfp4"])
def test_absorbed_keys_of_formats_that_become_others_are_turned_exactly(format: str, tmp_path: Path) -> None:
    """Rows of 32 or 64 values, which llama.cpp stores in IQ4_NL where the other matrices have Q3_K."""
    rows = random_blocks(format, 3 * 5 * 2).reshape(3, 5, -1)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "deepseek2")
    name, kind = "blk.0.attn_k_b.weight", Type[format.upper()]
    for tensor in ("before", name):
        writer.add_tensor(tensor, rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _, checkpoint = open_gguf(tmp_path / "model.gguf")
    stored = checkpoint.tensors[name]
    with checkpoint:
        widen_tensors(checkpoint)
        take_absorbed(checkpoint)
        found = checkpoint.read(name).view(np.float32).reshape(3 * 64, 5)
    wanted = dequantize(rows, kind).swapaxes(1, 2).reshape(3 * 64, 5)
    assert (found == wanted).all()
    assert checkpoint.stored_tensors()[-1] == stored


def test_nomic_bert_gives_the_vectors_of_the_folder(tmp_path: Path) -> None:
    """Of the checkpoint as its makers name things."""
    case = encoder_models.CASES["NomicBertModel-own"]
    folder = encoder_models.write_folder(case, tmp_path / "folder")
    theirs = {
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
    }
    theirs |= {
        "intermediate_size": "n_inner",
        "num_attention_heads": "n_head",
        "rope_theta": "rotary_emb_base",
    }
    theirs |= {"layer_norm_eps": "layer_norm_epsilon", "type_vocab_size": "type_vocab_size"}
    config = {ours: case.config[name] for ours, name in theirs.items()}
    tensors = encoder_models.tensors(case)
    path = write_encoder(gguf.MODEL_ARCH.NOMIC_BERT, config, tensors, tmp_path / "model.gguf")
    vectors = []
    for place in (folder, path):
        plan = plan_model(place)
        assert not plan.warnings
        runner = _core.Runner(load(plan).model, num_threads=1)
        one = _core.Sequence(np.array(case.ids, np.int32), collect_hidden=True)
        runner.encode([one], "mean", False)
        vectors.append(one.hidden_states())
    assert (vectors[0] == vectors[1]).all()
    with tuili.LLM(path, num_threads=1) as llm:
        assert llm.embed(["the cat is good"]).shape == (1, config["hidden_size"])
