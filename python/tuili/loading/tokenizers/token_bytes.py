"""The bytes that one token adds to a text: what decoding and streaming are made of.

A text is the concatenation of its tokens' bytes, read as UTF-8 with U+FFFD for what is not. A token's bytes
depend on the token and on whether it is the first of the text, on nothing else, so a stream can be decoded
token by token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tuili.errors import ModelUnsupportedError
from tuili.loading.files import shown
from tuili.loading.tokenizers.tokenizer_json import components

# (the token as it stands in the vocabulary, is it the first of the text?) -> its bytes
TokenBytes = Callable[[str, bool], bytes]

# What BERT's tokens that continue a word begin with.
WORD_PIECE_PREFIX = "##"

# What BERT's decoder puts right after joining words with spaces.
CLEAN_UP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for the 256 bytes: printable ones stand for themselves, the others for U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def byte_level_bytes(token: str, first: bool) -> bytes:
    """GPT-2's byte-level alphabet; a token with any other character stands for itself."""
    try:
        return bytes([BYTE_OF[c] for c in token])
    except KeyError:
        return token.encode()


def fallback_byte(token: str) -> int | None:
    """The byte that a token <0x00> … <0xFF> stands for, or None."""
    if len(token) != 6 or not token.startswith("<0x") or token[5] != ">":
        return None
    high, low = (("0123456789ABCDEF").find(digit) for digit in token[3:5].upper())
    return None if high < 0 or low < 0 else 16 * high + low


def sentencepiece_bytes(*, strip_first_space: bool) -> TokenBytes:
    """ "▁" is a space and <0xAB> a byte; the first token loses one space if encoding had put one in front."""

    def token_bytes(token: str, first: bool) -> bytes:
        byte = fallback_byte(token)
        data = token.replace("▁", " ").encode() if byte is None else bytes([byte])
        return data.removeprefix(b" ") if first and strip_first_space else data

    return token_bytes


def word_piece_bytes(prefix: str, cleanup: bool) -> TokenBytes:
    """A space stands before every token that does not begin with `prefix`, which is taken off the others.

    cleanup  none stands before punctuation
    """

    def token_bytes(token: str, first: bool) -> bytes:
        if not first:
            token = token.removeprefix(prefix) if token.startswith(prefix) else " " + token
        if cleanup:
            for wrong, right in CLEAN_UP:
                token = token.replace(wrong, right)
        return token.encode()

    return token_bytes


def _metaspace_bytes(replacement: str, scheme: str) -> TokenBytes:
    def token_bytes(token: str, first: bool) -> bytes:
        return token.replace(replacement, "" if first and scheme != "never" else " ").encode()

    return token_bytes


def _words_bytes(suffix: str) -> TokenBytes:
    """A space stands behind every word, which a suffix ends."""
    return lambda token, first: token.replace(suffix, " ").encode()


def _spaced_bytes(token: str, first: bool) -> bytes:
    return (token if first else " " + token).encode()


def token_bytes_by(decoding: list[Any]) -> TokenBytes:
    """The function that a description which JSON can hold stands for: ["byte_level"], ["word_piece", prefix],
    ["sentencepiece", whether the first token loses a space] or ["decoder", that of a tokenizer.json]."""
    kind, *parameters = decoding
    if kind == "byte_level":
        return byte_level_bytes
    if kind == "word_piece":
        return word_piece_bytes(parameters[0], cleanup=True)
    if kind == "sentencepiece":
        return sentencepiece_bytes(strip_first_space=parameters[0])
    return decoder_bytes(parameters[0])


def decoder_bytes(decoder: Any) -> TokenBytes:
    """What the checked `decoder` of a tokenizer.json does to one token.

    raises  ModelUnsupportedError for a sequence of decoders that cannot be done token by token
    """
    if decoder is None:
        return _spaced_bytes
    steps = list(components("decoder", decoder))
    names = [name for name, _ in steps]
    if names == ["ByteLevel"]:
        return byte_level_bytes
    if names == ["WordPiece"]:
        return word_piece_bytes(steps[0][1]["prefix"], steps[0][1]["cleanup"])
    if names == ["BPEDecoder"]:
        return _words_bytes(steps[0][1]["suffix"])
    if names == ["Metaspace"]:
        return _metaspace_bytes(steps[0][1]["replacement"], steps[0][1].get("prepend_scheme") or "always")
    if set(names) <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        return _sequence_bytes(steps)
    raise ModelUnsupportedError(
        f"decoder: the sequence {', '.join(names)} is not supported", code="tokenizer_component"
    )


def _sequence_bytes(steps: list[tuple[str, dict[str, Any]]]) -> TokenBytes:
    """Replacements of single characters, byte fallback, and spaces taken from the front of the fused text."""
    replacements: list[tuple[str, str]] = []
    byte_fallback = False
    strip, n_strip = b"", 0
    for i, (name, step) in enumerate(steps):
        fused = any(earlier == "Fuse" for earlier, _ in steps[:i])
        if name == "Replace" and len(step["pattern"].get("String", "")) == 1 and not n_strip:
            replacements.append((step["pattern"]["String"], step["content"]))
        elif name == "Strip" and fused and not n_strip:
            strip, n_strip = step["content"].encode(), step["start"]
        elif name == "ByteFallback" and not fused:
            byte_fallback = True
        elif name != "Fuse":
            raise ModelUnsupportedError(
                f"decoder: {name} {shown(step)} is not supported here", code="tokenizer_component"
            )

    def token_bytes(token: str, first: bool) -> bytes:
        byte = fallback_byte(token) if byte_fallback else None
        if byte is None:
            for old, new in replacements:
                token = token.replace(old, new)
        data = token.encode() if byte is None else bytes([byte])
        for _ in range(n_strip if first else 0):
            data = data.removeprefix(strip)
        return data

    return token_bytes
