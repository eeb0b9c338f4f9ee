"""Rows GG-* of the catalogue: GGUF files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuili.errors import ModelFormatError, ModelIOError, ModelLimitError, ModelUnsupportedError, TemplateError

from .cases import (
    ARRAY,
    BOOL,
    F32,
    F64,
    GGUF_KEYS,
    I8,
    I16,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Case,
    Tensor,
    Write,
    gguf,
    gguf_file,
    gguf_tensors,
    pair,
    string,
)

F, L, U, IO = ModelFormatError, ModelLimitError, ModelUnsupportedError, ModelIOError
HUGE = {
    "2^31": 1 << 31,
    "2^32": 1 << 32,
    "2^63": 1 << 63,
    "2^64 - 1": (1 << 64) - 1,
    "2^64 / 24": (1 << 64) // 24,
}


def keys(**changes: Any) -> Write:
    """The valid file with keys replaced; `__` stands for a dot, None removes."""
    changed = dict(GGUF_KEYS)
    for name, entry in changes.items():
        name = name.replace("__", ".")
        if entry is None:
            changed.pop(name)
        else:
            changed[name] = entry
    return gguf(gguf_file(changed))


def llama(key: str, kind: int, content: Any) -> Write:
    """The valid file with one key "llama.<key>" replaced."""
    return gguf(gguf_file(GGUF_KEYS | {f"llama.{key}": (kind, content)}))


def first_key(raw: bytes) -> Write:
    """The valid file with the bytes of one pair in front."""
    return gguf(gguf_file([raw, *(pair(name, *entry) for name, entry in GGUF_KEYS.items())]))


def tensors(name: str, /, **changes: Any) -> bytes:
    """The valid file with one tensor's info changed."""
    changed = gguf_tensors()
    for tensor in changed:
        if tensor.name == name:
            for field, content in changes.items():
                setattr(tensor, field, content)
    return gguf_file(tensors=changed)


def start() -> Iterator[Case]:
    valid = gguf_file()
    for n in (0, 1, 3, 4, 5, 8, 12, 16, 23):
        yield Case("GG-01", f"{n} bytes", gguf(valid[:n]), F, "header_too_small")
    for magic in (b"GGML", b"GGJT", b"FUGG", b"gguf", b"tjgg", b"\0\0\0\0", b"%s%n"):
        yield Case("GG-02", f"magic {magic!r}", gguf(gguf_file(magic=magic)), F, "magic")
    big = b"GGUF" + struct.pack(">IQQ", 3, 2, 3) + bytes(100)
    yield Case("GG-02", "big-endian", gguf(big), F, "big_endian")
    for version in (0, 1, 4, 255, 1 << 31, (1 << 32) - 1):
        yield Case("GG-03", f"version {version}", gguf(gguf_file(version=version)), U, "version")
    for version in (2, 3):
        yield Case("GG-03", f"version {version}", gguf(gguf_file(version=version)), None)
    yield Case("GG-04", "no tensors", gguf(gguf_file(tensors=[])), F, "layer_count")
    for name, n in HUGE.items():
        yield Case("GG-04", f"{name} tensors", gguf(gguf_file(n_tensors=n)), F, "count_exceeds_file")
        yield Case("GG-05", f"{name} keys", gguf(gguf_file(n_keys=n)), F, "count_exceeds_file")
    padded = gguf_file(n_data=2_000_000)
    yield Case(
        "GG-04",
        "65,537 tensors",
        gguf(padded[:8] + struct.pack("<Q", 65_537) + padded[16:]),
        L,
        "count_limit",
    )
    yield Case(
        "GG-05", "65,537 keys", gguf(padded[:16] + struct.pack("<Q", 65_537) + padded[24:]), L, "count_limit"
    )
    yield Case(
        "GG-04", "one tensor more", gguf(gguf_file(n_tensors=len(gguf_tensors()) + 1)), F, "tensor_name"
    )
    yield Case("GG-05", "one key more", gguf(gguf_file(n_keys=len(GGUF_KEYS) + 1)), F, "truncated")
    yield Case("GG-05", "no keys", gguf(gguf_file([], [])), F, "key_missing")


