"""Both readers against independent writers, and every truncation and bit flip of a small file."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hostile.cases import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U16,
    U32,
    Tensor,
    gguf_file,
    st_file,
    st_header,
)
from patience import least, processor_s, slowness
from tuili.errors import ModelFormatError, ModelLimitError, TuiliError
from tuili.loading import gguf, safetensors_file
from tuili.loading.checkpoint import FORMATS, Checkpoint
from tuili.loading.files import open_regular


def open_bytes(content: bytes, tmp_path: Path, read: Callable[[Any], Any]) -> Any:
    path = tmp_path / "file"
    path.write_bytes(content)
    with open_regular(path) as file:
        return read(file)


# ---- safetensors


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_safetensors_are_read_as_the_library_wrote_them(dtype: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(7)
    arrays = {
        f"t.{i}": rng.standard_normal(shape).astype(dtype)
        for i, shape in enumerate([(3, 5), (7,), (), (0, 2)])
    }
    arrays["zähler"] = np.arange(6).reshape(2, 3)
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with safetensors_file.open_folder(str(tmp_path)) as checkpoint:
        assert set(checkpoint.tensors) == set(arrays)
        for name, array in arrays.items():
            info = checkpoint.tensors[name]
            assert info.shape == array.shape
            assert checkpoint.read(name).tobytes() == array.tobytes()
        assert checkpoint.tensors["t.0"].format == {"float32": "f32", "float16": "f16"}[dtype]
        assert checkpoint.tensors["zähler"].format == "I64"


def test_the_library_reads_what_the_hostile_corpus_calls_valid(tmp_path: Path) -> None:
    """The generators' own valid file is valid, so that what they break is what they mean to break."""
    from safetensors import safe_open

    (tmp_path / "a").write_bytes(st_file(st_header()))
    with safe_open(tmp_path / "a", "numpy") as file:
        assert set(file.keys()) == set(st_header())


SMALL_ST = st_file(st_header({"a.weight": [2, 3], "b": [4]}))
SMALL_GGUF = gguf_file(
    {
        "general.architecture": (STRING, "llama"),
        "general.alignment": (U32, 32),
        "x.flag": (BOOL, 1),
        "x.list": (ARRAY, (STRING, ["ab", "", "c"])),
        "x.numbers": (ARRAY, (I32, [1, -1])),
    },
    [Tensor("a.weight", [4, 2]), Tensor("b", [3])],
)
SMALL = {"safetensors": (SMALL_ST, safetensors_file.read_header), "gguf": (SMALL_GGUF, gguf.read_header)}


@pytest.mark.parametrize("kind", SMALL)
def test_truncation_at_every_byte_is_an_error(kind: str, tmp_path: Path) -> None:
    content, read = SMALL[kind]
    open_bytes(content, tmp_path, read)
    for n in range(len(content)):
        with pytest.raises(TuiliError):
            open_bytes(content[:n], tmp_path, read)


@pytest.mark.parametrize("kind", SMALL)
def test_every_flipped_header_bit_is_an_error_or_still_within_the_file(kind: str, tmp_path: Path) -> None:
    content, read = SMALL[kind]
    n_header = len(content) - 40
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("r+b", buffering=0) as out:
        for at in range(n_header):
            for bit in range(8):
                out.seek(at)
                out.write(bytes([content[at] ^ (1 << bit)]))
                try:
                    with open_regular(path) as file:
                        found = read(file)
                except TuiliError:
                    continue
                for tensor in found if kind == "safetensors" else found[1]:
                    assert 0 < tensor.offset <= tensor.offset + tensor.n_bytes <= len(content)
            out.seek(at)
            out.write(content[at : at + 1])


# ---- GGUF


