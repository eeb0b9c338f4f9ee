"""Tokenizers of models that translate and summarize give transformers' ids, and know their languages."""

from __future__ import annotations

import base64
import dataclasses
import json

import numpy as np
import pytest

import tuili
from slow_tokenizers import DATA, Slow, with_pieces, write
from translation_folders import (
    DIFFERENT,
    FOLDERS,
    GOLDENS,
    MARIAN,
    OTHER,
    SEPARATE,
    SPM,
    TEXTS,
    files_of,
    load,
    made,
)
from tuili.errors import InvalidParameterError
from tuili.loading.model_source import TokenizerFiles, _tokenizer_files
from tuili.loading.tokenizers import cache as tokenizer_cache
from tuili.loading.tokenizers import sentencepiece_file, tokenizer_json
from tuili.loading.tokenizers.composing import Composer
from tuili.loading.tokenizers.tokenizer import from_huggingface
from tuili.tokenization.tokenizer import Detokenizer, Tokenizer


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_those_of_transformers(tmp_path, name):
    tokenizer = made(files_of(FOLDERS[name], tmp_path))
    for text, ids in zip(TEXTS, GOLDENS[name]["texts"], strict=True):
        if text not in DIFFERENT.get(name, ()):
            assert tokenizer.encode(text) == ids, text
    ids, text = GOLDENS[name]["decoded"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", ["m2m100", "m2m100-pairs"])
def test_no_space_stands_at_either_end_of_an_answer(tmp_path, name):
    """As transformers' decode has it, of these tokenizers alone."""
    tokenizer = load(FOLDERS[name], tmp_path)
    ids = {tokenizer.loaded.text_of(i): i for i in range(tokenizer.n_vocab)}
    space, word, end = ids["▁"], ids["▁zzz"], ids["</s>"]
    for given, text in (
        ([space, word], "zzz"),
        ([end, space, space, word, space, word, end, space], "zzz  zzz"),
        ([word, space, space], "zzz"),
        ([space, end], ""),
    ):
        decoder = Detokenizer(tokenizer)
        assert "".join([*map(decoder.push, given), decoder.flush()]) == text == tokenizer.decode(given)


def test_what_a_model_writes_has_special_tokens_of_its_own(tmp_path):
    """The ids of source.spm's <pad> and >>fra<< are words of target_vocab.json."""
    tokenizer = load(FOLDERS["marian-separate"], tmp_path)
    target = SEPARATE["target_vocab.json"]
    words = [i for i in tokenizer.loaded.special if i > 1]
    assert len(words) == 3 and all(tokenizer.decode([5, i]) != tokenizer.decode([5]) for i in words)
    assert tokenizer.decode([5, target["</s>"], target["<pad>"]]) == tokenizer.decode([5])
    assert tokenizer.special_ids == {target[text] for text in ("</s>", "<unk>", "<pad>")}


@pytest.mark.parametrize("name", ["marian", "marian-separate"])
def test_words_of_bad_words_are_cut_as_the_model_writes_them(tmp_path, name):
    """By target.spm, of which the goldens are transformers' text_target."""
    tokenizer = load(FOLDERS[name], tmp_path)
    for text, ids in zip(TEXTS, GOLDENS[name]["targets"], strict=True):
        if "<" not in text:  # special tokens, which no word is
            assert tokenizer.encode_words(text) == ids[:-1], text
    assert tokenizer.encode_words("world") != tokenizer.encode("world", add_special=False)


def test_words_are_not_banned_by_ids_of_another_vocabulary(tmp_path):
    folder = FOLDERS["marian-separate"]
    alone = dataclasses.replace(folder, files={"source.spm": folder.files["source.spm"]})
    with pytest.raises(InvalidParameterError, match="another vocabulary") as error:
        load(alone, tmp_path).encode_words("world")
    assert error.value.param == "bad_words"


def test_a_special_token_that_the_model_has_not_takes_nobodys_place(tmp_path):
    slow = FOLDERS["marian"]
    more = dataclasses.replace(slow, settings=slow.settings | {"additional_special_tokens": ["<x>"]})
    loaded = load(more, tmp_path).loaded
    assert loaded.special[loaded.unk_id] == loaded.hidden[loaded.unk_id] == "<unk>"


@pytest.mark.parametrize("name", ["marian", "m2m100", "m2m100-pairs"])
def test_tokens_that_a_saved_folder_lists_keep_their_ids(tmp_path, name):
    """As transformers saves it since 4.34."""
    slow = FOLDERS[name]
    tokenizer = load(slow, tmp_path / "as it was")
    listed = {
        str(i): {"content": text, "special": True, "normalized": False}
        for i, text in tokenizer.loaded.special.items()
        if not text.startswith(">>")
    } | {"600": {"content": "<new>", "special": False}}
    settings = {**slow.settings, "added_tokens_decoder": listed}
    saved = load(dataclasses.replace(slow, settings=settings), tmp_path / "saved")
    for text, ids in zip(TEXTS, GOLDENS[name]["texts"], strict=True):
        assert saved.encode(text) == ids, text
    assert 600 in saved.encode("a <new> b") and saved.decode([600]) == "<new>"


def test_mbarts_texts_are_normalized_as_its_pieces_say(tmp_path):
    """transformers 5 does so for mBART-50, which has the same pieces in the same order."""
    tokenizer = made(files_of(FOLDERS["mbart"], tmp_path))
    for text in DIFFERENT["mbart"]:
        _, *inner, end = GOLDENS["mbart50"]["texts"][TEXTS.index(text)]
        assert tokenizer.encode(text)[:-1] == [*inner, end], text


@pytest.mark.parametrize("name", OTHER)
def test_a_source_may_be_in_another_language(tmp_path, name):
    tokenizer = made(files_of(FOLDERS[name], tmp_path))
    languages = tokenizer.loaded.languages
    assert languages is not None
    assert languages.with_source(tokenizer.encode("The cat 你好"), OTHER[name]) == GOLDENS[name]["other"]
    with pytest.raises(InvalidParameterError, match=f"tlh.*{OTHER[name]}") as error:
        languages.token("tlh", "tgt_lang")
    assert error.value.code == "language"


def test_marians_languages_open_its_sources(tmp_path):
    tokenizer = made(files_of(FOLDERS["marian"], tmp_path))
    languages = tokenizer.loaded.languages
    assert languages is not None and languages.where == "text" and set(languages.ids) == {"cmn", "fra"}
    opened = tokenizer.encode(">>fra<< The cat")
    assert opened == [languages.ids["fra"], *tokenizer.encode("The cat")]
    assert tokenizer.decode(opened) == "The cat"
    assert languages.ids["fra"] not in tokenizer.encode(">>fra<< The cat", parse_special=False)
    assert languages.ids["fra"] not in tokenizer.encode("a >>fra<< The cat")


@pytest.mark.parametrize("name", ["mbart", "nllb"])
def test_an_older_tokenizer_json_gets_the_layout_of_its_class(tmp_path, name):
    """Those of NLLB put the language at the end, which the class does not any more."""
    files = files_of(FOLDERS[name], tmp_path)
    document = json.loads(files.tokenizer_json)
    eos = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, eos],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}, eos],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
    }
    older = TokenizerFiles(json.dumps(document).encode(), files.config, {"eos_token": "</s>"})
    assert made(older).encode(TEXTS[0]) == GOLDENS[name]["texts"][0]


