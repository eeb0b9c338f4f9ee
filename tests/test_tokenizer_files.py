"""Tokenizer files: hostile ones give their error, GGUF vocabularies the original's ids."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from hostile.tokenizers import (
    CASES,
    DOCUMENTS,
    GGUF_CASES,
    Case,
    changed,
    gguf_bpe,
    gguf_sentencepiece,
    gguf_word_piece,
)
from tiny_files import bert_vocabulary, byte_alphabet, gguf_word_pieces
from tiny_tokenizers import metadata, of_document, of_gguf
from tuili.errors import (
    TokenizerError,
    TuiliError,
)
from tuili.loading.tokenizers.calls import call
from tuili.loading.tokenizers.gguf_vocab import NORMAL, GgufVocab
from tuili.loading.tokenizers.merges import merges_of_scores
from tuili.loading.tokenizers.tokenizer import from_gguf, from_huggingface
from tuili.loading.tokenizers.tokenizer_json import COMPONENTS
from tuili.tokenization.tokenizer import Tokenizer

# ---- hostile files


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hostile_document_gives_its_error(case: Case) -> None:
    with pytest.raises(TuiliError) as caught:
        from_huggingface(case.data())
    check_error(case, caught.value)


@pytest.mark.parametrize("case", GGUF_CASES, ids=str)
def test_a_hostile_gguf_vocabulary_gives_its_error(case: Case, tmp_path: Path) -> None:
    assert isinstance(case.content, dict)
    found = metadata(case.content, tmp_path)
    with pytest.raises(TuiliError) as caught:
        from_gguf(found)
    check_error(case, caught.value)


def check_error(case: Case, error: TuiliError) -> None:
    assert (type(error), error.code) == (case.error, case.code), error
    assert len(str(error)) < 600
    assert str(error).isprintable()


def places(value: Any, path: str = "") -> Iterator[str]:
    """The path of everything inside a document; one token and one merge stand for all."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        here = f"{path}.{key}" if path else str(key)
        if "." in str(key) or (path.endswith(("vocab", "merges")) and str(key) not in ("a", "0", "1")):
            continue
        yield here
        yield from places(item, here)


CONFUSIONS = [
    None,
    True,
    False,
    -1,
    0,
    7,
    2**31,
    2**63,
    1.5,
    "",
    "x",
    "<s>",
    [],
    {},
    [[]],
    [1],
    {"a": 1},
    "9" * 5000,
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_field_of_any_other_type_is_refused_or_harmless(name: str) -> None:
    """No panic: what passes our checks passes the library's, encodes and decodes."""
    document = DOCUMENTS[name]()
    for path in places(document):
        for value in CONFUSIONS:
            data = json.dumps(changed(path, copy.deepcopy(value), document)).encode()
            try:
                tokenizer = Tokenizer(from_huggingface(data))
                tokenizer.decode(tokenizer.encode("ab a b. <s>'s"), skip_special=False)
            except TuiliError as error:
                assert error.code != "library_panic", f"{path} = {value!r}"


def test_every_component_of_the_library_is_known_or_refused() -> None:
    """A new type of the library is unsupported until someone has looked at what can go wrong with it."""
    refused = {"decoder": {"CTC"}}
    modules = {"normalizer": normalizers, "pre_tokenizer": pre_tokenizers, "decoder": decoders}
    for kind, module in modules.items():
        theirs = {
            name for name in dir(module) if name[0].isupper() and isinstance(getattr(module, name), type)
        }
        assert theirs - {
            "Sequence",
            "Normalizer",
            "PreTokenizer",
            "Decoder",
            "DecodeStream",
            "RandomChunkSplit",
        } <= (COMPONENTS[kind].keys() | refused.get(kind, set()))


def test_special_tokens_of_the_configuration_are_checked() -> None:
    document = DOCUMENTS["byte level"]()
    for config, code in (
        ({"eos_token": 5}, "tokenizer_field"),
        ({"model_max_length": "x"}, "tokenizer_field"),
        ({"model_max_length": 0}, "tokenizer_field"),
        ({"truncation_side": "middle"}, "tokenizer_field"),
        ({"truncation_side": ["left"]}, "tokenizer_field"),
        ([], "tokenizer_field"),
    ):
        with pytest.raises(TokenizerError) as caught:
            of_document(document, config=config)
        assert caught.value.code == code
    with pytest.raises(TokenizerError, match="beyond"):
        of_document(document, n_vocab=12)
    config = {"eos_token": {"content": "</s>"}, "model_max_length": 10**30}
    loaded = of_document(document, config=config, special_map={"bos_token": "<s>"}, n_vocab=13).loaded
    assert (loaded.text_of(loaded.bos_id), loaded.text_of(1)) == ("<s>", "</s>")
    assert (loaded.eos_ids, loaded.max_tokens) == ((1,), None)
    assert (loaded.add_bos, loaded.add_eos, loaded.pad_id, loaded.unk_id) == (True, False, None, None)


def test_length_settings_of_the_file_are_switched_off() -> None:
    assert len(of_document(DOCUMENTS["byte level"]()).encode("ab" * 50)) > 50


def test_a_panic_of_the_library_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TokenizerError) as caught:
        call(models.BPE, {"a": 0, "b": 1}, [("a", "b")])
    assert caught.value.code == "library_panic"
    assert "panicked" in capfd.readouterr().err, (
        "the library no longer panics here; find another way to test this"
    )


