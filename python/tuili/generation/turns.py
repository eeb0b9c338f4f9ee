"""A worker whose short calls run on the caller's own thread while nothing else runs.

Handing a call over to a thread and its result back takes longer than Python's part of one short text. What
the thread promises holds here, too: calls run one at a time, closing waits for the one that runs, and the
interpreter does not end under it. Ctrl-C is heard when the call returns, so it has to be short.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from tuili.errors import EngineClosedError
from tuili.generation.worker import CLOSE_WAIT_S, WAIT_SLICE_S, Worker

T = TypeVar("T")


class TurnWorker(Worker):
    """The thread and its callers take turns; messages that wait come first."""

    def __init__(self) -> None:
        super().__init__()
        self.watch_exit()
        # Reentrant: a signal's handler or a finaliser may call at any moment.
        self._turn = threading.RLock()
        self._holder: int | None = None  # the thread that runs a call
        self._thread_waits = False  # for the turn, with a message

    def call(self, function: Callable[[], T]) -> T:
        if self._has_turn():  # the worker's thread waits for the call around this one
            return self.call_here(function)
        return super().call(function)

    def _has_turn(self) -> bool:
        """Whether this thread does, also where a signal comes before `_holder` says so."""
        owned: bool = self._turn._is_owned()  # type: ignore[attr-defined]  # what a Condition asks its lock
        return owned

    def call_here(self, function: Callable[[], T]) -> T:
        """As `call`, on this thread unless the worker has something to do."""
        if self._has_turn():
            self.check_may_wait()
            return self._in_turn(function)
        if self._holder or self._thread_waits or not self._inbox.empty():
            return super().call(function)
        return self.while_awaited(lambda: self._in_turn(function))  # another thread may come first

    def _in_turn(self, function: Callable[[], T]) -> T:
        with self._turn:
            outer = self._holder
            try:
                self._holder = threading.get_ident()
                if self._closed:
                    raise EngineClosedError("the engine is closed")
                return function()
            finally:
                self._holder = outer

    def busy_thread(self) -> int | None:
        return self._holder or super().busy_thread()

    def handle(self, message: object) -> None:
        self._thread_waits = True
        while not self._turn.acquire(timeout=WAIT_SLICE_S):
            if self._closed:  # perhaps by a signal's handler on the thread that has the turn
                return self.reject(message, EngineClosedError("the engine was closed before this was done"))
        try:
            self._thread_waits, self._holder = False, threading.get_ident()
            super().handle(message)
        finally:
            self._holder = None
            self._turn.release()
        return None

    def close(self) -> None:
        super().close()
        if os.getpid() != self._pid or self._in_a_call():  # whoever has the turn may wait for this thread
            return
        if self._turn.acquire(timeout=CLOSE_WAIT_S):
            self._turn.release()
