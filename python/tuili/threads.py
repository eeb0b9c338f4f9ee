"""Starting a thread where memory may be short."""

from __future__ import annotations

import mmap
import threading

_STACK_BYTES = 8 << 20  # Linux's usual one, of threads that ask for no other
# Python takes half of it at once for small objects; what numpy keeps for each thread is 46 KB.
_ROOM_BYTES = 2 << 20


def start(thread: threading.Thread) -> None:
    """`thread.start()`; RuntimeError also where there is hardly memory for what a thread begins with.

    Without that Python waits for ever for a thread which found none as it began, and the C library ends the
    process where a module's thread-local data has no place.
    """
    try:
        mmap.mmap(-1, (threading.stack_size() or _STACK_BYTES) + _ROOM_BYTES).close()
    except (OSError, MemoryError):
        raise RuntimeError("there is no memory for another thread") from None
    thread.start()
