"""What generated answers are given as, in transformers' words: texts or token ids; with or without the spaces
that tokens leave before punctuation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuili.checks import boolean
from tuili.errors import InvalidParameterError
from tuili.loading.tokenizers.token_bytes import CLEAN_UP

WORDS = ("return_text", "return_tensors", "clean_up_tokenization_spaces")
# As transformers does, which unlike BERT's decoder makes no "don't" of "do not".
_SPACES = tuple((wrong, right) for wrong, right in CLEAN_UP if wrong != " do not")


def as_ids(chosen: Mapping[str, object]) -> bool:
    """Whether answers are token ids, by return_tensors and its opposite, return_text.

    raises  InvalidParameterError if they say the same of both
    """
    given = {name: boolean(name, chosen[name]) for name in WORDS[:2] if chosen[name] is not None}
    wanted = given.get("return_tensors", not given.get("return_text", True))
    if given.get("return_text", not wanted) == wanted:
        raise InvalidParameterError(
            "return_text and return_tensors: an answer is one of both", param="return_text"
        )
    return wanted


def cleaned(chosen: Mapping[str, object]) -> Callable[[str], str]:
    """What becomes of an answer's text by clean_up_tokenization_spaces."""
    given = chosen["clean_up_tokenization_spaces"]
    if given is None or not boolean("clean_up_tokenization_spaces", given):
        return lambda text: text
    return clean


def clean(text: str) -> str:
    """`text` without the spaces before punctuation."""
    for wrong, right in _SPACES:
        text = text.replace(wrong, right)
    return text
