"""Texts and pairs of texts as a task head reads them: ids with offsets, cut only where a caller says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tuili.errors import InvalidParameterError, PromptTooLongError
from tuili.generation.checks import described
from tuili.loading.tokenizer import call
from tuili.tokenization import Tokenizer, clean_text, encoding_of

if TYPE_CHECKING:
    from tokenizers import Encoding

Cut = Literal["longest_first", "only_first", "only_second"]


@dataclass(frozen=True)
class Encoded:
    """One input of a head: the ids with the tokens that the model expects around them.

    types      token types
    offsets    of each token, [begin, end) in characters of its own text
    texts      which text a token is of: 0, 1, or None for a special token
    truncated  whether something was cut off
    """

    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int]]
    texts: list[int | None]
    truncated: bool


def encode(
    tokenizer: Tokenizer, text: str, pair: str | None = None, *, max_len: int, cut: Cut | None
) -> Encoded:
    """`text`, or `text` and `pair`, in at most max_len tokens.

    cut     what to shorten: the longer of the two, as transformers does it, or one of them; None: nothing
    raises  PromptTooLongError if it is longer and cut is None, or nothing would be left of what is cut
    """
    backend = tokenizer.loaded.backend
    parts = [encoding_of(backend, clean_text(part)) for part in given(text, pair)]
    room = max_len - call(backend.num_special_tokens_to_add, pair is not None)
    lengths = [len(part.ids) for part in parts]
    truncated = sum(lengths) > room
    if truncated:
        if cut is None:
            raise too_long(sum(lengths) + max_len - room, max_len)
        for part, length in zip(parts, _shortened(lengths, room, cut, max_len), strict=True):
            call(part.truncate, length)
    return joined(tokenizer, parts, truncated)


def given(text: str, pair: str | None) -> list[str]:
    """The texts that are there."""
    return [text] if pair is None else [text, pair]


def too_long(n_tokens: int, max_len: int) -> PromptTooLongError:
    """The error of an input that nobody allowed to cut."""
    return PromptTooLongError(
        f"the input has {n_tokens} tokens; the limit is {max_len}; truncation=True cuts it"
    )


def joined(tokenizer: Tokenizer, parts: Sequence[Encoding], truncated: bool) -> Encoded:
    """One or two encodings without special tokens, with those that the model expects around them."""
    first, pair = parts[0], parts[1] if len(parts) > 1 else None
    whole = call(tokenizer.loaded.backend.post_process, first, pair)
    types = whole.type_ids if tokenizer.loaded.tells_texts else [0] * len(whole.ids)
    return Encoded(whole.ids, types, whole.offsets, whole.sequence_ids, truncated)


def _shortened(lengths: list[int], room: int, cut: Cut, max_len: int) -> list[int]:
    """How many tokens of each text stay."""
    if len(lengths) == 1:
        kept = [room]
    elif cut == "only_first":
        kept = [room - lengths[1], lengths[1]]
    elif cut == "only_second":
        kept = [lengths[0], room - lengths[0]]
    else:
        shorter, longer = sorted(lengths)
        longer = shorter if shorter > room else max(shorter, room - shorter)
        if shorter + longer > room:
            shorter, longer = room // 2, room - room // 2
        kept = [shorter, longer] if lengths[0] <= lengths[1] else [longer, shorter]
    if min(kept) < 1:
        raise PromptTooLongError(
            f"nothing can be cut so that {max_len} tokens are enough: the texts have {lengths} tokens"
        )
    return kept


def checked_str(text: object, name: str) -> str:
    """`text`, which must be a str."""
    if not isinstance(text, str):
        raise InvalidParameterError(f"{name} must be a str, not {described(text)}", param=name)
    return text
