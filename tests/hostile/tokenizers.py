"""Hostile tokenizer.json documents (TK-01 to TK-07) and GGUF vocabularies (GG-26) with their errors."""

from __future__ import annotations

import base64
import copy
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tuili.errors import ModelUnsupportedError, TokenizerError, TuiliError

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A document, or the bytes of one, and its error."""

    row: str
    name: str
    content: Json | bytes
    code: str
    error: type[TuiliError] = TokenizerError

    def __str__(self) -> str:
        return f"{self.row}:{self.name}"

    def data(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


def byte_level_document() -> Json:
    """A valid document with a byte-level BPE over a few letters and every kind of component."""
    tokens = ["<s>", "</s>", "<mask>", *"abcdeĠ", "ab", "cd", "abcd", "Ġa"]
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 2},
        "padding": {
            "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<s>",
        },
        "added_tokens": [added(i, token) for i, token in enumerate(tokens[:3])],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Replace", "pattern": {"String": "x"}, "content": "ab"},
            {"type": "Prepend", "prepend": "a"},
            {"type": "Strip", "strip_left": False, "strip_right": True},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [["a", "b"], ["c", "d"], ["ab", "cd"], ["Ġ", "a"]],
        },
    }  # fmt: skip


def word_piece_document() -> Json:
    """A valid BERT document."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "##a", "##b", "ab", ".", "'", "s"]
    document = byte_level_document()
    document |= {
        "truncation": None, "padding": None,
        "added_tokens": [added(i, token) for i, token in enumerate(tokens[:4])],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {token: i for i, token in enumerate(tokens)},
        },
    }  # fmt: skip
    return document


def unigram_document() -> Json:
    """A valid document as XLM-RoBERTa and T5 have them, with a compiled normalizer that maps "A" to "b"."""
    tokens = ["<unk>", "<s>", "▁", "a", "b", "▁a", "ab"]
    document = byte_level_document()
    document |= {
        "truncation": None, "padding": None, "post_processor": None,
        "added_tokens": [added(i, token) for i, token in enumerate(tokens[:2])],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap()},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        "model": {
            "type": "Unigram", "unk_id": 0, "byte_fallback": False,
            "vocab": [[token, -1.0 - i / 8] for i, token in enumerate(tokens)],
        },
    }  # fmt: skip
    return document


def sentencepiece_document() -> Json:
    """A valid document with byte fallback, as Llama 2 and Gemma have them."""
    tokens = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁ab"]
    document = byte_level_document()
    document |= {
        "truncation": None, "padding": None, "post_processor": None, "pre_tokenizer": None,
        "added_tokens": [added(i, token) for i, token in enumerate(tokens[:2])],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
    }  # fmt: skip
    document["model"] |= {
        "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True,
        "vocab": {token: i for i, token in enumerate(tokens)}, "merges": ["a b", "▁ ab"],
    }  # fmt: skip
    return document


DOCUMENTS = {
    "byte level": byte_level_document, "word piece": word_piece_document, "unigram": unigram_document,
    "sentencepiece": sentencepiece_document,
}  # fmt: skip


