"""Tiny models from folders and GGUF files: every tensor reaches the core, every option does what it says."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hostile.cases import (
    CONFIG,
    GGUF_KEYS,
    STRING,
    U32,
    folder,
    gguf,
    gguf_file,
    llama_shapes,
    st_file,
    st_header,
)
from reference_formats import dequantize
from tiny_core import run, some_ids
from tiny_files import gguf_metadata, gguf_tensors, write_gguf, write_gguf_file, write_hf_folder
from tiny_models import FAMILIES, TinyModel
from tuili._core import ModelBuilder
from tuili.errors import InvalidParameterError, ModelFormatError, ModelLimitError, ModelUnsupportedError
from tuili.loading import model as loading
from tuili.loading.checkpoint import FORMATS
from tuili.loading.layout import Parts, our_names
from tuili.loading.model import load, plan_model
from tuili.loading.weights import check_finite, from_float32, to_float32, unpermute_rows

GGUF_FORMATS = sorted(FORMATS)


class Recorder:
    """A ModelBuilder that keeps what is added to it."""

    added: dict[str, tuple[str, tuple[int, ...], np.ndarray]]

    def __init__(self, spec: Any, **options: Any) -> None:
        self.builder = ModelBuilder(spec, **options)
        Recorder.added = {}

    def expected(self) -> Any:
        return self.builder.expected()

    def add(self, name: str, format: Any, shape: Any, data: Any) -> None:
        Recorder.added[name] = (format, tuple(shape), data.copy())
        self.builder.add(name, format, shape, data)

    def finish(self) -> Any:
        return self.builder.finish()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(loading, "ModelBuilder", Recorder)
    return Recorder


def assert_equal_weights(model: TinyModel, added: dict[str, Any]) -> None:
    """Matrices in the same bytes, vectors as float32 of the same values."""
    assert set(added) == set(model.weights)
    for name, (format, shape, data) in added.items():
        weight = model.weights[name]
        assert shape == weight.shape, name
        if len(shape) == 2 and name not in ("position_embedding", "token_type_embedding"):
            assert format == weight.format, name
            assert data.tobytes() == weight.rows.tobytes(), name
        else:
            assert format == "f32", name
            np.testing.assert_allclose(
                data.view(np.float32), weight.values().reshape(-1), rtol=2e-7, err_msg=name
            )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("format", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_folder_reaches_the_core_unchanged(
    family: str, format: str, n_shards: int, tmp_path: Path, recorded: type[Recorder]
) -> None:
    model = FAMILIES[family](format=format)
    loaded = load(plan_model(write_hf_folder(model, tmp_path, n_shards)))
    assert_equal_weights(model, recorded.added)
    assert loaded.kind == model.spec["kind"]
    assert loaded.config["warnings"] == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("format", GGUF_FORMATS)
def test_a_gguf_file_reaches_the_core_unchanged(
    family: str, format: str, tmp_path: Path, recorded: type[Recorder]
) -> None:
    """Llama's rows are put back in order, quantized blocks are not touched."""
    model = FAMILIES[family](format=format)
    loaded = load(plan_model(write_gguf(model, tmp_path / "a.gguf")))
    assert_equal_weights(model, recorded.added)
    assert loaded.kind == model.spec["kind"]
    assert loaded.config["warnings"] == []
    if loaded.kind == "decoder":
        assert loaded.eos_token_ids == (1,)
        assert loaded.chat_template


@pytest.mark.parametrize("family", FAMILIES)
def test_the_spec_is_the_one_that_the_tiny_model_has(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family]()
    for path in (write_hf_folder(model, tmp_path / "folder"), write_gguf(model, tmp_path / "a.gguf")):
        plan = plan_model(path)
        for field in ("kind", "n_vocab", "d_model", "max_positions"):
            assert getattr(plan.spec, field) == model.spec[field], field
        assert len(plan.spec.layers) == len(model.spec["layers"])


def test_a_bert_folder_says_how_to_pool_and_what_it_ignores(tmp_path: Path) -> None:
    loaded = load(plan_model(write_hf_folder(FAMILIES["bert"](), tmp_path)))
    assert loaded.embedding == {"pooling": "mean", "normalize": True, "max_seq_length": 32}
    assert set(loaded.config["ignored_tensors"]) == {"pooler.dense.bias", "pooler.dense.weight"}


