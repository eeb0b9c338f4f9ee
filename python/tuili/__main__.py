"""The `tuili` command, also as `python -m tuili`: the command line with Ctrl-C heard at every moment.

`cli.main` knows what Ctrl-C means within a command. Here it is the same exit code while modules are still
being imported, and a process that is done with its work is left to end in peace.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def run() -> NoReturn:
    """Run the command of `sys.argv` and leave with its exit code."""
    try:
        with importing():
            from tuili.cli.main import main
        code = main()
    except KeyboardInterrupt:  # outside the command, or once more while the first one was being answered
        code = EXIT_INTERRUPTED
    if code == EXIT_INTERRUPTED:
        leave()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For imports: Ctrl-C ends the process, since extension modules make an ImportError of an interrupt."""
    on_main = threading.current_thread() is threading.main_thread()
    if not on_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(*_: object) -> NoReturn:
    """End the process at once.

    (Python's own end would be by the signal, not by an exit code, if the interrupt came within an `exec` of
    the standard library, even though it was caught.)
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    run()
