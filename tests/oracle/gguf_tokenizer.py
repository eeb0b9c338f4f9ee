"""The reference tokenizer of a GGUF file, from the vocabulary in the file.

`gpt2` vocabularies become a byte-level BPE of the `tokenizers` library, `llama` vocabularies a
SentencePiece model run by `sentencepiece` itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers

from .gguf_metadata import Metadata

Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], str]


def load(path: Path) -> tuple[Encode, Decode]:
    """`encode(text)` (with the leading token the file asks for) and `decode(ids)`.

    raises  ValueError for a kind of vocabulary or pre-tokenizer that has no reference here
    """
    metadata = Metadata(gguf.GGUFReader(path))
    bos = [metadata.general("tokenizer.ggml.bos_token_id")]
    prefix = bos if metadata.general("tokenizer.ggml.add_bos_token") else []
    kind = metadata.general("tokenizer.ggml.model")
    if kind == "gpt2" and metadata.general("tokenizer.ggml.pre") == "smollm":
        bpe = _byte_level_bpe(metadata)
        return lambda text: prefix + bpe.encode(text).ids, bpe.decode
    if kind == "llama":
        pieces = sentencepiece.SentencePieceProcessor(model_proto=_sentencepiece_proto(metadata))
        return lambda text: prefix + pieces.encode(text), pieces.decode
    raise ValueError(f"no reference tokenizer for a {kind!r} vocabulary")


def _byte_level_bpe(metadata: Metadata) -> tokenizers.Tokenizer:
    vocab = {token: i for i, token in enumerate(metadata.general("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ")) for merge in metadata.general("tokenizer.ggml.merges")]
    bpe = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = tokenizers.decoders.ByteLevel()
    return bpe


def _sentencepiece_proto(metadata: Metadata) -> bytes:
    """A serialized sentencepiece ModelProto (sentencepiece_model.proto), written field by field.

    ModelProto: pieces 1 {piece 1, score 2, type 3}, trainer_spec 2 {model_type 3, byte_fallback 35},
    normalizer_spec 3 {add_dummy_prefix 3, remove_extra_whitespaces 4}. GGUF's token types are the enum's.
    """
    unknown = metadata.general("tokenizer.ggml.unknown_token_id")
    proto = bytearray()
    columns = [metadata.general(f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type")]
    for token_id, (token, score, kind) in enumerate(zip(*columns, strict=True)):
        kind = 2 if token_id == unknown else kind
        if kind == 4:  # GGUF writes the spaces of user-defined tokens out, sentencepiece matches them as "▁"
            token = token.replace(" ", "▁")
        piece = _bytes_field(1, token.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(kind)
        proto += _bytes_field(1, piece)
    proto += _bytes_field(2, _varint(3 << 3) + _varint(2) + _varint(35 << 3) + _varint(1))
    space_prefix = int(metadata.general("tokenizer.ggml.add_space_prefix"))
    proto += _bytes_field(3, _varint(3 << 3) + _varint(space_prefix) + _varint(4 << 3) + _varint(0))
    return bytes(proto)


def _bytes_field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