def added(token_id: int, content: str, **settings: bool) -> Json:
    """An entry of added_tokens."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **plain, **settings}


def charsmap(trie: list[int] | None = None, strings: bytes = b"b\0") -> str:
    """A compiled SentencePiece normalizer: by default a Darts trie with the one key "A" -> "b"."""
    if trie is None:
        trie = [0] * 256
        trie[0] = 1 << 10  # children at 0 ^ 1 ^ label
        at = 1 ^ ord("A")
        trie[at] = 2 << 10 | 1 << 8 | ord("A")  # has a leaf, at at ^ 2
        trie[at ^ 2] = 1 << 31  # value 0: the string at 0
    packed = struct.pack(f"<{len(trie)}I", *trie)
    return base64.b64encode(struct.pack("<I", len(packed)) + packed + strings).decode()


def changed(path: str, value: Any, document: Json | None = None) -> Json:
    """The byte-level document, or another, with the field at `path` ("a.b.0.c") replaced; ... removes it."""
    result = copy.deepcopy(document if document is not None else byte_level_document())
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = result
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return result


def _structure() -> Iterator[Case]:
    row = "TK-01"
    yield Case(row, "empty", b"", "json")
    yield Case(row, "not UTF-8", b"\xff\xfe{}", "json_utf8")
    yield Case(row, "nested 100000 deep", b"[" * 100_000 + b"]" * 100_000, "json_depth")
    yield Case(row, "a list", b"[]", "tokenizer_field")
    yield Case(row, "65 MB", b" " * (65 << 20), "tokenizer_limit")
    yield Case(row, "no model", changed("model", ...), "tokenizer_field")
    yield Case(row, "model is a list", changed("model", []), "tokenizer_field")
    yield Case(
        row, "unknown model", changed("model.type", "RNN"), "tokenizer_component", ModelUnsupportedError
    )
    for kind in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        yield Case(
            row,
            f"unknown {kind}",
            changed(f"{kind}.type", "Nope"),
            "tokenizer_component",
            ModelUnsupportedError,
        )
        yield Case(row, f"{kind} without type", changed(f"{kind}.type", ...), "tokenizer_field")
        yield Case(row, f"{kind} is a list", changed(kind, []), "tokenizer_field")
    many = [{"type": "NFC"}] * 100
    yield Case(row, "100 normalizers", changed("normalizer.normalizers", many), "tokenizer_limit")
    nested: Json = {"type": "NFC"}
    for _ in range(40):
        nested = {"type": "Sequence", "normalizers": [nested]}
    yield Case(row, "sequences 40 deep", changed("normalizer", nested), "json_depth")
    grow = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 64}] * 2
    yield Case(
        row, "Replace that multiplies by 4096", changed("normalizer.normalizers", grow), "tokenizer_limit"
    )
    yield Case(
        row, "surrogate in a token", json.dumps(changed("model.vocab.\ud800", 13)).encode(), "json_surrogate"
    )


def _vocabularies() -> Iterator[Case]:
    row = "TK-02"
    for value in (-1, 1.0, True, "1", None):
        yield Case(row, f"id {value!r}", changed("model.vocab.a", value), "vocab_id")
    yield Case(row, "two tokens with one id", changed("model.vocab.a", 4), "vocab_id")
    yield Case(
        row,
        "a token twice",
        b'{"model":{"type":"BPE","vocab":{"a":0,"a":1},"merges":[]}}',
        "json_duplicate_key",
    )
    for number in (100_000, 2**31, 2**64):
        yield Case(row, f"id {number} among 13", changed("model.vocab.zz", number), "vocab_sparse")
    yield Case(row, "an empty token", changed("model.vocab.", 13), "vocab_token")
    yield Case(row, "a token of 1 MB", changed("model.vocab." + "x" * (1 << 20), 13), "vocab_token")
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": None}
    yield Case(row, "words without an unknown token", changed("model", words), "tokenizer_field")
    pieces = changed("model.unk_token", ..., word_piece_document())
    yield Case(row, "pieces without an unknown token", pieces, "tokenizer_field")
    yield Case(row, "no tokens", changed("model.vocab", {}), "vocab_size")
    yield Case(row, "vocab is a list", changed("model.vocab", []), "tokenizer_field")


def _merges() -> Iterator[Case]:
    row = "TK-03"
    for name, merge in {
        "unknown part": ["a", "z"], "join not in vocabulary": ["b", "a"], "a merge twice": ["a", "b"],
        "three parts": ["a", "b", "c"], "one part": ["a"], "an empty part": ["", "a"], "a number": 7,
        "text without space": "ab", "text with two spaces": "a  b", "parts that are numbers": [1, 2],
    }.items():  # fmt: skip
        merges = [*byte_level_document()["model"]["merges"], merge]
        yield Case(row, name, changed("model.merges", merges), "merges")
    yield Case(row, "an object", changed("model.merges", {}), "merges")
    yield Case(
        row, "a prefix longer than the parts", changed("model.continuing_subword_prefix", "####"), "merges"
    )


def _added_tokens() -> Iterator[Case]:
    row = "TK-04"
    for name, entry, code in (
        ("empty content", added(13, ""), "tokenizer_field"),
        ("the id of another token", added(4, "new"), "added_token_id"),
        ("another id than in the vocabulary", added(13, "a"), "added_token_id"),
        ("the same content again", added(13, "<s>"), "added_token_id"),
        ("the same token again", added(0, "<s>"), "added_token_id"),
        ("a gap", added(20, "new"), "added_token_id"),
        ("a negative id", added(-1, "new"), "tokenizer_field"),
        ("id 2^31", added(2**31, "new"), "tokenizer_field"),
        ("special is a number", added(13, "new", special=1), "tokenizer_field"),  # type: ignore[arg-type]
        ("content of 5000 characters", added(13, "x" * 5000), "tokenizer_field"),
        ("not an object", [13, "new"], "tokenizer_field"),
    ):
        tokens = [*byte_level_document()["added_tokens"], entry]
        yield Case(row, name, changed("added_tokens", tokens), code)


def _processors() -> Iterator[Case]:
    row, post = "TK-05", "post_processor"
    yield Case(row, "template names a missing token", changed(f"{post}.special_tokens", {}), "template_token")
    for ids in ([99], [-1], [], [0, 1], [True], "0"):
        name = f"template token with ids {ids}"
        yield Case(row, name, changed(f"{post}.special_tokens.<s>.ids", ids), "tokenizer_field")
    yield Case(row, "template without the text", changed(f"{post}.single", []), "tokenizer_field")
    twice = byte_level_document()[post]["single"][1:] * 2
    yield Case(row, "template with the text twice", changed(f"{post}.single", twice), "tokenizer_field")
    yield Case(row, "template of 1000 pieces", changed(f"{post}.single", twice * 500), "tokenizer_field")
    bert = word_piece_document()
    yield Case(row, "[SEP] out of range", changed(f"{post}.sep", ["[SEP]", 99], bert), "special_id")
    yield Case(row, "[CLS] without id", changed(f"{post}.cls", ["[CLS]"], bert), "tokenizer_field")
    fixed = {"type": "FixedLength", "length": 0}
    yield Case(row, "FixedLength 0", changed("pre_tokenizer", fixed), "tokenizer_field")
    for start in (2, 10**9, -1, 1.5):
        decoder = {"type": "Strip", "content": " ", "start": start, "stop": 0}
        yield Case(row, f"Strip start {start}", changed("decoder", decoder), "tokenizer_field")
    decoder = {"type": "Strip", "content": " ", "start": 0, "stop": 10**9}
    yield Case(row, "Strip stop", changed("decoder", decoder), "tokenizer_field")
    mixed = {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"}]}
    yield Case(row, "mixed decoders", changed("decoder", mixed), "tokenizer_component", ModelUnsupportedError)
    yield Case(row, "stride is max_length", changed("truncation.stride", 8), "tokenizer_field")
    yield Case(row, "max_length 0", changed("truncation.max_length", 0), "tokenizer_field")
    yield Case(row, "cut in the middle", changed("truncation.direction", "Middle"), "tokenizer_field")
    yield Case(row, "padding to 2^31", changed("padding.strategy.Fixed", 2**31), "tokenizer_field")
    words = changed("model.max_input_chars_per_word", 10**9, bert)
    yield Case(row, "words of 10^9 characters", words, "tokenizer_field")
    for suffix in ("", 7, "</w>" * 9):
        words = {"type": "BPEDecoder", "suffix": suffix}
        yield Case(row, f"words that end in {suffix}", changed("decoder", words), "tokenizer_field")
    fused = {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    yield Case(
        row, "Strip of every token", changed("decoder", fused), "tokenizer_component", ModelUnsupportedError
    )


def _patterns() -> Iterator[Case]:
    row, path = "TK-06", "pre_tokenizer.pretokenizers.1.pattern"
    for name, pattern in {
        "exponential": "(a+)+$",
        "10^4 alternatives": "|".join(map(str, range(10_000))), "look-behind": "(?<=a+)b",
        "huge repeat": "a{1,1000000000}", "unknown class": r"\p{Nope}", "empty": "",
    }.items():  # fmt: skip
        yield Case(row, name, changed(path, {"Regex": pattern}), "tokenizer_pattern", ModelUnsupportedError)
    for pattern in ("x", {}, {"Regex": 1}, {"Glob": "x"}, {"String": ""}, {"String": "x", "Regex": "x"}):
        yield Case(row, f"pattern {pattern}", changed(path, pattern), "tokenizer_field")
    replace = {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}
    yield Case(
        row, "in a normalizer", changed("normalizer", replace), "tokenizer_pattern", ModelUnsupportedError
    )


def _unigrams() -> Iterator[Case]:
    row, base = "TK-07", unigram_document()
    text = json.dumps(base)
    for number in ("NaN", "Infinity", "1e400"):
        yield Case(row, f"score {number}", text.replace("-1.125", number).encode(), "json_number")
    for number in (10**400, -1e300):
        yield Case(
            row,
            f"score {number:.0e}" if number < 0 else "score 10^400",
            changed("model.vocab.1.1", number, base),
            "vocab_score",
        )
    yield Case(row, "score is text", changed("model.vocab.1.1", "-1", base), "vocab_token")
    yield Case(row, "no unk_id", changed("model.unk_id", None, base), "tokenizer_field")
    yield Case(row, "unk_id out of range", changed("model.unk_id", 7, base), "tokenizer_field")
    yield Case(row, "a token twice", changed("model.vocab.3.0", "b", base), "vocab_token")
    yield Case(row, "byte fallback without bytes", changed("model.byte_fallback", True, base), "byte_tokens")
    spiece = sentencepiece_document()
    yield Case(row, "a byte token missing", changed("model.vocab.<0x7F>", ..., spiece), "byte_tokens")
    yield Case(row, "unk_token unknown", changed("model.unk_token", "<nope>", spiece), "special_id")
    yield Case(
        row, "dropout", changed("model.dropout", 0.1, spiece), "tokenizer_component", ModelUnsupportedError
    )
    cycle = [1 << 10] * 256
    far = [0x7FFFFC00] * 256
    leaf = [1 << 31 | 77] * 256
    for name, data in {
        "not base64": "%%%", "a number": 5, "empty": "",
        "truncated": charsmap()[:400], "no trie": charsmap([]),
        "offsets outside": charsmap(far), "value outside": charsmap(leaf),
        "strings not UTF-8": charsmap(None, b"\xff\0"),
        "strings without end": charsmap(None, b"b"), "odd trie size": charsmap([0] * 7),
        "value inside a character": charsmap([1 << 31 | 1] * 256, "é\0".encode()),
    }.items():  # fmt: skip
        yield Case(
            row, f"charsmap {name}", changed("normalizer.precompiled_charsmap", data, base), "charsmap"
        )
    assert charsmap(cycle)  # a trie that leads back to itself is harmless: each step takes a byte of the text


CASES = [
    case
    for cases in (_structure, _vocabularies, _merges, _added_tokens, _processors, _patterns, _unigrams)
    for case in cases()
]


# ---- GGUF vocabularies: values of `tokenizer.ggml.*`, as a plain dict


def gguf_bpe() -> Json:
    """A valid byte-level vocabulary."""
    tokens = ["<|end|>", "a", "b", "c", "Ġ", "ab", "<b>"]
    return {
        "model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": [3, 1, 1, 1, 1, 1, 4],
        "merges": ["a b"], "eos_token_id": 0,
    }  # fmt: skip


def gguf_sentencepiece() -> Json:
    """A valid vocabulary with scores."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, "▁", "a", "b", "ab", "▁ab", "\n\n"]
    types = [2, 3, 3, *[6] * 256, 1, 1, 1, 1, 1, 4]
    scores = [0.0] * 259 + [-9.0, -8.0, -7.0, -1.0, -2.0, -1000.0]
    return {
        "model": "llama", "tokens": tokens, "token_type": types, "scores": scores,
        "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0,
    }  # fmt: skip