@pytest.mark.parametrize(
    ("number", "pooling", "normalize"),
    [(None, "mean", False), (0, "mean", False), (1, "mean", True), (2, "cls", True), (3, "last", True)],
)
def test_a_bert_gguf_file_says_how_to_pool(
    number: int | None, pooling: str, normalize: bool, tmp_path: Path
) -> None:
    model = FAMILIES["bert"]()
    keys = {key: value for key, value in gguf_metadata(model).items() if key != "bert.pooling_type"}
    if number is not None:
        keys["bert.pooling_type"] = number
    plan = plan_model(write_gguf_file(tmp_path / "a.gguf", keys, gguf_tensors(model)))
    assert plan.source.embedding == {"pooling": pooling, "normalize": normalize, "max_seq_length": None}


@pytest.mark.parametrize(("dtype", "format"), [("float32", "f32"), ("bfloat16", "bf16"), ("float16", "f16")])
@pytest.mark.parametrize("stored", ["f32", "bf16", "f16"])
def test_dtype_converts_matrices_only(
    dtype: str, format: str, stored: str, tmp_path: Path, recorded: type[Recorder]
) -> None:
    model = FAMILIES["llama"](format=stored)
    load(plan_model(write_hf_folder(model, tmp_path), dtype=dtype))
    name = "layers.0.up"
    assert recorded.added[name][0] == format
    assert recorded.added["final_norm"][0] == "f32"
    exact = model.weights[name].values().reshape(-1)
    found = to_float32(recorded.added[name][2], format)
    unit = {"f32": 0, "bf16": 2.0**-8, "f16": 2.0**-11}[format]
    assert (abs(found - exact) <= unit * abs(exact) + 2.0**-25).all()


def test_dtype_leaves_quantized_weights_alone(tmp_path: Path, recorded: type[Recorder]) -> None:
    model = FAMILIES["llama"](format="q8_0")
    load(plan_model(write_gguf(model, tmp_path / "a.gguf"), dtype="float32"))
    assert recorded.added["layers.0.up"][0] == "q8_0"


