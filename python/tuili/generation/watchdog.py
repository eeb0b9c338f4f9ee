"""Notices work that does not come to an end, such as a kernel that hangs.

It is said in the log, with the stacks of all threads, and `late` is true until it ends after all. Nothing is
killed: that is for whoever owns the process (catalogue row CAN-11).
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable

from tuili import threads

log = logging.getLogger("tuili")


class Watchdog:
    """Watches one thread from another, for as long as that lives or until `stop`.

    limit_s  seconds that a piece of work may take
    since    when the present piece began; None while there is none. Written by the watched thread
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s, self._clock = limit_s, clock
        self.since: float | None = None
        self._told: float | None = None  # of which piece
        self._stop: queue.SimpleQueue[None] = queue.SimpleQueue()  # a finaliser may put into it

    @property
    def late(self) -> bool:
        since = self.since
        return since is not None and self._clock() - since > self._limit_s

    def start(self, watched: threading.Thread) -> None:
        thread = threading.Thread(target=self._watch, args=(watched,), name="tuili-watchdog", daemon=True)
        try:
            threads.start(thread)
        except RuntimeError:
            log.warning("the system refuses a thread; nobody watches the engine's")

    def stop(self) -> None:
        """For any thread, also a finaliser's."""
        self._stop.put(None)

    def check(self) -> None:
        """Say once of each piece of work that it is late."""
        since = self.since
        if since is None or since == self._told or not self.late:
            return
        self._told = since
        log.error("a step takes more than %g s; the threads are at\n%s", self._limit_s, _stacks())

    def _watch(self, watched: threading.Thread) -> None:
        while watched.is_alive():
            try:
                self._stop.get(timeout=min(self._limit_s / 4, 3600.0))
                return
            except queue.Empty:
                self.check()


def _stacks() -> str:
    """Files, lines and functions of all threads, innermost first; no values. Opens no file."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, top in sys._current_frames().items():
        lines.append(f"thread {names.get(ident, ident)}:")
        for frame, line in traceback.walk_stack(top):
            lines.append(f'  File "{frame.f_code.co_filename}", line {line} in {frame.f_code.co_name}')
    return "\n".join(lines)
