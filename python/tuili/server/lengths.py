"""Which texts cannot fit into a context, told before they are read closely.

A text is encoded in one call, and what the call made, tokens by the hundred thousand, is freed in another
that lets no other thread run. A text that is too long is found out by its beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tuili.errors import PromptTooLongError
from tuili.tokenization.tokenizer import Tokenizer

MAX_BYTES_PER_TOKEN = 256  # of a text; one that has more bytes than so many of all tokens is not tokenized
SHORT_BYTES = 16 << 10  # are encoded at once
PART_CHARS = 16 << 10
MAX_PART_CHARS = 256 << 10
_SPACE = re.compile(r"\s")
MARGIN = 1.25  # a text that is cut into parts has more tokens than in one piece, though never by so much


class Lengths:
    """The lengths of texts for a context of `max_tokens`."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._max_bytes = MAX_BYTES_PER_TOKEN * max_tokens

    def check(self, value: Any) -> None:
        """Refuse what cannot fit.

        value   a text, or lists and objects of JSON with texts in them, of which only their bytes can tell
        raises  PromptTooLongError
        """
        n_bytes, stack = 0, [value]
        while stack and n_bytes <= self._max_bytes:
            item = stack.pop()
            if isinstance(item, str):
                n_bytes += len(item.encode("utf-8", "surrogatepass"))
            elif isinstance(item, list | dict):
                stack += [*item, *item.values()] if isinstance(item, dict) else item
        if n_bytes > self._max_bytes:
            raise PromptTooLongError(
                f"the text has more than {self._max_bytes} bytes; the context is shorter"
            )
        most = int(MARGIN * self._max_tokens)
        if isinstance(value, str) and n_bytes > max(SHORT_BYTES, most):
            self._tokenizer.check_fits(value, self._max_tokens)
            self._count(value, most)

    def _count(self, text: str, most: int) -> None:
        n_tokens = 0
        for part in _parts(text):
            n_tokens += len(self._tokenizer.encode(part, add_special=False))
            if n_tokens > most:
                raise PromptTooLongError(
                    f"the text has more than {most} tokens; the context has room for {self._max_tokens}"
                )


def _parts(text: str) -> Iterator[str]:
    """`text` in parts that end before white space: one unknown token may stand for a word, however long it
    is, and half of it be many. Where there is none for long, as in Chinese, a part ends all the same: so few
    do that MARGIN allows for it."""
    at = 0
    while at < len(text):
        found = _SPACE.search(text, at + PART_CHARS)
        end = min(len(text) if found is None else found.start(), at + MAX_PART_CHARS)
        yield text[at:end]
        at = end