def key_names() -> Iterator[Case]:
    bad: dict[str, str | bytes] = {
        "empty": "",
        "NUL": "a\0b",
        "newline": "a\nb",
        "return": "a\r",
        "dots": "...",
        "escape": "a\x1b[2J",
        "spaces": "  ",
        "line separator": "a\u2028b",
        "direction override": "a\u202eb",
    }
    for name, key in bad.items():
        yield Case("GG-06", name, first_key(pair(key, U32, 1)), F, "key_name")
    for name, raw in {
        "invalid": b"a\xff",
        "overlong": b"a\xc0\xae",
        "surrogate": b"\xed\xa0\x80",
        "cut": b"a\xe4\xbd",
    }.items():
        yield Case("GG-06", f"{name} UTF-8", first_key(pair(raw, U32, 1)), F, "string_utf8")
    for name, n in HUGE.items():
        raw = struct.pack("<Q", n) + b"abc"
        yield Case("GG-06", f"{name} bytes long", first_key(raw), F, "truncated")
    yield Case("GG-06", "65,536 bytes long", first_key(pair("a" * 65_536, U32, 1)), L, "string_too_long")
    one = pair("llama.block_count", U32, 2)
    yield Case("GG-07", "same key and value", first_key(one), F, "key_duplicate")
    yield Case(
        "GG-07",
        "same key, other value",
        first_key(pair("llama.block_count", STRING, "x")),
        F,
        "key_duplicate",
    )
    many = [pair(f"k{i}", U8, 1) for i in range(4000)]
    yield Case("GG-07", "4,000 keys and one again", gguf(gguf_file([*many, many[0]])), F, "key_duplicate")


def values() -> Iterator[Case]:
    for kind in (13, 14, 255, 1 << 31, (1 << 32) - 1):
        raw = string("x") + struct.pack("<I", kind) + bytes(8)
        yield Case("GG-08", f"type {kind}", first_key(raw), F, "value_type")
        array = string("x") + struct.pack("<IIQ", ARRAY, kind, 1) + bytes(8)
        yield Case("GG-08", f"array of type {kind}", first_key(array), F, "value_type")
    for name, n in (HUGE | {"1 GiB": 1 << 30}).items():
        raw = string("x") + struct.pack("<IQ", STRING, n) + b"abc"
        yield Case("GG-09", f"string of {name}", first_key(raw), F, "truncated")
    yield Case("GG-09", "string of 5 MB", first_key(pair("x", STRING, "a" * 5_000_000)), L, "string_too_long")
    yield Case("GG-09", "empty string", first_key(pair("general.name", STRING, "")), None)
    yield Case("GG-09", "not UTF-8", first_key(pair("general.name", STRING, b"a\xff")), F, "string_utf8")
    for byte in (2, 127, 255):
        yield Case("GG-10", f"BOOL {byte}", first_key(pair("x", BOOL, byte)), F, "bool_value")
        yield Case(
            "GG-10",
            f"BOOL {byte} in an array",
            first_key(pair("x", ARRAY, (BOOL, [0, 1, byte]))),
            F,
            "bool_value",
        )
    for kind, content in {
        U8: 1,
        I8: -1,
        U16: 1,
        I16: -1,
        I32: -1,
        U64: 1,
        I64: -1,
        F64: 0.5,
        BOOL: 1,
    }.items():
        yield Case("GG-08", f"valid type {kind}", first_key(pair("x", kind, content)), None)
    # A file that ends inside a value.
    short = gguf_file([string("x") + struct.pack("<I", U64)], [])
    yield Case("GG-09", "ends inside a number", gguf(short + bytes(3)), F, "truncated")


