"""Calls of the `tokenizers` library, whose panics (it is Rust) are no Exception: each goes through `call`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tuili.errors import TokenizerError
from tuili.loading.files import shown
from tuili.signals import of_a_handler

P = ParamSpec("P")
R = TypeVar("R")


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`function(*args, **kwargs)` of the `tokenizers` library, with every failure as a TokenizerError.

    raises  TokenizerError (library, library_panic); its message holds no text that was to be encoded. What a
            signal's handler raises meanwhile stays as it is
    """
    try:
        return function(*args, **kwargs)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except Exception as error:
        if of_a_handler(error):
            raise
        raise TokenizerError(
            f"the tokenizers library refuses: {shown(str(error), 200)}", code="library"
        ) from None
    except BaseException:  # pyo3_runtime.PanicException
        raise TokenizerError("the tokenizers library failed on this input", code="library_panic") from None
