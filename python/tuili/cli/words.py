"""`tuili similar`: the nearest words of a file of word vectors."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="of Word2Vec (text or binary), GloVe or fastText (.vec)")
    parser.add_argument("words", nargs="+", metavar="WORD", help="whose vectors are added")
    parser.add_argument(
        "--minus", action="append", default=[], metavar="WORD", help="a word whose vector is subtracted"
    )
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many (default 10)")
    parser.add_argument("--limit", type=int, metavar="N", help="read the first so many words alone")


def run(options: argparse.Namespace, bar: Callable[[int, int], None] | None) -> dict[str, Any]:
    """What to print, as JSON has it.

    raises  TuiliError for a file that is none, or a word that is not in it
    """
    from tuili.checks import invalid
    from tuili.embedding.word_vectors import WordVectors

    vectors = WordVectors(options.file, limit=options.limit, progress=bar)
    for name, words in (("WORD", options.words), ("--minus", options.minus)):
        for i, word in enumerate(words, 1):
            if word not in vectors:
                invalid(name, f"{i} is not among the file's words")
    found = vectors.most_similar(options.words, options.minus, options.top)
    return {
        "n_words": len(vectors),
        "n_dimensions": vectors.vectors.shape[1],
        "words": [{"word": word, "score": score} for word, score in found],
    }
