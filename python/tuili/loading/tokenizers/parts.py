"""What a tokenizer without tokenizer.json is made of: its parts, and sentencepiece's models."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuili.errors import ModelUnsupportedError, TokenizerError
from tuili.loading.files import parse_json, shown
from tuili.loading.tokenizers import sentencepiece_file
from tuili.loading.tokenizers.merges import merges_of_scores
from tuili.loading.tokenizers.pre_tokenizers import OUTER_SPACE, SPACES
from tuili.loading.tokenizers.sentencepiece_file import BPE, CONTROL, UNIGRAM, USER_DEFINED, SentencePieces
from tuili.loading.tokenizers.tokenizer_json import check_tokens, wrong

Json = dict[str, Any]
Read = Callable[[str], bytes | None]  # a file of the folder, None if it is not there

ENDS = ("<s>", "</s>")  # of texts, which sentencepiece's files tell of

_SPM_FILES = (
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "tokenizer.model",
    "spm.model",
)


@dataclass
class Parts:
    """What becomes a tokenizer.json. tokens: role -> text; specials: of these, and what files add to them."""

    settings: Mapping[str, Any]
    tokens: dict[str, str]
    model: Json = field(default_factory=dict)
    normalizers: list[Json] = field(default_factory=list)
    pre_tokenizers: list[Json] = field(default_factory=list)
    decoder: Json = field(default_factory=dict)
    single: str = "A"  # words: A, B, or the role of a special token
    pair: str = "A B:1"
    post_processor: Json | None = None  # beside or in place of the template
    own_specials: list[str] = field(default_factory=list)  # special tokens of the vocabulary without a role
    own_words: list[str] = field(default_factory=list)  # tokens of the vocabulary that no text is cut within
    lstrip_mask: bool = False  # the mask token takes the space before it
    role_settings: dict[str, dict[str, bool]] = field(default_factory=dict)  # what files say of `tokens`
    fixed: tuple[str, ...] = ()  # tokens with a role that are found as the class finds them
    vocab: Mapping[str, int] | None = None  # the model's, where it is not the tokenizer's own
    target_vocab: Mapping[str, int] | None = None  # of what the model writes, where that is yet another
    writer: Callable[[Parts, Read], Parts] | None = None  # makes those of what the model writes

    def flag(self, key: str, usual: bool) -> bool:
        value = self.settings.get(key)
        if value is None:
            return usual
        if type(value) is not bool:
            wrong(f"tokenizer_config.json: {key}", f"true or false, not {shown(value)}")
        return bool(value)


# ---- files


def needed(read: Read, name: str) -> bytes:
    """The file's bytes; TokenizerError (tokenizer_missing) if it is not there."""
    data = read(name)
    if data is None:
        raise TokenizerError(f"there is neither tokenizer.json nor {name}", code="tokenizer_missing")
    return data


def decoded(data: bytes, name: str) -> str:
    """The file's text; TokenizerError (tokenizer_utf8) if it is none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{name}: byte {error.start} is not UTF-8", code="tokenizer_utf8") from error


def lines_of(data: bytes, name: str) -> list[str]:
    """The file's lines, and what is behind the last end of a line, which LF is, or CR LF."""
    return [line.removesuffix("\r") for line in decoded(data, name).split("\n")]


def vocabulary(read: Read, name: str) -> dict[str, int]:
    """token -> id of a JSON file; tokenizer_json.py checks the range of the ids."""
    vocab = parse_json(needed(read, name), name)
    if not isinstance(vocab, dict):
        wrong(name, "an object")
    check_tokens(list(vocab), name)
    if any(type(token_id) is not int for token_id in vocab.values()):
        wrong(name, "ids that are integers", "vocab_id")
    return vocab


def naming_roles(
    settings: Mapping[str, Any], special_map: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """tokenizer_config.json and special_tokens_map.json in the order in which transformers believes them: the
    former is newer where it lists the added tokens.
    """
    newer = settings.get("added_tokens_decoder") is not None
    return (settings, special_map) if newer else (special_map, settings)


# ---- sentencepiece


def pieces(read: Read, *names: str) -> SentencePieces:
    """The first of the files that is there; without names, of those that the families use."""
    for name in names or _SPM_FILES:
        data = read(name)
        if data is not None:
            return sentencepiece_file.parse(data, name)
    raise TokenizerError(
        f"there is no tokenizer.json and none of {', '.join(names or _SPM_FILES)}", code="tokenizer_missing"
    )


def metaspace(parts: Parts, scheme: str = "always") -> Json:
    if not parts.flag("add_prefix_space", True):
        scheme = "never"
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}


