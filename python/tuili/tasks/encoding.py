"""Texts and pairs of texts as a task head reads them: ids with offsets, cut only where a caller says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tuili.checks import boolean, described, integer, invalid, only_known
from tuili.errors import CUTTING_HELPS, ModelUnsupportedError, PromptTooLongError
from tuili.loading.tokenizers.calls import call
from tuili.loading.tokenizers.tokenizer import CutSide
from tuili.tokenization.tokenizer import Tokenizer, clean_text, encoding_of

if TYPE_CHECKING:
    from tokenizers import Encoding

Cut = Literal["longest_first", "only_first", "only_second"]
_CUTS: dict[str, Cut | None] = {
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
    "do_not_truncate": None,
}
_PADDINGS = ("longest", "max_length", "do_not_pad")


@dataclass(frozen=True)
class Encoded:
    """One input of a head: the ids with the tokens that the model expects around them.

    types      token types
    offsets    of each token, [begin, end) in characters of its own text
    texts      which text a token is of: 0, 1, or None for a special token
    truncated  whether something was cut off
    tokens     as the library has them; spaces may stand around those that were added to the vocabulary
    """

    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int]]
    texts: list[int | None]
    truncated: bool
    tokens: Sequence[str] = ()


@dataclass(frozen=True)
class Room:
    """How long an input may be: max_len tokens, of longer ones what `cut` says is cut off, or nothing."""

    max_len: int
    cut: Cut | None


def room(given: Mapping[str, object], max_len: int) -> Room:
    """The room by the options of transformers' tokenizers: truncation, a bool or what to cut; max_length, in
    tokens; padding, which changes nothing, as the engine has none.

    raises  InvalidParameterError naming the word
    """
    words = ("truncation", "max_length", "padding")
    only_known(given, words)
    truncation, length, padding = (given.get(name) for name in words)
    if padding is not None and not (isinstance(padding, str) and padding in _PADDINGS):
        boolean("padding", padding)
    if length is not None:
        max_len = integer("max_length", length, 1, max_len)
    if isinstance(truncation, str) and truncation in _CUTS:
        return Room(max_len, _CUTS[truncation])
    wanted = truncation is not None and boolean("truncation", truncation)
    return Room(max_len, "longest_first" if wanted else None)


def together(chosen: Mapping[str, object], name: str) -> dict[str, object]:
    """truncation of a call, and those of `room`'s words that it was given in a dict of this name."""
    given = chosen[name]
    if given is None:
        return {"truncation": chosen["truncation"]}
    if not isinstance(given, Mapping):
        invalid(name, f"must be a dict, not {described(given)}")
    if chosen["truncation"] is not None and "truncation" in given:
        invalid("truncation", "is given twice")
    return {"truncation": chosen["truncation"], **given}


def encode(
    tokenizer: Tokenizer, text: str, pair: str | None = None, *, max_len: int, cut: Cut | None
) -> Encoded:
    """`text`, or `text` and `pair`, in at most max_len tokens.

    cut     what to shorten: the longer of the two, as transformers does it, or one of them; None: nothing
    raises  PromptTooLongError if it is longer and cut is None, or nothing would be left of what is cut;
            ModelUnsupportedError for a tokenizer of CTRL and its like
    """
    if tokenizer.loaded.numbering is not None:
        raise ModelUnsupportedError(
            "this tokenizer's ids are not the library's: texts have no offsets, which the task needs",
            code="tokenizer_component",
        )
    backend = tokenizer.loaded.backend
    texts = given(text, pair)
    for one in texts if cut is None else ():
        tokenizer.check_fits(one, max_len, CUTTING_HELPS)
    room = max_len - call(backend.num_special_tokens_to_add, pair is not None)
    side = tokenizer.loaded.cut_side
    begun = texts if cut is None or side == "left" else _beginnings(tokenizer, texts, room, cut)
    parts = [encoding_of(backend, clean_text(one)) for one in begun]
    lengths = [len(part.ids) for part in parts]
    if begun != texts and len(texts) == 2 and room % 2 and min(lengths) > room:  # the longer has one more
        lengths = [len(encoding_of(backend, clean_text(one)).ids) for one in texts]
    truncated = sum(lengths) > room
    if truncated:
        if cut is None:
            raise too_long(sum(lengths) + max_len - room, max_len)
        for part, length in zip(parts, _shortened(lengths, room, cut, max_len), strict=True):
            shorten(part, length, side)
    return joined(tokenizer, parts, truncated=truncated)


