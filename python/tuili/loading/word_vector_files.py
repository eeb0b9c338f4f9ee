"""Files of word vectors: Word2Vec's text and binary files, GloVe's, fastText's .vec.

    text     a line of two integers, how many words and how many numbers each has, which GloVe's files lack;
             then per line a word, which may hold spaces (GloVe 840B), and its numbers, decimal
    binary   the same first line; then per word its bytes, a space, and its numbers as little-endian float32

They are read once from front to back, by copy. What is kept grows with what was read: a first line that
promises more than the file can hold is an error before anything is taken for it.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from tuili.errors import EngineOutOfMemoryError, ModelFormatError, ModelUnsupportedError
from tuili.loading.files import RegularFile, StrPath, open_regular, shown

Progress = Callable[[int, int], None]  # (bytes read, in all)

MAX_WIDTH = 1 << 14  # numbers of a vector
MAX_WORD_BYTES = 1 << 12
_MAX_LINE_BYTES = MAX_WORD_BYTES + 64 * MAX_WIDTH
_PIECE_BYTES = 1 << 22
_FIRST_BYTES = 1 << 18  # of vectors, for which there is room from the first one on

# What a file begins with -> what it is, if it is none of these.
_OTHERS = {
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\xba\x16\x4f\x2f": "fastText's own .bin; its .vec has the word vectors",
    b"GGUF": "a GGUF model",
}


class WordFile(NamedTuple):
    """words      in the file's order, each once
    vectors       float32 [n_words, width]
    n_duplicates  entries left out because their word had come before
    """

    words: list[str]
    vectors: NDArray[np.float32]
    n_duplicates: int


def read(
    path: StrPath,
    *,
    binary: bool | None = None,
    limit: int | None = None,
    unicode_errors: str = "strict",
    progress: Progress | None = None,
) -> WordFile:
    """The words and vectors of a file.

    binary          None: as the bytes after the first line look
    limit           read so many entries and leave the rest unread
    unicode_errors  of words that are not UTF-8, as bytes.decode has it; "strict" makes them an error
    raises          ModelFormatError (word_vectors) naming the line, or of a binary file the entry;
                    ModelUnsupportedError (word_vectors) for other files; EngineOutOfMemoryError; and as
                    `open_regular`
    """
    with open_regular(path) as file:
        reader = _Reader(file, limit, unicode_errors, progress)
        try:
            with np.errstate(over="ignore"):
                reader.read(binary=binary)
        except MemoryError:
            raise EngineOutOfMemoryError(
                f"{reader.what}: no memory for more than {len(reader.words)} words; limit= reads fewer"
            ) from None
        file.check_unchanged()
    return WordFile(list(reader.words), reader.vectors, reader.n_duplicates)


class _Reader:
    def __init__(
        self, file: RegularFile, limit: int | None, unicode_errors: str, progress: Progress | None
    ) -> None:
        self.what = shown(file.path, 256)
        self.words: dict[str, None] = {}
        self.vectors: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self.n_duplicates = 0
        self._file, self._limit, self._unicode_errors = file, limit, unicode_errors
        self._progress = progress
        self._promised: int | None = None  # entries, by the first line
        self._width = 0
        self._begin = 0  # of line 1
        self._n_read = 0  # entries

    def read(self, *, binary: bool | None) -> None:
        start = bytes(self._file.pread(min(_MAX_LINE_BYTES, self._file.size), 0))
        for magic, kind in _OTHERS.items():
            if start.startswith(magic):
                raise ModelUnsupportedError(f"{self.what} is {kind}", code="word_vectors")
        if start.startswith(codecs.BOM_UTF8):
            self._begin = len(codecs.BOM_UTF8)
        first, end_of_line, rest = start[self._begin :].partition(b"\n")
        self._take_first_line(first, rest)
        if binary is None:
            binary = self._promised is not None and _looks_binary(rest, self._width)
        if binary and self._promised is None:
            self._wrong("line 1", "is not two integers, as a binary file begins")
        if binary:
            self._check_promise(self._begin + len(first) + 1, MAX_WORD_BYTES, 4 * self._width + 1)
            self._read_binary(self._begin + len(first) + len(end_of_line))
        else:
            self._check_promise(self._begin + len(first) + 1, 0, 2 * self._width)
            self._read_text()
        if not self.words:
            self._wrong("the file", "has no words")
        self.vectors.resize((len(self.words), self._width), refcheck=False)
        if self._progress is not None:
            self._progress(self._file.size, self._file.size)

    def _wrong(self, where: str, problem: str) -> NoReturn:
        raise ModelFormatError(f"{self.what}: {where} {problem}", code="word_vectors")

    # ---- the first line

    def _take_first_line(self, line: bytes, rest: bytes) -> None:
        """Two integers, or the first word of a file without a first line of its own.

        rest  the lines behind it, which tell a word and its numbers from what only looks so
        """
        fields = line.split()
        if len(fields) == 2 and all(field.isdigit() and len(field) < 19 for field in fields):
            self._promised, self._width = int(fields[0]), int(fields[1])
            if not 1 <= self._width <= MAX_WIDTH:
                self._wrong("line 1", f"says {self._width} numbers a word; supported: 1 to {MAX_WIDTH}")
            return
        self._width = _n_numbers(line)
        if not 1 <= self._width <= MAX_WIDTH:
            self._wrong("line 1", "is neither two integers nor a word and numbers")
        n_next = _n_numbers(rest.partition(b"\n")[0])
        if self._width < n_next:  # it would be taken for a word with spaces, and so would all
            self._wrong(
                "line 1", f"is neither two integers nor a word and {n_next} numbers, as line 2 has them"
            )

    def _check_promise(self, begin: int, slack: int, least: int) -> None:
        """Check that the file is long enough for as many entries of at least so many bytes."""
        if self._promised is None:
            return
        wanted = self._promised if self._limit is None else min(self._promised, self._limit)
        if wanted * least > self._file.size - begin + least + slack:
            self._wrong(
                "line 1",
                f"says {self._promised} words of {self._width} numbers; the file's {self._file.size} bytes "
                "hold fewer: it is cut short",
            )

    # ---- text

    def _read_text(self) -> None:
        lines = self._lines()
        if self._promised is not None:
            next(lines)
        number, blank = 1, 0
        for number, line in lines:
            if self._is_full():
                break
            if not line.strip():
                blank = blank or number
                continue
            if blank:
                self._wrong(f"line {blank}", "is blank, and lines with words follow")
            if self._n_read == self._promised:
                self._wrong(f"line {number}", f"is more than the {self._promised} words of line 1")
            self._take_line(number, line)
        if self._promised is not None and self._n_read < self._promised and not self._is_full():
            self._wrong(
                f"line {number}", f"is the last, with {self._n_read} words of the {self._promised} of line 1"
            )

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Each line with its number, the first one 1, without what ends it."""
        n_lines, rest, size = 0, b"", self._file.size
        for offset in range(self._begin, size, _PIECE_BYTES):
            lines = (rest + self._file.pread(min(_PIECE_BYTES, size - offset), offset)).split(b"\n")
            rest = lines.pop()
            for line in lines:
                n_lines += 1
                yield n_lines, line
            if len(rest) > _MAX_LINE_BYTES:
                self._wrong(f"line {n_lines + 1}", f"has more than {_MAX_LINE_BYTES} bytes")
            if self._progress is not None:
                self._progress(offset, size)
        if rest:
            yield n_lines + 1, rest

    def _take_line(self, number: int, line: bytes) -> None:
        where = f"line {number}"
        fields = _fields(line, self._width)
        if len(fields) <= self._width:
            self._wrong(
                where, f"must have {self._width} numbers behind its word, not {max(len(fields) - 1, 0)}"
            )
        try:
            values = list(map(float, fields[1:]))
        except ValueError:
            values = []
        if not values or b"_" in line[len(fields[0]) :]:  # float() takes 1_000
            bad = next((field for field in fields[1:] if not _is_number(field)), b"")
            self._wrong(where, f"holds '{_quoted(bad)}' where a number of its {self._width} is expected")
        self._add(where, fields[0].rstrip(b" "), np.array(values, np.float32))

    # ---- binary

    def _read_binary(self, begin: int) -> None:
        size, row_bytes = self._file.size, 4 * self._width
        data, at, offset = b"", 0, begin  # data[at:] is what has been read up to `offset`, and not yet taken
        while self._n_read != self._promised and not self._is_full():
            where = f"entry {self._n_read + 1} of {self._promised}"
            end = data.find(b" ", at, at + MAX_WORD_BYTES + 2)
            if (end < 0 or end + 1 + row_bytes > len(data)) and offset < size:
                n = min(max(_PIECE_BYTES, row_bytes + MAX_WORD_BYTES), size - offset)
                data, at, offset = data[at:] + self._file.pread(n, offset), 0, offset + n
                end = data.find(b" ", 0, MAX_WORD_BYTES + 2)
                if self._progress is not None:
                    self._progress(offset, size)
            if end < 0 and len(data) - at > MAX_WORD_BYTES:
                self._wrong(where, f"has no space after {MAX_WORD_BYTES} bytes of its word")
            if end < 0 or end + 1 + row_bytes > len(data):
                self._wrong(where, "is cut short: the file ends in it")
            word = data[at:end].lstrip(b"\n")
            self._add(where, word, np.frombuffer(data, "<f4", self._width, end + 1))
            at = end + 1 + row_bytes
        n_left = len(data[at:].strip(b"\r\n")) + size - offset
        if not self._is_full() and n_left > 0:
            self._wrong("the file", f"has {n_left} bytes behind the {self._promised} words of line 1")

    # ---- both

    def _is_full(self) -> bool:
        return self._n_read == self._limit

    def _add(self, where: str, word: bytes, row: NDArray[np.float32]) -> None:
        if not word or len(word) > MAX_WORD_BYTES:
            self._wrong(where, f"must have a word of 1 to {MAX_WORD_BYTES} bytes, not of {len(word)}")
        if not np.isfinite(row).all():
            self._wrong(where, "holds a number that is not finite in float32")
        try:
            text = word.decode("utf-8", self._unicode_errors)
        except UnicodeDecodeError as error:
            self._wrong(
                where,
                f"has a word whose byte {error.start} is not UTF-8: convert a file that has another encoding "
                "(iconv -f gb18030 -t utf-8); of a damaged word, unicode_errors='replace' takes the rest",
            )
        self._n_read += 1
        n = len(self.words)
        self.words.setdefault(text)
        if len(self.words) == n:
            self.n_duplicates += 1
            return
        if n == len(self.vectors):
            n_rows = max(_FIRST_BYTES // (4 * self._width), n + n // 2 + 1)
            self.vectors.resize((n_rows, self._width), refcheck=False)
        self.vectors[n] = row


def _fields(line: bytes, width: int) -> list[bytes]:
    """A word and its numbers."""
    return line.replace(b"\t", b" ").rstrip(b" \r").rsplit(b" ", width)


def _n_numbers(line: bytes) -> int:
    """How many numbers a line ends in; what it begins with is a word."""
    numbers = 0
    fields = [field for field in line.replace(b"\t", b" ").rstrip(b" \r").split(b" ") if field]
    for field in reversed(fields[1:]):  # where two spaces part some, `_fields` finds no number between them
        if not _is_number(field):
            break
        numbers += 1
    return numbers


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return b"_" not in field


def _quoted(data: bytes) -> str:
    return shown(data[:64].decode("utf-8", "replace"), 32)


def _looks_binary(rest: bytes, width: int) -> bool:
    """Whether what follows the first line is no line of text, and its word is followed by bytes that no text
    has."""
    fields = _fields(rest.partition(b"\n")[0], width)
    if len(fields) > width and all(map(_is_number, fields[1:])):
        return False
    begin = rest.find(b" ") + 1
    values = rest[begin : begin + 4 * width]
    if any(byte < 32 and byte not in b"\t\r\n" for byte in values):
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(values)
    except UnicodeDecodeError:
        return True
    return False
