"""A tokenizer as the packed cache keeps it: converted and checked, and of use before the library has read it.

Decoding needs the tokens' texts only, which lie in one blob. The `tokenizers` library reads its own JSON
when a text is first encoded.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tuili.errors import TuiliError
from tuili.loading.checkpoint import Bytes
from tuili.loading.tokenizers.calls import call
from tuili.loading.tokenizers.languages import Languages
from tuili.loading.tokenizers.numbering import NumberedBackend, Numbering
from tuili.loading.tokenizers.token_bytes import token_bytes_by
from tuili.loading.tokenizers.tokenizer import Backends, LazyBackends, LoadedTokenizer, backends_of, numbered

logger = logging.getLogger("tuili")


SECTIONS = ("tokenizer.json", "token_ends", "token_texts")
_IDS = ("bos_id", "eos_ids", "pad_id", "unk_id", "cls_id", "mask_id")
_FIELDS = (
    *("n_vocab", *_IDS, "add_bos", "add_eos", "max_tokens", "cut_side", "tells_texts", "tidies", "decoding"),
)
_MOST_TEXTS = 1 << 14  # that are kept as str once they were asked for


def facts_of(loaded: LoadedTokenizer) -> dict[str, Any]:
    """What JSON can hold of it."""
    facts: dict[str, Any] = {name: getattr(loaded, name) for name in _FIELDS}
    facts |= {"special": list(loaded.special.items()), "literal": sorted(loaded.literal)}
    facts["written"] = loaded.written is not None
    for name in ("languages", "numbering"):
        made = getattr(loaded, name)
        facts[name] = None if made is None else dict(vars(made))
    return facts


def sections_of(loaded: LoadedTokenizer) -> Iterator[tuple[str, bytes | Bytes]]:
    """The rest: the library's JSON, and the text of every token with where each ends."""
    backend = loaded.backend
    inner = backend.inner if isinstance(backend, NumberedBackend) else backend
    yield "tokenizer.json", _quick(call(inner.to_str))
    texts = [(loaded.text_of(token_id) or "").encode() for token_id in range(loaded.n_vocab)]
    lengths = np.fromiter(map(len, texts), np.uint32, len(texts))
    yield "token_ends", np.cumsum(lengths, dtype=np.uint32).view(np.uint8)
    yield "token_texts", b"".join(texts)


def _quick(text: str) -> bytes:
    """The library's JSON with merges as it wrote them before 0.20, "left right": a fifth faster to read."""
    document = json.loads(text)
    model = document["model"]
    merges = model.get("merges") if model["type"] == "BPE" else None
    # A part with a space cannot be told from two, and lines of a version are passed over.
    if not merges or any(" " in left or " " in right or left.startswith("#") for left, right in merges):
        return text.encode()
    model["merges"] = [f"{left} {right}" for left, right in merges]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def restore(
    facts: dict[str, Any], section: Callable[[str], Bytes], rebuild: Callable[[], LoadedTokenizer]
) -> LoadedTokenizer:
    """The tokenizer of which these are the facts and sections.

    rebuild  makes it anew from the model's files, should the library not take its own JSON any more
    """
    ends, texts = section("token_ends").view(np.uint32), section("token_texts")
    if len(ends) != facts["n_vocab"] or (len(ends) and ends[-1] != len(texts)):
        raise ValueError("the tokens' texts are not as many as tokens")

    @functools.lru_cache(_MOST_TEXTS)
    def text_of(token_id: int) -> str | None:
        if not 0 <= token_id < len(ends):
            return None
        text = texts[ends[token_id - 1] if token_id else 0 : ends[token_id]].tobytes()
        return text.decode() if text else None  # nothing: a gap in the vocabulary

    languages = None if facts["languages"] is None else Languages(**facts["languages"])
    numbering = None if facts["numbering"] is None else Numbering(**facts["numbering"])

    def backends() -> Backends:
        from tokenizers import Tokenizer

        try:
            made = backends_of(call(Tokenizer.from_buffer, section("tokenizer.json").tobytes()))
            return made if numbering is None else numbered(made, numbering)
        except TuiliError as error:
            logger.warning("the cached tokenizer is of no use (%s); it is made anew", error)
            return rebuild().backends.get()

    def written() -> LoadedTokenizer:
        made = rebuild().written
        assert made is not None
        return made()

    fields = {name: facts[name] for name in _FIELDS}
    return LoadedTokenizer(
        backends=LazyBackends(backends),
        text_of=text_of,
        token_bytes=token_bytes_by(facts["decoding"]),
        special={int(token_id): text for token_id, text in facts["special"]},
        literal=frozenset(facts["literal"]),
        languages=languages,
        numbering=numbering,
        written=written if facts["written"] else None,
        **{**fields, "eos_ids": tuple(fields["eos_ids"])},
    )