def shorten(part: Encoding, length: int, side: CutSide) -> None:
    """Cut `side` off. The library keeps what it cuts off, in pieces of the same length, and joins each of a
    text with each of its pair. In halves there is one of each: what was kept before is dropped."""
    while len(part.ids) > length:
        call(part.truncate, max(length, -(-len(part.ids) // 2)), direction=side)


def _beginnings(tokenizer: Tokenizer, texts: list[str], room: int, cut: Cut) -> list[str]:
    """What is read of texts that may be cut: of each that is, more than `room` tokens."""
    stays = {"only_first": 1, "only_second": 0}.get(cut)
    return [
        one if number == stays else tokenizer.beginning(one, max(room, 1)) for number, one in enumerate(texts)
    ]


def given(text: str, pair: str | None) -> list[str]:
    """The texts that are there."""
    return [text] if pair is None else [text, pair]


def too_long(n_tokens: int, max_len: int) -> PromptTooLongError:
    """The error of an input that nobody allowed to cut."""
    return PromptTooLongError(f"the input has {n_tokens} tokens; the limit is {max_len}{CUTTING_HELPS}")


def joined(tokenizer: Tokenizer, parts: Sequence[Encoding], *, truncated: bool) -> Encoded:
    """One or two encodings without special tokens, with those that the model expects around them.

    Offsets are those of the parts: a post-processor that takes the space before a word off them does so once
    more when it is called once more, and takes a letter.
    """
    first, pair = parts[0], parts[1] if len(parts) > 1 else None
    whole = call(tokenizer.loaded.backend.post_process, first, pair)
    types = whole.type_ids if tokenizer.loaded.tells_texts else [0] * len(whole.ids)
    texts, offsets = whole.sequence_ids, whole.offsets
    if pair is None:  # a sequence of post-processors numbers what it puts around the text, too
        texts = [None if special else 0 for special in whole.special_tokens_mask]
    for number, part in enumerate(parts):
        own = part.offsets
        if own and texts.count(number) == len(own):  # of a first text before a second, some do not say where
            begin = texts.index(number)
            if offsets[begin] == own[0] and _lost_its_space(tokenizer, whole.tokens[begin], *own[0]):
                start, end = own[0]
                own = [(start - 1, end - (start == end)), *own[1:]]  # a space alone has lost both ends
            offsets[begin : begin + len(own)] = own
    return Encoded(tokenizer.noticed(whole.ids), types, offsets, texts, truncated, whole.tokens)


def _lost_its_space(tokenizer: Tokenizer, token: str, begin: int, end: int) -> bool:
    """Whether the space that a token has was taken off its offsets, within a text.

    Post-processors that leave the first token's alone, because they take it for one that was put in front of
    the text, do so in every window.
    """
    if begin == end and encoding_of(tokenizer.loaded.backend, " ").offsets == [(1, 1)]:
        return False  # a space alone, of which nothing is left to take off, of a processor that takes each
    text = tokenizer.loaded.token_bytes(token, False).decode(errors="replace")
    return begin > 0 and token.startswith("Ġ") and text.startswith(" ") and len(text) == end - begin + 1


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
    if any(left < min(length, 1) for left, length in zip(kept, lengths, strict=True)):
        raise PromptTooLongError(f"truncation={cut!r} leaves nothing of a text in {max_len} tokens")
    return kept


def checked_str(text: object, name: str) -> str:
    """`text`, which must be a str."""
    if not isinstance(text, str):
        invalid(name, f"must be a str, not {described(text)}")
    return text