def test_progress_counts_every_byte_and_can_end_the_load(tmp_path: Path) -> None:
    plan = plan_model(folder()(tmp_path))
    seen: list[tuple[int, int]] = []
    load(plan, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(tensor.stored.n_bytes for tensor in plan.tensors)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(plan, stop)
    load(plan)


def test_weights_that_are_not_numbers_load_unless_told_to_check(tmp_path: Path) -> None:
    content = bytearray(st_file(st_header()))
    content[-4:] = np.float32("nan").tobytes()
    path = folder(bytes(content))(tmp_path)
    load(plan_model(path))
    with pytest.raises(ModelFormatError, match="down_proj") as error:
        load(plan_model(path, check_finite=True))
    assert error.value.code == "not_finite"


@pytest.mark.parametrize("format", GGUF_FORMATS)
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("compute", ["auto", "float32"])
def test_blocks_at_their_extremes_load_and_run(format: str, byte: int, compute: Any, tmp_path: Path) -> None:
    """Index fields at their largest, scales infinite or not numbers: results may be too, no more."""
    model = FAMILIES["llama"](format=format)
    for weight in model.weights.values():
        if len(weight.shape) == 2:
            weight.rows[:] = byte
    loaded = load(plan_model(write_gguf(model, tmp_path / "a.gguf"), compute=compute))
    sequence = run(loaded.model, some_ids(5))
    assert sequence.logits().shape == (5, 300)


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_loaded_model_no_longer_needs_its_file(kind: str, tmp_path: Path) -> None:
    """Nothing is mapped: the file may be truncated, and the same logits come out."""
    model = FAMILIES["llama"]()
    if kind == "gguf":
        path = weights = write_gguf(model, tmp_path / "a.gguf")
    else:
        path = write_hf_folder(model, tmp_path)
        weights = path / "model.safetensors"
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    loaded = load(plan_model(path))
    assert before == {file.name: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}, "loading wrote"
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    logits = run(loaded.model, some_ids(9)).logits()
    weights.write_bytes(b"")
    assert run(loaded.model, some_ids(9)).logits().tobytes() == logits.tobytes()


@pytest.mark.parametrize("format", GGUF_FORMATS)
def test_every_scale_of_a_block_is_checked(format: str) -> None:
    block = FORMATS[format]
    data = np.zeros(3 * block.n_bytes, np.uint8)
    check_finite(data, format, "x")
    width = {"f32": 4}.get(format, 2)
    bad = {"f32": np.float32("inf").tobytes(), "bf16": b"\x80\x7f"}.get(format, np.float16("inf").tobytes())
    for at in block.scales or (0,):
        broken = data.copy()
        broken[block.n_bytes + at : block.n_bytes + at + width] = np.frombuffer(bad, np.uint8)
        with pytest.raises(ModelFormatError) as error:
            check_finite(broken, format, "x")
        assert error.value.code == "not_finite"
        with np.errstate(invalid="ignore"):
            values = dequantize(format, broken.reshape(3, -1))
        assert not np.isfinite(values).all(), "the scale is elsewhere"


def test_bfloat16_rounds_to_nearest_even_and_keeps_not_a_number() -> None:
    bits = np.array(
        [0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x7FFFFFFF, 0xFFC00001, 0x80000000], np.uint32
    )
    rounded = from_float32(bits.view(np.float32), "bf16", "x").view(np.uint16)
    assert [hex(x) for x in rounded[:4]] == ["0x3f80", "0x3f80", "0x3f82", "0x3f81"]
    assert np.isnan(to_float32(rounded[4:6].view(np.uint8), "bf16")).all()
    assert rounded[6] == 0x8000


@pytest.mark.parametrize(("format", "value"), [("f16", 70000.0), ("bf16", 3.4e38)])
def test_a_conversion_that_would_overflow_is_refused(format: str, value: float) -> None:
    with pytest.raises(ModelUnsupportedError) as error:
        from_float32(np.array([1, value], np.float32), format, "x")
    assert error.value.code == "dtype_overflow"


def test_rows_are_put_back_in_order() -> None:
    """GGUF interleaves the halves of each head: rows 0 h 1 h+1 …"""
    in_file = np.array([0, 2, 1, 3, 4, 6, 5, 7], np.uint8).repeat(3)
    assert list(unpermute_rows(in_file, 8, 2)[::3]) == list(range(8))


@pytest.mark.parametrize(
    ("options", "param"),
    [({"dtype": "int8"}, "dtype"), ({"compute": "fast"}, "compute"), ({"num_threads": 0}, "num_threads")]
    + [({"num_threads": bad}, "num_threads") for bad in (-1, 1.5, "2", True, 1 << 20)],
)
def test_wrong_options_are_named(options: dict[str, Any], param: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError) as error:
        plan_model(tmp_path, **options)
    assert error.value.param == param


def test_a_model_that_does_not_fit_is_refused_with_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder()(tmp_path)
    monkeypatch.setattr(loading, "available_memory", lambda: (1 << 30, "MemAvailable"))
    plan_model(path)
    monkeypatch.setattr(loading, "available_memory", lambda: (1000, "MemAvailable"))
    with pytest.raises(ModelLimitError, match=r"20 tensors.*MemAvailable") as error:
        plan_model(path)
    assert error.value.code == "memory"


def test_left_out_tensors_are_listed_and_unknown_ones_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": [8], "surprise": [3], "lm_head.weight": [16, 32]}
    with caplog.at_level(logging.WARNING, "tuili"):
        loaded = load(plan_model(folder(st_file(st_header(llama_shapes() | extra)))(tmp_path)))
    assert set(loaded.config["ignored_tensors"]) == set(extra)
    assert len(loaded.config["warnings"]) == len(caplog.records) == 1
    assert "surprise" in caplog.text  # and not the head, a copy of the embedding that it is tied to


def test_defaults_taken_are_listed(tmp_path: Path) -> None:
    config = load(plan_model(folder(config=CONFIG | {"auto_map": {"x": "y"}})(tmp_path))).config
    assert config["defaults"]["rope_theta"] == 10000.0
    assert config["defaults"]["hidden_act"] == "silu"
    assert "rms_norm_eps" not in config["defaults"]
    assert config["auto_map_ignored"] is True
    json.dumps(config)


def test_generation_defaults_are_returned_and_unknown_keys_listed(tmp_path: Path) -> None:
    settings = {"temperature": 0.6, "top_k": 20, "do_sample": True, "eos_token_id": [3, 4], "frobnicate": 1}
    settings |= {"min_new_tokens": 2, "num_beams": 2, "forced_bos_token_id": 3, "forced_eos_token_id": 4}
    bans = {"bad_words_ids": [[0], [6, 7]], "suppress_tokens": [8], "begin_suppress_tokens": [9]}
    bans |= {"sequence_bias": [[[5], 1.0], [[6, 7], -2]]}
    settings |= bans | {"length_penalty": 2.0, "renormalize_logits": True, "max_length": 9}
    loaded = load(plan_model(folder(generation_config__json=settings)(tmp_path)))
    wanted = {"temperature": 0.6, "top_k": 20, "do_sample": True, "min_tokens": 2, **bans}
    wanted |= {"forced_eos_token_id": 4, "length_penalty": 2.0, "renormalize_logits": True, "max_length": 9}
    assert loaded.generation_defaults == wanted
    assert loaded.eos_token_ids == (3, 4)
    ignored = ["frobnicate", "num_beams", "forced_bos_token_id"]
    assert loaded.config["ignored_generation_keys"] == ignored
    (tmp_path / "long").mkdir()
    loaded = load(plan_model(folder(generation_config__json={"max_length": 10**30})(tmp_path / "long")))
    assert loaded.generation_defaults == {"max_length": 1 << 24}


def test_an_old_config_holds_the_generation_defaults_of_a_decoder(tmp_path: Path) -> None:
    """transformers 4 wrote them there, and transformers 5 reads them if there is no other file."""
    settings = {"temperature": 0.6, "top_k": 20, "do_sample": True, "max_length": 33}
    old = CONFIG | settings | {"task_specific_params": {"text-generation": {"max_length": 50}}}
    loaded = load(plan_model(folder(config=old | {"num_beams": 4, "eta_cutoff": 0.1})(tmp_path)))
    assert loaded.generation_defaults == settings
    assert loaded.config["ignored_generation_keys"] == ["num_beams", "eta_cutoff"]
    (tmp_path / "new").mkdir()
    loaded = load(plan_model(folder(config=old, generation_config__json={"top_p": 0.5})(tmp_path / "new")))
    assert loaded.generation_defaults == {"top_p": 0.5}


def test_a_class_own_end_beyond_the_vocabulary_ends_nothing_and_is_listed(tmp_path: Path) -> None:
    """transformers writes it down for a vocabulary of any size; another id beyond it is an error."""
    small = CONFIG | {"model_type": "phi3", "eos_token_id": 32000}
    loaded = load(plan_model(folder(config=small, generation_config__json=small)(tmp_path)))
    assert loaded.eos_token_ids == ()
    assert "eos_token_id" in loaded.config["ignored_generation_keys"]
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelFormatError, match="eos_token_id"):
        plan_model(folder(config=small | {"eos_token_id": 32001})(tmp_path / "other"))


