"""What may stand for a prompt: text, token ids, or the messages of a chat; and one of them told from many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tuili.checks import described, invalid

Message = dict[str, Any]
Messages = list[Message]
Ids = Sequence[int] | np.ndarray
Prompt = str | Ids
# As `generate` is annotated: what gives one output, and what gives a list of them. (A str is a sequence.)
OnePrompt = str | list[int] | tuple[int, ...]
ManyPrompts = (
    list[str]
    | list[list[int]]
    | list[np.ndarray]
    | list[str | list[int]]
    | list[Messages]
    | tuple[Prompt, ...]
)


def is_one(prompts: object) -> bool:
    """Whether this is one prompt, text or ids, and no list of prompts."""
    if isinstance(prompts, str):
        return True
    if isinstance(prompts, np.ndarray):
        return prompts.ndim == 1
    first = prompts[0] if isinstance(prompts, list | tuple) and prompts else None
    return first is not None and not isinstance(first, str | list | tuple | np.ndarray)


def many(prompts: object) -> list[Any]:
    """The prompts of a list, a tuple or a two-dimensional array.

    raises  InvalidParameterError for anything else, and for none
    """
    if isinstance(prompts, np.ndarray) and prompts.ndim == 2:
        prompts = list(prompts)
    if not isinstance(prompts, list | tuple):
        invalid("prompts", f"must be a str, token ids, or a list of these, not {described(prompts)}")
    if not prompts:
        invalid("prompts", "is empty", code="empty_prompt")
    return list(prompts)


def is_chat(prompt: object) -> bool:
    """Whether these are messages."""
    return isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], dict)
