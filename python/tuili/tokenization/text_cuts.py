"""Where a text may be cut and its tokens stay what they are: of a text of which the first or the last tokens
are wanted, the rest is not tokenized.

A place is told by the characters around it. Places of a kind are used if no normalizer and no pre-tokenizer
looks across them, and either pre-tokenizers cut there, too, or no token holds what stands on both sides. Then
byte-pair merges and Viterbi's best path never cross the place, and the tokens of a text's beginning are the
text's first ones. A text's end is more: its own beginning must be read as a text's middle is, and a Unigram
model's sums are rounded by what stands before them, so that its ends are not used.

Where nothing is known of a tokenizer, or a text has no such place, the whole text is tokenized.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tuili.loading.tokenizers.calls import call
from tuili.loading.tokenizers.numbering import NumberedBackend
from tuili.loading.tokenizers.pre_tokenizers import OUTER_SPACE
from tuili.tokenization.least_tokens import BYTES, MAPPING, OF_SPACES, PLAIN, in_bytes, parts_of

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer

FIRST_CHARS = 4096  # and so many for each token that is wanted are looked at first
CHARS_A_TOKEN = 8

_IDEOGRAPHS = "".join(map(chr, range(0x4E00, 0x9FA6)))  # the range that pre-tokenizers' patterns name
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WORDS = _LETTERS + "0123456789"
# What stands before a place, what follows it, and what comes then. None of these joins with another.
_PLACES = (
    (_WORDS, " ", _LETTERS),
    *((before, "\n", then) for before in (_WORDS, _IDEOGRAPHS) for then in (_LETTERS, _IDEOGRAPHS)),
    (_IDEOGRAPHS, "，。、！？；：", _IDEOGRAPHS),
    (_IDEOGRAPHS, _IDEOGRAPHS, _IDEOGRAPHS),
)
_CUTTERS = (
    "BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace", "Digits", "Punctuation",
    "CharDelimiterSplit", "Split",
)  # fmt: skip
_BYTE_TOKENS = r".<0x[0-9A-F]{2}>|<0x[0-9A-F]{2}>."
_STRIDE = 37  # of ideographs some are tried: patterns and vocabularies of bytes know ranges of them

Place = tuple[str, str, str]
Count = Callable[[str], int]


class Cuts:
    """Of texts for one tokenizer of the library. Making it takes some tenths of a second."""

    def __init__(self, backend: Tokenizer) -> None:
        self._opens = isinstance(backend, NumberedBackend)
        checks = _Checks(backend.inner if isinstance(backend, NumberedBackend) else backend)
        firsts = [place for place in _PLACES if checks.known and checks.parts(place)]
        lasts = [] if self._opens else [place for place in firsts if checks.ends_are_read_alike(place, "")]
        spaced = [] if self._opens else [place for place in firsts if checks.ends_are_read_alike(place, " ")]
        self._first, self._last = _pattern(firsts), _pattern(lasts or spaced)
        self._n_dropped = 0 if lasts else 1  # a space that is put in front of every text anyway

    def beginning(self, text: str, n_tokens: int, count: Count) -> str:
        """A beginning of `text` of more than n_tokens tokens, which are the text's first; or all of it.

        count  how many tokens a text has, without any around it
        """
        n_chars = FIRST_CHARS + CHARS_A_TOKEN * n_tokens
        if self._opens and text.startswith(">>") and text.find("<<") + 2 > n_chars:  # one token, perhaps
            return text
        while n_chars < len(text) and self._first is not None:
            found = self._first.search(text, n_chars)
            if found is None:
                break
            part = text[: found.start()]
            if count(part) > n_tokens:
                return part
            n_chars = 2 * len(part)
        return text

    def ending(self, text: str, n_tokens: int, count: Count) -> str:
        """The same of `text`'s last tokens."""
        n_chars = FIRST_CHARS + CHARS_A_TOKEN * n_tokens
        while n_chars < len(text) and self._last is not None:
            at = self._last_place(text, len(text) - n_chars)
            if at is None:
                break
            part = text[at + self._n_dropped :]
            if count(part) > n_tokens:
                return part
            n_chars = 2 * len(part)
        return text

    def _last_place(self, text: str, end: int) -> int | None:
        assert self._last is not None
        for window in (1 << 12, 1 << 16, end):
            begin, last = max(0, end - window), None
            for found in self._last.finditer(text, begin, end):
                last = found.start()
            if last or begin == 0:
                return last
        return None


