"""Rows ST-* of the catalogue: safetensors files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

from tuili.errors import ModelFormatError, ModelLimitError, ModelUnsupportedError

from .cases import CONFIG, Case, Json, data_size, folder, gguf_file, llama_shapes, st_file, st_header

F, L, U = ModelFormatError, ModelLimitError, ModelUnsupportedError
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


def changed(change: Callable[[Json], Any], n_data: int | None = None) -> bytes:
    """The valid file with its header changed."""
    header = st_header()
    n_data = data_size(header) if n_data is None else n_data
    change(header)
    return st_file(header, n_data)


def entry(**fields: Any) -> bytes:
    """The valid file with fields of one tensor's entry replaced, or removed if they are `...`."""

    def change(header: Json) -> None:
        header[NORM] |= fields
        for key in [key for key, value in header[NORM].items() if value is ...]:
            del header[NORM][key]

    return changed(change)


def raw_field(field: str, text: str) -> bytes:
    """The valid file with the text of one field of the first tensor replaced."""
    header = json.dumps(st_header())
    old = json.dumps(st_header()[EMBEDDING][field])
    assert old in header
    return st_file(header.replace(old, text, 1).encode(), data_size(st_header()))


def start() -> Iterator[Case]:
    valid = st_file(st_header())
    for n in range(8):
        yield Case("ST-01", f"{n} bytes", folder(valid[:n]), F, "header_too_small")
    for n in (0, 1):
        yield Case("ST-02", f"N = {n}", folder(struct.pack("<Q", n) + b"{}"[:n]), F, "header_too_small")
    yield Case("ST-02", "no tensors", folder(st_file(b"{}")), F, "layer_count")
    for n in ((8 << 20) + 1, 100_000_001, 1 << 63, (1 << 64) - 1, (1 << 64) - 8):
        yield Case("ST-03", f"N = {n}", folder(st_file(st_header(), n_header=n)), L, "header_too_large")
    for extra in (1, 4096, 8_000_000):
        n = len(valid) - 8 + extra
        yield Case(
            "ST-03",
            f"N = file + {extra}",
            folder(valid[:8] and st_file(st_header(), n_header=n)),
            F,
            "header_exceeds_file",
        )


