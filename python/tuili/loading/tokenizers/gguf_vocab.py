"""The vocabulary of a GGUF file as a tokenizer of the `tokenizers` library, with the original's ids.

Four kinds (`tokenizer.ggml.model`): "gpt2" is byte-level BPE with merges, "llama" is SentencePiece BPE,
which has a score per token instead of merges, "t5" its unigrams, and "bert" is WordPiece. Token types are
sentencepiece's: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tuili.errors import ModelFormatError, ModelUnsupportedError, TokenizerError
from tuili.loading.files import shown
from tuili.loading.tokenizers.calls import call
from tuili.loading.tokenizers.merges import merges_of_scores
from tuili.loading.tokenizers.parts import Parts, unigram
from tuili.loading.tokenizers.pre_tokenizers import BOS_BY_DEFAULT, GGUF_PATTERNS, GPT2, WHOLE_WORDS_FIRST
from tuili.loading.tokenizers.sentencepiece_file import (
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    USER_DEFINED,
    SentencePieces,
)
from tuili.loading.tokenizers.token_bytes import WORD_PIECE_PREFIX
from tuili.loading.tokenizers.tokenizer_json import bad, check, check_merges, check_tokens, split_merge

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tuili.loading.gguf_metadata import Metadata

_SPECIAL = (UNKNOWN, CONTROL)

# Texts of control tokens that end a turn; a chat model stops at them whatever its eos_token_id says.
_END_OF_TURN = frozenset({
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<|end▁of▁sentence|>", "<｜end▁of▁sentence｜>", "<EOT>", "<|return|>", "<|call|>",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufVocab:
    """A checked vocabulary: token i has text `tokens[i]` and type `types[i]`; no text comes twice."""

    tokens: list[str]
    types: list[int]
    ids: dict[str, int]  # text -> id

    def of_type(self, *types: int) -> list[str]:
        """The texts of the tokens of these types, in the order of their ids."""
        return [token for token, kind in zip(self.tokens, self.types, strict=True) if kind in types]


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """What a GGUF file says about its special tokens; `eos_ids` holds every token that ends a generation."""

    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int | None
    unk_id: int | None
    add_bos: bool
    add_eos: bool


def read_tokenizer(metadata: Metadata, n_vocab: int | None = None) -> tuple[Tokenizer, GgufVocab, SpecialIds]:
    """The tokenizer of a GGUF file; only BERT's already has its post-processor.

    n_vocab  rows of the embedding table, if known; the token list must have as many
    raises   TokenizerError, ModelUnsupportedError (tokenizer_component, tokenizer_pattern)
    """
    try:
        kind = metadata.get_str("tokenizer.ggml.model")
        if kind != "bert" and kind not in _KINDS:
            raise ModelUnsupportedError(
                f"{metadata.what}: tokenizer.ggml.model is {shown(kind)}; supported: {', '.join(_KINDS)} "
                "and bert",
                code="tokenizer_component",
            )
        vocab = _read_vocab(metadata, n_vocab)
        if kind == "bert":
            return _word_piece(metadata, vocab)
        return _KINDS[kind](metadata, vocab), vocab, _read_special_ids(metadata, vocab)
    except ModelFormatError as error:  # a missing key, a wrong type or length
        raise TokenizerError(str(error), code=error.code) from error


def _read_vocab(metadata: Metadata, n_vocab: int | None) -> GgufVocab:
    tokens = metadata.get_str_array("tokenizer.ggml.tokens", n_vocab)
    check_tokens(tokens, "tokenizer.ggml.tokens")
    types = metadata.get_i32_array("tokenizer.ggml.token_type", len(tokens), None)
    if types is None:
        types = np.full(len(tokens), NORMAL, np.int32)
    if types.min() < NORMAL or types.max() > BYTE:
        bad(
            "tokenizer.ggml.token_type",
            f"types from {types.min()} to {types.max()}; 1 to 6 exist",
            "token_type",
        )
    return _numbered(tokens, types.tolist())


def _numbered(tokens: list[str], types: list[int]) -> GgufVocab:
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        bad("tokenizer.ggml.tokens", f"{shown(twice)} comes twice", "vocab_token")
    return GgufVocab(tokens, types, ids)


def _special_id(metadata: Metadata, vocab: GgufVocab, name: str) -> int | None:
    """The id that the file gives to the token called `name`, if it does."""
    key = f"tokenizer.ggml.{name}_token_id"
    token_id = metadata.get_u32(key, None)
    if token_id is not None and token_id >= len(vocab.tokens):
        bad(key, f"{token_id} is not in the vocabulary of {len(vocab.tokens)} tokens", "special_id")
    return token_id


def _read_special_ids(metadata: Metadata, vocab: GgufVocab) -> SpecialIds:
    special = partial(_special_id, metadata, vocab)
    bos_id, eos_id = special("bos"), special("eos")
    ends = {i for i in (eos_id, special("eot"), special("eom")) if i is not None}
    ends |= {vocab.ids[text] for text in _END_OF_TURN.intersection(vocab.of_type(CONTROL, USER_DEFINED))}
    kind = metadata.get_str("tokenizer.ggml.model")
    default = kind == "llama" or metadata.get_str("tokenizer.ggml.pre", "default") in BOS_BY_DEFAULT
    add_bos = metadata.get_bool("tokenizer.ggml.add_bos_token", default)
    add_eos = metadata.get_bool("tokenizer.ggml.add_eos_token", kind == "t5")
    if (add_bos and bos_id is None) or (add_eos and eos_id is None):
        bad("tokenizer.ggml.add_bos_token", "the token to add has no id", "special_id")
    first = () if eos_id is None else (eos_id,)
    eos_ids = first + tuple(sorted(ends - {eos_id}))
    return SpecialIds(bos_id, eos_ids, special("padding"), special("unknown"), add_bos, add_eos)


def _byte_level_bpe(metadata: Metadata, vocab: GgufVocab) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    pre = metadata.get_str("tokenizer.ggml.pre", "default")
    patterns = GGUF_PATTERNS.get(pre)
    if patterns is None:
        raise ModelUnsupportedError(
            f"{metadata.what}: tokenizer.ggml.pre {shown(pre)} is not a pre-tokenizer that is known",
            code="tokenizer_pattern",
        )
    merges = [split_merge(merge) for merge in metadata.get_str_array("tokenizer.ggml.merges")]
    check_merges(merges, vocab.ids)
    specials = set(vocab.of_type(*_SPECIAL))
    for left, right in merges:
        if left + right in specials:
            bad("tokenizer.ggml.merges", f"{shown(left)} + {shown(right)} makes a control token", "merges")
    backend = Tokenizer(models.BPE(vocab.ids, merges, ignore_merges=pre in WHOLE_WORDS_FIRST))
    steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    if patterns[-1] == GPT2:
        steps[-1] = pre_tokenizers.ByteLevel(add_prefix_space=False)  # has this pattern built in
    else:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return backend


def _sentencepiece_bpe(metadata: Metadata, vocab: GgufVocab) -> Tokenizer:
    from tokenizers import Tokenizer, models, normalizers

    pieces = _pieces(metadata, vocab)
    byte_texts = {f"<0x{byte:02X}>" for byte in range(256)}
    if set(vocab.of_type(BYTE)) != byte_texts:
        strange = sorted(byte_texts.symmetric_difference(vocab.of_type(BYTE)))[0]
        bad(
            "tokenizer.ggml.tokens",
            f"{shown(strange)}: the byte tokens must be <0x00> to <0xFF>",
            "byte_tokens",
        )
    merges = merges_of_scores(pieces)
    unknown = vocab.of_type(UNKNOWN)
    backend = Tokenizer(
        models.BPE(vocab.ids, merges, unk_token=unknown[0] if unknown else None, byte_fallback=True)
    )
    spaces = normalizers.Replace(" ", "▁")
    if metadata.get_bool("tokenizer.ggml.add_space_prefix", True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    else:
        backend.normalizer = spaces
    return backend


def _pieces(metadata: Metadata, vocab: GgufVocab) -> list[tuple[str, float, int]]:
    """sentencepiece's: text, score and type of every token, all of which such files must have."""
    scores = metadata.get_f32_array("tokenizer.ggml.scores", len(vocab.tokens))
    metadata.get_i32_array("tokenizer.ggml.token_type", len(vocab.tokens))
    if not np.isfinite(scores).all():
        bad(
            "tokenizer.ggml.scores",
            f"the score of token {int(np.isfinite(scores).argmin())} is not finite",
            "vocab_score",
        )
    return list(zip(vocab.tokens, scores.tolist(), vocab.types, strict=True))


