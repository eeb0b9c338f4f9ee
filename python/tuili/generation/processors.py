"""Logits processors: a caller's functions that change a request's logits before its next token is drawn.

They run on the engine's thread between steps, so that they hold everybody up: one that takes too long, fails
or returns something else ends its request (catalogue row CAN-07).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tuili.checks import described, invalid
from tuili.errors import InvalidParameterError, TuiliError

BUDGET_S = 1.0  # for all processors of a request, per token
MAX_PROCESSORS = 16
NAME = "logits_processors"

Processor = Callable[..., "np.ndarray | None"]


def checked(name: str, value: object) -> tuple[Processor, ...]:
    """A list of functions that take 2 or 3 arguments, as a tuple."""
    if not isinstance(value, list | tuple):
        invalid(name, f"must be a list of functions, not {described(value)}")
    if len(value) > MAX_PROCESSORS:
        invalid(name, f"may hold at most {MAX_PROCESSORS} functions, not {len(value)}")
    for i, function in enumerate(value):
        if not callable(function) or n_arguments(function) is None:
            raise InvalidParameterError(
                f"{name}[{i}] must be a function of (token_ids, logits) or (prompt_token_ids, token_ids, "
                f"logits), not {described(function)}",
                param=name,
            )
    return tuple(value)


def n_arguments(function: Processor) -> int | None:
    """2 or 3, the fewest that it takes; 2 if it does not tell; None if it takes neither."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return 2
    for n in (2, 3):
        try:
            signature.bind(*[None] * n)
            return n
        except TypeError:
            continue
    return None


def with_arguments(processors: Iterable[Processor]) -> tuple[tuple[Processor, int], ...]:
    """Each with the number of arguments that it gets."""
    return tuple((function, n_arguments(function) or 2) for function in processors)


def apply(
    processors: Iterable[tuple[Processor, int]], prompt: list[int], generated: list[int], logits: np.ndarray
) -> np.ndarray:
    """Logits after all processors, in order; each gets what the one before returned, or changed in place.

    processors  as `with_arguments` has them
    logits      float32 [n_vocab], writable and the callee's to keep
    raises      TuiliError (logits_processor) with a processor's own error as its cause;
                InvalidParameterError for what is no float32 [n_vocab] and for NaN; TuiliError
                (logits_processor_time) after more than BUDGET_S
    """
    start = time.monotonic()
    for i, (function, n) in enumerate(processors):
        arguments: list[Any] = [list(generated), logits]
        if n == 3:
            arguments.insert(0, list(prompt))
        try:
            returned = function(*arguments)
        except BaseException as error:
            raise TuiliError(f"{NAME}[{i}] raised {type(error).__name__}", code="logits_processor") from error
        logits = logits if returned is None else _checked_logits(i, returned, logits.shape)
    if np.isnan(logits).any():
        raise InvalidParameterError(f"{NAME}: the logits are not numbers any more", param=NAME)
    elapsed = time.monotonic() - start
    if elapsed > BUDGET_S:
        raise TuiliError(
            f"{NAME} took {elapsed:.1f} s for a token; the limit is {BUDGET_S:g} s",
            code="logits_processor_time",
        )
    return logits


def _checked_logits(i: int, returned: object, shape: tuple[int, ...]) -> np.ndarray:
    if not isinstance(returned, np.ndarray):
        raise InvalidParameterError(
            f"{NAME}[{i}] must return an array or None, not a {type(returned).__name__}", param=NAME
        )
    if returned.dtype != np.float32 or returned.shape != shape:
        raise InvalidParameterError(
            f"{NAME}[{i}] must return float32 {list(shape)}, not {returned.dtype} {list(returned.shape)}",
            param=NAME,
        )
    return returned
