"""Calls of libraries written in Rust, whose panics are no Exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tuili.errors import TuiliError
from tuili.loading.files import shown
from tuili.signals import of_a_handler

P = ParamSpec("P")
R = TypeVar("R")


def guarded(
    library: str,
    refused: Callable[[str], TuiliError],
    failed: Callable[[str], TuiliError],
    function: Callable[P, R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """`function(*args, **kwargs)` of the library, with an Exception as `refused` and a panic as `failed`,
    which get a message. What a signal's handler raises meanwhile stays as it is.
    """
    try:
        return function(*args, **kwargs)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except Exception as error:
        if of_a_handler(error):
            raise
        raise refused(f"the {library} refuses: {shown(str(error), 200)}") from None
    except BaseException:  # pyo3_runtime.PanicException
        raise failed(f"the {library} failed on this input") from None
