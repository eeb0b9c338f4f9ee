"""Ctrl-C at every moment that Python hears it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType


def at_each_function(call: Callable[[], object]) -> Iterator[int]:
    """Call it again and again, with Ctrl-C where the first, second, … function that it calls begins, until it
    ends before that; gives the number of functions after each time. Finalisers are spared.
    """
    came, n_calls = True, 0
    while came:
        n_left, came = n_calls, False

        def trace(frame: FrameType, event: str, argument: object) -> None:
            nonlocal n_left, came
            caller = frame.f_back
            in_finaliser = "__del__" in (frame.f_code.co_name, caller and caller.f_code.co_name)
            if event == "call" and not in_finaliser and not came:
                n_left -= 1
                if n_left < 0:
                    came = True
                    raise KeyboardInterrupt

        sys.settrace(trace)
        try:
            call()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        yield n_calls
        n_calls += 1
