"""Checks a tokenizer.json before the `tokenizers` library sees it.

The library trusts its files: a merge that is not in the vocabulary, a chunk length of zero or a template
without its token make it panic, some of them only on the first text. Here every field that the library reads
is checked for type and range, and every setting that could make encoding slow, unbounded or random is
refused.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from tuili.errors import ModelUnsupportedError, TokenizerError
from tuili.loading.files import shown
from tuili.loading.tokenizers.pre_tokenizers import KNOWN_PATTERNS

MAX_TOKENS = 1 << 22
MAX_TOKEN_BYTES = 4096
MAX_ADDED_TOKENS = 1 << 17
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token
MAX_COMPONENTS = 32  # normalizers, pre-tokenizers, processors and decoders of one kind, nested ones counted
MAX_GROWTH = 64  # of a text under all Replace normalizers together
MAX_SCORE = 1e30  # so that sums of scores stay finite
MAX_WORD_CHARS = 1000  # WordPiece looks at every substring of a word

Check = Callable[[Any, str], None]
Document = dict[str, Any]


def bad(where: str, problem: str, code: str) -> NoReturn:
    """Raise TokenizerError for the field `where`."""
    raise TokenizerError(f"{where}: {problem}", code=code)


def wrong(where: str, expected: str, code: str = "tokenizer_field") -> NoReturn:
    """Raise TokenizerError that says what the field must be, and perhaps, behind "not", what it is."""
    raise TokenizerError(f"{where} must be {expected}", code=code)


# ---- checks of single fields


def _bool(value: Any, where: str) -> None:
    if type(value) is not bool:
        wrong(where, f"true or false, not {shown(value)}")


def _text(longest: int, shortest: int = 0) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or not shortest <= len(value) <= longest:
            wrong(where, f"a string of {shortest} to {longest} characters, not {shown(value)}")

    return check


def _integer(least: int, most: int) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            wrong(where, f"an integer from {least} to {most}, not {shown(value)}")

    return check


def _one_of(*choices: str) -> Check:
    def check(value: Any, where: str) -> None:
        if value not in choices:
            wrong(where, f"one of {', '.join(choices)}, not {shown(value)}")

    return check


def _maybe(inner: Check) -> Check:
    """The field may be null or absent."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def _token_and_id(value: Any, where: str) -> None:
    if not isinstance(value, list) or len(value) != 2:
        wrong(where, "[token, id]")
    _text(MAX_TOKEN_BYTES, 1)(value[0], where)
    _integer(0, MAX_TOKENS)(value[1], where)


def _pattern(value: Any, where: str) -> None:
    if not isinstance(value, dict) or len(value) != 1:
        wrong(where, '{"String": …} or {"Regex": …}')
    kind, text = next(iter(value.items()))
    if kind == "String":
        _text(64, 1)(text, where)
    elif kind != "Regex" or not isinstance(text, str):
        wrong(where, '{"String": …} or {"Regex": …}')
    elif text not in KNOWN_PATTERNS:
        raise ModelUnsupportedError(
            f"{where}: the regular expression {shown(text, 200)} is not among those of known models",
            code="tokenizer_pattern",
        )


