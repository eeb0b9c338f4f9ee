"""Text that knows which of its characters came from a user, so that a rendered prompt can be encoded
safely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import SupportsIndex

Spans = tuple[tuple[int, int], ...]


class MarkedText(str):
    """A str with the spans [begin, end) of a user's characters: in order, not empty, not touching each other.

    Joining, slicing and stripping keep the spans exact. What has no method here gives a plain str; `marked`
    then calls all of it a user's.
    """

    __slots__ = ("_spans",)
    _spans: Spans

    def __new__(cls, text: str, spans: Iterable[tuple[int, int]] | None = None) -> MarkedText:
        """`text` with `spans`; all of it a user's if they are not given."""
        self = super().__new__(cls, text)
        if spans is None:
            self._spans = ((0, len(text)),) if text else ()
        else:
            self._spans = tuple(spans)
        return self

    def __str__(self) -> str:
        return self

    def __add__(self, other: str, /) -> MarkedText:
        return join((self, other))

    def __radd__(self, other: str, /) -> MarkedText:
        return join((other, self))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: SupportsIndex | slice, /) -> MarkedText:
        text = super().__getitem__(key)
        if isinstance(key, slice):
            begin, end, step = key.indices(len(self))
            if step != 1:
                return MarkedText(text, None if self._spans else ())
        else:
            begin = key.__index__() % len(self)
            end = begin + 1
        inside = [(a, b) for a, b in self._spans if a < end and b > begin and begin < end]
        return MarkedText(text, [(max(a, begin) - begin, min(b, end) - begin) for a, b in inside])

    def strip(self, chars: str | None = None, /) -> MarkedText:
        """As str.strip."""
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> MarkedText:
        """As str.lstrip."""
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None, /) -> MarkedText:
        """As str.rstrip."""
        return self[: len(super().rstrip(chars))]


def spans_of(text: str) -> Spans:
    """The spans of a user's characters; none for a plain str."""
    return text._spans if isinstance(text, MarkedText) else ()


def join(pieces: Iterable[str]) -> MarkedText:
    """The pieces one after the other, with the spans of all of them."""
    texts: list[str] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for piece in pieces:
        texts.append(piece)
        for begin, end in spans_of(piece):
            if spans and spans[-1][1] == at + begin:
                spans[-1] = (spans[-1][0], at + end)
            else:
                spans.append((at + begin, at + end))
        at += len(piece)
    return MarkedText("".join(texts), spans)


def marked(value: object) -> object:
    """`value` as a user's: every str in it, also in lists, tuples and dicts, keys included."""
    if isinstance(value, str):
        return MarkedText(value)
    if isinstance(value, dict):
        return {marked(key): marked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [marked(item) for item in value]
    if isinstance(value, tuple):
        return tuple(marked(item) for item in value)
    return value