def gguf_word_piece() -> Json:
    """A valid BERT vocabulary in GGUF's spelling: ▁ begins a word."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁a", "b", "▁b", "▁É", "▁e", "▁ab", "[unused0]"]
    return {
        "model": "bert", "tokens": tokens, "token_type": [3] * 5 + [1] * 7, "padding_token_id": 0,
        "unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3, "mask_token_id": 4,
    }  # fmt: skip


def _gguf(
    name: str, base: Callable[[], Json], code: str, error: type[TuiliError] = TokenizerError, **values: Any
) -> Case:
    keys = base() | values
    return Case("GG-26", name, {key: value for key, value in keys.items() if value is not ...}, code, error)


def _gguf_cases() -> Iterator[Case]:
    bpe, spm, unsupported = gguf_bpe, gguf_sentencepiece, ModelUnsupportedError
    yield _gguf("unknown model", bpe, "tokenizer_component", unsupported, model="rwkv")
    yield _gguf("unknown pre-tokenizer", bpe, "tokenizer_pattern", unsupported, pre="../x")
    yield _gguf("tokens missing", bpe, "key_missing", tokens=...)
    yield _gguf("merges missing", bpe, "key_missing", merges=...)
    yield _gguf("a token twice", bpe, "vocab_token", tokens=["<|end|>", *"abcĠab"])
    yield _gguf("an empty token", bpe, "vocab_token", tokens=["<|end|>", "", *"abcĠx"])
    yield _gguf("types too short", bpe, "array_length", token_type=[1])
    yield _gguf("types too long", bpe, "array_length", token_type=[1] * 99)
    yield _gguf("type 0", bpe, "token_type", token_type=[0] * 7)
    yield _gguf("type 7", bpe, "token_type", token_type=[7] * 7)
    yield _gguf("types are floats", bpe, "key_type", token_type=[1.0] * 7)
    for name, merge in {
        "without space": "ab", "with two spaces": "a  b", "three parts": "a b c", "unknown part": "a z",
        "unknown join": "b a", "empty": "", "leading space": " ab",
    }.items():  # fmt: skip
        yield _gguf(f"merge {name}", bpe, "merges", merges=[merge])
    yield _gguf("a merge twice", bpe, "merges", merges=["a b", "a b"])
    yield _gguf("a merge makes a control token", bpe, "merges", token_type=[3, 1, 1, 1, 1, 3, 4])
    for key in ("bos", "eos", "eot", "padding", "unknown"):
        for token_id in (7, 2**32 - 1):
            yield _gguf(f"{key} = {token_id}", bpe, "special_id", **{f"{key}_token_id": token_id})
    yield _gguf("bos wanted but absent", bpe, "special_id", add_bos_token=True)
    yield _gguf("scores missing", spm, "key_missing", scores=...)
    yield _gguf("types missing", spm, "key_missing", token_type=...)
    yield _gguf("scores too short", spm, "array_length", scores=[1.0])
    yield _gguf("scores are integers", spm, "key_type", scores=[1] * 265)
    nan = [*gguf_sentencepiece()["scores"][:-1], float("nan")]
    yield _gguf("a score is NaN", spm, "vocab_score", scores=nan)
    long = {"tokens": [f"{i:04}" * 1000 for i in range(20)], "token_type": [1] * 20, "scores": [0.0] * 20}
    cuts = {key: gguf_sentencepiece()[key] + values for key, values in long.items()}
    yield _gguf("pieces with too long cuts", spm, "tokenizer_limit", **cuts)
    for name, text in {
        "<0xZZ>": "<0xZZ>",
        "<0x-1>": "<0x-1>",
        "<0x1>": "<0x1>",
        "lower case": "<0xff>",
    }.items():
        tokens = gguf_sentencepiece()["tokens"]
        tokens[258] = text
        yield _gguf(f"byte token {name}", spm, "byte_tokens", tokens=tokens)
    types = gguf_sentencepiece()["token_type"]
    yield _gguf("a byte token of type 1", spm, "byte_tokens", token_type=[*types[:3], 1, *types[4:]])
    bert = gguf_word_piece
    tokens = bert()["tokens"]
    for key in ("cls", "seperator", "unknown", "padding", "mask"):
        for token_id in (12, 2**32 - 1):
            yield _gguf(f"{key} = {token_id}", bert, "special_id", **{f"{key}_token_id": token_id})
        if key in ("cls", "seperator", "unknown"):
            nameless = {f"{key}_token_id": ..., "tokens": [f"▁x{i}" for i in range(12)]}
            yield _gguf(f"no {key}", bert, "special_id", **nameless)
    yield _gguf("cls is text", bert, "key_type", cls_token_id="[CLS]")
    yield _gguf("lowercase is a number", bert, "key_type", **{"normalizer.lowercase": 1})
    brackets = [*tokens[:-1], "▁[SEP]"]
    yield _gguf("two tokens are one in BERT's spelling", bert, "vocab_token", tokens=brackets)


GGUF_CASES = list(_gguf_cases())