@pytest.mark.parametrize("name", ["marian", "marian-separate", "m2m100", "nllb"])
def test_a_cached_tokenizer_is_the_same(tmp_path, name):
    files = files_of(FOLDERS[name], tmp_path)
    tokenizer = made(files)
    again = tokenizer.loaded.written and tokenizer.loaded
    sections = {
        name: bytes(part if isinstance(part, bytes) else part.tobytes())
        for name, part in tokenizer_cache.sections_of(tokenizer.loaded)
    }
    facts = json.loads(json.dumps(tokenizer_cache.facts_of(tokenizer.loaded)))
    restored = Tokenizer(
        tokenizer_cache.restore(
            facts,
            lambda name: np.frombuffer(sections[name], np.uint8),
            lambda: again or pytest.fail("made anew"),  # only for what it writes
        )
    )
    assert restored.encode_words("world") == tokenizer.encode_words("world")
    assert restored.loaded.languages == tokenizer.loaded.languages
    assert restored.special_ids == tokenizer.special_ids and restored.n_vocab == tokenizer.n_vocab
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert restored.encode(text) == ids
        assert restored.encode(text, parse_special=False) == tokenizer.encode(text, parse_special=False)
        written = [i for i in ids if i < tokenizer.n_vocab]
        assert restored.decode(written) == tokenizer.decode(written)


