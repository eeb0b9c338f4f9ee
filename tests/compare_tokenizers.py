"""Compare tuili's token ids with the originals': 10,201 strings, three models.

    python tests/compare_tokenizers.py [--smollm2 FILE] [--gemma3 FILE] [--minilm FOLDER] [--only MODEL]
        [--per-kind N] [--write-goldens]

The strings are seeded (oracle/strings.py): English, Chinese, other languages, code, emoji, numbers,
white space,
spelled special tokens, control characters, lone surrogates, broken UTF-8,
every Unicode plane. The originals are
llama.cpp's tokenizer (with and without reading special tokens in the text) and, for Gemma, sentencepiece
over the same vocabulary; for MiniLM,
the `tokenizers` library with the model's own file. Every difference is listed. It is
explained if taking the named cause out of the text makes the ids equal. Exit status 1 if one is not.

Needs numpy, tokenizers, gguf, sentencepiece and xllamacpp besides tuili's Python files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as Backend

from oracle import gguf_tokenizer, llama_cpp, model_files
from oracle.strings import generate
from oracle.table import Table
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.model_source import open_source
from tuili.loading.tokenizers.tokenizer import from_gguf, from_huggingface
from tuili.tokenization.tokenizer import Tokenizer, clean_text

GOLDENS = Path(__file__).parent / "goldens"
PER_KIND = 600
GOLDENS_PER_KIND = 8

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Cause:
    """Why ids may differ: what it is, and the text without it."""

    reason: str
    remove: Callable[[str], str]


@dataclass(frozen=True)
class Comparison:
    """One original of one model; `original` and `ours` take clean text."""

    model: str
    name: str
    original: Encode
    ours: Encode
    causes: tuple[Cause, ...] = ()

    def explain(self, text: str) -> str | None:
        """The reason why the ids of `text` differ, if taking it away makes them equal."""
        for cause in self.causes:
            rest = cause.remove(text)
            if rest != text and self.original(rest) == self.ours(rest):
                return cause.reason
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = tuple(model_files.BUILT_IN)
    model_files.add_arguments(parser, models)
    parser.add_argument(
        "--per-kind", type=int, default=PER_KIND, help=f"strings of each kind (default {PER_KIND})"
    )
    parser.add_argument(
        "--write-goldens", action="store_true", help="write tests/goldens/tokens_MODEL.json too"
    )
    arguments = parser.parse_args()
    strings = generate(arguments.per_kind)
    table = Table(model=8, original=34, strings=8, differences=12, explained=10)
    differences = []
    for model, path in model_files.chosen(arguments, models).items():
        comparisons = _comparisons(model, path)
        for comparison in comparisons:
            found = _differences(comparison, strings)
            explained = sum(reason is not None for *_, reason in found)
            cells = [model, comparison.name, len(strings), len(found), explained]
            table.row(cells, passed=explained == len(found))
            differences += [(comparison, *difference) for difference in found]
        if arguments.write_goldens:
            _write_goldens(comparisons[0])
    for comparison, kind, text, reason in differences:
        print(f"{comparison.model}, {comparison.name}, {kind}: {ascii(text)[:100]}")
        print(f"    {reason or 'NOT EXPLAINED'}")
    return table.finish()


def _differences(comparison: Comparison, strings: list[tuple[str, str]]) -> list[tuple[str, str, str | None]]:
    """(kind, text, reason or None) of each string whose ids differ."""
    found = []
    for kind, string in strings:
        text = clean_text(string)
        if comparison.ours(string) != comparison.original(text):
            found.append((kind, text, comparison.explain(text)))
    return found


def _comparisons(model: str, path: Path) -> list[Comparison]:
    source = open_source(path).tokenizer
    if not isinstance(source, Metadata):
        tokenizer = Tokenizer(from_huggingface(source.tokenizer_json, source.config, source.special_tokens))
        backend = Backend.from_file(str(path / "tokenizer.json"))
        backend.no_padding()
        backend.no_truncation()
        return [Comparison(model, "tokenizers", lambda text: backend.encode(text).ids, tokenizer.encode)]
    tokenizer = Tokenizer(from_gguf(source))
    tokenize = llama_cpp.load(path)
    causes = (_missing_bytes(tokenizer), _SLASH_S)
    comparisons = [
        Comparison(
            model, "llama.cpp", lambda text: tokenize(text.encode(), True, True), tokenizer.encode, causes
        ),
        Comparison(
            model,
            "llama.cpp, special tokens as text",
            lambda text: tokenize(text.encode(), True, False),
            lambda text: tokenizer.encode(text, parse_special=False),
            causes,
        ),
    ]
    if source.get_str("tokenizer.ggml.model") == "llama":
        encode, _ = gguf_tokenizer.load(path)
        comparisons.append(
            Comparison(
                model,
                "sentencepiece",
                encode,
                lambda text: tokenizer.encode(text, parse_special=False),
                (_LOWER_ONE_EIGHTH_BLOCK,),
            )
        )
    return comparisons


_SLASH_S = Cause(
    "Gemma's </s> is a user-defined token (of HTML); llama.cpp takes it for a control token by its spelling",
    lambda text: text.replace("</s>", ""),
)
_LOWER_ONE_EIGHTH_BLOCK = Cause(
    "the text holds U+2581; sentencepiece cannot tell it from the spaces it stands for, llama.cpp and we can",
    lambda text: text.replace("\u2581", ""),
)


def _missing_bytes(tokenizer: Tokenizer) -> Cause:
    known = {tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab)}
    missing = bytes(byte for byte in range(256) if bytes([byte]) not in known)
    pattern = re.compile(rb"[\x00-\x7f]|[\xc2-\xf4][\x80-\xbf]+")

    def remove(text: str) -> str:
        characters = pattern.findall(text.encode())
        return b"".join(c for c in characters if not any(byte in missing for byte in c)).decode()

    return Cause(
        "a byte has no token: the library the model was made with merges its neighbours, llama.cpp does not",
        remove,
    )


def _write_goldens(comparison: Comparison) -> None:
    """The original's ids of a few strings of each kind, for test_tokenization.py."""
    texts = [text for _, text in generate(GOLDENS_PER_KIND) if comparison.explain(clean_text(text)) is None]
    rows = [json.dumps([text, comparison.original(clean_text(text))]) for text in texts]
    path = GOLDENS / f"tokens_{comparison.model}.json"
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