def test_ctrl_c_is_not_an_error_of_the_library() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(interrupted)


# ---- GGUF vocabularies


def sentencepiece_ids(vocab: GgufVocab, scores: list[float], text: str) -> list[str]:
    """Sentencepiece's BPE: join the neighbours with the best score, leftmost first."""
    pieces = list(text)
    while True:
        best = None
        for i in range(len(pieces) - 1):
            token = vocab.ids.get(pieces[i] + pieces[i + 1])
            if token is not None and (best is None or scores[token] > scores[best[1]]):
                best = i, token
        if best is None:
            return pieces
        pieces[best[0] : best[0] + 2] = [vocab.tokens[best[1]]]


@given(st.data())
def test_merges_do_what_scores_do(data: st.DataObject) -> None:
    letters = "ab" if data.draw(st.booleans()) else "abcd"
    words = data.draw(st.lists(st.text(letters, min_size=2, max_size=5), unique=True, max_size=24))
    tokens = [*letters, *words]
    scores = [0.0] * len(letters) + data.draw(st.permutations([-float(i) for i in range(1, len(words) + 1)]))
    vocab = GgufVocab(tokens, [NORMAL] * len(tokens), {token: i for i, token in enumerate(tokens)})
    merges = merges_of_scores(list(zip(tokens, scores, vocab.types, strict=True)))
    backend = Backend(models.BPE(vocab.ids, merges))
    text = data.draw(st.text(letters, max_size=30))
    assert backend.encode(text).tokens == sentencepiece_ids(vocab, scores, text)


def test_a_sentencepiece_vocabulary_keeps_its_rules(tmp_path: Path) -> None:
    plain = of_gguf(gguf_sentencepiece() | {"add_space_prefix": False}, tmp_path)
    prefixed = of_gguf(gguf_sentencepiece(), tmp_path)
    ids = {token: i for i, token in enumerate(gguf_sentencepiece()["tokens"])}
    bos, newlines = ids["<s>"], ids["\n\n"]
    assert plain.encode("ab") == [bos, ids["ab"]]
    assert prefixed.encode("ab") == [bos, ids["▁ab"]]
    assert plain.encode(" ab") == [bos, ids["▁ab"]]
    assert plain.encode("\n\n\n") == [bos, newlines, ids["<0x0A>"]], "user-defined tokens come first"
    assert plain.encode("é", add_special=False) == [ids["<0xC3>"], ids["<0xA9>"]], (
        "unknown characters are bytes"
    )
    assert plain.encode("</s>") == [bos, ids["</s>"]]
    assert ids["</s>"] not in plain.encode("</s>", parse_special=False)
    assert plain.encode("<0x0A>") != [bos, ids["<0x0A>"]], "a byte token cannot be spelled"
    for text in ("ab", " ab", "é 中", "  "):
        assert plain.decode(plain.encode(text)) == prefixed.decode(prefixed.encode(text)) == text
    assert prefixed.decode(prefixed.encode("a\n\nb")) == "a\n\n b", (
        "each stretch gets a space, as in llama.cpp"
    )


def test_beginning_and_end_are_put_around_when_the_file_says_so(tmp_path: Path) -> None:
    values = gguf_bpe() | {"bos_token_id": 6}
    assert of_gguf(values, tmp_path).encode("a") == [1]
    both = of_gguf(values | {"add_bos_token": True, "add_eos_token": True}, tmp_path)
    assert both.encode("a") == [6, 1, 0]
    assert (both.loaded.add_bos, both.loaded.add_eos, both.loaded.eos_ids) == (True, True, (0,))