class _Checks:
    """known  whether all parts of the tokenizer are ones of which it is known what they look at"""

    def __init__(self, backend: Tokenizer) -> None:
        model = backend.model
        self._normalized = functools.cache(_reading(backend.normalizer))  # many are asked for thrice
        self._pieces = functools.cache(_cutting(backend.pre_tokenizer, self._normalized))
        normalizers, cutters = parts_of("normalizer", backend), parts_of("pre_tokenizer", backend)
        self._kind = type(model).__name__
        affixes = ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
        self._by_words = self._kind not in ("BPE", "Unigram") or any(
            getattr(model, name, None) for name in affixes
        )
        self._added: list[AddedToken] = list(call(backend.get_added_tokens_decoder).values())
        self.known = (
            all(name in (*PLAIN, *MAPPING) for name, _ in normalizers)
            and all(name in _CUTTERS for name, _ in cutters)
            and all(_keeps_letters(step) for name, step in normalizers if name == "Replace")
            and not any(_names_letters(step["pattern"]) for name, step in cutters if name == "Split")
            and not any(token.single_word for token in self._added)
        )
        self._tokens = {*call(backend.get_vocab, False)} if self.known and not self._by_words else set[str]()
        if self._kind == "BPE" and not model.unk_token:  # what is unknown vanishes, and its neighbours join
            of_bytes = any(name == "ByteLevel" for name, _ in (*normalizers, *cutters))
            self._by_words |= not (of_bytes and self._tokens.issuperset(BYTES.values()))
        letters = self._normalized(_IDEOGRAPHS).replace(" ", "").replace("▁", "") if self.known else ""
        self._keeps_ideographs = letters in (_IDEOGRAPHS, in_bytes(_IDEOGRAPHS))

    def parts(self, place: Place) -> bool:
        """Whether no token is of both sides of such places."""
        before, after, _ = place
        if not self._keeps_ideographs and _IDEOGRAPHS[0] in before:
            return False
        ends, begins, apart = set[str](), set[str](), True
        for a, b, c in _tried(place):
            left, whole = self._pieces(a), self._pieces(a + b + c)
            split = len(whole) > len(left) and whole[: len(left)] == left
            joined, rest = "".join(left), "".join(whole)
            if not split and (self._by_words or not joined or not rest.startswith(joined)):
                return False
            apart = apart and split
            normalized = self._normalized(a + b)[len(self._normalized(a)) :]
            ends.update(joined[-1:])
            begins.update(rest[len(joined) :][:1], normalized[:1])
        end, begin = _class(before) + _class("".join(ends)), _class(after) + _class("".join(begins))
        across = re.compile(f"[{end}][{begin}]|{_BYTE_TOKENS}", re.DOTALL)
        texts = [text for token in self._added for text in self._texts(token)]
        return not any(map(across.search, texts if apart else (*texts, *self._tokens)))

    def ends_are_read_alike(self, place: Place, dropped: str) -> bool:
        """Whether what follows such a place, without what is `dropped`, is read as if it began a text."""
        if self._kind == "Unigram" or (dropped and place[1] != dropped):
            return False
        for token in self._added:
            for text in self._texts(token):
                if text[-1:].isalnum() and (token.rstrip or dropped):  # what follows it is read on its own
                    return False
                if dropped and text.startswith(dropped):
                    return False
        for a, b, c in _tried(place):
            left, whole = self._pieces(a), self._pieces(a + b + c)
            alone = self._pieces((b + c).removeprefix(dropped))
            if whole != left + alone and (self._by_words or "".join(whole) != "".join(left + alone)):
                return False
        return True

    def _texts(self, token: AddedToken) -> Iterable[str]:
        yield token.content
        if token.normalized:
            yield self._normalized(token.content)


def _reading(normalizer: Normalizer | None) -> Callable[[str], str]:
    return str if normalizer is None else lambda text: call(normalizer.normalize_str, text)


def _cutting(cutter: PreTokenizer | None, normalized: Callable[[str], str]) -> Callable[[str], list[str]]:
    """Returns what cuts a text into what no token crosses."""

    def pieces(text: str) -> list[str]:
        if cutter is None:
            return [normalized(text)]
        return [piece for piece, _ in call(cutter.pre_tokenize_str, normalized(text))]

    return pieces


def _names_letters(pattern: Mapping[str, str]) -> bool:
    return any(map(str.isalnum, pattern.get("String", "")))


def _keeps_letters(step: Mapping[str, Any]) -> bool:
    """Whether Replace puts something in the place of a text without letters, or of spaces on end."""
    pattern = step["pattern"]
    known = not _names_letters(pattern) and pattern.get("Regex", r"\s") in OF_SPACES
    return known and (step["content"] != "" or pattern.get("Regex") == OUTER_SPACE)


def _some(characters: str) -> str:
    few, many = (characters.replace(_IDEOGRAPHS, ""), _IDEOGRAPHS if _IDEOGRAPHS in characters else "")
    return few + many[::_STRIDE] + many[:64]


def _tried(place: Place) -> Iterable[tuple[str, str, str]]:
    """Each character beside the others' first."""
    before, after, beyond = map(_some, place)
    yield from ((a, after[0], beyond[0]) for a in before)
    yield from ((before[0], b, beyond[0]) for b in after)
    yield from ((before[0], after[0], c) for c in beyond)


def _class(characters: str) -> str:
    """What stands in the brackets of a regular expression."""
    others = characters.replace(_IDEOGRAPHS, "")
    return re.escape(others) + (f"{_IDEOGRAPHS[0]}-{_IDEOGRAPHS[-1]}" if others != characters else "")


def _pattern(places: Iterable[Place]) -> re.Pattern[str] | None:
    """Matches the empty text at every such place."""
    each = [f"(?<=[{_class(a)}])(?=[{_class(b)}][{_class(c)}])" for a, b, c in places]
    return re.compile("|".join(each)) if each else None