def syntax() -> Iterator[Case]:
    text = json.dumps(st_header()).encode()
    n_data = data_size(st_header())

    def case(row: str, name: str, header: bytes, code: str, error: Any = F) -> Case:
        return Case(row, name, folder(st_file(header, n_data)), error, code)

    yield case("ST-04", "not UTF-8", text.replace(b"model.norm", b"model\xffnorm"), "json_utf8")
    yield case("ST-04", "overlong UTF-8", text.replace(b"model.norm", b"model\xc0\xaenorm"), "json_utf8")
    yield case(
        "ST-04", "encoded surrogate", text.replace(b"model.norm", b"model\xed\xa0\x80norm"), "json_utf8"
    )
    yield case("ST-04", "byte order mark", b"\xef\xbb\xbf" + text, "header_not_object")
    yield case("ST-04", "leading space", b" " + text, "header_not_object")
    yield case("ST-04", "UTF-16", text.decode().encode("utf-16"), "header_not_object")
    for name, tail in {"newline": b"\n", "tab": b"\t", "zero": b"\0", "letter": b"x"}.items():
        yield case("ST-04", f"trailing {name}", text + tail, "header_not_object")
    yield case("ST-04", "second object", text + b"{}", "json")
    yield Case("ST-04", "padded with spaces", folder(st_file(text + b" " * 37, n_data)), None)
    for name, top in {"array": b"[1]", "number": b"12", "null": b"null", "string": b'"ab"'}.items():
        yield case("ST-05", f"top is {name}", top, "header_not_object")
    yield case("ST-05", "object never closed", text[:-1] + b",", "header_not_object")
    yield case("ST-05", "depth 9", b'{"a":' + b"[" * 8 + b"]" * 8 + b"}", "json_depth")
    yield case("ST-05", "depth 100000", b'{"a":' + b"[" * 100_000 + b"}", "json_depth")
    yield case("ST-05", "20,000 keys twice", b"{" + b'"a":1,' * 20_000 + b'"b":1}', "json_duplicate_key")
    numbers = json.dumps({str(i): i for i in range(30_000)}).encode()
    yield case("ST-05", "30,000 keys of numbers", numbers, "tensor_entry")
    yield case("ST-05", "100,000 objects", b"{" + b'"a":{},' * 100_000 + b'"b":1}', "json_size", L)
    yield case("ST-05", "100,000 lists", b'{"a":[' + b"[]," * 100_000 + b"[]]}", "json_size", L)
    yield case("ST-05", "name of 5 MB", b'{"' + b"a" * 5_000_000 + b'":{}}', "tensor_name", L)
    yield case("ST-05", "name of 5000 bytes", b'{"' + b"a" * 5000 + b'":{}}', "tensor_name", L)
    yield case("ST-05", "empty name", text.replace(b'"model.norm.weight"', b'""'), "tensor_name", L)
    for name, spelt in {
        "NUL": rb"\u0000",
        "newline": rb"\n",
        "escape": rb"\u001b",
        "line separator": rb"\u2028",
    }.items():
        yield case("ST-05", f"{name} in a name", text.replace(b"model.norm", b"model" + spelt), "tensor_name")
    yield case("ST-05", "raw control character", text.replace(b"model.norm", b"model\x01norm"), "json")
    yield case("ST-05", "lone surrogate", text.replace(b"model.norm", rb"model\ud800"), "json_surrogate")
    yield case("ST-05", "lone low surrogate", text.replace(b"model.norm", rb"model\uDC00"), "json_surrogate")
    for name, mark in {"trailing comma": b",}", "comment": b"/**/}"}.items():
        yield case("ST-05", name, text[:-1] + mark, "json")
    norm = json.dumps({NORM: st_header()[NORM]}).encode()[1:-1]
    yield case("ST-06", "tensor twice", text[:-1] + b"," + norm + b"}", "json_duplicate_key")
    escaped = norm.replace(b"model.norm", rb"mod\u0065l.norm")
    yield case("ST-06", "tensor twice by escape", text[:-1] + b"," + escaped + b"}", "json_duplicate_key")
    twice = b'{"__metadata__":{},"__metadata__":{},' + text[1:]
    yield case("ST-06", "metadata twice", twice, "json_duplicate_key")
    yield case(
        "ST-06",
        "field twice",
        text.replace(b'"dtype": "F32"', b'"dtype": "F32", "dtype": "F16"', 1),
        "json_duplicate_key",
    )