def arrays() -> Iterator[Case]:
    def array(element: int, n: int, data: bytes = b"") -> Write:
        return first_key(string("x") + struct.pack("<IIQ", ARRAY, element, n) + data)

    yield Case("GG-11", "array of arrays", array(ARRAY, 1, struct.pack("<IQ", U8, 0)), F, "nested_array")
    deep = struct.pack("<IQ", ARRAY, 1) * 10_000
    yield Case("GG-11", "arrays 10,000 deep", array(ARRAY, 1, deep), F, "nested_array")
    for name, n in (HUGE | {"2^61": 1 << 61}).items():
        yield Case("GG-11", f"{name} strings", array(STRING, n), F, "count_exceeds_file")
        yield Case("GG-11", f"{name} numbers", array(U32, n), F, "count_exceeds_file")
    tiny = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IIQ", ARRAY, STRING, 1 << 63)
    yield Case("GG-11", "2^63 strings in 49 bytes", gguf(tiny), F, "count_exceeds_file")
    yield Case("GG-11", "empty array", array(U32, 0), None)
    for name, n in HUGE.items():
        strings = struct.pack("<Q", 1) + b"a" + struct.pack("<Q", n)
        yield Case("GG-12", f"string of {name} in an array", array(STRING, 2, strings), F, "truncated")
    inside = struct.pack("<Q", 300) + bytes(300) + struct.pack("<Q", 1 << 40)
    yield Case("GG-12", "long string, then one too long", array(STRING, 2, inside), F, "truncated")
    yield Case("GG-12", "5,000,000 empty strings", sparse_strings(5_000_000), L, "count_limit")
    yield Case("GG-12", "string of 150 MB", sparse_strings(2, 150_000_000), L, "string_too_long")
    broken = [*(f"t{i}" for i in range(15)), b"\xff\xfe"]
    yield Case(
        "GG-12", "token that is not UTF-8", keys(tokenizer__ggml__tokens=(ARRAY, (STRING, broken))), None
    )


def sparse_strings(n: int, n_bytes: int = 0) -> Write:
    """A file whose first value is an array of `n` equally long strings; holes stand for the data."""

    def write(path: Path) -> Path:
        head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("x") + struct.pack("<IIQ", ARRAY, STRING, n)
        with (path / "model.gguf").open("wb") as file:
            file.write(head)
            if n_bytes:
                for i in range(n):
                    file.seek(len(head) + i * (8 + n_bytes))
                    file.write(struct.pack("<Q", n_bytes))
            file.truncate(len(head) + n * (8 + n_bytes))
        return path / "model.gguf"

    return write


def general() -> Iterator[Case]:
    for alignment in (0, 1, 3, 4, 13, 24, 1 << 17, 1 << 20, 1 << 31):
        yield Case("GG-13", f"{alignment}", keys(general__alignment=(U32, alignment)), F, "alignment")
    for kind, content in {I32: 32, STRING: "32", U64: 32, U16: 32, ARRAY: (U32, [32])}.items():
        yield Case("GG-13", f"type {kind}", keys(general__alignment=(kind, content)), F, "key_type")
    for alignment in (8, 64, 4096):
        aligned = GGUF_KEYS | {"general.alignment": (U32, alignment)}
        content = gguf_file(aligned, alignment=alignment, n_data=20 * max(alignment, 4096))
        yield Case("GG-13", f"{alignment} is kept", gguf(content), None, "", {"strict": False})
    yield Case("GG-14", "missing", keys(general__architecture=None), F, "key_missing")
    yield Case("GG-14", "array", keys(general__architecture=(ARRAY, (STRING, ["llama"]))), F, "key_type")
    yield Case("GG-14", "number", keys(general__architecture=(U32, 1)), F, "key_type")
    for name in ("gpt5", "clip", "llama2", "nomic-bert-moe"):
        yield Case("GG-14", name, keys(general__architecture=(STRING, name)), U, "architecture")
    for name in (
        "",
        "../llama",
        "/etc/passwd",
        "%s%n",
        "LLAMA",
        "llama\n",
        "a" * 1_000_000,
        "os",
        "__init__",
    ):
        known = name in ("os", "__init__")
        yield Case(
            "GG-14",
            f"'{name[:12]!r}'",
            keys(general__architecture=(STRING, name)),
            U if known else F,
            "architecture",
        )
    for kind in ("adapter", "mmproj", "imatrix", "vocab", "%s"):
        yield Case("GG-28", kind, keys(general__type=(STRING, kind)), U, "gguf_kind")


NORM, WEIGHT = "output_norm.weight", "blk.0.ffn_up.weight"


