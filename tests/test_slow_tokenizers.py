"""Folders without tokenizer.json give the ids that transformers gives, and say what they lack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tuili
from slow_tokenizers import DATA, FOLDERS, PAIRS, TEXTS, Slow, with_pieces, write
from tuili.loading.model_source import _tokenizer_files
from tuili.loading.opening import from_files
from tuili.loading.tokenizers import sentencepiece_file
from tuili.tasks.encoding import encode
from tuili.tokenization.tokenizer import Tokenizer

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "slow_tokenizers.json").read_text("utf-8"))


def load(slow: Slow, folder: Path) -> Tokenizer:
    return read(slow, write(slow, folder))


def read(slow: Slow, folder: Path) -> Tokenizer:
    return Tokenizer(from_files(_tokenizer_files(folder, None, slow.model_type)))


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_those_of_transformers(tmp_path, name):
    tokenizer, golden = load(FOLDERS[name], tmp_path), GOLDENS[name]
    for text, ids in zip(TEXTS, golden["texts"], strict=True):
        assert tokenizer.encode(text) == ids, text
    if tokenizer.loaded.numbering is not None:
        with pytest.raises(tuili.ModelUnsupportedError, match="ids are not the library's"):
            encode(tokenizer, "a", max_len=9, cut=None)
        return
    for (a, b), (ids, types) in zip(PAIRS, golden["pairs"], strict=True):
        pair = encode(tokenizer, a, b, max_len=1000, cut=None)
        assert pair.ids == ids
        if name not in ("gpt2", "qwen2"):  # no model with such a tokenizer has token types
            assert pair.types == types


@pytest.mark.parametrize(
    "model_type, name",
    [
        ("ernie", "bert"),
        ("megatron-bert", "bert"),
        ("data2vec-text", "roberta"),
        ("roberta-prelayernorm", "roberta"),
    ],
)
def test_a_folder_that_names_no_class_has_that_of_its_model(tmp_path, model_type, name):
    """As transformers' table of tokenizers by model_type has it."""
    tokenizer = load(Slow(model_type, FOLDERS[name].files), tmp_path)
    assert [tokenizer.encode(text) for text in TEXTS] == GOLDENS[name]["texts"]
    with pytest.raises(tuili.ModelUnsupportedError, match="tokenizer's class is unheard"):
        read(Slow("unheard", {}), tmp_path)


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "blenderbot-small", "xlm-roberta", "llama"])
def test_ids_become_text_again(tmp_path, name):
    tokenizer = load(FOLDERS[name], tmp_path)
    for text, decoded in zip(TEXTS, GOLDENS[name]["decoded"], strict=False):
        assert tokenizer.decode(tokenizer.encode(text)) == decoded


@pytest.mark.parametrize("name, model", [("xlm-roberta", "unigram"), ("llama", "bpe"), ("t5", "t5")])
def test_special_tokens_are_found(tmp_path, name, model):
    tokenizer = load(FOLDERS[name], tmp_path)
    pieces = sentencepiece_file.parse((DATA / f"{model}.model").read_bytes(), "model")
    assert len(pieces.pieces) > 100 and set(pieces.of_type(sentencepiece_file.CONTROL)) <= {
        "<s>",
        "</s>",
        "<pad>",
    }
    assert pieces.byte_fallback == (name == "llama")
    for text in tokenizer.loaded.special.values():
        token_id = tokenizer.loaded.backend.token_to_id(text)
        assert tokenizer.encode(f"a {text}", add_special=False)[-1] == token_id
        plain = tokenizer.encode(f"a {text}", parse_special=False, add_special=False)
        assert token_id not in plain or token_id == tokenizer.loaded.unk_id


@pytest.mark.parametrize("name, model", [("xlm-roberta", "unigram"), ("llama", "bpe"), ("t5", "t5")])
def test_user_defined_pieces_are_text(tmp_path, name, model):
    """sentencepiece cuts no text within one, and decoding writes it."""
    folder = write(FOLDERS[name], tmp_path)
    (file,) = FOLDERS[name].files
    (folder / file).write_bytes(with_pieces(model, [("<sep>", 4), ("天下", 4)]))
    tokenizer = read(FOLDERS[name], folder)
    ids = tokenizer.encode("the<sep>天下", add_special=False)
    assert {tokenizer.loaded.backend.token_to_id(text) for text in ("<sep>", "天下")} <= set(ids)
    assert tokenizer.decode(ids) == "the<sep>天下"
    inert = tokenizer.encode("the<sep>天下", add_special=False, parse_special=False)
    assert inert == ids  # a user may write them