def _unigram(metadata: Metadata, vocab: GgufVocab) -> Tokenizer:
    """T5's, which cuts texts at white space first, as in a folder."""
    from tokenizers import Tokenizer

    unknown = _special_id(metadata, vocab, "unknown")
    if unknown is None:
        bad("tokenizer.ggml.unknown_token_id", "missing", "special_id")
    found = SentencePieces(
        pieces=_pieces(metadata, vocab),
        model_type=UNIGRAM,
        unk_id=unknown,
        byte_fallback=False,
        charsmap=metadata.get_bytes("tokenizer.ggml.precompiled_charsmap", b""),
        add_dummy_prefix=metadata.get_bool("tokenizer.ggml.add_space_prefix", True),
        remove_extra_whitespaces=True,
    )
    parts = unigram(Parts({"add_prefix_space": found.add_dummy_prefix}, {}), found)
    document = {
        "version": "1.0",
        "normalizer": parts.normalizers[0] if parts.normalizers else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts.pre_tokenizers},
        "decoder": parts.decoder,
        "model": parts.model,
    }
    return call(Tokenizer.from_str, json.dumps(check(document)))


_KINDS = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe, "t5": _unigram}


# ---- BERT

# BERT's special tokens and what files call them (sic), of which the first that a file has counts; in newer
# files [CLS] is the beginning token.
_BERT_SPECIALS = {
    "[CLS]": ("cls", "bos"),
    "[SEP]": ("seperator",),
    "[UNK]": ("unknown",),
    "[PAD]": ("padding",),
    "[MASK]": ("mask",),
}
_MAX_WORD_CHARS = 100  # BERT's; a longer word is unknown