def infos() -> Iterator[Case]:
    def case(row: str, name: str, error: Any, code: str, tensor: str = WEIGHT, /, **changes: Any) -> Case:
        return Case(row, name, gguf(tensors(tensor, **changes)), error, code)

    yield case("GG-15", "empty", F, "tensor_name", name="")
    for n in (64, 65, 4096):
        yield case("GG-15", f"{n} bytes", L, "string_too_long", name="a" * n)
    yield case("GG-15", "NUL", F, "tensor_name", name="a\0b")
    yield case("GG-15", "newline", F, "tensor_name", name="a\nb")
    yield case("GG-15", "not UTF-8", F, "string_utf8", name=b"\xff")
    yield case("GG-15", "twice", F, "tensor_duplicate", name="blk.0.ffn_gate.weight")
    last = len(gguf_file(tensors=[], n_data=0))
    for name, n in HUGE.items():
        content = gguf_file()
        yield Case(
            "GG-15",
            f"{name} bytes",
            gguf(content[:last] + struct.pack("<Q", n) + content[last + 8 :]),
            F,
            "truncated",
        )
    for n_dims in (0, 5, 1_000_000, (1 << 32) - 1):
        content = gguf_file()
        at = last + 8 + len("token_embd.weight")
        yield Case(
            "GG-16",
            f"{n_dims}",
            gguf(content[:at] + struct.pack("<I", n_dims) + content[at + 4 :]),
            F,
            "tensor_dims",
        )
    yield case("GG-16", "3 where 2 are due", F, "tensor_shape", dims=[32, 32, 1])
    shapes: dict[str, list[int]] = {
        "0 values": [0, 32],
        "0 rows": [32, 0],
        "2^63": [1 << 63],
        "2^42 + 1": [(1 << 42) + 1],
        "2^32 × 2^32": [1 << 32, 1 << 32],
        "wraps small": [4194305, 4194305, 211106198978564],
        "wraps to 0": [1 << 62, 4],
        "wraps to 64": [(1 << 60) + 16, 16],
        "file + 1": [1 << 20, 2],
        "all 2^64 - 1": [(1 << 64) - 1] * 4,
    }
    for name, dims in shapes.items():
        yield case("GG-17", name, F, "tensor_shape", dims=dims)
    for kind, dims in {8: [33, 32], 2: [16, 32], 14: [32, 32], 12: [255], 3: [31]}.items():
        yield case("GG-18", f"type {kind} of {dims[0]}", F, "tensor_shape", kind=kind, dims=dims)
    for kind in (4, 5, 31, 32, 33, 36, 37, 38):
        yield case("GG-18", f"removed type {kind}", U, "tensor_type", kind=kind)
    for kind in (9, 10, 15, 16, 23, 24, 26, 27, 28, 29, 34, 40):
        yield case("GG-19", f"type {kind}, not implemented", U, "tensor_type", kind=kind)
    for kind in (41, 255, 1 << 31, (1 << 32) - 1):
        yield case("GG-19", f"type {kind}", F, "tensor_type", kind=kind)
    yield Case("GG-19", "norm stored as q8_0", gguf(quantized_norm()), U, "tensor_dtype")


def quantized_norm() -> bytes:
    changed = gguf_tensors()
    changed[-1], changed[1] = changed[1], changed[-1]
    changed[-1].kind = 8
    end = len(gguf_file(tensors=changed, n_data=0))
    return gguf_file(tensors=changed)[
        : end + sum(max(4 * d[0] * (d[1:] or [1])[0], 128) for d in (t.dims for t in changed)) - 94
    ]


