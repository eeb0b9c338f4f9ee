"""A long text of which few tokens stay is not tokenized whole, and has the same tokens (REQ-16)."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import tuili
from hostile.tokenizers import DOCUMENTS, Json, added
from test_least_tokens import BERT_STEP, MAKERS, PIECES, bpe, in_order, replace
from tiny_files import SIZES, write_hf_folder
from tiny_models import tiny_gemma3
from tiny_tokenizers import of_document
from tuili.errors import PromptTooLongError
from tuili.loading.tokenizers.pre_tokenizers import GPT2
from tuili.tasks.encoding import Cut, Encoded, encode, shorten
from tuili.tokenization import text_cuts
from tuili.tokenization.text_cuts import Cuts
from tuili.tokenization.tokenizer import AT_ONCE_CHARS, Tokenizer, clean_text, encoding_of

# Places of every kind among what may not be cut, and words that tokens of the tiny vocabularies hold.
PLACES = [
    "the cat", " sat on", "abc xyz", "a\nb", "9\nx", "ab c", "中文，中", "。今", "今天天气", "中\n文",
    "x\n中", "！很", "1 a", "two words", "ab ab ab", " <s> a", "a <m> b", "<tool>a b", "[MASK] a", "don't we",
    "A b'll c",
]  # fmt: skip
N_TEXTS = 30


def mixed(rng: random.Random) -> str:
    pieces = [rng.choice(PLACES if rng.random() < 0.6 else PIECES) for _ in range(rng.randint(20, 200))]
    return clean_text(rng.choice(("", " ", "")).join(pieces))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of a few characters are long."""
    monkeypatch.setattr(text_cuts, "FIRST_CHARS", 4)
    monkeypatch.setattr(text_cuts, "CHARS_A_TOKEN", 1)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(encoding_of(tokenizer.loaded.backend, text).ids)


def check(tokenizer: Tokenizer, cuts: Cuts, text: str, sizes: Iterable[int]) -> tuple[bool, bool]:
    """Returns whether a beginning and an ending were less than the text."""
    read = functools.cache(functools.partial(ids_of, tokenizer))
    ids = read(text)
    is_cut = [False, False]
    for n in sizes:
        first, last = (part(text, n, lambda part: len(read(part))) for part in (cuts.beginning, cuts.ending))
        assert text.startswith(first) and text.endswith(last)
        is_cut = [is_cut[0] or first != text, is_cut[1] or last != text]
        if first != text:
            found = read(first)
            assert len(found) > n and found == ids[: len(found)], (first, text)
        if last != text:
            found = read(last)
            assert len(found) > n and found == ids[-len(found) :], (last, text)
    return is_cut[0], is_cut[1]


# Those whose texts are tokenized whole, and those of which only beginnings are cut.
WHOLE = {
    "byte level", "letters are removed", "words are replaced", "spaces are replaced",
    "blenderbot-small", "ctrl", "unknown characters vanish",
}  # fmt: skip
NO_ENDINGS = {
    "unigram", "a word as a token", "spaces become letters", "albert", "albert-cased", "xlm-roberta",
    "t5", "mt5", "camembert", "deberta-v2", "marian", "marian-separate", "m2m100", "m2m100-pairs",
    "mbart", "mbart50", "pegasus",
}  # fmt: skip


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", MAKERS)
def test_parts_have_the_tokens_of_the_text(tmp_path: Path, name: str) -> None:
    tokenizer, rng = MAKERS[name](tmp_path), random.Random(name)
    cuts = Cuts(tokenizer.loaded.backend)
    is_cut = (name not in WHOLE, name not in WHOLE | NO_ENDINGS)
    for _ in range(N_TEXTS):
        assert check(tokenizer, cuts, mixed(rng), (0, 1, 3, 9, rng.randint(10, 40))) == is_cut