def test_word_pieces_get_their_names_back(tmp_path: Path) -> None:
    """Both spellings of GGUF files become BERT's own, also without token types."""
    names = bert_vocabulary()
    special = {"cls_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1, "padding_token_id": 0}
    special |= {"mask_token_id": 4}
    for brackets in (False, True):
        tokens = gguf_word_pieces(names, brackets=brackets)
        found = of_gguf({"model": "bert", "tokens": tokens, **special}, tmp_path).loaded
        assert [found.text_of(i) for i in range(len(names))] == names
        assert found.special == dict(enumerate(names[:5]))
        assert (found.bos_id, found.eos_ids, found.pad_id, found.unk_id) == (None, (), 0, 1)


def test_a_word_piece_vocabulary_keeps_its_rules(tmp_path: Path) -> None:
    tokenizer = of_gguf(gguf_word_piece(), tmp_path)
    cls, sep, unk, a, b_inside, b, upper, e, ab = 2, 3, 1, 5, 6, 7, 8, 9, 10
    assert tokenizer.encode("AB abb  b.") == [cls, ab, ab, b_inside, b, unk, sep]
    assert tokenizer.encode("É") == [cls, e, sep], "letters lose case and accent by default"
    assert tokenizer.encode("[MASK]a", add_special=False) == [4, a]
    assert tokenizer.encode("[MASK]", parse_special=False) == [cls, unk, unk, unk, sep]
    assert tokenizer.encode("a" * 101) == [cls, unk, sep]
    assert tokenizer.decode(tokenizer.encode("ABB a")) == "abb a"
    cased = of_gguf(gguf_word_piece() | {"normalizer.lowercase": False}, tmp_path)
    assert cased.encode("É A", add_special=False) == [upper, unk]
    stripped = {"normalizer.lowercase": False, "normalizer.strip_accents": True}
    assert of_gguf(gguf_word_piece() | stripped, tmp_path).encode("é", add_special=False) == [e]


def test_the_special_tokens_of_word_pieces_are_found_by_any_of_their_names(tmp_path: Path) -> None:
    values = {key: value for key, value in gguf_word_piece().items() if not key.endswith("_id")}
    assert of_gguf(values, tmp_path).encode("a") == [2, 5, 3], "by their usual texts"
    assert of_gguf(values | {"bos_token_id": 10}, tmp_path).encode("a") == [10, 5, 3]
    both = values | {"bos_token_id": 10, "cls_token_id": 7}
    assert of_gguf(both, tmp_path).encode("a") == [7, 5, 3]


@pytest.mark.parametrize(
    "pre, text, words",
    [
        ("gpt-2", "It's 12345 ok", ["It", "'s", " 12345", " ok"]),
        ("smollm", "It's 12345", ["It", "'s", " ", "1", "2", "3", "4", "5"]),
        ("llama-bpe", "IT'S 12345\n\n x", ["IT", "'S", " ", "123", "45", "\n\n", " x"]),
        ("pixtral", "IT'S 12345", ["IT", "'S", " ", "123", "45"]),
        ("mellum", "It's 12345", ["It", "'s", " 12345"]),
        ("viking", "a, b12", ["a", ",", " b", "1", "2"]),
        ("seed-coder", "a!\n\nb12", ["a", "!", "\n\n", "b", "1", "2"]),
        ("qwen2", "a.b 123", ["a", ".b", " ", "1", "2", "3"]),
        ("default", "a+b 12345", ["a", "+", "b", " ", "123", "45"]),
        ("gpt-4o", "helloWorld's/\n", ["hello", "World's", "/\n"]),
        ("deepseek-coder", "a b\n\n你好1", ["a", " b", "\n", "\n", "你好", "1"]),
        ("deepseek-v3", "a 你好 1234!x", ["a", " ", "你好", " ", "123", "4", "!x"]),
    ],
)
def test_pre_tokenizers_cut_as_their_models_do(pre: str, text: str, words: list[str], tmp_path: Path) -> None:
    backend = of_gguf(gguf_bpe() | {"pre": pre, "bos_token_id": 0}, tmp_path).loaded.backend
    alphabet = {letter: bytes([byte]) for byte, letter in byte_alphabet().items()}
    cut = [
        b"".join(alphabet[c] for c in word).decode()
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)
    ]
    assert cut == words


@pytest.mark.parametrize(
    "pre, whole, begins",
    [("llama-bpe", True, True), ("pixtral", True, True), ("glm4", True, False), ("mellum", False, False)],
)
def test_some_pre_tokenizers_take_whole_words_and_begin_texts(
    pre: str, whole: bool, begins: bool, tmp_path: Path
) -> None:
    """A word that no merges lead to is found where the merges are not asked."""
    values = gguf_bpe()
    tokens = [*values["tokens"], "zq"]
    types = [*values["token_type"], 1]
    tokenizer = of_gguf(
        values | {"tokens": tokens, "token_type": types, "pre": pre, "bos_token_id": 0}, tmp_path
    )
    ids = tokenizer.encode("zq")
    assert (ids[:1] == [0], len(tokens) - 1 in ids) == (begins, whole)


def test_what_a_signals_handler_raises_is_no_failure_of_the_library() -> None:
    def late(*_: object) -> None:
        raise TimeoutError("the host's own")

    before = signal.signal(signal.SIGALRM, late)
    try:
        with pytest.raises(TimeoutError, match="own"):
            call(signal.raise_signal, signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(TokenizerError) as caught:
        call(Backend.from_str, "{}")
    assert caught.value.code == "library"
