"""Tokenizers whose ids are not the model's: Marian and M2M100 number sentencepiece's pieces by a file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuili.loading.tokenizers.composing import Composed, Composer
from tuili.loading.tokenizers.tokenizer_json import MAX_TOKENS, bad, components, wrong

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


@dataclass(frozen=True)
class Numbering:
    """ids       the model's id of each id of the library; the unknown token's for what the model lacks
    texts     of each of the model's ids, None for a gap: of what it writes, which may be another vocabulary
    others    what the model has and the library lacks, text -> id: a text that is unknown may be one
    openings  text that only the very beginning of a source makes a token of: ">>fra<<" -> its id
    unknown   (the library's, the model's) id of the unknown token
    apart     whether the model writes another vocabulary than it reads
    """

    ids: list[int]
    texts: list[str | None]
    others: dict[str, int]
    openings: dict[str, int]
    unknown: tuple[int, int]
    apart: bool = False


def numbering(
    library: Mapping[str, int], vocab: Mapping[str, int], target: Mapping[str, int] | None, unknown: str
) -> Numbering:
    """library: the library's id of each text; vocab, target: the model's, of what it reads and writes.

    raises  TokenizerError for ids that are none, and for an unknown token that is not in the vocabulary
    """
    for name, ids in (("vocab.json", vocab), ("target_vocab.json", target or {})):
        limit = min(MAX_TOKENS, 2 * len(ids) + 1024)
        if not all(type(i) is int and 0 <= i < limit for i in ids.values()):
            wrong(name, f"ids from 0 to {limit - 1}", "vocab_id")
        if len(set(ids.values())) != len(ids):
            bad(name, "two tokens have one id", "vocab_id")
    if unknown not in vocab:
        bad("unk_token", f"{unknown} is not in vocab.json", "special_id")
    numbers = [vocab[unknown]] * (1 + max(library.values()))
    for text, i in library.items():
        numbers[i] = vocab.get(text, vocab[unknown])
    written = vocab if target is None else target
    texts: list[str | None] = [None] * (1 + max(written.values(), default=0))
    for text, i in written.items():
        texts[i] = text
    others = {text: i for text, i in vocab.items() if text not in library}
    openings = {text: i for text, i in others.items() if text.startswith(">>") and text.endswith("<<")}
    own = library[unknown], vocab[unknown]
    return Numbering(numbers, texts, others, openings, own, apart=target is not None)


class NumberedBackend:
    """A tokenizer of the library, with the model's ids."""

    def __init__(self, inner: Tokenizer, numbering: Numbering, *, opens: bool) -> None:
        """opens  whether the beginning of a text may be one of the openings"""
        self.inner, self._numbering, self._opens = inner, numbering, opens
        self._composer = _composer(inner)

    def encode(self, text: str, add_special_tokens: bool = True) -> NumberedEncoding:
        n_opening, ids = self._opening(text)
        composed = self._composed(text[n_opening:])
        encoding = self.inner.encode(composed.text, add_special_tokens=add_special_tokens)
        return NumberedEncoding(encoding, self._numbering, composed, ids, n_opening, self._composer)

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[NumberedEncoding]:
        opening = [self._opening(text) for text in texts]
        rest = [self._composed(text[n:]) for text, (n, _) in zip(texts, opening, strict=True)]
        encodings = self.inner.encode_batch(
            [composed.text for composed in rest], add_special_tokens=add_special_tokens
        )
        return [
            NumberedEncoding(encoding, self._numbering, composed, ids, n, self._composer)
            for encoding, composed, (n, ids) in zip(encodings, rest, opening, strict=True)
        ]

    def _composed(self, text: str) -> Composed:
        return Composed(text, []) if self._composer is None else self._composer.compose(text)

    def _opening(self, text: str) -> tuple[int, list[int]]:
        """How many characters of the text are its opening, and its token; an unknown one is unknown."""
        if not self._opens or not self._numbering.openings or not text.startswith(">>") or "<<" not in text:
            return 0, []
        n = text.index("<<") + 2
        return n, [self._numbering.openings.get(text[:n], self._numbering.unknown[1])]


def _composer(inner: Tokenizer) -> Composer | None:
    """The composer of the compiled normalizer, if there is one."""
    if inner.normalizer is None:
        return None
    steps = list(components("normalizer", json.loads(inner.normalizer.__getstate__())))
    tables = [step["precompiled_charsmap"] for name, step in steps if name == "Precompiled"]
    return Composer(base64.b64decode(tables[0])) if tables else None


class NumberedEncoding:
    """What tokenization/ reads of an encoding, with the model's ids."""

    def __init__(
        self,
        encoding: Encoding,
        numbering: Numbering,
        composed: Composed,
        opening: list[int],
        n_opening: int,
        composer: Composer | None,
    ) -> None:
        self._encoding, self._composed = encoding, composed
        self._n_before, self._n_opening = len(opening), n_opening
        library = encoding.ids
        self.ids = opening + [numbering.ids[i] for i in library]
        unknown, others = numbering.unknown[0], numbering.others
        for at, i in enumerate(library, len(opening)):
            place = encoding.token_to_chars(at - len(opening)) if i == unknown and others else None
            if place is not None:
                text = composed.text[place[0] : place[1]]
                text = text if composer is None else composer.normalized(text)
                self.ids[at] = others.get(text, self.ids[at])

    def token_to_chars(self, i: int) -> tuple[int, int] | None:
        """Where token i is from, as [begin, end) in characters; None for one around the text."""
        if i < self._n_before:
            return 0, self._n_opening
        found = self._encoding.token_to_chars(i - self._n_before)
        if found is None:
            return None
        begin, end = self._composed.place(*found)
        return begin + self._n_opening, end + self._n_opening

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Where each token is from; (0, 0) for those around the text."""
        return [self.token_to_chars(i) or (0, 0) for i in range(len(self))]

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 for tokens around the text."""
        return [0] * self._n_before + list(self._encoding.special_tokens_mask)

    def __len__(self) -> int:
        return len(self.ids)