def written(path: Path, n_tokens: int) -> tuple[Any, dict[str, np.ndarray]]:
    """A file by the gguf package, with an array of tokens longer than the pieces that the reader takes."""
    writer_class = pytest.importorskip("gguf").GGUFWriter
    rng = np.random.default_rng(n_tokens)
    arrays = {f"blk.{i}.x.weight": rng.standard_normal((4, 32 + i), dtype=np.float32) for i in range(3)}
    writer = writer_class(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_float32("llama.rope.freq_base", 10000.5)
    writer.add_bool("x.flag", True)
    writer.add_string("x.text", "推理")
    writer.add_array("x.tokens", [f"t{i}" * (i % 5) for i in range(n_tokens)])
    writer.add_array("x.scores", [0.5, -1.5])
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return None, arrays


@pytest.mark.parametrize("n_tokens", [1, 16_384, 60_000])
def test_gguf_is_read_as_the_package_wrote_it(n_tokens: int, tmp_path: Path) -> None:
    _, arrays = written(tmp_path / "a.gguf", n_tokens)
    metadata, checkpoint = gguf.open_gguf(tmp_path / "a.gguf")
    assert metadata.get_u32("llama.block_count") == 3
    assert metadata.get_f32("llama.rope.freq_base") == np.float32(10000.5)
    assert metadata.get_bool("x.flag") is True
    assert metadata.get_str("x.text") == "推理"
    assert metadata.get_str_array("x.tokens") == [f"t{i}" * (i % 5) for i in range(n_tokens)]
    assert metadata.n_strings("x.tokens") == n_tokens
    assert list(metadata.get_f32_array("x.scores", 2)) == [0.5, -1.5]
    with checkpoint:
        for name, array in arrays.items():
            assert checkpoint.tensors[name].shape == array.shape
            assert checkpoint.read(name).tobytes() == array.tobytes()


def test_strings_longer_than_a_byte_can_say_are_stepped_over(tmp_path: Path) -> None:
    texts = ["a" * n for n in (0, 255, 256, 257, 70_000, 1)] * 20
    content = gguf_file({"x": (ARRAY, (STRING, texts)), "y": (U32, 7)}, [])
    metadata, _ = open_bytes(content, tmp_path, gguf.read_header)
    assert metadata.get_str_array("x") == texts
    assert metadata.get_u32("y") == 7


def test_an_array_of_strings_is_bounded_by_what_it_decodes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = gguf_file({"x": (ARRAY, (STRING, ["abc"] * 1000))}, [])
    monkeypatch.setattr(gguf, "MAX_ARRAY_BYTES", 1000 * 57 + 5000)
    with pytest.raises(ModelLimitError) as error:
        open_bytes(content, tmp_path, gguf.read_header)
    assert error.value.code == "array_too_large"


@pytest.mark.parametrize(
    ("getter", "kind", "content"),
    [
        ("get_u16", U16, 7),
        ("get_u32", U32, 7),
        ("get_i32", I32, -7),
        ("get_f32", F32, 0.5),
        ("get_str", STRING, "x"),
        ("get_bool", BOOL, 1),
        ("get_i32_array", ARRAY, (I32, [1, 2])),
        ("get_u32_array", ARRAY, (U32, [1, 2])),
        ("get_f32_array", ARRAY, (F32, [1.0, 2.0])),
        ("get_bool_array", ARRAY, (BOOL, [1, 0])),
        ("get_str_array", ARRAY, (STRING, ["a", "b"])),
    ],
)
def test_getters_convert_nothing(getter: str, kind: int, content: Any, tmp_path: Path) -> None:
    metadata, _ = open_bytes(
        gguf_file({"x": (kind, content), "other": (12, 0.5)}, []), tmp_path, gguf.read_header
    )
    found = getattr(metadata, getter)("x")
    expected = content[1] if kind == ARRAY else content
    assert (list(found) if kind == ARRAY else found) == expected
    if getter in ("get_u32", "get_f32", "get_str", "get_bool", "get_i32_array"):
        assert getattr(metadata, getter)("absent", default="d") == "d"
    for key, code in {"other": "key_type", "absent": "key_missing"}.items():
        with pytest.raises(ModelFormatError, match=key) as error:
            getattr(metadata, getter)(key)
        assert error.value.code == code
    if kind == ARRAY:
        with pytest.raises(ModelFormatError) as error:
            getattr(metadata, getter)("x", 3)
        assert error.value.code == "array_length"


def test_a_string_that_is_not_utf8_is_an_error_when_its_array_is_decoded(tmp_path: Path) -> None:
    content = gguf_file({"x": (ARRAY, (STRING, ["ok", b"\xff"]))}, [])
    metadata, _ = open_bytes(content, tmp_path, gguf.read_header)
    with pytest.raises(ModelFormatError, match="element 1") as error:
        metadata.get_str_array("x")
    assert error.value.code == "string_utf8"


def test_block_formats_agree_with_the_package() -> None:
    package = pytest.importorskip("gguf")
    for name, block in FORMATS.items():
        if name != "f32":
            n_values, n_bytes = package.GGML_QUANT_SIZES[package.GGMLQuantizationType[name.upper()]]
            assert (block.n_values, block.n_bytes) == (n_values, n_bytes), name


def test_a_header_is_read_without_its_data(tmp_path: Path) -> None:
    """A sparse file of 64 GiB: the header is all that is touched."""
    n_rows = 1 << 29
    content = gguf_file({}, [Tensor("a", [32, n_rows])], n_data=0)
    path = tmp_path / "a.gguf"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + 32 * 4 * n_rows)
    with open_regular(path) as opened:
        _, (tensor,) = gguf.read_header(opened)
    assert tensor.n_bytes == 1 << 36
    assert isinstance(Checkpoint(), Checkpoint)


@pytest.mark.timing
def test_headers_of_many_tensors_parse_in_time(tmp_path: Path) -> None:
    """U2: at most 50 ms + 100 ms per MiB of header; measured generously, because machines are shared."""
    shapes = {f"model.layers.{i}.mlp.experts.weight": [2] for i in range(10_000)}
    cases = {
        "safetensors": (st_file(st_header(shapes)), safetensors_file.read_header),
        "gguf": (gguf_file({}, [Tensor(name, [8]) for name in shapes], n_data=10_000 * 32), gguf.read_header),
    }
    for kind, (content, read) in cases.items():
        limit_s = 2 * (0.05 + 0.1 * len(content) / 2**20) * slowness()

        seconds = partial(processor_s, partial(open_bytes, content, tmp_path, read))
        assert least(seconds, limit_s) < limit_s, kind


def test_the_small_files_hold_what_the_flips_should_hit() -> None:
    assert struct.unpack("<Q", SMALL_ST[:8])[0] == len(SMALL_ST) - 8 - 40
    assert json.loads(SMALL_ST[8:-40]).keys() == {"a.weight", "b"}
