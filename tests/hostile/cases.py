"""What a hostile file is, and the tiny valid model that each of them breaks in one way."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuili.errors import TuiliError

Json = dict[str, Any]
Write = Callable[[Path], Path | str | bytes]


@dataclass(frozen=True)
class Case:
    """One hostile input.

    row      id in tests/catalogue.toml
    name     unique within the row
    write    makes it in an empty folder and returns the path to load
    error    the class that must be raised, or None if the input is odd but valid
    code     the error's code
    options  for plan_model
    """

    row: str
    name: str
    write: Write
    error: type[TuiliError] | None
    code: str = ""
    options: Json = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.row}:{self.name}"


# A Llama of two layers: 4 kB of weights, so that hundreds of variants are written in a second.
CONFIG: Json = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "vocab_size": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}


def llama_shapes() -> dict[str, list[int]]:
    """Name and shape of every tensor that CONFIG asks for."""
    shapes = {"model.embed_tokens.weight": [16, 32], "model.norm.weight": [32]}
    for i in range(2):
        layer = f"model.layers.{i}."
        shapes |= {layer + f"{name}.weight": [32] for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {layer + f"self_attn.{name}_proj.weight": [32, 32] for name in "qo"}
        shapes |= {layer + f"self_attn.{name}_proj.weight": [16, 32] for name in "kv"}
        shapes |= {layer + f"mlp.{name}_proj.weight": [32, 32] for name in ("gate", "up", "down")}
    return shapes


# ---- safetensors


def st_header(shapes: dict[str, list[int]] | None = None) -> Json:
    """A safetensors header of float32 tensors."""
    header: Json = {}
    at = 0
    for name, shape in (shapes if shapes is not None else llama_shapes()).items():
        size = 4
        for dim in shape:
            size *= dim
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return header


def data_size(header: Json) -> int:
    return max(
        (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0
    )


def st_file(header: Json | bytes, n_data: int | None = None, n_header: int | None = None) -> bytes:
    """The bytes of a safetensors file; sizes can be made to lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    if n_data is None:
        n_data = data_size(header) if isinstance(header, dict) else 0
    return struct.pack("<Q", len(text) if n_header is None else n_header) + text + bytes(n_data)


def folder(
    weights: bytes | None = None, config: Json | bytes | None = None, **files: Json | bytes | list[Any]
) -> Write:
    """A Hugging Face folder; `files` are further ones, with __ for a dot in their names."""

    def write(path: Path) -> Path:
        contents: dict[str, Json | bytes | list[Any]] = {
            "config.json": CONFIG if config is None else config,
            "model.safetensors": st_file(st_header()) if weights is None else weights,
            "tokenizer.json": b"{}",
        }
        contents |= {name.replace("__", "."): content for name, content in files.items()}
        for name, content in contents.items():
            target = path / name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


# ---- GGUF

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_PACK = {
    U8: "<B",
    I8: "<b",
    U16: "<H",
    I16: "<h",
    U32: "<I",
    I32: "<i",
    F32: "<f",
    U64: "<Q",
    I64: "<q",
    F64: "<d",
}


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    """The encoding of a scalar, string, or (for ARRAY) an (element type, list) pair."""
    if kind == STRING:
        return string(content)
    if kind == BOOL:
        return bytes([content])
    if kind == ARRAY:
        element, items = content
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, item) for item in items)
    return struct.pack(_PACK[kind], content)


def pair(key: str | bytes, kind: int, content: Any) -> bytes:
    return string(key) + struct.pack("<I", kind) + value(kind, content)


def tensor_info(name: str | bytes, dims: list[int], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


GGUF_KEYS: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "llama"),
    "llama.block_count": (U32, 2),
    "llama.context_length": (U32, 64),
    "llama.embedding_length": (U32, 32),
    "llama.feed_forward_length": (U32, 32),
    "llama.attention.head_count": (U32, 2),
    "llama.attention.head_count_kv": (U32, 1),
    "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
    "llama.rope.freq_base": (F32, 10000.0),
    "llama.rope.dimension_count": (U32, 16),
    "tokenizer.ggml.model": (STRING, "gpt2"),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, [f"t{i}" for i in range(16)])),
    "tokenizer.ggml.token_type": (ARRAY, (I32, [1] * 16)),
    "tokenizer.ggml.merges": (ARRAY, (STRING, [])),
    "tokenizer.ggml.eos_token_id": (U32, 2),
}


@dataclass
class Tensor:
    """A tensor info; `offset` None means right behind the one before."""

    name: str | bytes
    dims: list[int]
    kind: int = 0
    offset: int | None = None


def gguf_tensors() -> list[Tensor]:
    """Infos of the tensors that GGUF_KEYS ask for; dims are in GGUF's order, innermost first."""
    tensors = [Tensor("token_embd.weight", [32, 16]), Tensor("output_norm.weight", [32])]
    for i in range(2):
        for name, dims in {
            "attn_norm": [32],
            "ffn_norm": [32],
            "attn_q": [32, 32],
            "attn_k": [32, 16],
            "attn_v": [32, 16],
            "attn_output": [32, 32],
            "ffn_gate": [32, 32],
            "ffn_up": [32, 32],
            "ffn_down": [32, 32],
        }.items():
            tensors.append(Tensor(f"blk.{i}.{name}.weight", dims))
    return tensors


def gguf_file(
    keys: dict[str, tuple[int, Any]] | list[bytes] | None = None,
    tensors: list[Tensor] | None = None,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_keys: int | None = None,
    alignment: int = 32,
    n_data: int | None = None,
) -> bytes:
    """The bytes of a GGUF file; counts and sizes can be made to lie."""
    keys = GGUF_KEYS if keys is None else keys
    pairs = [pair(key, *entry) for key, entry in keys.items()] if isinstance(keys, dict) else keys
    tensors = gguf_tensors() if tensors is None else tensors
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if n_tensors is None else n_tensors,
        len(pairs) if n_keys is None else n_keys,
    )
    infos, at, end = [], 0, 0
    for tensor in tensors:
        offset = at if tensor.offset is None else tensor.offset
        infos.append(tensor_info(tensor.name, tensor.dims, tensor.kind, offset))
        size = 4
        for dim in tensor.dims:
            size *= dim
        end = at + size
        at = (end + -end % alignment) % (1 << 64)
    body = head + b"".join(pairs) + b"".join(infos)
    if tensors:
        body += bytes(-len(body) % alignment)
    return body + bytes(min(end, 1 << 16) if n_data is None else n_data)


def gguf(content: bytes, name: str = "model.gguf") -> Write:
    """A file to be loaded as GGUF."""

    def write(path: Path) -> Path:
        (path / name).write_bytes(content)
        return path / name

    return write
