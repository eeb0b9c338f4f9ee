"""From a continuation's token ids to its text, for whoever reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol


def n_overlapping(text: str, mark: str) -> int:
    """Length of the longest proper beginning of `mark` that ends `text`: what comes next may complete it."""
    for n in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:n]):
            return n
    return 0


class TextDecoder(Protocol):
    """The incremental detokenizer: never shows half a character; all pieces joined are the text.

    After an error it is as it was before. A copy of one goes on by itself.
    """

    def push(self, token_id: int, /) -> str: ...
    def push_many(self, token_ids: Iterable[int], /) -> str: ...
    def flush(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Spelling:
    """How ids become text, where no stop string has to be looked for in it.

    make_decoder  makes an incremental detokenizer
    hidden        ids that end a text and are none of it; one of the first min_tokens does not end it
    """

    make_decoder: Callable[[], TextDecoder]
    hidden: frozenset[int]
    min_tokens: int

    def n_shown(self, begin: int, token_ids: list[int]) -> int:
        """How many of these ids, of which the first is the text's id number `begin`, are text."""
        may_end = begin + len(token_ids) > self.min_tokens
        return len(token_ids) - bool(may_end and token_ids and token_ids[-1] in self.hidden)