def _word_piece(metadata: Metadata, vocab: GgufVocab) -> tuple[Tokenizer, GgufVocab, SpecialIds]:
    """BERT's tokenizer, its vocabulary as BERT spells it, and its special tokens.

    Whether letters become lower case and lose their accents is told by tokenizer.ggml.normalizer.*; by
    default they do. Every text stands between [CLS] and [SEP]; tokenizer.ggml.pre says nothing about words.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = _bert_special_ids(metadata, vocab)
    vocab = _bert_spelling(vocab, set(ids.values()))
    unknown = vocab.tokens[ids["[UNK]"]]
    backend = Tokenizer(
        models.WordPiece(vocab.ids, unk_token=unknown, max_input_chars_per_word=_MAX_WORD_CHARS)
    )
    lower = metadata.get_bool("tokenizer.ggml.normalizer.lowercase", True)
    strip = metadata.get_bool("tokenizer.ggml.normalizer.strip_accents", lower)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=strip)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return backend, vocab, SpecialIds(None, (), ids.get("[PAD]"), ids["[UNK]"], False, False)


def _bert_special_ids(metadata: Metadata, vocab: GgufVocab) -> dict[str, int]:
    """Text as in _BERT_SPECIALS -> id; [PAD] and [MASK] may be missing."""
    ids: dict[str, int] = {}
    for text, names in _BERT_SPECIALS.items():
        given = [_special_id(metadata, vocab, name) for name in names]
        found = [token_id for token_id in (*given, vocab.ids.get(text)) if token_id is not None]
        if found:
            ids[text] = found[0]
        elif text in ("[CLS]", "[SEP]", "[UNK]"):
            key = f"tokenizer.ggml.{names[0]}_token_id"
            bad(key, f"missing, and there is no token {text}", "special_id")
    return ids


def _bert_spelling(vocab: GgufVocab, special: set[int]) -> GgufVocab:
    """The tokens as in BERT's vocab.txt: GGUF files put "▁" before those that begin a word and take "##" off
    the others; special tokens, and in older files everything in brackets, are left alone.

    special  ids of tokens that are special whatever their type
    """

    def spelling(token: str, kind: int) -> str:
        if kind in _SPECIAL or (token[0] == "[" and token[-1] == "]"):
            return token
        return token[1:] if token[0] == "▁" and len(token) > 1 else WORD_PIECE_PREFIX + token

    types = [CONTROL if i in special else kind for i, kind in enumerate(vocab.types)]
    return _numbered(list(map(spelling, vocab.tokens, types)), types)
