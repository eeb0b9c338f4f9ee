"""Reads sentencepiece's *.model files: a protocol buffer of pieces with scores, and how text is normalized.

Only what tokenizing needs is read. Source: sentencepiece_model.proto (ModelProto 1: pieces, 2: trainer_spec,
3: normalizer_spec) and the encoding of protocol buffers, version 2.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tuili.errors import ModelUnsupportedError, TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2

MAX_FIELDS = 1 << 23  # of all messages together
_SIZES = {1: 8, 5: 4}  # in bytes, of a field's value by the kind that its key tells


@dataclass(frozen=True)
class SentencePieces:
    """pieces: (text, score, type) in the order of their ids; charsmap: the compiled normalizer, or empty."""

    pieces: list[tuple[str, float, int]]
    model_type: int
    unk_id: int
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    whitespace_as_suffix: bool = False

    def of_type(self, *types: int) -> list[str]:
        """The texts of the pieces of these types."""
        return [text for text, _, kind in self.pieces if kind in types]


def parse(data: bytes, what: str) -> SentencePieces:
    """A file's pieces and settings.

    raises  TokenizerError (protobuf) for what is no such file, ModelUnsupportedError for words and characters
    """
    try:
        return _model(data, what)
    except (struct.error, UnicodeDecodeError, LookupError, TypeError, AttributeError) as error:
        raise TokenizerError(
            f"{what}: not a sentencepiece model ({type(error).__name__})", code="protobuf"
        ) from error


def _model(data: bytes, what: str) -> SentencePieces:
    pieces, trainer, normalizer = [], b"", b""
    for field, value in _fields(data, what):
        if field == 1:
            pieces.append(_piece(value, what))
        elif field == 2:
            trainer = value
        elif field == 3:
            normalizer = value
    if not pieces:
        raise TokenizerError(f"{what}: there are no pieces", code="protobuf")
    trained, normal = dict(_fields(trainer, what)), dict(_fields(normalizer, what))
    model_type = trained.get(3, UNIGRAM)
    if model_type not in (UNIGRAM, BPE):
        raise ModelUnsupportedError(
            f"{what}: model_type {model_type}; unigram (1) and BPE (2) are supported",
            code="tokenizer_component",
        )
    unk_id = trained.get(40, 0)
    if not 0 <= unk_id < len(pieces):
        raise TokenizerError(f"{what}: unk_id {unk_id} of {len(pieces)} pieces", code="special_id")
    charsmap = normal.get(2, b"")
    if not isinstance(charsmap, bytes):  # bytes(n) would be n zeros
        raise TokenizerError(f"{what}: the normalizer's table is a number", code="protobuf")
    return SentencePieces(
        pieces=pieces,
        model_type=model_type,
        unk_id=unk_id,
        byte_fallback=bool(trained.get(35, 0)),
        charsmap=charsmap,
        add_dummy_prefix=bool(normal.get(3, 1)),
        remove_extra_whitespaces=bool(normal.get(4, 1)),
        whitespace_as_suffix=bool(trained.get(24, 0)),
    )


def _piece(data: bytes, what: str) -> tuple[str, float, int]:
    fields = dict(_fields(data, what))
    text, (score,), kind = fields[1].decode(), struct.unpack("<f", fields.get(2, bytes(4))), fields.get(3, 1)
    if not text or not math.isfinite(score) or not NORMAL <= kind <= BYTE:
        raise TokenizerError(f"{what}: a piece without text, score or a known type", code="protobuf")
    return text, score, kind


def _fields(data: bytes, what: str) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: an int for varints, bytes for the others."""
    at, n, end = 0, 0, len(data)
    while at < end:
        key, at = _varint(data, at) if data[at] > 0x7F else (data[at], at + 1)  # most are of one byte
        n += 1
        kind = key & 7
        size = _SIZES.get(kind)
        if kind in (0, 2):
            size, at = _varint(data, at) if data[at] > 0x7F else (data[at], at + 1)
        if kind == 0:
            yield key >> 3, size
            continue
        if size is None or size > end - at or n > MAX_FIELDS:
            raise TokenizerError(f"{what}: a field at byte {at} is cut off or unknown", code="protobuf")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where the next field is) of at most ten bytes of seven bits each."""
    value = 0
    for i in range(10):
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise IndexError("a varint of more than ten bytes")