def places() -> Iterator[Case]:
    def case(row: str, name: str, tensor: str = WEIGHT, /, **changes: Any) -> Case:
        return Case(row, name, gguf(tensors(tensor, **changes)), F, "tensor_offset")

    for name, at in {
        "2^63": 1 << 63,
        "wraps at padding": (1 << 64) - 31,
        "0x7fffffffffffffc0": 0x7FFFFFFFFFFFFFC0,
    }.items():
        yield case("GG-20", name, offset=at)
    yield case("GG-21", "not aligned", offset=1)
    yield case("GG-21", "overlap", offset=0)
    yield case("GG-21", "first not at 0", "token_embd.weight", offset=32)
    right = 16 * 32 * 4
    yield case("GG-21", "gap", NORM, offset=right + 32)
    yield case("GG-21", "back into the one before", NORM, offset=right - 32)
    yield case("GG-21", "2^64 - 32", NORM, offset=(1 << 64) - 32)
    swapped = gguf_tensors()
    swapped[0].offset, swapped[1].offset = 128, 0
    yield Case("GG-21", "out of order", gguf(gguf_file(tensors=swapped)), F, "tensor_offset")
    content = gguf_file()
    infos_end = len(gguf_file(n_data=0))
    yield Case("GG-21", "no data at all", gguf(content[:infos_end]), F, "tensor_shape")
    yield Case("GG-21", "ends in the padding", gguf(content[: infos_end - 1]), F, "tensor_shape")
    small = [Tensor("a", [8])]
    alone = gguf_file(tensors=small)
    yield Case("GG-21", "one tensor, data begins behind the end", gguf(alone[:-33]), F, "truncated")
    for n in (1, 64, 4096):
        yield Case("GG-22", f"{n} bytes short", gguf(content[:-n]), F, "truncated")
    for n in (1, 31):
        yield Case("GG-22", f"{n} bytes more", gguf(content + bytes(n)), None)
    for n in (32, 4096):
        yield Case("GG-22", f"{n} bytes more", gguf(content + bytes(n)), F, "trailing_bytes")
        yield Case(
            "GG-22", f"{n} bytes more, strict=False", gguf(content + bytes(n)), None, "", {"strict": False}
        )
    yield Case("GG-22", "zip behind", gguf(content + b"PK\x05\x06" + bytes(60)), F, "trailing_bytes")


def parts(
    *contents: bytes | None, names: tuple[str, ...] = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
) -> Write:
    def write(path: Path) -> Path:
        for name, content in zip(names, contents, strict=True):
            if content is not None:
                (path / name).write_bytes(content)
        return path / names[0]

    return write


def part(no: int, count: int, n_tensors: int, own: list[Tensor] | None = None, **more: Any) -> bytes:
    split = {
        "split.no": (U16, no),
        "split.count": (U16, count),
        "split.tensors.count": (I32, n_tensors),
    }
    base = GGUF_KEYS if no == 0 else {}
    return gguf_file(base | split | {key.replace("__", "."): entry for key, entry in more.items()}, own)


def splits() -> Iterator[Case]:
    both = gguf_tensors()
    one, two, n = both[:9], both[9:], len(both)
    first, second = part(0, 2, n, one), part(1, 2, n, two)

    def case(name: str, write: Write, error: Any = F, code: str = "split") -> Case:
        return Case("GG-24", name, write, error, code)

    yield case("two parts", parts(first, second), None, "")
    yield case("one part that says so", gguf(part(0, 1, n)), None, "")
    yield case("second part missing", parts(first, None), IO, "open_failed")
    yield case("second part given", parts(second, first), F)
    yield case("count 0", gguf(part(0, 0, n)))
    yield case("count 65,535", gguf(part(0, 65_535, n)))
    yield case("count of the wrong type", keys(split__count=(U32, 2)), F, "key_type")
    yield case("no split.no", keys(split__count=(U16, 1), split__tensors__count=(I32, n)), F, "key_missing")
    yield case("name without a number", gguf(first))
    yield case(
        "name of another count",
        parts(first, second, names=("m-00001-of-00003.gguf", "m-00002-of-00003.gguf")),
    )
    yield case("first part is number 1", gguf(part(1, 2, n, **GGUF_KEYS), "m-00001-of-00002.gguf"))
    yield case("second part is number 0", parts(first, part(0, 2, n, two)))
    yield case("second part counts 3", parts(first, part(1, 3, n, two)))
    yield case("parts of different totals", parts(first, part(1, 2, n + 1, two)))
    yield case(
        "parts of different models",
        parts(first, part(1, 2, n, two, general__architecture=(STRING, "gemma3"))),
    )
    yield case("total too large", parts(part(0, 2, n + 1, one), part(1, 2, n + 1, two)))
    yield case("total negative", parts(part(0, 2, -1, one), part(1, 2, -1, two)))
    yield case("tensor in both", parts(first, part(1, 2, n, [one[0], *two[1:]])), F, "tensor_duplicate")
    yield case("second part is no GGUF", parts(first, b"x" * 100), F, "magic")


