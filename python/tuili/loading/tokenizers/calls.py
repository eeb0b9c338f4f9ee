"""Calls of the `tokenizers` library, whose panics (it is Rust) are no Exception: each goes through `call`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from tuili.errors import TokenizerError
from tuili.library_calls import guarded

P = ParamSpec("P")
R = TypeVar("R")

_REFUSED = partial(TokenizerError, code="library")
_FAILED = partial(TokenizerError, code="library_panic")


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`function(*args, **kwargs)` of the `tokenizers` library, with every failure as a TokenizerError.

    raises  TokenizerError (library, library_panic); its message holds no text that was to be encoded. What a
            signal's handler raises meanwhile stays as it is
    """
    return guarded("tokenizers library", _REFUSED, _FAILED, function, *args, **kwargs)
