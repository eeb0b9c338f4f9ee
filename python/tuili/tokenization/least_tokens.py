"""How many tokens a text has at least: what cannot fit is refused in milliseconds, before it is tokenized.

Two bounds, of which the greater holds. Both look only at characters of which it is known that each becomes a
part of one token: no normalizer drops them or joins them with others, and they are in the vocabulary, so that
none vanishes in a run of unknown ones.

Weights: if a character weighs 1 / (the length of the longest token that holds it), no token weighs more than
1, so a text has at least as many tokens as it weighs.
Words: two words with a space between them are two tokens, unless a token has such a space inside.

Where nothing is known of a tokenizer, both are 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuili.loading.tokenizers.calls import call
from tuili.loading.tokenizers.numbering import NumberedBackend
from tuili.loading.tokenizers.pre_tokenizers import OUTER_SPACE, SPACES
from tuili.loading.tokenizers.token_bytes import BYTE_OF
from tuili.loading.tokenizers.tokenizer_json import components

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

PART_CHARS = 1 << 18
_N_CODE_POINTS = 0x110000
_MARKS = 0x300  # the first character that may join with the one before it
# What mapping normalizers leave alone or map one to one, next to each other: checked one by one.
_LETTERS = (
    (0x21, 0x7F),
    (0x410, 0x450),
    (0x3041, 0x3097),
    (0x30A1, 0x30FB),
    (0x4E00, 0xA000),
    (0xAC00, 0xD7A4),
)
PLAIN = ("Prepend", "Strip", "Replace", "ByteLevel")
MAPPING = ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "BertNormalizer", "Precompiled")
OF_SPACES = (SPACES, OUTER_SPACE, r"\n", r"\s+", r"\s", r"\s+$", r"\s{2,}|[\n\r\t]")
_SPACE = "[ ▁Ġ]"
_BETWEEN_WORDS = re.compile(rf"(?<=[A-Za-z0-9]){_SPACE}(?=[A-Za-z0-9])")
_BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
_CUTS_WORDS = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")

Floats = NDArray[np.float32]


class LeastTokens:
    """How many tokens texts have at least, by one tokenizer. Making it takes half a second for 250,000."""

    def __init__(self, backend: Tokenizer) -> None:
        self._opens = isinstance(backend, NumberedBackend)
        made = _Vocabulary(backend.inner if isinstance(backend, NumberedBackend) else backend)
        self._weights, self._joins = made.weights(), made.joins_by_itself
        self._words, self._n_inside = made.word_characters(self._weights), made.n_inside
        self._apart = self._weights > 0 if self._joins else made.firm() | (self._weights > 0)

    def of(self, text: str, enough: int) -> int:
        """A number of tokens that `text` has at least; looks no further once it is more than `enough`."""
        if self._opens and text.startswith(">>"):  # whatever stands there may be one token
            return 0
        weight, n_borders, least = 0.0, 0, 0
        for at in range(0, len(text), PART_CHARS):
            part = text[at : at + PART_CHARS].encode("utf-32-le", "surrogatepass")
            codes = np.frombuffer(part, "<u4")
            weights, words = self._weights[codes], self._words[codes]
            if not self._joins:
                alone = np.concatenate(([False], self._apart[codes], [False]))
                alone = alone[:-2] & alone[2:]
                weights, words = weights * alone, words & alone
            weight += float(weights.sum(dtype=np.float64))
            n_borders += int((words[:-2] & (codes[1:-1] == 0x20) & words[2:]).sum())
            of_words = (n_borders + 1) // (self._n_inside + 1) if n_borders else 0
            least = max(math.ceil(weight * (1 - 1e-6)), of_words)  # float32 rounds 1/3 up
            if least > enough:
                break
        return least


class _Vocabulary:
    """What a tokenizer's parts say about the characters of texts.

    joins_by_itself  no normalizer makes one character of two, so that neighbours do not matter
    n_inside         spaces between words within one token, at most
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend, self._model = backend, backend.model
        self._normalizers, self._cutters = parts_of("normalizer", backend), parts_of("pre_tokenizer", backend)
        self._kind = type(self._model).__name__
        names = [name for name, _ in (*self._normalizers, *self._cutters)]
        self._of_bytes = "ByteLevel" in names
        self.joins_by_itself = not {*names} & {*MAPPING}
        self._added = _added(backend)
        self._replaced, self._known = _replaced(self._normalizers)
        self._known &= all(name in (*PLAIN, *MAPPING) for name, _ in self._normalizers)
        self._known &= names.count("ByteLevel") < 2  # bytes of bytes
        self._known &= all(_keeps_letters(name, step) for name, step in self._cutters)
        self._tokens = [*call(backend.get_vocab, False)] if self._known and self._merges() else []
        self.n_inside = max((len(_BETWEEN_WORDS.findall(text)) for text in self._written()), default=0)

    def _merges(self) -> bool:
        """Whether the model's tokens are, one after the other, the text."""
        affixes = ("continuing_subword_prefix", "end_of_word_suffix")
        return self._kind in ("BPE", "Unigram") and not any(
            getattr(self._model, name, None) for name in affixes
        )

    def _written(self) -> Iterable[str]:
        yield from self._tokens
        for texts in self._added:
            yield from texts

    def weights(self) -> Floats:
        """The weight of each code point."""
        found = np.zeros(_N_CODE_POINTS, np.float32)
        if not self._known or (self._of_bytes and self._kind != "BPE"):
            return found
        weights = self._token_weights()
        if self.joins_by_itself and self._of_bytes:
            found[:] = _of_code_points(weights)
        elif self.joins_by_itself:
            if getattr(self._model, "byte_fallback", False) and {*_BYTE_TOKENS} <= {*self._tokens}:
                found[:] = 1.0 / max(map(len, self._written()))  # what is in no token becomes its bytes
            for character, weight in weights.items():
                found[ord(character)] = weight
        else:
            for code, mapped in self._mapped():
                units = [BYTES[byte] for byte in mapped.encode()] if self._of_bytes else [mapped]
                each = [weights.get(unit, 0.0) for unit in units]
                found[code] = sum(each) if all(each) else 0.0
        spaces = [code for code in range(0x3001) if chr(code).isspace()]
        found[[*spaces, ord("▁"), *map(ord, self._replaced)]] = 0.0
        return found

    def _token_weights(self) -> dict[str, float]:
        """The weight of each character that is itself a token; bytes are those of the byte-level alphabet."""
        longest: dict[str, int] = {}
        alone = self._alone()
        for token in sorted(self._tokens, key=len):
            longest.update(dict.fromkeys(token, len(token)))
        for texts in self._added:
            units = [*texts, *map(in_bytes, texts)] if self._of_bytes else texts
            n = max(map(len, units))
            for unit in set().union(*units):
                longest[unit] = max(longest.get(unit, 1), n)
        return {unit: 1.0 / longest.get(unit, 1) for unit in alone}

    def _alone(self) -> set[str]:
        """Characters that are never a part of an unknown token, nor dropped."""
        if self._tokens:
            found = {token for token in self._tokens if len(token) == 1}
            # A text may spell the unknown token, and unknown ones become one. Where a special token of one
            # character is ordinary text, something else stands for it (see Tokenizer._encode_inert).
            single = [text for texts in self._added for text in texts if len(text) == 1]
            return found.difference(self._unknown(found), single)
        if self._kind != "WordPiece" or all(name != "BertPreTokenizer" for name, _ in self._cutters):
            return set()
        found = {chr(code) for code in range(0x21, 0x7F) if not chr(code).isalnum()}  # each is a word
        chinese = any(step.get("handle_chinese_chars") for _, step in self._normalizers)
        if chinese and self._cuts_words("中中"):
            found |= {chr(code) for code in range(0x4E00, 0xA000)}
        return found

    def _unknown(self, known: set[str]) -> str:
        """The text of the token that a Unigram model makes of characters that it does not know."""
        if self._kind != "Unigram":
            return ""
        other = next(chr(code) for code in range(0x10FFFF, 0, -1) if chr(code) not in known)
        tokens = call(self._model.tokenize, other)
        return self._model.id_to_token(tokens[0].id) or "" if len(tokens) == 1 else ""

    def firm(self) -> NDArray[np.bool_]:
        """Which code points before the first mark are not dropped, so that none joins what is around them."""
        found = np.zeros(_N_CODE_POINTS, np.bool_)
        found[:_MARKS] = [
            re.fullmatch(r"x[^\u0300-\U0010ffff].*x", self._normalized(f"x{chr(code)}x"), re.DOTALL)
            is not None
            for code in range(_MARKS)
        ]
        return found

    def _mapped(self) -> Iterable[tuple[int, str]]:
        """(code point, the character that it becomes) of those that become one."""
        for begin, end in _LETTERS:
            for code in range(begin, end):
                mapped = self._normalized(chr(code)).replace("▁", " ").strip()
                if len(mapped) == 1 and mapped not in self._replaced:
                    yield code, mapped

    def word_characters(self, weights: Floats) -> NDArray[np.bool_]:
        """Which code points words are made of, as far as `n_inside` counts them."""
        found = np.zeros(_N_CODE_POINTS, np.bool_)
        if not self._known or not self._keeps_spaces():
            return found
        letters = [code for code in range(0x80) if chr(code).isalnum() and chr(code) not in self._replaced]
        found[letters] = [weights[code] > 0 and _is_letter(self._normalized(chr(code))) for code in letters]
        if self._kind in ("WordPiece", "WordLevel") and self._cuts_words("a 1"):
            found[letters] = [self._normalized(chr(code)).strip() != "" for code in letters]
        return found

    def _cuts_words(self, words: str) -> bool:
        """Whether the pre-tokenizers cut where a space is, and see it as one."""
        names = {name for name, _ in self._cutters}
        cut = bool(names & {*_CUTS_WORDS}) and not names & {"Metaspace", "ByteLevel"}
        return cut and " " in self._normalized(words).strip()

    def _keeps_spaces(self) -> bool:
        others = any(step.get("replacement", "▁") != "▁" for _, step in self._cutters)
        found = re.search(rf"a({_SPACE})1", self._normalized("xa 1x"))
        if others or found is None:
            return False
        if self._kind != "BPE" or self._model.unk_token:
            return True
        cut = any(name == "Metaspace" for name, _ in self._cutters)
        space = "Ġ" if self._of_bytes else "▁" if cut else found[1]
        return space in self._tokens  # otherwise it is dropped, and the words around it may become one token

    def _normalized(self, text: str) -> str:
        normalizer = self._backend.normalizer
        return text if normalizer is None else call(normalizer.normalize_str, text)


