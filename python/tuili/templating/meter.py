"""What a template may use up: fuel for its work, characters for its texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from tuili.errors import TemplateError
from tuili.templating.marked_text import MarkedText, join, spans_of

_CHARS_PER_TICK = 64


def refuse(problem: str, code: str) -> NoReturn:
    """Raise the TemplateError that ends a rendering."""
    raise TemplateError(f"chat template: {problem}", code=code)


@dataclass
class Meter:
    """What one rendering may still use.

    fuel       ticks; one is the work of evaluating a node of the template, or of reading 64 characters
    max_chars  of the longest text, intermediate ones included
    now        the time that `strftime_now` tells; None for the clock's
    depth      of calls in progress
    """

    fuel: int
    max_chars: int
    now: datetime | None = None
    depth: int = 0

    def spend(self, ticks: int) -> None:
        """Use up `ticks`."""
        self.fuel -= ticks
        if self.fuel < 0:
            refuse("it does too much work for this conversation", "template_fuel")

    def allow(self, n_chars: int) -> None:
        """Use up the work of making a text of this length, or refuse it."""
        if n_chars > self.max_chars:
            refuse(f"it makes a text of more than {self.max_chars} characters", "template_size")
        self.spend(n_chars // _CHARS_PER_TICK)

    def weigh(self, value: Any) -> bool:
        """Use up the work of reading all of `value`, nested values each time they occur; True if it holds
        marks."""
        if isinstance(value, str):
            self.allow(len(value))
            return bool(spans_of(value))
        if value is None or isinstance(value, (bool, float)):
            return False
        has_marks, n_chars, n_items, stack = False, 0, 0, [value]
        while stack:
            item = stack.pop()
            n_items += 1
            if isinstance(item, str):
                n_chars += len(item) + 2
                has_marks = has_marks or bool(spans_of(item))
            elif isinstance(item, dict):
                stack += item.keys()
                stack += item.values()
            elif isinstance(item, (list, tuple)):
                stack += item
            elif isinstance(item, int):
                n_chars += item.bit_length() // 3
            if n_items + len(stack) > self.fuel:
                break
        self.spend(n_items + len(stack))
        self.allow(n_chars)
        return has_marks


METER: ContextVar[Meter] = ContextVar("tuili_template_meter")


def as_text(value: Any) -> str:
    """What printing `value` shows."""
    if isinstance(value, str):
        return value
    meter = METER.get(None)  # none while constants are compiled
    has_marks = meter is not None and meter.weigh(value)
    text = str(value)
    return MarkedText(text) if has_marks else text


def concat(pieces: Iterable[str]) -> str:
    """Joins what a template or macro printed."""
    return join(_measured(pieces))


def join_with(separator: str, pieces: Iterable[str]) -> str:
    """`separator.join(pieces)`."""
    return join(_measured(_interleaved(separator, pieces)))


def _interleaved(separator: str, pieces: Iterable[str]) -> Iterator[str]:
    for i, piece in enumerate(pieces):
        if i:
            yield separator
        yield piece


def _measured(pieces: Iterable[str]) -> Iterator[str]:
    """The same pieces; refuses them once they are too long together."""
    meter, n_chars = METER.get(), 0
    for piece in pieces:
        n_chars += len(piece)
        if n_chars > meter.max_chars:
            meter.allow(n_chars)
        meter.spend((len(piece) + 8 * len(spans_of(piece))) // _CHARS_PER_TICK)
        yield piece