def dtypes() -> Iterator[Case]:
    yield Case("ST-07", "missing", folder(entry(dtype=...)), F, "tensor_entry")
    yield Case("ST-07", "further field", folder(entry(strides=[1])), F, "tensor_entry")
    yield Case(
        "ST-07",
        "entry is a list",
        folder(changed(lambda header: header.update({NORM: []}))),
        F,
        "tensor_entry",
    )
    for bad in (1, None, ["F32"], True):
        yield Case("ST-07", f"{bad}", folder(entry(dtype=bad)), F, "tensor_dtype")
    for bad in ("F13", "f32", "", "F32 ", "Q4_0", "F" * 1000, "%s%n"):
        yield Case("ST-07", f"'{bad[:8]}' {len(bad)}", folder(entry(dtype=bad)), U, "tensor_dtype")
    for dtype, size in {"I32": 4, "F64": 8, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "BOOL": 1, "C64": 8}.items():
        shape = [128 // size]
        right = shape == [32]
        yield Case(
            "ST-07",
            f"{dtype} for a norm",
            folder(entry(dtype=dtype, shape=shape)),
            U if right else F,
            "tensor_dtype" if right else "tensor_shape",
        )
    for dtype, dims in {"F4": [256], "F6_E2M3": [64]}.items():
        n_bits = {"F4": 4, "F6_E2M3": 6}[dtype] * dims[0]
        header = {"a": {"dtype": dtype, "shape": dims, "data_offsets": [0, n_bits // 8]}}
        yield Case("ST-07", f"{dtype} alone", folder(st_file(header)), F, "layer_count")
    for dtype, n in (("F4", 3), ("F6_E2M3", 1), ("F6_E3M2", 5)):
        header = {"a": {"dtype": dtype, "shape": [n], "data_offsets": [0, 4]}}
        yield Case("ST-11", f"{dtype} × {n}", folder(st_file(header)), F, "tensor_shape")


def shapes() -> Iterator[Case]:
    yield Case("ST-08", "missing", folder(entry(shape=...)), F, "tensor_entry")
    bad_texts = [
        "null",
        "32",
        '"32"',
        "{}",
        "[-1, 32]",
        "[16.0, 32]",
        "[1e3]",
        '["16", 32]',
        "[true, 32]",
        "[null]",
        "[[16], 32]",
        "[-0.0]",
    ]
    for text in bad_texts:
        yield Case("ST-08", f"shape {text}", folder(raw_field("shape", text)), F, "tensor_shape")
    yield Case("ST-08", "1e400", folder(raw_field("shape", "[1e400]")), F, "json_number")
    yield Case("ST-08", "NaN", folder(raw_field("shape", "[NaN]")), F, "json_number")
    yield Case("ST-08", "5000 digits", folder(raw_field("shape", f"[{'9' * 5000}]")), F, "json_number")
    for dims in ([1 << 63], [1 << 64], [1 << 62, 2], [(1 << 64) + 16, 32], [1] * 9, [1] * 100_000):
        name = f"{len(dims)} dims from {dims[0]}"
        yield Case("ST-08", name, folder(raw_field("shape", json.dumps(dims))), F, "tensor_shape")
    wraps = {
        "2^32 × 2^32": [1 << 32, 1 << 32],
        "2^31 × 2^31 × 2^2 + 0": [1 << 31, 1 << 31, 4, 0],
        "0 and 2^63": [0, 1 << 63],
        "wraps to 512": [1 << 61, 8, 512],
        "product of primes": [4294967291, 4294967279],
        "elements fit, bits do not": [1 << 59],
    }
    for name, dims in wraps.items():
        yield Case("ST-09", name, folder(raw_field("shape", json.dumps(dims))), F, "tensor_shape")
    yield Case(
        "ST-09",
        "zero elements",
        folder(with_extra({"dtype": "F32", "shape": [0, 5], "data_offsets": [0, 0]})),
        None,
    )
    yield Case(
        "ST-10", "scalar", folder(with_extra({"dtype": "F32", "shape": [], "data_offsets": [0, 4]})), None
    )


def with_extra(extra: Json) -> bytes:
    """The valid file with one more tensor in front."""
    size = extra["data_offsets"][1]
    header: Json = {"extra": extra}
    for name, item in st_header().items():
        header[name] = item | {"data_offsets": [at + size for at in item["data_offsets"]]}
    return st_file(header)


def offsets() -> Iterator[Case]:
    yield Case("ST-12", "missing", folder(entry(data_offsets=...)), F, "tensor_entry")
    no_range: dict[str, list[int]] = {
        "none": [],
        "one": [0],
        "three": [0, 1, 2],
        "begin > end": [256, 128],
        "end > data": [0, 1 << 40],
        "2^63": [0, 1 << 63],
        "2^64 wraps": [1 << 64, (1 << 64) + 128],
    }
    for name, numbers in no_range.items():
        yield Case("ST-12", name, folder(entry(data_offsets=numbers)), F, "tensor_offsets")
    no_integers: dict[str, Any] = {
        "negative": [-4, 124],
        "float": [0.0, 128.0],
        "string": "0,128",
        "null": None,
        "bool": [False, 128],
        "object": {"begin": 0},
    }
    for name, value in no_integers.items():
        yield Case("ST-12", name, folder(entry(data_offsets=value)), F, "tensor_data_offsets")
    at = st_header()[NORM]["data_offsets"][0]
    for n in (0, 4, 124, 132, 256):
        yield Case("ST-12", f"size {n}", folder(entry(data_offsets=[at, at + n])), F, "tensor_size")
    yield Case("ST-13", "overlap", folder(entry(data_offsets=[at - 4, at + 124])), F, "tensor_overlap")
    yield Case("ST-13", "same range twice", folder(entry(data_offsets=[0, 128])), F, "tensor_overlap")

    def hole(header: Json) -> None:
        for name in list(header)[2:]:
            header[name]["data_offsets"] = [x + 8 for x in header[name]["data_offsets"]]

    n_data = data_size(st_header())
    yield Case("ST-13", "hole", folder(changed(hole, n_data + 8)), F, "data_not_covered")
    yield Case("ST-13", "hole, strict=False", folder(changed(hole, n_data + 8)), None, "", {"strict": False})
    for n in (1, 4, 4096):
        trailing = st_file(st_header(), n_data + n)
        yield Case("ST-13", f"{n} trailing bytes", folder(trailing), F, "data_not_covered")
        yield Case(
            "ST-13", f"{n} trailing bytes, strict=False", folder(trailing), None, "", {"strict": False}
        )
        yield Case("ST-13", f"{n} bytes short", folder(st_file(st_header(), n_data - n)), F, "tensor_offsets")
    backwards = dict(reversed(list(st_header().items())))
    yield Case("ST-13", "unsorted but covering", folder(st_file(backwards)), None)


def metadata() -> Iterator[Case]:
    for name, bad in {
        "list": [],
        "number": 1,
        "null": None,
        "value number": {"format": 1},
        "nested": {"a": {}},
    }.items():
        yield Case(
            "ST-14",
            name,
            folder(st_file(st_header() | {"__metadata__": bad}, data_size(st_header()))),
            F,
            "metadata_type",
        )
    many = {"__metadata__": {str(i): "" for i in range(2000)}}
    yield Case("ST-14", "2000 entries", folder(st_file(many | st_header())), L, "metadata_too_large")
    yield Case(
        "ST-14",
        "2 MB value",
        folder(st_file({"__metadata__": {"a": "x" * 2_000_000}})),
        L,
        "metadata_too_large",
    )
    for value in ("pt", "tf", "%s"):
        yield Case(
            "ST-14",
            f"format {value}",
            folder(st_file({"__metadata__": {"format": value}} | st_header())),
            None,
        )
    unaligned = with_extra({"dtype": "U8", "shape": [3], "data_offsets": [0, 3]})
    yield Case("ST-15", "unaligned data", folder(unaligned), None)
    valid = st_file(st_header())
    yield Case(
        "ST-16",
        "zip behind",
        folder(valid + b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)),
        F,
        "data_not_covered",
    )
    yield Case("ST-16", "zip in front", folder(b"PK\x03\x04" + bytes(26) + valid), L, "header_too_large")
    yield Case("ST-16", "GGUF", folder(gguf_file()), L, "header_too_large")
    yield Case("ST-16", "PNG", folder(b"\x89PNG\r\n\x1a\n" + valid), L, "header_too_large")
    yield Case("ST-16", "ELF", folder(b"\x7fELF\x02\x01\x01\0" + valid), L, "header_too_large")


def model() -> Iterator[Case]:
    for name in llama_shapes():
        less = {other: shape for other, shape in llama_shapes().items() if other != name}
        yield Case("ST-18", f"{name} missing", folder(st_file(st_header(less))), F, "tensor_missing")
    for name, dims in {
        EMBEDDING: [32, 16],
        NORM: [1, 32],
        "model.layers.1.mlp.up_proj.weight": [1024],
    }.items():
        yield Case(
            "ST-18",
            f"{name} is {dims}",
            folder(st_file(st_header(llama_shapes() | {name: dims}))),
            F,
            "tensor_shape",
        )
    extra = llama_shapes() | {"model.layers.2.mlp.up_proj.weight": [32, 32], "surprise": [3]}
    yield Case("ST-18", "extra tensors", folder(st_file(st_header(extra))), None)
    layered = llama_shapes() | {"model.layers.01.mlp.up_proj.weight": [32, 32]}
    yield Case("ST-18", "layer spelt 01", folder(st_file(st_header(layered))), None)
    both = llama_shapes() | {"lm_head.weight": [16, 32]}
    yield Case("ST-19", "tied, head given", folder(st_file(st_header(both))), None)
    yield Case("ST-19", "tied, no head", folder(), None)
    untied = CONFIG | {"tie_word_embeddings": False}
    yield Case("ST-19", "not tied, no head", folder(config=untied), F, "tensor_missing")
    yield Case("ST-19", "not tied, head", folder(st_file(st_header(both)), untied), None)


CASES = [case for group in (start, syntax, dtypes, shapes, offsets, metadata, model) for case in group()]