def _expect_kind(found: SentencePieces, kind: int) -> None:
    if found.model_type != kind:
        names = {UNIGRAM: "unigram", BPE: "BPE"}
        raise ModelUnsupportedError(
            f"sentencepiece: a {names[found.model_type]} model, where the tokenizer's class has a "
            f"{names[kind]} one; add a tokenizer.json",
            code="tokenizer_component",
        )


def unigram(
    parts: Parts,
    found: SentencePieces,
    before: Sequence[tuple[str, float]] = (),
    skip: int = 0,
    after: Sequence[tuple[str, float]] = (),
    unk_id: int | None = None,
) -> Parts:
    """A unigram model of the pieces from `skip` on, between other tokens, cut at white space first."""
    _expect_kind(found, UNIGRAM)
    vocab = [[text, score] for text, score in before]
    vocab += [[text, score] for text, score, _ in found.pieces[skip:]]
    vocab += [[text, score] for text, score in after]
    parts.model = {
        "type": "Unigram",
        "unk_id": found.unk_id if unk_id is None else unk_id,
        "vocab": vocab,
        "byte_fallback": found.byte_fallback,
    }
    parts.normalizers += charsmap(found)
    space = metaspace(parts)
    parts.pre_tokenizers = [{"type": "WhitespaceSplit"}, space]
    parts.decoder = decoder_of(space, byte_fallback=found.byte_fallback)
    present = {text for text, _ in vocab}
    parts.own_specials = [text for text in found.of_type(CONTROL) if text in present]
    parts.fixed = ENDS
    parts.own_words = [text for text in found.of_type(USER_DEFINED) if text in present]
    return parts


def decoder_of(space: Json, *, byte_fallback: bool) -> Json:
    """What undoes `space`, a Metaspace, and the bytes that stand for what has no piece."""
    if not byte_fallback:
        return space
    steps: list[Json] = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    steps += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if space["prepend_scheme"] != "never":
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def charsmap(found: SentencePieces) -> list[Json]:
    """The compiled normalizer, if there is one."""
    if not found.charsmap:
        return []
    encoded = base64.b64encode(found.charsmap).decode()
    return [{"type": "Precompiled", "precompiled_charsmap": encoded}]


def as_sentencepiece(parts: Parts, found: SentencePieces) -> None:
    """Treat text before the model as sentencepiece itself does: of white space only spaces are special, and a
    text is cut nowhere before it meets the pieces.
    """
    if found.whitespace_as_suffix:
        raise ModelUnsupportedError(
            "sentencepiece: treat_whitespace_as_suffix is not supported; add a tokenizer.json",
            code="tokenizer_component",
        )
    parts.normalizers = charsmap(found)
    if found.remove_extra_whitespaces:
        parts.normalizers += [_replace(SPACES, " "), _replace(OUTER_SPACE, "")]
    parts.normalizers.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    if found.add_dummy_prefix:
        parts.normalizers.append({"type": "Prepend", "prepend": "▁"})
    parts.pre_tokenizers = []
    space = metaspace(parts, "always" if found.add_dummy_prefix else "never")
    parts.decoder = decoder_of(space, byte_fallback=found.byte_fallback)


def spaced(parts: Parts, found: SentencePieces) -> Parts:
    """Treat text before the model as transformers does for most: cut at spaces, one or more."""
    parts.normalizers = [*charsmap(found), _replace(SPACES, " ")]
    space = metaspace(parts)
    parts.decoder = decoder_of(space, byte_fallback=found.byte_fallback)
    parts.pre_tokenizers = [space]
    return parts


def _replace(pattern: str, content: str) -> Json:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def pairs(parts: Parts, found: SentencePieces, vocab: Mapping[str, int]) -> Json:
    """Byte-pair merging by the pieces' scores, over a vocabulary that holds them."""
    _expect_kind(found, BPE)
    return {
        "type": "BPE",
        "vocab": vocab,
        "merges": [list(pair) for pair in merges_of_scores(found.pieces)],
        "unk_token": parts.tokens["unk"],
        "fuse_unk": True,
        "byte_fallback": found.byte_fallback,
    }
