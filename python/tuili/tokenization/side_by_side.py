"""Many texts read by several threads at once: the `tokenizers` library lets go of the GIL for a batch."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tuili import threads

R = TypeVar("R")

CHARS_PER_THREAD = 8192  # of fewer a thread is not worth its start: they take some 2 ms
MAX_THREADS = 16


class _Thread(threading.local):
    reads_beside_others = False


_this_thread = _Thread()


def reads_beside_others() -> bool:
    """Whether this thread is one of several that read, who wait for it while it holds the GIL."""
    return _this_thread.reads_beside_others


def each(read: Callable[..., R], items: Sequence[tuple[Any, ...]], num_threads: int) -> list[R]:
    """`read(*item)` of each item, by up to num_threads threads if the texts in the items are long.

    read    callable from several threads; encodes texts
    raises  what `read` raises of the first item that it refuses
    """
    n_threads = min(num_threads, MAX_THREADS, len(items))
    if n_threads > 1:
        n_chars = sum(len(part) for item in items for part in item if isinstance(part, str))
        n_threads = min(n_threads, n_chars // CHARS_PER_THREAD)
    if n_threads < 2:
        return [read(*item) for item in items]
    results: dict[int, R] = {}
    errors: dict[int, Any] = {}
    places = iter(range(len(items)))

    def work() -> None:
        before, _this_thread.reads_beside_others = _this_thread.reads_beside_others, True
        try:
            # Whoever has a place reads its text, so that all before the first error are read.
            while not errors and (i := next(places, None)) is not None:
                try:
                    results[i] = read(*items[i])
                except BaseException as error:  # Ctrl-C comes before all others
                    errors[i if isinstance(error, Exception) else -1] = error
        finally:
            _this_thread.reads_beside_others = before

    started = []
    try:
        with contextlib.suppress(RuntimeError):  # no more threads: those that there are do all
            for _ in range(1, n_threads):
                thread = threading.Thread(target=work, name="tuili-reader")
                threads.start(thread)
                started.append(thread)
        work()
        for thread in started:
            if -1 in errors:
                break
            thread.join()
    except BaseException as error:
        errors[-1] = error
    if errors:  # after Ctrl-C nobody waits for the others, who end with the text that they are at
        try:
            raise errors[min(errors)]
        finally:
            errors.update(dict.fromkeys(errors))  # an error holds this frame, which must not hold it
    return [results[i] for i in range(len(items))]