@pytest.mark.parametrize("name", ["xlm-roberta", "t5"])
def test_bytes_of_unigrams_become_characters_again(tmp_path, name):
    folder = write(FOLDERS[name], tmp_path)
    ((file, source),) = FOLDERS[name].files.items()
    pieces = [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    (folder / file).write_bytes(with_pieces(source.removesuffix(".model"), pieces, byte_fallback=True))
    tokenizer = read(FOLDERS[name], folder)
    ids = tokenizer.encode("the 鑫🙂 cat")
    assert tokenizer.loaded.backend.token_to_id("<0xF0>") in ids
    assert tokenizer.decode(ids) == "the 鑫🙂 cat"


_STRIPPED = {"content": "</s>", "lstrip": True, "rstrip": True, "single_word": False, "normalized": False}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"eos_token": _STRIPPED | {"__type": "AddedToken"}}},
        {"special_tokens_map.json": {"eos_token": _STRIPPED}},
    ],
)
def test_files_say_how_a_special_token_is_found(tmp_path, files):
    folder = write(FOLDERS["gpt2"], tmp_path)
    for file, value in files.items():
        (folder / file).write_text(json.dumps(value))
    tokenizer = read(FOLDERS["gpt2"], folder)
    assert tokenizer.encode("cat </s>  mat") == tokenizer.encode("cat</s>mat")


def test_flags_of_special_tokens_map_are_old_where_added_tokens_are_listed(tmp_path):
    folder = write(FOLDERS["gpt2"], tmp_path)
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": _STRIPPED}))
    (folder / "tokenizer_config.json").write_text('{"added_tokens_decoder": {}}')
    tokenizer = read(FOLDERS["gpt2"], folder)
    assert tokenizer.encode("cat </s>  mat") != tokenizer.encode("cat</s>mat")


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_sentencepiece_models_ignore_how_a_role_says_it_is_found(tmp_path, file):
    folder = write(FOLDERS["llama"], tmp_path)
    settings = FOLDERS["llama"].settings if file == "tokenizer_config.json" else {}
    (folder / file).write_text(json.dumps(settings | {"eos_token": _STRIPPED}))
    plain = load(FOLDERS["llama"], tmp_path / "plain")
    text = "cat </s>  mat"
    assert read(FOLDERS["llama"], folder).encode(text) == plain.encode(text)