def _charsmap(value: Any, where: str) -> None:
    """A compiled SentencePiece normalizer: u32 trie bytes, a double-array trie, then strings ended by zeros.

    Source: Darts-clone's unit layout (https://github.com/s-yata/darts-clone), as sentencepiece writes it.
    """
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        wrong(where, "a base64 string", "charsmap")
    n_bytes = struct.unpack_from("<I", data)[0] if len(data) >= 4 else 0
    if n_bytes == 0 or n_bytes % 1024 or n_bytes > len(data) - 4:
        bad(where, "its trie is truncated", "charsmap")
    units = np.frombuffer(data, "<u4", n_bytes // 4, 4).astype(np.int64)
    strings = data[4 + n_bytes :]
    leaf = units >> 31 == 1
    values = units[leaf] & 0x7FFFFFFF
    # A unit's children lie in the block of 256 that its offset points to.
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    children = np.arange(len(units)) ^ offsets
    outside = (children[~leaf] | 0xFF).max(initial=0) >= len(units)
    if leaf[0] or outside or values.max(initial=-1) >= len(strings):  # the first is read as no leaf
        bad(where, "its trie points outside itself", "charsmap")
    try:
        strings.decode()
    except UnicodeDecodeError:
        bad(where, "its strings are not UTF-8", "charsmap")
    starts = np.frombuffer(strings, np.uint8)[values]
    if not strings.endswith(b"\0") or (starts & 0xC0 == 0x80).any():
        bad(where, "its trie points into the middle of a character", "charsmap")


# ---- components, by kind and type: field -> check. Fields that are not named are not read by the library
# either.

_BYTE_LEVEL = {"add_prefix_space": _maybe(_bool), "trim_offsets": _maybe(_bool), "use_regex": _maybe(_bool)}
_BEHAVIOR = _one_of("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_SCHEME = _maybe(_one_of("first", "never", "always"))
_METASPACE = {
    "replacement": _text(1, 1), "prepend_scheme": _SCHEME,
    "add_prefix_space": _maybe(_bool), "split": _maybe(_bool),
}  # fmt: skip
_REPLACE = {"pattern": _pattern, "content": _text(64)}


def _without_fields(*names: str) -> dict[str, dict[str, Check]]:
    return {name: {} for name in names}


COMPONENTS: dict[str, dict[str, dict[str, Check]]] = {
    "normalizer": {
        **_without_fields("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"),
        "BertNormalizer": {
            "clean_text": _bool, "handle_chinese_chars": _bool, "strip_accents": _maybe(_bool),
            "lowercase": _bool,
        },
        "Strip": {"strip_left": _bool, "strip_right": _bool},
        "Replace": _REPLACE,
        "Prepend": {"prepend": _text(16, 1)},
        "Precompiled": {"precompiled_charsmap": _charsmap},
    },
    "pre_tokenizer": {
        **_without_fields("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts"),
        "ByteLevel": _BYTE_LEVEL,
        "Metaspace": _METASPACE,
        "Digits": {"individual_digits": _bool},
        "Punctuation": {"behavior": _maybe(_BEHAVIOR)},
        "CharDelimiterSplit": {"delimiter": _text(1, 1)},
        "Split": {"pattern": _pattern, "behavior": _BEHAVIOR, "invert": _bool},
        "FixedLength": {"length": _integer(1, 1 << 20)},
    },
    "post_processor": {
        "ByteLevel": _BYTE_LEVEL,
        "BertProcessing": {"sep": _token_and_id, "cls": _token_and_id},
        "RobertaProcessing": {
            "sep": _token_and_id, "cls": _token_and_id, "trim_offsets": _bool, "add_prefix_space": _bool,
        },
        "TemplateProcessing": {},  # see _check_template
    },
    "decoder": {
        **_without_fields("ByteFallback", "Fuse"),
        "ByteLevel": _BYTE_LEVEL,
        "Metaspace": _METASPACE,
        "WordPiece": {"prefix": _text(16), "cleanup": _bool},
        "BPEDecoder": {"suffix": _text(16, 1)},
        "Replace": _REPLACE,
        "Strip": {"content": _text(1, 1), "start": _integer(0, 1), "stop": _integer(0, 0)},
    },
}  # fmt: skip
_SEQUENCES = {
    "normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors",
    "decoder": "decoders",
}  # fmt: skip


def components(kind: str, value: Any) -> Iterator[tuple[str, Document]]:
    """The components of one kind with their types, sequences unfolded, in the order in which they run.

    raises  TokenizerError for what is not a component, ModelUnsupportedError for a type that is not in
            COMPONENTS
    """
    stack, n = [value], 0
    while stack:
        item = stack.pop()
        name = item.get("type") if isinstance(item, dict) else None
        if not isinstance(name, str):
            wrong(kind, f"an object with a type, not {shown(item)}")
        n += 1
        if n > MAX_COMPONENTS:
            bad(kind, f"more than {MAX_COMPONENTS} components", "tokenizer_limit")
        if name == "Sequence":
            inner = item.get(_SEQUENCES[kind])
            if not isinstance(inner, list):
                wrong(f"{kind}.{_SEQUENCES[kind]}", "a list")
            stack.extend(reversed(inner))
        elif name not in COMPONENTS[kind]:
            raise ModelUnsupportedError(
                f"{kind}: type {shown(name)} is not supported", code="tokenizer_component"
            )
        else:
            yield name, item


def _check_components(document: Document, n_vocab: int) -> None:
    growth = 1.0
    for kind, types in COMPONENTS.items():
        if document.get(kind) is None:
            continue
        for name, item in components(kind, document[kind]):
            for field, check in types[name].items():
                check(item.get(field), f"{kind} {name}.{field}")
            if kind == "normalizer" and name == "Replace":
                # A regular expression of the allow-list matches at least one character.
                growth *= max(1.0, len(item["content"]) / len(item["pattern"].get("String", "x")))
            if name == "TemplateProcessing":
                _check_template(item, n_vocab)
            for field in {"sep", "cls"} & types[name].keys():
                if item[field][1] >= n_vocab:
                    bad(
                        f"{kind} {name}.{field}",
                        f"id {item[field][1]} is not in the vocabulary",
                        "special_id",
                    )
    if growth > MAX_GROWTH:
        bad("normalizer", f"the Replace steps can make a text {growth:.0f} times as long", "tokenizer_limit")


def _check_template(item: Document, n_vocab: int) -> None:
    where = "post_processor TemplateProcessing"
    tokens = item.get("special_tokens")
    if not isinstance(tokens, dict) or len(tokens) > 64:
        wrong(f"{where}.special_tokens", "an object of at most 64 tokens")
    for name, token in tokens.items():
        ids = token.get("ids") if isinstance(token, dict) else None
        texts = token.get("tokens") if isinstance(token, dict) else None
        if not isinstance(ids, list) or not isinstance(texts, list) or not 1 <= len(ids) == len(texts) <= 64:
            bad(f"{where}.special_tokens", f"{shown(name)} needs as many ids as tokens", "tokenizer_field")
        for token_id, text in zip(ids, texts, strict=True):
            _integer(0, n_vocab - 1)(token_id, f"{where}.special_tokens {shown(name)}")
            _text(MAX_TOKEN_BYTES)(text, f"{where}.special_tokens {shown(name)}")
        if token.get("id") != name:
            bad(f"{where}.special_tokens", f"{shown(name)} has another id", "tokenizer_field")
    for field, sequences in (("single", ["A"]), ("pair", ["A", "B"])):
        pieces = item.get(field)
        if not isinstance(pieces, list) or len(pieces) > 64:
            wrong(f"{where}.{field}", "a list of at most 64 pieces")
        found = [_template_piece(piece, tokens, f"{where}.{field}") for piece in pieces]
        if sorted(filter(None, found)) != sequences:
            wrong(f"{where}.{field}", f"{' and '.join(sequences)} once each")


def _template_piece(piece: Any, tokens: Document, where: str) -> str | None:
    """The sequence that a piece stands for, "A" or "B", or None for a special token."""
    if not isinstance(piece, dict) or len(piece) != 1:
        wrong(where, f"a piece, not {shown(piece)}")
    kind, value = next(iter(piece.items()))
    if kind not in ("Sequence", "SpecialToken") or not isinstance(value, dict):
        wrong(where, f"a piece, not {shown(piece)}")
    _integer(0, 1 << 16)(value.get("type_id"), f"{where} type_id")
    name = value.get("id")
    if kind == "Sequence":
        _one_of("A", "B")(name, f"{where} Sequence")
        return str(name)
    if not isinstance(name, str) or name not in tokens:
        bad(where, f"the special token {shown(name)} is not defined", "template_token")
    return None


# ---- models


def model_type(model: Document) -> str:
    """BPE, WordPiece, WordLevel or Unigram; files before 2020 leave the type out."""
    name = model.get("type")
    if name is None:
        name = (
            "BPE" if "merges" in model else "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece"
        )
    if not isinstance(name, str) or name not in _MODELS:
        raise ModelUnsupportedError(f"model: type {shown(name)} is not supported", code="tokenizer_component")
    return str(name)


def check_tokens(tokens: list[Any], where: str) -> None:
    """Every token is a non-empty string of at most MAX_TOKEN_BYTES bytes of UTF-8, and there is at least
    one."""
    if not 1 <= len(tokens) <= MAX_TOKENS:
        bad(where, f"{len(tokens)} tokens; the limits are 1 and {MAX_TOKENS}", "vocab_size")
    for token in tokens:
        if type(token) is not str or not token:
            bad(where, f"{shown(token)} is not a token", "vocab_token")
    longest = max(tokens, key=len)
    if len(longest.encode(errors="replace")) > MAX_TOKEN_BYTES:
        bad(
            where,
            f"a token of {len(longest)} characters; the limit is {MAX_TOKEN_BYTES} bytes",
            "vocab_token",
        )


def _check_vocab(vocab: Any) -> None:
    if not isinstance(vocab, dict):
        wrong("model.vocab", "an object")
    check_tokens(list(vocab), "model.vocab")
    ids = list(vocab.values())
    if any(type(token_id) is not int for token_id in ids) or min(ids) < 0:
        wrong("model.vocab", "ids that are integers from 0", "vocab_id")
    if len(set(ids)) != len(ids):
        bad("model.vocab", "two tokens have the same id", "vocab_id")


def check_merges(merges: list[tuple[str, str]], vocab: Document, prefix: str = "") -> None:
    """Each merge joins two tokens into a third, and no merge comes twice.

    prefix  what the second part begins with and the joined token leaves out (the continuing-subword prefix)
    """
    skip = len(prefix)
    for left, right in merges:
        if left not in vocab or right not in vocab or left + right[skip:] not in vocab:
            problem = f"{shown(left)} + {shown(right)}: the parts and their join must be in the vocabulary"
            bad("model.merges", problem, "merges")
    if prefix and not all(right.startswith(prefix) for _, right in merges):
        bad("model.merges", f"a second part does not begin with {shown(prefix)}", "merges")
    if len(set(merges)) != len(merges):
        bad("model.merges", "a merge comes twice", "merges")


def split_merge(merge: Any) -> tuple[str, str]:
    """The two parts of a merge written as "a b" or ["a", "b"]."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(p, str) and p for p in parts):
        wrong("model.merges", f"two parts, not {shown(merge)}", "merges")
    return parts[0], parts[1]


def check_byte_tokens(vocab: Document) -> None:
    """Byte fallback needs all 256 tokens <0x00> … <0xFF>."""
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in vocab]
    if missing:
        bad("model.byte_fallback", f"the token <0x{missing[0]:02X}> is missing", "byte_tokens")


def _check_bpe(model: Document) -> None:
    vocab = model.get("vocab")
    _check_vocab(vocab)
    assert isinstance(vocab, dict)
    merges = model.get("merges")
    if not isinstance(merges, list) or len(merges) > MAX_TOKENS:
        wrong("model.merges", f"a list of at most {MAX_TOKENS}", "merges")
    prefix = model.get("continuing_subword_prefix")
    _maybe(_text(16))(prefix, "model.continuing_subword_prefix")
    _maybe(_text(16))(model.get("end_of_word_suffix"), "model.end_of_word_suffix")
    check_merges([split_merge(merge) for merge in merges], vocab, prefix or "")
    for field in ("fuse_unk", "byte_fallback", "ignore_merges"):
        _maybe(_bool)(model.get(field), f"model.{field}")
    _check_unknown(model, vocab)
    if model.get("dropout") not in (None, 0, 0.0):
        raise ModelUnsupportedError(
            "model.dropout must be 0: tokens must not be random", code="tokenizer_component"
        )
    if model.get("byte_fallback"):
        check_byte_tokens(vocab)


def _check_word_piece(model: Document) -> None:
    _check_vocab(model.get("vocab"))
    if not model.get("unk_token"):
        wrong("model.unk_token", "a token")
    _check_unknown(model, model["vocab"])
    _text(16)(model.get("continuing_subword_prefix"), "model.continuing_subword_prefix")
    _integer(0, MAX_WORD_CHARS)(model.get("max_input_chars_per_word"), "model.max_input_chars_per_word")


def _check_word_level(model: Document) -> None:
    _check_vocab(model.get("vocab"))
    if not model.get("unk_token"):
        wrong("model.unk_token", "a token")
    _check_unknown(model, model["vocab"])


def _check_unknown(model: Document, vocab: Document) -> None:
    unknown = model.get("unk_token")
    _maybe(_text(MAX_TOKEN_BYTES))(unknown, "model.unk_token")
    if unknown and unknown not in vocab:  # old GPT-2 files write "" for none
        bad("model.unk_token", f"{shown(unknown)} is not in the vocabulary", "special_id")


def _check_unigram(model: Document) -> None:
    entries = model.get("vocab")
    if not isinstance(entries, list):
        wrong("model.vocab", "a list")
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2 or type(entry[1]) not in (int, float):
            wrong("model.vocab", f"[token, score], not {shown(entry)}", "vocab_token")
        if abs(entry[1]) > MAX_SCORE:
            bad("model.vocab", f"the score of {shown(entry[0])} is beyond {MAX_SCORE:g}", "vocab_score")
    tokens = [token for token, _ in entries]
    check_tokens(tokens, "model.vocab")
    if len(set(tokens)) != len(tokens):
        bad("model.vocab", "a token comes twice", "vocab_token")
    _integer(0, len(entries) - 1)(model.get("unk_id"), "model.unk_id")
    _maybe(_bool)(model.get("byte_fallback"), "model.byte_fallback")
    if model.get("byte_fallback"):
        check_byte_tokens(dict(entries))


_MODELS: dict[str, Callable[[Document], None]] = {
    "BPE": _check_bpe, "WordPiece": _check_word_piece, "WordLevel": _check_word_level,
    "Unigram": _check_unigram,
}  # fmt: skip


def unknown_id(model: Document) -> int | None:
    """The id that a checked model gives to what it cannot encode, if it has one."""
    if model_type(model) == "Unigram":
        return int(model["unk_id"])
    return vocabulary(model).get(model.get("unk_token") or "")


def vocabulary(model: Document) -> dict[str, int]:
    """token -> id of a checked model, without added tokens."""
    vocab = model["vocab"]
    return vocab if isinstance(vocab, dict) else {token: i for i, (token, _) in enumerate(vocab)}


# ---- the document


def check_added_token(token: Any) -> None:
    """A token that is recognised in texts before they are cut, with its id and FLAGS."""
    if not isinstance(token, dict):
        wrong("added_tokens", f"an object, not {shown(token)}")
    _text(MAX_TOKEN_BYTES, 1)(token.get("content"), "added_tokens content")
    _integer(0, MAX_TOKENS)(token.get("id"), "added_tokens id")
    for field in FLAGS:
        _bool(token.get(field), f"added_tokens {field}")


def _check_added_tokens(added: Any, vocab: dict[str, int]) -> None:
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        wrong("added_tokens", f"a list of at most {MAX_ADDED_TOKENS}")
    known: dict[int, str] = {token_id: token for token, token_id in vocab.items()}
    contents: set[str] = set()
    for token in added:
        check_added_token(token)
        content, token_id = token["content"], token["id"]
        if known.setdefault(token_id, content) != content or vocab.get(content, token_id) != token_id:
            bad("added_tokens", f"{shown(content)} and another token claim id {token_id}", "added_token_id")
        if content in contents:
            bad("added_tokens", f"{shown(content)} comes twice", "added_token_id")
        contents.add(content)


def _check_lengths(document: Document) -> None:
    """Truncation and padding are switched off after loading, but a contradictory file is still refused."""
    truncation, padding = document.get("truncation"), document.get("padding")
    if truncation is not None:
        if not isinstance(truncation, dict):
            wrong("truncation", "an object")
        _integer(1, 1 << 30)(truncation.get("max_length"), "truncation.max_length")
        _integer(0, truncation["max_length"] - 1)(truncation.get("stride"), "truncation.stride")
        _maybe(_one_of("Left", "Right"))(truncation.get("direction"), "truncation.direction")
    if padding is not None:
        strategy = padding.get("strategy") if isinstance(padding, dict) else None
        if isinstance(strategy, dict) and strategy.keys() == {"Fixed"}:
            _integer(0, 1 << 24)(strategy["Fixed"], "padding.strategy.Fixed")
        elif strategy != "BatchLongest":
            wrong("padding.strategy", f"BatchLongest or Fixed, not {shown(strategy)}")


def check(document: object, n_vocab: int | None = None) -> Document:
    """`document` itself, a parsed tokenizer.json that is safe to hand to the library.

    n_vocab  rows of the model's embedding table, if known: no id may lie beyond it
    raises   TokenizerError naming the field, ModelUnsupportedError for a component or pattern that is not
             known
    """
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        bad("model", "missing", "tokenizer_field")
    model = document["model"]
    _MODELS[model_type(model)](model)
    vocab = vocabulary(model)
    document.setdefault("added_tokens", [])
    _check_added_tokens(document["added_tokens"], vocab)
    ids = [*vocab.values(), *(token["id"] for token in document["added_tokens"])]
    # Every table indexed by id has this size, so it must not be much larger than the file's own lists.
    if max(ids) >= 2 * len(ids) + 1024:
        bad("model.vocab", f"id {max(ids)} in a vocabulary of {len(ids)} tokens", "vocab_sparse")
    if n_vocab is not None and max(ids) >= n_vocab:
        bad("model.vocab", f"id {max(ids)} is beyond the model's vocabulary of {n_vocab}", "vocab_size")
    _check_components(document, max(ids) + 1)
    _check_lengths(document)
    return document
