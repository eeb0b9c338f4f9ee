"""Rows FS-* of the catalogue: paths and files that are not what they should be."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tuili.errors import (
    ModelFormatError,
    ModelIOError,
    ModelLimitError,
    ModelPathError,
    ModelUnsupportedError,
)

from .cases import CONFIG, Case, Write, folder, gguf, gguf_file, st_file, st_header
from .config_cases import without

F, L, U, P, IO = ModelFormatError, ModelLimitError, ModelUnsupportedError, ModelPathError, ModelIOError


def instead(name: str, make: Callable[[Path], Any]) -> Write:
    """The valid folder in which `make(path)` has put something else in a file's place."""

    def write(path: Path) -> Path:
        without(name)(path)
        make(path / name)
        return path

    return write


def alone(make: Callable[[Path], Any], name: str = "model.gguf") -> Write:
    def write(path: Path) -> Path:
        make(path / name)
        return path / name

    return write


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def missing() -> Iterator[Case]:
    yield Case("FS-01", "missing", lambda path: path / "nothing", IO, "open_failed")
    yield Case("FS-01", "below a file", lambda path: gguf(gguf_file())(path) / "x", IO, "open_failed")  # type: ignore[operator]
    yield Case("FS-01", "empty path", lambda path: "", IO, "open_failed")
    yield Case("FS-01", "tilde", lambda path: "~/no-such-model", IO, "open_failed")
    yield Case("FS-01", "5,000 characters", lambda path: "x" * 5000, IO, "open_failed")
    yield Case("FS-01", "NUL", lambda path: "model\0.gguf", IO, "open_failed")
    yield Case("FS-01", "lone surrogate", lambda path: "model\ud800.gguf", IO, "open_failed")
    yield Case("FS-01", "not UTF-8", lambda path: os.fsdecode(bytes(path) + b"/\xff\xfe"), IO, "open_failed")
    yield Case("FS-01", "empty folder", lambda path: path, IO, "config_missing")
    adapter = instead("config.json", lambda path: path.with_name("adapter_config.json").touch())
    yield Case("FS-01", "an adapter alone", adapter, IO, "config_missing")
    yield Case("FS-01", "no weights", without("model.safetensors"), IO, "open_failed")


def special() -> Iterator[Case]:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        yield Case("FS-02", f"{name} is a pipe", instead(name, os.mkfifo), P, "not_regular_file")
        yield Case("FS-02", f"{name} is a socket", instead(name, listen), IO, "open_failed")
        yield Case("FS-02", f"{name} is /dev/zero", instead(name, link("/dev/zero")), P, "not_regular_file")
        yield Case("FS-04", f"{name} is a loop", instead(name, link(name)), IO, "open_failed")
        yield Case("FS-04", f"{name} dangles", instead(name, link("nowhere")), IO, "open_failed")
    yield Case("FS-02", "model is a pipe", alone(os.mkfifo), P, "not_regular_file")
    yield Case("FS-02", "model is /dev/full", lambda path: "/dev/full", P, "not_regular_file")
    yield Case("FS-02", "model is own memory", lambda path: "/proc/self/mem", F, "header_too_small")
    yield Case("FS-04", "model is a loop", alone(link("model.gguf")), IO, "open_failed")


def links() -> Iterator[Case]:
    strict = {"strict_paths": True}

    def outside(path: Path) -> Path:
        (path / "model").mkdir()
        instead("model.safetensors", link("../weights"))(path / "model")
        (path / "weights").write_bytes(st_file(st_header()))
        return path / "model"

    def hub(path: Path) -> Path:
        snapshot, blobs = path / "models--a--b" / "snapshots" / "1234", path / "models--a--b" / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        instead("model.safetensors", link("../../blobs/abcd"))(snapshot)
        (blobs / "abcd").write_bytes(st_file(st_header()))
        return snapshot

    def hard(path: Path) -> Path:
        folder()(path)
        os.link(path / "model.safetensors", path / "other")
        return path

    yield Case("FS-03", "link outside", outside, None)
    yield Case("FS-03", "link outside, strict", outside, P, "outside_model", strict)
    yield Case("FS-03", "hub's blobs, strict", hub, None, "", strict)
    yield Case("FS-03", "hard link", hard, None)
    yield Case("FS-03", "hard link, strict", hard, P, "outside_model", strict)
    yield Case("FS-03", "nothing wrong, strict", folder(), None, "", strict)