BYTES = {byte: character for character, byte in BYTE_OF.items()}


def in_bytes(text: str) -> str:
    return "".join(BYTES[byte] for byte in text.encode())


def _is_letter(text: str) -> bool:
    """Whether _BETWEEN_WORDS sees it as a part of a word."""
    letter = text.replace("▁", " ").strip()
    return len(letter) == 1 and letter.isascii() and letter.isalnum()


def parts_of(kind: str, backend: Tokenizer) -> list[tuple[str, Mapping[str, Any]]]:
    part = getattr(backend, kind)
    return [] if part is None else list(components(kind, json.loads(part.__getstate__())))


def _added(backend: Tokenizer) -> list[tuple[str, ...]]:
    """The texts of each added token: its own, and the normalized one."""
    tokens: Iterable[AddedToken] = call(backend.get_added_tokens_decoder).values()
    texts = [token.content for token in tokens]
    normalizer = backend.normalizer
    return [(text,) if normalizer is None else (text, call(normalizer.normalize_str, text)) for text in texts]


def _replaced(normalizers: list[tuple[str, Mapping[str, Any]]]) -> tuple[set[str], bool]:
    """The characters that Replace takes away, and whether these are all, as they stand in a text."""
    characters, known, before = set[str](), True, set[str]()
    for name, step in normalizers:
        if name == "Replace":
            taken = {*step["pattern"].get("String", "")} - {" ", "▁"}
            known &= step["pattern"].get("Regex", SPACES) in OF_SPACES
            known &= not taken or not before & {"ByteLevel", *MAPPING}
            characters |= taken
        before.add(name)
    return characters, known


def _keeps_letters(name: str, step: Mapping[str, Any]) -> bool:
    """Whether a pre-tokenizer drops white space at most."""
    if name == "CharDelimiterSplit":
        return str(step["delimiter"]).isspace()
    if step.get("behavior") != "Removed":
        return True
    pattern = step.get("pattern", {})
    return not step.get("invert") and (
        pattern.get("Regex") in OF_SPACES or str(pattern.get("String", "x")).isspace()
    )


def _of_code_points(weights: Mapping[str, float]) -> Floats:
    """The sum of each code point's bytes in UTF-8."""
    of = np.array([weights.get(BYTES[byte], 0.0) for byte in range(256)], np.float32)
    codes = np.arange(_N_CODE_POINTS)
    low, middle, high = (0x80 | (codes >> shift & 0x3F) for shift in (0, 6, 12))
    return np.select(
        [codes < 0x80, codes < 0x800, codes < 0x10000],
        [
            of[codes & 0x7F],
            of[(0xC0 | codes >> 6) & 0xFF] + of[low],
            of[(0xE0 | codes >> 12) & 0xFF] + of[middle] + of[low],
        ],
        of[0xF0 | codes >> 18] + of[high] + of[middle] + of[low],
    )