@pytest.mark.parametrize("name, text", [("gpt2", "</s>"), ("t5", "<pad>")])
@pytest.mark.parametrize("newer", [False, True])
def test_the_newer_file_names_the_special_tokens(tmp_path, name, text, newer):
    """special_tokens_map.json, unless tokenizer_config.json lists the added tokens as well."""
    folder = write(FOLDERS[name], tmp_path)
    settings = (
        FOLDERS[name].settings | {"eos_token": "<unk>"} | ({"added_tokens_decoder": {}} if newer else {})
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": text}))
    loaded = read(FOLDERS[name], folder).loaded
    assert loaded.eos_ids == (loaded.backend.token_to_id("<unk>" if newer else text),)


def test_an_added_token_with_a_role_is_found_before_texts_are_normalized(tmp_path):
    """DeBERTa's added_tokens.json lists [MASK]; a text in full-width letters is none."""
    folder = write(FOLDERS["deberta-v2"], tmp_path)
    n = len(sentencepiece_file.parse((DATA / "deberta.model").read_bytes(), "model").pieces)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (folder / "added_tokens.json").write_text(json.dumps({"[MASK]": n}))
    tokenizer = read(FOLDERS["deberta-v2"], folder)
    assert n in tokenizer.encode("a [MASK]") and n not in tokenizer.encode("a [mask]")


def test_white_space_behind_a_word_is_none_of_it(tmp_path):
    """As in the library, which has taken it off the lines of vocab.txt."""
    folder = write(FOLDERS["bert"], tmp_path)
    file = folder / "vocab.txt"
    file.write_bytes(file.read_bytes().replace(b"\n", b" \t\xe3\x80\x80\n"))
    tokenizer = read(FOLDERS["bert"], folder)
    for text, ids in zip(TEXTS, GOLDENS["bert"]["texts"], strict=True):
        assert tokenizer.encode(text) == ids, text
    n = file.read_bytes().count(b"\n")
    file.write_bytes(file.read_bytes() + b"a\x1c \n")
    assert read(FOLDERS["bert"], folder).loaded.text_of(n) == "a\x1c", "white space to Python alone"


@pytest.mark.parametrize("name", ["bert", "gpt2", "roberta"])
def test_lines_may_end_as_windows_ends_them(tmp_path, name):
    folder = write(FOLDERS[name], tmp_path)
    (file,) = folder.glob("*.txt")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    tokenizer = read(FOLDERS[name], folder)
    for text, ids in zip(TEXTS, GOLDENS[name]["texts"], strict=True):
        assert tokenizer.encode(text) == ids, text


WORDS, F = {"vocab.txt": "vocab.txt"}, "tokenizer_field"

HOSTILE = {
    "nothing": (Slow("bert", {}), {}, "tokenizer_missing"),
    "no merges": (Slow("gpt2", {"vocab.json": "vocab.json"}), {}, "tokenizer_missing"),
    "no model file": (Slow("t5", {}), {}, "tokenizer_missing"),
    "unknown class": (Slow("bert", {}, {"tokenizer_class": "BertJapaneseTokenizer"}), {}, "tokenizer_class"),
    "unknown model": (Slow("xlnet", {}), {}, "tokenizer_class"),
    "class is a number": (Slow("bert", {}, {"tokenizer_class": 7}), {}, None),
    "MeCab": (Slow("bert", WORDS, {"word_tokenizer_type": "mecab"}), {}, "tokenizer_component"),
    "flag": (Slow("bert", WORDS, {"do_lower_case": "yes"}), {}, F),
    "token": (Slow("bert", WORDS, {"sep_token": 5}), {}, F),
    "added list": (Slow("bert", WORDS, {"added_tokens_decoder": []}), {}, F),
    "added id": (
        Slow("bert", WORDS, {"added_tokens_decoder": {"x": {"content": "a"}}}), {}, F,
    ),
    "extra": (
        Slow("bert", WORDS, {"additional_special_tokens": "abc"}), {}, F,
    ),
    "extra numbers": (
        Slow("bert", WORDS, {"additional_special_tokens": [5]}), {}, F,
    ),
    "added_tokens.json": (
        Slow("bert", WORDS, {}, {"added_tokens.json": {"a": "b"}}), {}, F,
    ),
    "vocab.txt not UTF-8": (Slow("bert", {}), {"vocab.txt": b"[UNK]\n\xff"}, "tokenizer_utf8"),
    "vocab.txt empty": (Slow("bert", {}), {"vocab.txt": b""}, "vocab_size"),
    "no unknown token": (Slow("bert", {}), {"vocab.txt": b"[CLS]\n[SEP]\na"}, "special_id"),
    "vocab.json list": (Slow("gpt2", {}), {"vocab.json": b"[]", "merges.txt": b""}, F),
    "vocab.json of texts": (
        Slow("gpt2", {}), {"vocab.json": b'{"a": 0, "<|endoftext|>": ""}', "merges.txt": b""}, "vocab_id",
    ),
    "merge of three": (
        Slow("gpt2", {"vocab.json": "vocab.json"}), {"merges.txt": b"a b c"}, "merges",
    ),
    "RoBERTa without </s>": (
        Slow("roberta", {}), {"vocab.json": b'{"a": 0}', "merges.txt": b""}, "special_id",
    ),
    "no protobuf": (Slow("t5", {}), {"spiece.model": b"hello"}, "protobuf"),
    "no pieces": (Slow("t5", {}), {"spiece.model": b""}, "protobuf"),
    "varint": (Slow("t5", {}), {"spiece.model": b"\x0a" + b"\xff" * 12}, "protobuf"),
    "cut off": (Slow("t5", {}), {"spiece.model": b"\x0a\x7f\x0a\x01a"}, "protobuf"),
    "piece without text": (Slow("t5", {}), {"spiece.model": b"\x0a\x02\x18\x01"}, "protobuf"),
    "table a number": (
        Slow("t5", {}),
        {"spiece.model": b"\x0a\x03\x0a\x01a\x1a\x0a\x10" + b"\xff" * 8 + b"\x3f"},
        "protobuf",
    ),
    "score NaN": (Slow("t5", {}), {"spiece.model": b"\x0a\x08\x0a\x01a\x15\x00\x00\xc0\x7f"}, "protobuf"),
    "word model": (Slow("t5", {}), {"spiece.model": b"\x0a\x03\x0a\x01a\x12\x02\x18\x03"},
        "tokenizer_component"),
    "unk_id": (Slow("t5", {}), {"spiece.model": b"\x0a\x03\x0a\x01a\x12\x03\xc0\x02\x09"}, "special_id"),
    "BPE for T5": (Slow("t5", {"spiece.model": "bpe.model"}), {}, "tokenizer_component"),
    "unigram for Llama": (Slow("llama", {"tokenizer.model": "unigram.model"}), {}, "tokenizer_component"),
    "extra_ids": (Slow("t5", {"spiece.model": "t5.model"}, {"extra_ids": -1}), {}, F),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_missing_or_malformed_gives_its_error(tmp_path, name):
    slow, files, code = HOSTILE[name]
    write(slow, tmp_path)
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    with pytest.raises((tuili.TokenizerError, tuili.ModelUnsupportedError)) as error:
        read(slow, tmp_path)
    assert code is None or error.value.code == code


@pytest.mark.parametrize("model", ["unigram", "bpe", "t5"])
def test_a_damaged_sentencepiece_file_gives_an_error_or_a_model(model):
    """Cut off anywhere, or with any byte changed."""
    data = (DATA / f"{model}.model").read_bytes()
    n_errors = 0
    for at in range(0, len(data), 37):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]):
            try:
                sentencepiece_file.parse(damaged, "model")
            except (tuili.TokenizerError, tuili.ModelUnsupportedError):
                n_errors += 1
    assert n_errors > len(data) // 100