def sizes() -> Iterator[Case]:
    def sparse(path: Path) -> Path:
        wide, layer = 1 << 14, "model.layers.0."
        config = CONFIG | {
            "vocab_size": 1 << 22,
            "hidden_size": wide,
            "head_dim": 16,
            "num_attention_heads": 1,
        }
        config |= {"num_hidden_layers": 1, "intermediate_size": 8}
        shapes = {"model.embed_tokens.weight": [1 << 22, wide], "model.norm.weight": [wide]}
        shapes |= {layer + f"{name}_layernorm.weight": [wide] for name in ("input", "post_attention")}
        shapes |= {layer + f"self_attn.{name}_proj.weight": [16, wide] for name in "qkv"}
        shapes |= {layer + "self_attn.o_proj.weight": [wide, 16], layer + "mlp.down_proj.weight": [wide, 8]}
        shapes |= {layer + f"mlp.{name}_proj.weight": [8, wide] for name in ("gate", "up")}
        header = st_header(shapes)
        folder(st_file(header, 0), config)(path)
        end = max(entry["data_offsets"][1] for entry in header.values())
        with (path / "model.safetensors").open("r+b") as file:
            file.truncate(file.seek(0, os.SEEK_END) + end)
        return path

    yield Case("FS-09", "256 GiB of nothing", sparse, L, "memory")

    def huge(path: Path) -> Path:
        with (path / "model.gguf").open("wb") as file:
            file.write(b"GGUF" + struct.pack("<IQQ", 3, 1 << 33, 1 << 33))
            file.truncate(1 << 40)
        return path / "model.gguf"

    yield Case("FS-09", "1 TiB of nothing", huge, L, "count_limit")


def foreign() -> Iterator[Case]:
    archives = {
        "zip": b"PK\x03\x04",
        "gzip": b"\x1f\x8b\x08",
        "bzip2": b"BZh9",
        "xz": b"\xfd7zXZ\0",
        "zstd": b"\x28\xb5\x2f\xfd",
        "7z": b"7z\xbc\xaf\x27\x1c",
        "tar": bytes(257) + b"ustar",
    }
    for name, head in archives.items():
        yield Case("FS-11", name, gguf(head + bytes(600)), U, "archive")
    pickles = {"protocol 2": b"\x80\x02}q\0.", "protocol 4": b"\x80\x04\x95", "numpy": b"\x93NUMPY\x01\0"}
    for name, head in pickles.items():
        yield Case("FS-12", name, gguf(head + bytes(600)), U, "pickle")
    for name in (
        "pytorch_model.bin",
        "model.pt",
        "model.pth",
        "model.ckpt",
        "model.pkl",
        "model.npy",
        "model.npz",
    ):
        yield Case("FS-12", name, gguf(b"PK\x03\x04" + bytes(600), name), U, "pickle")
        if name != "model.npz":
            yield Case("FS-12", f"folder with {name}", only(name), U, "pickle")
    yield Case(
        "FS-12",
        "weights without a folder",
        gguf(st_file(st_header()), "model.safetensors"),
        U,
        "lone_weights",
    )
    yield Case("FS-12", "text file", gguf(b"hello, this is not a model at all"), F, "magic")


def only(name: str) -> Write:
    def write(path: Path) -> Path:
        without("model.safetensors")(path)
        (path / name).write_bytes(b"\x80\x02.")
        return path

    return write


CASES = [case for group in (missing, special, links, sizes, foreign) for case in group()]