def settings() -> Iterator[Case]:
    not_a_number = float("nan")
    bad: dict[str, list[Any]] = {
        "block_count": [0, 5000, 1_000_000_000, (1 << 32) - 1],
        "attention.head_count": [0, 3, 1 << 31],
        "attention.head_count_kv": [0, 3, 1 << 31],
        "embedding_length": [0, (1 << 32) - 1],
        "feed_forward_length": [0, (1 << 32) - 1],
        "context_length": [0, (1 << 32) - 1],
        "vocab_size": [0, 15, 17, (1 << 32) - 1],
        "attention.key_length": [0, 1 << 31],
    }
    for key, numbers in bad.items():
        for number in numbers:
            yield Case("GG-25", f"{key} = {number}", llama(key, U32, number), F, "config_value")
        yield Case("GG-25", f"{key} is a string", llama(key, STRING, "2"), F, "key_type")
        yield Case("GG-25", f"{key} is INT32", llama(key, I32, 2), F, "key_type")
    for key in ("attention.layer_norm_rms_epsilon", "rope.freq_base"):
        for value in (0.0, -1.0, not_a_number, float("inf")):
            yield Case("GG-25", f"{key} = {value}", llama(key, F32, value), F, "config_value")
        yield Case("GG-25", f"{key} is FLOAT64", llama(key, F64, 1e-5), F, "key_type")
    odd = dict(GGUF_KEYS) | {"llama.attention.key_length": (U32, 15), "llama.rope.dimension_count": (U32, 15)}
    yield Case("GG-25", "odd head size", gguf(gguf_file(odd)), F, "config_value")
    yield Case("GG-25", "3 layers", llama("block_count", U32, 3), F, "tensor_missing")
    yield Case("GG-25", "30 layers", llama("block_count", U32, 30), F, "layer_count")
    yield Case("GG-25", "64 wide", llama("embedding_length", U32, 64), U, "config_unsupported")
    yield Case("GG-25", "17 wide", llama("embedding_length", U32, 17), F, "config_value")
    for key in ("block_count", "embedding_length", "attention.head_count", "context_length"):
        content = gguf_file({name: entry for name, entry in GGUF_KEYS.items() if name != f"llama.{key}"})
        yield Case("GG-25", f"{key} missing", gguf(content), F, "config_key")
    n = int(GGUF_KEYS["llama.block_count"][1])
    for name, heads, error, code in (
        ("of one layer", (I32, [1]), F, "array_length"),
        ("of more layers", (U32, [1] * (n + 1)), F, "array_length"),
        ("in halves", (F32, [1.0] * n), F, "key_type"),
        ("that differ", (I32, [1] * (n - 1) + [0]), U, "config_unsupported"),
        ("below nothing", (I32, [-1] * n), U, "config_unsupported"),
    ):
        yield Case("GG-25", f"heads {name}", llama("attention.head_count_kv", ARRAY, heads), error, code)
    yield Case("GG-25", "rotates a part", llama("rope.dimension_count", U32, 8), U, "config_unsupported")
    yield Case(
        "GG-25", "values of another size", llama("attention.value_length", U32, 32), U, "config_unsupported"
    )
    yield Case("GG-25", "experts", llama("expert_count", U32, 8), F, "config_key")


def rotations() -> Iterator[Case]:
    """What scales the frequencies of RoPE."""
    not_a_number = float("nan")
    for factor in (0.0, -1.0, not_a_number, float("inf")):
        scaled = GGUF_KEYS | {
            "llama.rope.scaling.type": (STRING, "linear"),
            "llama.rope.scaling.factor": (F32, factor),
        }
        yield Case("GG-25", f"scaling factor {factor}", gguf(gguf_file(scaled)), F, "config_value")
    scaled = GGUF_KEYS | {
        "llama.rope.scaling.type": (STRING, "spiral"),
        "llama.rope.scaling.factor": (F32, 2.0),
    }
    yield Case("GG-25", "scaling unknown", gguf(gguf_file(scaled)), U, "rope_type")
    yield Case(
        "GG-25", "scaling without factor", llama("rope.scaling.type", STRING, "linear"), F, "key_missing"
    )
    scaled = {"rope.scaling.factor": (F32, not_a_number), "rope.scale_linear": (F32, -2.0)}
    for key, entry in scaled.items():
        yield Case("GG-25", f"{key} alone", llama(key, *entry), F, "config_value")
    yarn = {"type": (STRING, "yarn"), "factor": (F32, 8.0), "attn_factor": (F32, 1.5)}
    scaled = GGUF_KEYS | {f"llama.rope.scaling.{key}": entry for key, entry in yarn.items()}
    yield Case(
        "GG-25", "scaling with a factor of attention", gguf(gguf_file(scaled)), U, "config_unsupported"
    )
    divisors = [*gguf_tensors(), Tensor("rope_freqs.weight", [8])]
    yield Case("GG-25", "frequency divisors of 0", gguf(gguf_file(tensors=divisors)), F, "config_value")
    for divisor in (1e-45, 1e30, not_a_number):
        content = gguf_file(tensors=divisors)[:-32] + struct.pack("<8f", *[divisor] * 8)
        yield Case("GG-25", f"frequency divisors of {divisor}", gguf(content), F, "config_value")
    divisors[-1].dims = [16]
    yield Case("GG-25", "too many frequency divisors", gguf(gguf_file(tensors=divisors)), F, "tensor_shape")


