"""Tiny tokenizers of every kind, made from documents and GGUF metadata as models have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from hostile.cases import ARRAY, BOOL, F32, I32, STRING, U32, gguf_file
from tuili.loading import gguf
from tuili.loading.files import open_regular
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.tokenizers.tokenizer import from_gguf, from_huggingface
from tuili.tokenization.tokenizer import Tokenizer


def of_document(document: dict[str, Any], **files: Any) -> Tokenizer:
    """The tokenizer of a tokenizer.json document."""
    return Tokenizer(from_huggingface(json.dumps(document).encode(), **files))


def metadata(values: dict[str, Any], folder: Path) -> Metadata:
    """`tokenizer.ggml.*` values as a GGUF file's metadata."""
    types = {str: STRING, bool: BOOL, int: U32}
    keys: dict[str, tuple[int, Any]] = {"general.architecture": (STRING, "llama")}
    for name, value in values.items():
        if isinstance(value, list):
            element = STRING if isinstance(value[0], str) else I32 if isinstance(value[0], int) else F32
            keys[f"tokenizer.ggml.{name}"] = (ARRAY, (element, value))
        else:
            keys[f"tokenizer.ggml.{name}"] = (types[type(value)], value)
    path = folder / "vocab.gguf"
    path.write_bytes(gguf_file(keys, []))
    with open_regular(path) as file:
        return gguf.read_header(file)[0]


def of_gguf(values: dict[str, Any], folder: Path) -> Tokenizer:
    """The tokenizer of `tokenizer.ggml.*` values."""
    return Tokenizer(from_gguf(metadata(values, folder)))


def full_byte_level(**settings: Any) -> Tokenizer:
    """All bytes, a few merges, special tokens of many kinds."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("ab", "c"), ("Ġ", "a"), ("ä", "½")]
    vocab = {token: i for i, token in enumerate([*letters, *("".join(pair) for pair in merges)])}
    backend = Backend(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    for name, value in settings.items():
        setattr(backend, name, value)
    backend.add_tokens([AddedToken("<tool>", normalized=False)])
    backend.add_special_tokens(
        [AddedToken("<s>"), AddedToken("</s>"), AddedToken("<m>", lstrip=True, rstrip=True)]
    )
    return Tokenizer(from_huggingface(backend.to_str().encode()))