# As transformers 5.24 has them: which of a family's tokens special_tokens_map.json can have found otherwise.
CHANGED = {
    "bert": ({"cls": "[CLS]", "mask": "[MASK]", "pad": "[PAD]"}, {"[CLS]", "[MASK]", "[PAD]"}),
    "gpt2": ({"eos": "<|endoftext|>"}, {"<|endoftext|>"}),
    "qwen2": ({"eos": "<|endoftext|>", "pad": "<|endoftext|>", "unk": "<|endoftext|>"}, set()),
    "roberta": ({"bos": "<s>", "cls": "<s>", "mask": "<mask>", "unk": "<unk>"}, {"<s>", "<mask>", "<unk>"}),
    "roberta-space": (
        {"bos": "<s>", "sep": "</s>"},
        {"</s>"},
    ),  # the cls token, of which nothing is said, has the first one's text
    "xlm-roberta": ({"bos": "<s>", "cls": "<s>", "mask": "<mask>", "unk": "<unk>"}, {"<mask>", "<unk>"}),
    "camembert": ({"eos": "</s>", "sep": "</s>", "pad": "<pad>"}, {"<pad>"}),
    "albert": ({"cls": "[CLS]", "mask": "[MASK]", "unk": "<unk>"}, {"<unk>"}),
    "t5": ({"eos": "</s>", "unk": "<unk>"}, {"<unk>"}),
    "llama": ({"bos": "<s>", "eos": "</s>", "unk": "<unk>"}, {"<unk>"}),
}


@pytest.mark.parametrize("name", CHANGED)
def test_settings_of_tokens_with_a_role_count_where_the_class_reads_them(tmp_path, name):
    roles, changed = CHANGED[name]
    slow = FOLDERS[name]
    folder = write(slow, tmp_path)
    flags = {"lstrip": False, "rstrip": True, "single_word": True, "normalized": True}
    named = {f"{role}_token": {"content": text, **flags} for role, text in roles.items()}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    added = read(slow, folder).loaded.backend.get_added_tokens_decoder().values()
    assert {token.content for token in added if token.rstrip and token.single_word} == changed
