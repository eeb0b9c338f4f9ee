"""Word vectors: lookup, cosines, neighbours, analogies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili import _core
from tuili.checks import described, function_or_none, integer, invalid, one_of
from tuili.embedding.similarity import checked_vectors
from tuili.errors import InvalidParameterError
from tuili.loading import word_vector_files
from tuili.loading.files import StrPath
from tuili.loading.store import path_text
from tuili.tasks.scores import best

_log = logging.getLogger("tuili")

Query = str | NDArray[np.float32]
_ROWS = 1 << 16  # that are packed together
_SCORES = 1 << 24  # that are held at once
_UNICODE_ERRORS = ("strict", "replace", "ignore")


class WordVectors:
    """The vectors of a file of Word2Vec (text or binary), GloVe or fastText (.vec).

    words         in the file's order, most files' from the most frequent on
    vectors       float32 [n_words, width], read-only
    n_duplicates  entries of the file that are left out because their word had come before
    """

    def __init__(
        self,
        path: StrPath,
        *,
        binary: bool | None = None,
        limit: int | None = None,
        unicode_errors: str = "strict",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Read a file.

        binary          whether it is Word2Vec's binary one; None: as it looks
        limit           the first so many entries; what follows is not read
        unicode_errors  of words that are not UTF-8: "strict" (an error), "replace", "ignore"
        progress        called with (bytes, bytes in all)
        raises          ModelFormatError (word_vectors) naming the line or entry, ModelUnsupportedError for
                        archives and other models, ModelIOError, ModelPathError, EngineOutOfMemoryError
        """
        if binary is not None and not isinstance(binary, bool):
            invalid("binary", f"must be true, false or None, not {described(binary)}")
        if limit is not None:
            limit = integer("limit", limit, 1, 2**31 - 1)
        one_of("unicode_errors", unicode_errors, _UNICODE_ERRORS)
        self.words, self.vectors, self.n_duplicates = word_vector_files.read(
            path_text(path, "path"),
            binary=binary,
            limit=limit,
            unicode_errors=unicode_errors,
            progress=function_or_none("progress", progress),
        )
        self.vectors.flags.writeable = False
        self._ids = {word: i for i, word in enumerate(self.words)}
        self._packed: list[_core.PackedWeight] | None = None
        if self.n_duplicates:
            _log.warning(
                "%d entries repeat a word and are left out: each word keeps its first vector",
                self.n_duplicates,
            )

    def __repr__(self) -> str:
        return f"<tuili.WordVectors, {len(self.words)} words, {self.vectors.shape[1]} numbers each>"

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and word in self._ids

    def __getitem__(self, words: str | Sequence[str]) -> NDArray[np.float32]:
        """The vector of a word, float32 [width], or those of a list of words, [n, width].

        raises  InvalidParameterError (unknown_word) naming the entry
        """
        if isinstance(words, str):
            row: NDArray[np.float32] = self.vectors[self._id(words, "the word")]
            return row
        if not isinstance(words, list | tuple):
            invalid("words", f"must be a str or a list of str, not {described(words)}")
        ids = [self._id(word, f"words: entry {i}") for i, word in enumerate(words)]
        return self.vectors[np.array(ids, np.int64)]

    def similarity(self, a: str, b: str) -> float:
        """The cosine of two words' vectors."""
        one, other = _unit(np.stack([self.vectors[self._id(a, "a")], self.vectors[self._id(b, "b")]]))
        return float(_core.ops.gemm(one[None], _packed(other[None]))[0, 0])

    def most_similar(
        self, positive: Query | Sequence[Query], negative: Query | Sequence[Query] = (), topn: int = 10
    ) -> list[tuple[str, float]]:
        """The words whose vectors have the largest cosine with the sum of some words' unit vectors, without
        these words: (word, cosine), falling; the earlier word of the file first among equals.

        positive, negative  words or vectors float [width], one or a list; the latter are subtracted
        raises              InvalidParameterError, for a word that is not there with the code unknown_word
        """
        rows: list[NDArray[np.float32]] = []
        known: set[int] = set()
        for name, items, sign in (("positive", positive, 1), ("negative", negative, -1)):
            if not isinstance(items, str | np.ndarray | list | tuple):
                invalid(name, f"must be words or vectors, not {described(items)}")
            for i, item in enumerate([items] if isinstance(items, str | np.ndarray) else items):
                entry = f": entry {i}"
                if isinstance(item, np.ndarray):
                    row = checked_vectors(item, self.vectors.shape[1], name, entry=entry, n_dims=(1,))
                else:
                    known.add(self._id(item, name + entry))
                    row = self.vectors[self._ids[item]]
                rows.append(np.float32(sign) * _unit(row.reshape(1, -1)))
        if not rows:
            raise InvalidParameterError("positive and negative are both empty", param="positive")
        total = np.zeros((1, self.vectors.shape[1]), np.float32)
        for row in rows:
            total += row
        return self._nearest(total, integer("topn", topn, 1, 2**31 - 1), known)[0]

    def analogy(self, a: str, b: str, c: str, topn: int = 10) -> list[tuple[str, float]]:
        """What is to `c` as `b` is to `a`: `most_similar([b, c], [a])`.

        Source: Mikolov et al. 2013, "Linguistic regularities in continuous space word representations".
        """
        return self.most_similar([b, c], [a], topn)

    def nearest(self, vectors: NDArray[np.float32], topn: int = 10) -> list[list[tuple[str, float]]]:
        """For each of the vectors, float [n, width], the words of the largest cosine, as `most_similar`."""
        width = self.vectors.shape[1]
        if not isinstance(vectors, np.ndarray):
            invalid("vectors", f"must be a float array [n, {width}], not {described(vectors)}")
        rows = checked_vectors(vectors, width, "vectors", n_dims=(2,))
        return self._nearest(rows, integer("topn", topn, 1, 2**31 - 1), set())

    def _id(self, word: Any, where: str) -> int:
        found = self._ids.get(word) if isinstance(word, str) else None
        if found is None:
            problem = "is not among the file's words" if isinstance(word, str) else "is not a str"
            raise InvalidParameterError(f"{where} {problem}", param="word", code="unknown_word")
        return found

    def _nearest(
        self, queries: NDArray[np.float32], topn: int, without: set[int]
    ) -> list[list[tuple[str, float]]]:
        """The neighbours of each query: the sums of a product's elements do not depend on its other rows."""
        if self._packed is None:
            n = len(self.vectors)
            self._packed = [_packed(_unit(self.vectors[i : i + _ROWS])) for i in range(0, n, _ROWS)]
        found = []
        step = max(1, _SCORES // len(self.words))
        for i in range(0, len(queries), step):
            unit = _unit(queries[i : i + step])
            scores = np.concatenate([_core.ops.gemm(unit, packed) for packed in self._packed], axis=1)
            scores[:, list(without)] = -np.inf
            for row in scores:
                order = best(row, min(topn, len(self.words) - len(without)))
                found.append([(self.words[j], float(row[j])) for j in order])
        return found


def _unit(x: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1; zero where a row is."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    scaled = x / np.where(largest > 0, largest, 1)  # squares stay in range
    return _core.ops.l2_normalize(np.ascontiguousarray(scaled, np.float32))


def _packed(rows: NDArray[np.float32]) -> _core.PackedWeight:
    n, width = rows.shape
    return _core.PackedWeight("f32", n, width, rows.view(np.uint8).reshape(-1))
