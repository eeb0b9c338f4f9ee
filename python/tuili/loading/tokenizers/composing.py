"""Letters and their accents as sentencepiece's normalizer has them.

It looks for the longest text in its table, at every place. The `tokenizers` library looks a letter up with
its accents only if all have less than six bytes, takes the shortest text, and drops the others: "ệ" in three
characters, as some systems write Vietnamese, would lose its tone, and "ｶﾞ" stay two characters.
"""

from __future__ import annotations

import bisect
import re
import struct
from dataclasses import dataclass

# What follows a letter in a table of NFKC, and accents that the library would drop. Vowel signs that no table
# joins with a letter are not here: texts are full of them, and the library drops only a foreign letter's.
_MARKS = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0711\u0730-\u074a"
    "\u07a6-\u07b0\u07eb-\u07f3\u07fd\u093c\u09be\u09d7\u0b3e\u0b56\u0b57\u0bbe\u0bd7\u0c56\u0cc2\u0cd5\u0cd6\u0d3e"
    "\u0d57\u0dca\u0dcf\u0ddf\u102e\u1161-\u11ff\u1ab0-\u1ace\u1b35\u1dc0-\u1dff\u20d0-\u20f0\u3099\u309a"
    "\u3131-\u318e\ufe00-\ufe0f\ufe20-\ufe2f\uff9e\uff9f\uffa0-\uffdc]+"
    "|(?<=\r)\n"
)
_MAX_KEY_BYTES = 64  # the longest of NFKC have 12; a damaged table may lead in a circle
_MAX_VALUE_BYTES = 256  # so that a text grows by a factor at most


@dataclass(frozen=True)
class Composed:
    """text   what the library is given
    edits  (begin, end) in `text` and (begin, end) in the original of what is not the same, in order
    """

    text: str
    edits: list[tuple[int, int, int, int]]

    def place(self, begin: int, end: int) -> tuple[int, int]:
        """Where characters of `text` are from."""
        return self._original(begin, 2), self._original(end, 3)

    def _original(self, at: int, side: int) -> int:
        i = bisect.bisect_right(self.edits, at, key=lambda edit: edit[0]) - 1
        if i < 0:
            return at
        new_begin, new_end, begin, end = self.edits[i]
        if new_begin < at < new_end:
            return self.edits[i][side]
        return begin if at == new_begin else at - new_end + end


class Composer:
    """Source of the layout: https://github.com/s-yata/darts-clone, as sentencepiece writes it."""

    def __init__(self, charsmap: bytes) -> None:
        """charsmap  a compiled normalizer that tokenizer_json.py has checked"""
        (n_bytes,) = struct.unpack_from("<I", charsmap)
        self._units = memoryview(charsmap)[4 : 4 + n_bytes].cast("I")
        self._strings = charsmap[4 + n_bytes :]

    def compose(self, text: str) -> Composed:
        """`text` with every letter that has accents, and these, as the table has them."""
        parts, edits, done, length = [], list[tuple[int, int, int, int]](), 0, 0
        for found in _MARKS.finditer(text):
            begin, end = max(found.start() - 1, done), found.end()
            new = self.normalized(text[begin:end])
            if new != text[begin:end]:
                length += begin - done
                parts += [text[done:begin], new]
                edits.append((length, length + len(new), begin, end))
                length += len(new)
                done = end
        return Composed("".join([*parts, text[done:]]), edits)

    def normalized(self, text: str) -> str:
        """What the table makes of a text."""
        data, at, out = text.encode(), 0, []
        while at < len(data):
            size, value = self._longest(data, at)
            out.append(data[at : at + size] if value is None else value)
            at += size
        return b"".join(out).decode(errors="replace")

    def _longest(self, data: bytes, at: int) -> tuple[int, bytes | None]:
        """The bytes of the longest text of the table that is at `at`, or of a character, and its value."""
        units, node, found = self._units, _children(self._units[0]), None
        for i in range(at, min(at + _MAX_KEY_BYTES, len(data))):
            node ^= data[i]
            unit = units[node]
            if unit & (1 << 31 | 0xFF) != data[i]:
                break
            node ^= _children(unit)
            if unit >> 8 & 1:
                begin = units[node] & 0x7FFFFFFF
                end = self._strings.find(b"\0", begin, begin + _MAX_VALUE_BYTES)
                if end >= 0:  # otherwise the table is damaged
                    found = i + 1 - at, self._strings[begin:end]
        if found is not None:
            return found
        size = 1
        while at + size < len(data) and data[at + size] & 0xC0 == 0x80:
            size += 1
        return size, None


def _children(unit: int) -> int:
    return (unit >> 10) << ((unit & 1 << 9) >> 6)