RARE = chr(0x4E64)  # is not among the ideographs that are tried
LETTER_BY_LETTER = ["a", "b", " ", "x"]
TIES = DOCUMENTS["unigram"]() | {
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [
        ["<unk>", 0.0], [" ", -0.7], *(["a" * n, sum([-0.1] * n)] for n in range(1, 6))
    ]},
    "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None,
}  # fmt: skip
ONE_WORD = {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"String": "b x"}, "behavior": "Isolated", "invert": False},
    {"type": "WhitespaceSplit"},
]}  # fmt: skip
SPACES_AS_WORDS = bpe(["a", "中", "，", " ", "  "], normalizer=BERT_STEP, pre_tokenizer={
    "type": "Split", "pattern": {"Regex": GPT2}, "behavior": "Isolated", "invert": False,
})  # fmt: skip
SPACES_AS_WORDS["model"]["ignore_merges"] = True
SPACED = {"type": "Prepend", "prepend": " "}
ODD: dict[str, tuple[Json, str]] = {
    "tokens end with a space": (bpe([*LETTER_BY_LETTER, "a ", "a b"]), "a b "),
    "tokens end with a comma": (bpe(["中", "，", "中，"]), "中，中"),
    "an added token is two words": (bpe(LETTER_BY_LETTER, special=added(4, "a b")), "a b a a b"),
    "an added token takes the space behind it": (
        bpe(LETTER_BY_LETTER, special=added(0, "a", rstrip=True)), "a bb bb bb",
    ),
    "an added token is a word": (bpe(LETTER_BY_LETTER, special=added(4, " b", single_word=True)), "a b "),
    "two words become a letter": (bpe(LETTER_BY_LETTER, normalizer=in_order(replace("a b", "x"))), "a ba"),
    "a full stop is dropped": (
        bpe(["中", RARE, "中" + RARE], normalizer=in_order(replace("。", ""))), f"中。{RARE}",
    ),
    "an ideograph is a letter": (
        bpe(["中", "a", "，", "a，"], normalizer=in_order(replace(RARE, "a"))), f"{RARE}，中",
    ),
    "an ideograph gets a space": (
        bpe(["中", RARE, " ", "，", " ，"], normalizer=in_order(replace(RARE, RARE + " "))),
        f"中，中{RARE}，中",
    ),
    "words are cut off in the middle": (
        bpe([*LETTER_BY_LETTER, "xb"], pre_tokenizer=ONE_WORD), "xb xb axb a"
    ),
    "a text after an added token gets a space": (
        bpe([*LETTER_BY_LETTER, "  "], special=added(0, "a"), normalizer=SPACED), "xa bx bxa b b"
    ),
    "an added token begins with a space": (
        bpe(LETTER_BY_LETTER, special=added(4, " b"), normalizer=SPACED), "xa bx bxa b b"
    ),
    "what stands between two letters is unknown": (bpe(["中", "中中"]), "中\n中，"),
    "spaces on end are a piece": (SPACES_AS_WORDS, "a，中\n中"),
    "paths are equally likely": (TIES, "aa aaa aaaaa aaaa a aaaaaa aaaaaaaaa "),
}  # fmt: skip


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ODD)
def test_parts_of_odd_texts_have_the_tokens_of_the_text(name: str) -> None:
    document, piece = ODD[name]
    tokenizer = of_document(document)
    check(tokenizer, Cuts(tokenizer.loaded.backend), piece * 40, range(30))


@pytest.mark.usefixtures("short")
def test_the_opening_of_a_source_is_found_at_its_end(tmp_path: Path) -> None:
    tokenizer = MAKERS["marian"](tmp_path)
    check(
        tokenizer, Cuts(tokenizer.loaded.backend), ">>" + "the cat sat " * 20 + "<< the cat " * 20, range(30)
    )


LONG = "The cat sat on the mat. 今天天气，很好\nDon't <s> we " * 3000


