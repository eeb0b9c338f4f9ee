"""What cannot fit is refused before it is tokenized, and nothing else is (REQ-16)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import slow_tokenizers
import translation_folders
import tuili
from hostile.tokenizers import (
    DOCUMENTS,
    Json,
    added,
    changed,
    gguf_bpe,
    gguf_sentencepiece,
    word_piece_document,
)
from oracle.strings import generate
from tiny_files import write_hf_folder
from tiny_models import tiny_llama
from tiny_tokenizers import full_byte_level, of_document, of_gguf
from tuili.errors import PromptTooLongError
from tuili.server.lengths import MAX_PART_CHARS, PART_CHARS, Lengths
from tuili.tokenization.least_tokens import BYTES, LeastTokens
from tuili.tokenization.tokenizer import Tokenizer, clean_text

# What normalizers drop, shorten or join, what pre-tokenizers remove, what stands for much, and what does not.
PIECES = [
    *"abcxyzAZ019 .,'`=_▁Ġ中文か한각ßйéﬃﷺ①ＡİÅ", "a b", " a", "  ", "\n", "\t",
    "\r\n", "\u0301", "\u0338", "\u3099",
    "\u11a8", "\u1100", "\u0600", "\u200d", "\ufe0f", "\u00a0", "\u3000", "\x00", "\x01", "\x7f", "\xad",
    "\ud83d", "\ufffd",
    "😀", "👨‍👩‍👧", "\U0001f3fd", "क्ष", ">>fra<<", ">>", "<<", "<0x41>", "[MASK]", "<s>", "<m>", "<unk>",
    "``", "''", "a  b",
    "the cat sat ", "x" * 120, "a1 ", "word<m>word", "two  words", "two words",
]  # fmt: skip
BYTE_LEVEL = DOCUMENTS["byte level"]()
ODD: dict[str, Json] = {
    "a word as a token": DOCUMENTS["unigram"]()
    | {"added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(7, "two words", lstrip=True, rstrip=True)]},
    "letters are removed": changed(
        "pre_tokenizer.pretokenizers.1", {"type": "CharDelimiterSplit", "delimiter": "b"}
    ),
    "words are replaced": changed("normalizer.normalizers.1.pattern", {"Regex": r"\d+"}),
    "spaces are replaced": changed(
        "normalizer", {"type": "Replace", "pattern": {"String": " "}, "content": ""}, word_piece_document()
    ),
    "spaces become letters": changed(
        "pre_tokenizer", {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": False},
        DOCUMENTS["unigram"](),
    ),
    "unknown characters vanish": BYTE_LEVEL | {"pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None},
    "unknown words": word_piece_document() | {"pre_tokenizer": {"type": "WhitespaceSplit"}},
}  # fmt: skip
MAKERS: dict[str, Callable[[Path], Tokenizer]] = {
    **{name: lambda _, make=make: of_document(make()) for name, make in DOCUMENTS.items()},
    **{name: lambda _, document=document: of_document(document) for name, document in ODD.items()},
    "all bytes": lambda _: full_byte_level(),
    "gguf bpe": lambda folder: of_gguf(gguf_bpe(), folder),
    "gguf sentencepiece": lambda folder: of_gguf(gguf_sentencepiece(), folder),
    **{
        name: lambda folder, slow=slow: translation_folders.load(slow, folder)
        for name, slow in {**slow_tokenizers.FOLDERS, **translation_folders.FOLDERS}.items()
    },
}


def nasty(rng: random.Random) -> str:
    """Pieces, or one of them over and over."""
    pieces = [rng.choice(PIECES) for _ in range(rng.choice((1, 3, 10, 40)))]
    return "".join(pieces if rng.random() < 0.6 else [pieces[0] * rng.randint(1, 60), *pieces[1:3]])


@pytest.mark.parametrize("name", MAKERS)
def test_no_text_has_fewer_tokens_than_is_said(tmp_path: Path, name: str) -> None:
    tokenizer, rng = MAKERS[name](tmp_path), random.Random(name)
    least = LeastTokens(tokenizer.loaded.backend)
    texts = [clean_text(nasty(rng)) for _ in range(150)] + [
        text for _, text in generate(4, rng.randrange(99))
    ]
    for text in texts:
        for parse_special in (True, False):
            ids = tokenizer.encode(text, add_special=False, parse_special=parse_special)
            assert least.of(text, 1 << 40) <= len(ids), text


BERT_STEP = word_piece_document()["normalizer"]
BYTES_STEP = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TWICE = "Ã¤Â¸ÂŃ"  # the bytes of 中, each a character, as bytes


def replace(pattern: str, content: str, kind: str = "String") -> Json:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def in_order(*normalizers: Json) -> Json:
    return {"type": "Sequence", "normalizers": list(normalizers)}


def unigram(tokens: str, *normalizers: Json, unknown: str = "<unk>", special: str = "") -> Json:
    """Tokens are characters."""
    texts = [unknown, "▁", *tokens]
    model = {"type": "Unigram", "unk_id": 0, "vocab": [[text, -1.0 - i] for i, text in enumerate(texts)]}
    given = [added(texts.index(text), text) for text in special]
    own = {"model": model, "added_tokens": given, "normalizer": in_order(*normalizers)}
    return DOCUMENTS["unigram"]() | own


def bpe(tokens: list[str], *, special: Json | None = None, **parts: Json | None) -> Json:
    """Tokens of more than one character are made of the one before and a last one."""
    merges = [[text[:-1], text[-1]] for text in tokens if len(text) > 1]
    model = BYTE_LEVEL["model"] | {"vocab": {text: i for i, text in enumerate(tokens)}, "merges": merges}
    given = [] if special is None else [special]
    parts = {"normalizer": None, "pre_tokenizer": None, "post_processor": None} | parts
    return BYTE_LEVEL | {"model": model, "added_tokens": given} | parts


def word_piece(normalizer: Json, *cutters: str) -> Json:
    cutting = {"type": "Sequence", "pretokenizers": [{"type": name} for name in cutters]}
    return word_piece_document() | {"normalizer": normalizer, "pre_tokenizer": cutting}


LETTERS = [*BYTES.values()]
GROWN = [TWICE[:n] for n in range(2, 1 + len(TWICE))]
FEW: dict[str, tuple[Json, str]] = {
    "the unknown token is spelled": (unigram("<unk>ab"), "<unk>"),
    "the unknown token is a character": (unigram("ab", unknown="?"), "?"),
    "a special token is a character": (unigram("ab§", special="§"), "§"),
    "what stands between a letter and its accent is dropped": (
        unigram("ab", {"type": "Nmt"}, {"type": "NFKC"}), "\x01a\x01\u0301",
    ),
    "a soft hyphen is dropped": (
        unigram("ab", BERT_STEP | {"strip_accents": False}, {"type": "NFC"}), "\xada\xad\u0301",
    ),
    "spaces are dropped before letters join": (unigram("ab", replace(" ", ""), {"type": "NFC"}), " a \u0301"),
    "what is replaced was another letter": (
        unigram("и", {"type": "Lowercase"}, replace("aй", ""), {"type": "NFD"}, {"type": "StripAccents"}),
        "AЙ ",
    ),
    "spaces are unknown and vanish": (bpe(["a", "b", "ab", "aba", "abab", "ababa", "ababab"]), "a b "),
    "ideographs are no words": (
        word_piece(in_order(BERT_STEP, replace(r"\s+", "", "Regex")), "BertPreTokenizer"), "中",
    ),
    "ideographs have no spaces around them": (
        word_piece(in_order(BERT_STEP, replace(" ", "▁")), "BertPreTokenizer"), "中",
    ),
    "spaces are no spaces": (word_piece({"type": "ByteLevel"}, "WhitespaceSplit"), "a "),
    "bytes are replaced": (bpe(LETTERS, normalizer=in_order(BYTES_STEP, replace("ä", ""))), "中"),
    "bytes of bytes": (bpe([*LETTERS, *GROWN], normalizer=BYTES_STEP, pre_tokenizer=BYTES_STEP), "中"),
    "an added token is replaced": (
        bpe(
            LETTERS,
            normalizer=in_order(replace("x", "中"), BYTES_STEP),
            special=added(256, "x" * 20, normalized=True),
        ),
        "中" * 20,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FEW)
def test_no_odd_text_has_fewer_tokens_than_is_said(name: str) -> None:
    document, piece = FEW[name]
    tokenizer, text = of_document(document), piece * 40
    chat = tokenizer.encode_chat([(text, True)])
    n_tokens = min(len(chat), len(tokenizer.encode(text, add_special=False)))
    assert LeastTokens(tokenizer.loaded.backend).of(text, 1 << 40) <= n_tokens


CJK = "今天天气很好" * 30_000
LONG = {"words": "The cat sat on the mat. " * 20_000, "ideographs": CJK}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
@pytest.mark.parametrize(
    "name", ["all bytes", "word piece", "gguf sentencepiece", "bert", "roberta", "llama"]
)
def test_a_long_text_is_not_tokenized_to_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    tokenizer = MAKERS[name](tmp_path)
    tokenizer.check_fits(text, len(text))  # it may have as many
    with pytest.raises(
        PromptTooLongError, match=rf"has {len(text)} characters, \d+ tokens at least; the limit is 512"
    ):
        tokenizer.check_fits(text, 512)


def test_a_word_that_is_one_unknown_token_fits_over_http_too(tmp_path: Path) -> None:
    """Its end, cut off, would be short enough to be spelled."""
    tokenizer = MAKERS["word piece"](tmp_path)
    text = "b" * (PART_CHARS + 98) + " a" * 90
    assert len(tokenizer.encode(text, add_special=False)) == 91
    Lengths(tokenizer, 100).check(text)


def test_a_text_without_white_space_is_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one call makes is freed in another that lets no other thread run."""
    tokenizer, given = full_byte_level(), list[str]()

    def encode(text: str, **_: object) -> list[int]:
        given.append(text)
        return [0]

    monkeypatch.setattr(tokenizer, "encode", encode)
    text = "aé" * MAX_PART_CHARS
    Lengths(tokenizer, len(text)).check(text)
    assert "".join(given) == text and max(map(len, given)) <= MAX_PART_CHARS


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuili.LLM]:
    path = write_hf_folder(tiny_llama(), tmp_path_factory.mktemp("models") / "llama")
    with tuili.LLM(path, num_threads=1, kv_cache_bytes=1 << 20) as llm:
        yield llm


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenized(
    llm: tuili.LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "the cat " * 50_000

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was tokenized")

    with monkeypatch.context() as patch:
        for name in ("encode", "encode_chat"):
            patch.setattr(type(llm.tokenizer), name, refuse)
        for ask in (llm.submit, llm.stream, llm.generate, llm.save_prefix):
            with pytest.raises(PromptTooLongError, match=r"has 400000 characters, \d+ tokens at least"):
                ask(long)
        with pytest.raises(PromptTooLongError, match="tokens at least"):
            llm.chat([{"role": "user", "content": long}])
    answer = llm.generate(long, truncation=True, max_tokens=1)
    assert answer.truncated
    assert llm.chat([{"role": "user", "content": long}], truncation=True, max_tokens=1).truncated


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(
    embedder: tuili.LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "the cat " * 50_000
    with monkeypatch.context() as patch:
        patch.setattr("tuili.tasks.encoding.encoding_of", None)
        patch.setattr(type(embedder.tokenizer), "encode", None)
        for ask in (embedder.embed, lambda text: embedder.rank(text, ["a"])):
            with pytest.raises(PromptTooLongError, match=r"tokens at least.*truncation=True"):
                ask(long)
    assert embedder.embed(long, truncation=True).ndim == 1