def bert() -> Iterator[Case]:
    """Settings that only BERT's files have."""
    base: dict[str, tuple[int, Any]] = {
        key.replace("llama.", "bert."): entry for key, entry in GGUF_KEYS.items()
    }
    base |= {
        "general.architecture": (STRING, "bert"),
        "bert.attention.layer_norm_epsilon": (F32, 1e-12),
        "tokenizer.ggml.model": (STRING, "bert"),
    }

    def case(name: str, error: Any, code: str, key: str = "", *entry: Any) -> Case:
        return Case(
            "GG-25", f"bert {name}", gguf(gguf_file(base | ({key: entry} if key else {}))), error, code
        )

    yield case("without its tensors", F, "tensor_missing")
    for number in (4, 5, (1 << 32) - 1):
        yield case(f"pooling {number}", U, "pooling", "bert.pooling_type", U32, number)
    yield case("pooling by name", F, "key_type", "bert.pooling_type", STRING, "mean")
    yield case("causal", U, "config_unsupported", "bert.attention.causal", BOOL, 1)
    yield case("causal = 1", F, "key_type", "bert.attention.causal", U32, 1)
    yield case("RoBERTa's words", U, "config_unsupported", "tokenizer.ggml.model", STRING, "gpt2")
    for n_types in (0, 65_537):
        yield case(f"{n_types} types", F, "config_value", "tokenizer.ggml.token_type_count", U32, n_types)
    for eps in (0.0, float("nan")):
        yield case(f"eps {eps}", F, "config_value", "bert.attention.layer_norm_epsilon", F32, eps)
    yield case("a token fewer", F, "config_value", "bert.vocab_size", U32, 15)


def tokens() -> Iterator[Case]:
    yield Case("GG-26", "tokens missing", keys(tokenizer__ggml__tokens=None), F, "key_missing")
    yield Case(
        "GG-26", "tokens are numbers", keys(tokenizer__ggml__tokens=(ARRAY, (I32, [1] * 16))), F, "key_type"
    )
    yield Case(
        "GG-26", "tokens empty", keys(tokenizer__ggml__tokens=(ARRAY, (STRING, []))), F, "config_value"
    )
    fewer = (ARRAY, (STRING, [f"t{i}" for i in range(15)]))
    yield Case("GG-26", "a token too few", keys(tokenizer__ggml__tokens=fewer), F, "tensor_shape")
    for key in ("eos", "eot", "eom"):
        for number in (16, (1 << 32) - 1):
            entry = {f"tokenizer__ggml__{key}_token_id": (U32, number)}
            yield Case("GG-26", f"{key} = {number}", keys(**entry), F, "config_value")
    yield Case("GG-26", "eos = -1", keys(tokenizer__ggml__eos_token_id=(I32, -1)), F, "key_type")
    yield Case("GG-26", "template is a number", keys(tokenizer__chat_template=(U32, 1)), F, "key_type")
    yield Case(
        "GG-26",
        "template of 2 MB",
        keys(tokenizer__chat_template=(STRING, "x" * 2_000_000)),
        TemplateError,
        "template",
    )


CASES = [
    case
    for group in (
        start,
        key_names,
        values,
        arrays,
        general,
        infos,
        places,
        splits,
        settings,
        rotations,
        bert,
        tokens,
    )
    for case in group()
]