# Where a sixteenth of AT_ONCE_CHARS is long. SHORT has more tokens than the beginning of MIDDLE that is read.
MIDDLE, SHORT = LONG[: len(LONG) // 16], LONG[: AT_ONCE_CHARS // 16]


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """In characters, of the texts that the library tokenizes."""
    found = list[int]()

    def encoding(backend: object, text: str, **how: bool) -> object:
        found.append(len(text))
        return encoding_of(backend, text, **how)

    for module in ("tokenization.tokenizer", "tasks.encoding"):
        monkeypatch.setattr(f"tuili.{module}.encoding_of", encoding)
    return found


def test_of_a_prompt_that_is_cut_the_end_is_tokenized(llm: tuili.LLM, lengths: list[int]) -> None:
    output = llm.generate("x " + LONG, truncation=True, max_tokens=1)
    assert output.truncated and output.prompt == "x " + LONG and max(lengths) < len(LONG) // 2
    assert output.prompt_token_ids == llm.tokenizer.encode(LONG)[-len(output.prompt_token_ids) :]


@pytest.mark.parametrize("spelled", ["", "<s> "])
def test_of_a_chat_that_is_cut_the_end_is_tokenized(llm: tuili.LLM, lengths: list[int], spelled: str) -> None:
    """What users wrote stays theirs."""
    messages = [
        {"role": "user", "content": LONG.replace("<s> ", "")},
        {"role": "assistant", "content": "a b"},
    ]
    messages.append({"role": "user", "content": LONG.replace("<s> ", spelled) + "</s> the cat"})
    output = llm.chat(messages, truncation=True, max_tokens=1)
    assert output.truncated and max(lengths) < len(LONG) // 2
    ids = llm.tokenizer.encode_chat(llm.render_chat(messages).parts())
    assert output.prompt_token_ids == ids[-len(output.prompt_token_ids) :]


@pytest.mark.parametrize(
    "texts",
    [
        (MIDDLE,), (MIDDLE, "a b"), ("a b", MIDDLE), (MIDDLE, MIDDLE), (MIDDLE + "a", MIDDLE),
        (SHORT, MIDDLE), (MIDDLE, SHORT),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("max_len", [15, 16])
def test_of_pairs_that_are_cut_the_beginnings_are_tokenized(
    embedder: tuili.LLM, monkeypatch: pytest.MonkeyPatch, texts: tuple[str, ...], cut: Cut, max_len: int
) -> None:
    def of_texts() -> Encoded | str:
        try:
            return encode(embedder.tokenizer, *texts, max_len=max_len, cut=cut)
        except PromptTooLongError as error:
            return str(error)

    monkeypatch.setattr("tuili.tokenization.tokenizer.AT_ONCE_CHARS", len(SHORT))
    monkeypatch.setattr(text_cuts, "FIRST_CHARS", len(SHORT) // 16)
    found = of_texts()
    monkeypatch.setattr("tuili.tokenization.tokenizer.AT_ONCE_CHARS", len(MIDDLE) * 2)
    assert found == of_texts()


def test_of_a_text_that_is_cut_the_beginning_is_tokenized(embedder: tuili.LLM, lengths: list[int]) -> None:
    vector = embedder.embed(LONG, truncation=True)
    assert max(lengths) < len(LONG) // 2
    assert np.array_equal(vector, embedder.embed(LONG[: len(LONG) // 2], truncation=True))


def test_what_is_cut_off_two_texts_is_not_joined(embedder: tuili.LLM) -> None:
    """The library would join each piece of the one with each of the other."""
    backend = embedder.tokenizer.loaded.backend
    whole = encoding_of(backend, LONG)
    parts = [whole, encoding_of(backend, LONG)]
    for part in parts:
        shorten(part, 7, "right")
    assert [len(part.overflowing) for part in parts] == [1, 1] and parts[0].ids == whole.ids[:7]


def test_a_prompt_that_is_cut_keeps_the_token_that_begins_texts(tmp_path):
    path = write_hf_folder(tiny_gemma3(), tmp_path / "gemma3")
    config = json.loads((path / "tokenizer_config.json").read_text())
    config["chat_template"] = "{{ bos_token }}" + config["chat_template"]
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    with tuili.LLM(path, **SIZES) as llm:
        [bos] = llm.tokenizer.encode("")
        for n in (999, 99_999):  # tokenized whole, and not
            long = "the river " * n
            chat = [{"role": "user", "content": long}]
            tail = llm.tokenizer.encode(long, add_special=False)[-4:]
            for prompt in (long, [bos, *tail * 200]):
                for how in ({"truncation": True}, {"truncate_prompt_tokens": 5}):
                    cut = llm.generate(prompt, max_tokens=1, **how)
                    assert cut.truncated and cut.prompt_token_ids[0] == bos
                    assert cut.prompt_token_ids[-4:] == tail
            assert len(cut.prompt_token_ids) == 5
            assert llm.generate(long, max_tokens=1, truncate_prompt_tokens=1).prompt_token_ids == tail[-1:]
            answer = llm.chat(chat, max_tokens=1, truncation=True)
            assert answer.truncated and answer.prompt_token_ids.count(bos) == 1
            assert answer.prompt_token_ids[0] == bos
        assert llm.generate(tail * 200, max_tokens=1, truncate_prompt_tokens=4).prompt_token_ids == tail