VOCAB = MARIAN["vocab.json"]
HOSTILE = {
    "no source.spm": (Slow("marian", {}, {}, MARIAN), "tokenizer_missing"),
    "no vocab.json": (Slow("marian", SPM), "tokenizer_missing"),
    "no target vocabulary": (Slow("marian", SPM, {"separate_vocabs": True}, MARIAN), "tokenizer_missing"),
    "list": (Slow("marian", SPM, {}, {"vocab.json": ["a"]}), "tokenizer_field"),
    "negative": (Slow("marian", SPM, {}, {"vocab.json": VOCAB | {"x": -1}}), "vocab_id"),
    "text for an id": (Slow("marian", SPM, {}, {"vocab.json": VOCAB | {"x": "1"}}), "vocab_id"),
    "true for an id": (Slow("marian", SPM, {}, {"vocab.json": VOCAB | {"x": True}}), "vocab_id"),
    "far": (Slow("marian", SPM, {}, {"vocab.json": VOCAB | {"x": 1 << 21}}), "vocab_id"),
    "twice": (Slow("marian", SPM, {}, {"vocab.json": VOCAB | {"x": 0}}), "vocab_id"),
    "far target": (
        Slow("marian", SPM, {"separate_vocabs": True}, SEPARATE | {"target_vocab.json": {"x": 9999}}),
        "vocab_id",
    ),
    "no unknown": (Slow("marian", SPM, {}, {"vocab.json": {"a": 0}}), "special_id"),
    "flag": (Slow("marian", SPM, {"separate_vocabs": 1}, MARIAN), "tokenizer_field"),
    "codes": (Slow("m2m_100", FOLDERS["m2m100"].files, {"language_codes": "x"}, MARIAN), "tokenizer_field"),
    "codes list": (Slow("m2m_100", FOLDERS["m2m100"].files, {"language_codes": ["x"]}, MARIAN),
        "tokenizer_field"),
    "src_lang": (Slow("mbart", FOLDERS["mbart"].files, {"src_lang": "tlh"}), "special_id"),
    "src_lang number": (Slow("mbart", FOLDERS["mbart"].files, {"src_lang": 5}), "special_id"),
    "tgt_lang": (Slow("mbart", FOLDERS["mbart"].files, {"tgt_lang": "tlh"}), "special_id"),
    "unigram for NLLB": (
        Slow("m2m_100", FOLDERS["mbart"].files, {"tokenizer_class": "NllbTokenizer"}), "tokenizer_component",
    ),
    "offset": (Slow("pegasus", FOLDERS["pegasus"].files, {"offset": "103"}), "tokenizer_field"),
    "offset far": (Slow("pegasus", FOLDERS["pegasus"].files, {"offset": 1 << 20}), "tokenizer_field"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_missing_or_malformed_gives_its_error(tmp_path, name):
    slow, code = HOSTILE[name]
    with pytest.raises((tuili.TokenizerError, tuili.ModelUnsupportedError)) as error:
        made(files_of(slow, tmp_path))
    assert error.value.code == code


def test_ids_beyond_the_models_rows_are_refused(tmp_path):
    files = files_of(FOLDERS["marian"], tmp_path)
    with pytest.raises(tuili.TokenizerError, match="beyond the model's vocabulary"):
        from_huggingface(files.tokenizer_json, files.config, {}, n_vocab=100, numbering=files.numbering)


ACCENTED = {  # what sentencepiece 0.2.3 makes of them
    "Ti\u1ebfng Vie\u0323\u0302t": "▁ T iế n g ▁ V i ệ t",
    "Ti\xea\u0301ng": "▁ T i ê <unk> n g",
    "\uff76\uff9e\uff72": "▁ ガ イ",
    "ro\u0301i \u05d0\u05bc": "▁ <unk> i ▁ א \u05bc",
    "a\uff0c\u05bc e": "▁ <unk> , \u05bc ▁e",
    "\uff0c\u07a6": "▁ , <unk>",
    "\u05d0\uff0c\u05bc e\u0302": "▁ א , \u05bc ▁ ê",
}


@pytest.fixture
def accents(tmp_path):
    """A model with a table of letters and their accents, and of half-width kana."""
    pieces = sentencepiece_file.parse((DATA / "accents.model").read_bytes(), "model").pieces
    texts = ["<s>", "<pad>", "</s>", "<unk>", *(text for text, _, _ in pieces[3:])]
    vocab = {text: i for i, text in enumerate(texts)}
    slow = Slow(
        "m2m_100", {"sentencepiece.bpe.model": "accents.model"},
        {"tokenizer_class": "M2M100Tokenizer"}, {"vocab.json": vocab},
    )  # fmt: skip
    return load(slow, tmp_path)


@pytest.mark.parametrize("text", ACCENTED)
def test_letters_keep_their_accents(accents, text):
    encode = (
        accents.loaded.backend.encode,
        lambda *a, **k: accents.loaded.backend.encode_batch([a[0]], **k)[0],
    )
    for function in encode:
        ids = function(text, add_special_tokens=False).ids
        assert [accents.loaded.text_of(i) for i in ids] == ACCENTED[text].split(" ")


def test_places_are_those_of_the_text_before_it_is_composed(accents):
    text = "e\u0323\u0302 te\u0301i\uff76\uff9eT"
    encoding = accents.loaded.backend.encode(text, add_special_tokens=False)
    texts = [accents.loaded.text_of(i) for i in encoding.ids]
    places = {token: text[begin:end] for token, (begin, end) in zip(texts, encoding.offsets, strict=True)}
    expected = {"ệ": "e\u0323\u0302", "t": "t", "é": "e\u0301", "i": "i", "ガ": "\uff76\uff9e", "T": "T"}
    assert {token: place for token, place in places.items() if token in expected} == expected


def test_a_damaged_table_gives_an_error_or_some_text():
    table = sentencepiece_file.parse((DATA / "accents.model").read_bytes(), "model").charsmap
    n_loaded = 0
    for at in range(4, len(table)):
        for damaged in (table[at] ^ 0xFF, table[at] ^ 1 << at % 8):
            data = table[:at] + bytes([damaged]) + table[at + 1 :]
            try:
                tokenizer_json._charsmap(base64.b64encode(data).decode(), "table")
            except tuili.TokenizerError:
                continue
            n_loaded += 1
            for text in ACCENTED:
                composed = Composer(data).compose(text * 2)
                assert len(composed.text) < 1000
    assert n_loaded > len(table) // 4


def charsmap(units: dict[int, int]) -> bytes:
    """A table of one block of units, and of no strings but an empty one."""
    block = np.zeros(256, "<u4")
    for at, unit in units.items():
        block[at] = unit
    return (block.nbytes).to_bytes(4, "little") + block.tobytes() + b"\0"


def test_a_table_that_begins_with_a_leaf_is_refused():
    """Its first unit tells where the others are, whatever its mark of a leaf says."""
    with pytest.raises(tuili.TokenizerError, match="points outside itself"):
        tokenizer_json._charsmap(base64.b64encode(charsmap({0: 1 << 31})).decode(), "table")


def test_a_table_that_leads_in_a_circle_is_left_soon():
    """Units for the bytes of U+0301, CC 81, again and again."""
    data = charsmap({0xCC: 0xCC, 0xCC ^ 0x81: 0x81, 0x81: 0xCC, 0: 0x81})
    tokenizer_json._charsmap(base64.b64encode(data).decode(), "table")
    composer, n = Composer(data), 0

    class Units(list):
        def __getitem__(self, at):
            nonlocal n
            n += 1
            return super().__getitem__(at)

    composer._units = Units(composer._units)
    text = "e" + "\u0301" * 1000
    assert composer.compose(text).text == text
    assert n < 70_000  # to the end of the text each time: a million


def test_user_defined_pieces_of_nllb_are_words(tmp_path):
    slow = dataclasses.replace(FOLDERS["nllb"], settings={"tokenizer_class": "NllbTokenizer"})
    folder = write(slow, tmp_path)
    (folder / "sentencepiece.bpe.model").write_bytes(with_pieces("pairs", [("<sep>", 4), ("天下", 4)]))
    tokenizer = made(_tokenizer_files(str(folder), None, slow.model_type))
    ids = tokenizer.encode("the<sep>天下", add_special=False)
    assert {tokenizer.loaded.backend.token_to_id(text) for text in ("<sep>", "天下")} <= set(ids)
    assert tokenizer.decode(ids) == "the<sep>天下"


@pytest.mark.parametrize("name, pieces", [("nllb", "▁the ▁ ▁c at <unk> at"), ("pegasus", "▁the ▁c at ▁ at")])
def test_models_without_a_table_of_letters(tmp_path, name, pieces):
    """The pieces are transformers'."""
    slow = FOLDERS[name]
    folder = write(slow, tmp_path)
    (file,) = slow.files
    (folder / file).write_bytes((DATA / slow.files[file]).read_bytes() + b"\x1a\x02\x12\0")
    tokenizer = made(_tokenizer_files(str(folder), None, slow.model_type))
    ids = tokenizer.encode("the  cat\nat", add_special=False)
    assert [tokenizer.loaded.text_of(i) for i in ids] == pieces.split(" ")


@pytest.mark.parametrize("name", ["m2m100", "mbart50"])
def test_bytes_become_characters_again(tmp_path, name):
    slow = FOLDERS[name]
    texts = [f"<0x{byte:02X}>" for byte in range(256)]
    if name == "m2m100":
        vocab = slow.others["vocab.json"]
        slow = dataclasses.replace(
            slow, others={"vocab.json": vocab | {text: len(vocab) + i for i, text in enumerate(texts)}}
        )
    folder = write(slow, tmp_path)
    pieces = [(text, 6) for text in texts]
    (folder / "sentencepiece.bpe.model").write_bytes(with_pieces("unigram", pieces, byte_fallback=True))
    tokenizer = made(_tokenizer_files(str(folder), None, slow.model_type))
    assert tokenizer.decode(tokenizer.encode("the 鑫🙂 cat", add_special=False)) == "the 鑫🙂 cat"


def test_spaces_behind_words_are_refused(tmp_path):
    data = (DATA / "unigram.model").read_bytes()
    (trainer,) = (value for field, value in sentencepiece_file._fields(data, "model") if field == 2)
    trainer += b"\xc0\x01\x01"
    slow = FOLDERS["m2m100"]
    folder = write(slow, tmp_path)
    more = bytes([0x12, len(trainer) & 0x7F | 0x80, len(trainer) >> 7]) + trainer
    (folder / "sentencepiece.bpe.model").write_bytes(data + more)
    with pytest.raises(tuili.ModelUnsupportedError, match="treat_whitespace_as_suffix"):
        _tokenizer_files(str(folder), None, slow.model_type)