def test_model_max_length_without_end_means_none(tmp_path: Path) -> None:
    for name, length, expected in (
        ("a", 10**30, None),
        ("b", 512, 512),
        ("c", 1e30, None),
        ("d", True, None),
    ):
        (tmp_path / name).mkdir()
        plan = plan_model(folder(tokenizer_config__json={"model_max_length": length})(tmp_path / name))
        assert plan.source.embedding is not None
        assert plan.source.embedding["max_seq_length"] == expected


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"tokenizer_config__json": {"chat_template": "a"}}, "a"),
        ({"tokenizer_config__json": {"chat_template": "a"}, "chat_template__jinja": b"b"}, "b"),
        (
            {
                "tokenizer_config__json": {
                    "chat_template": [
                        {"name": "tool_use", "template": "t"},
                        {"name": "default", "template": "d"},
                    ]
                }
            },
            "d",
        ),
        ({"tokenizer_config__json": {"chat_template": [{"name": "x", "template": "only"}]}}, "only"),
        ({}, None),
    ],
)
def test_the_chat_template_that_is_picked(
    files: dict[str, Any], template: str | None, tmp_path: Path
) -> None:
    assert plan_model(folder(**files)(tmp_path)).source.chat_template == template


def test_end_of_text_ids_of_a_gguf_file(tmp_path: Path) -> None:
    keys = GGUF_KEYS | {"tokenizer.ggml.eot_token_id": (U32, 5), "tokenizer.ggml.eom_token_id": (U32, 2)}
    assert plan_model(gguf(gguf_file(keys))(tmp_path)).source.eos_token_ids == (2, 5)


def test_names_of_tensors() -> None:
    names = {"a.weight": "x", "layers.{i}.b.weight": "layers.{i}.y", "l.{i}.c.{e}.d": "{i}.{e}"}
    assert our_names("a.weight", names) == Parts(("x",))
    assert our_names("layers.12.b.weight", names) == Parts(("layers.12.y",))
    assert our_names("l.3.c.10.d", names) == Parts(("3.10",))
    assert our_names("3.c.10.d", names, "l.") == Parts(("3.10",))
    for other in (
        "layers.012.b.weight",
        "layers.-1.b.weight",
        "layers.x.b.weight",
        "layers.{i}.b.weight",
        "b",
        "",
    ):
        assert our_names(other, names) is None or other == "layers.{i}.b.weight"


def test_gguf_settings_are_named_as_in_the_file(tmp_path: Path) -> None:
    keys = GGUF_KEYS | {"llama.attention.head_count": (U32, 0)}
    with pytest.raises(ModelFormatError, match=r"llama\.attention\.head_count must be .*, not 0"):
        plan_model(gguf(gguf_file(keys))(tmp_path))
    keys = GGUF_KEYS | {"general.name": (STRING, "x")}
    assert "2 layers" not in str(plan_model(gguf(gguf_file(keys))(tmp_path)))
