"""Interpreters that end, and processes that fork, with a live engine: all of them cleanly.

    python tests/process_life.py [--exits 1000] [--forks 1000]

Each exit is a child, forked from a process that has imported tuili but made no engine, which makes one, puts
requests to it and ends while they run, in one of several ways; its exit code, its standard error and its time
are checked, the time in looks at it, which a busy machine makes rarer. Each fork is of one process whose
engine is generating: the child must get EngineForkedError and end, the parent's answers must not notice. Exit
status 1 if one of them is not clean.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable

from tiny_engine import codes, counting_model, make_engine, sampling
from tuili.errors import EngineForkedError, TuiliError

LOOK_S = 0.0005
MOST_LOOKS = 4000  # for 2 s, or longer where the machine has no time for them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exits", type=int, default=1000)
    parser.add_argument("--forks", type=int, default=1000)
    arguments = parser.parse_args()
    exits = Counter(exit_once(i) for i in range(arguments.exits))
    print("exits:", dict(exits), flush=True)
    forks = Counter(fork_many(arguments.forks))
    print("forks:", dict(forks), flush=True)
    return 0 if set(exits) | set(forks) <= {"clean"} else 1


# --- exits


def _wait_in_a_daemon_thread(handle) -> None:
    def wait() -> None:
        with contextlib.suppress(TuiliError):
            handle.result()

    threading.Thread(target=wait, daemon=True).start()


def _exit_in_a_thread(handle) -> None:
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()


WAYS: list[Callable] = [
    lambda handle: None,
    lambda handle: handle.result(),
    lambda handle: next(iter(handle)),
    lambda handle: handle.abort(),
    _wait_in_a_daemon_thread,
    _exit_in_a_thread,
]


def exit_once(serial: int) -> str:
    """One interpreter's life: "clean", or what was wrong."""
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            raise Child(serial)
        status, n_looks = _wait_for(child)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if status is None:
        return "hangs"
    if status != 0:
        return f"status {status}: {said[-300:]}"
    if said:
        return f"says {said[-300:]}"
    return "clean" if n_looks <= MOST_LOOKS else "slow"


class Child(BaseException):
    """Unwinds a forked child to the end of the program, so that its interpreter ends as any other does."""

    def __init__(self, serial: int) -> None:
        super().__init__()
        self.serial = serial

    def live(self) -> None:
        engine = make_engine(start_thread=True, step_s=0.001, num_threads=2)
        handle = engine.submit(codes("a"), sampling(max_tokens=60))
        time.sleep(0.001 * (self.serial % 7))
        WAYS[self.serial % len(WAYS)](handle)
        Child.kept = engine, handle  # type: ignore[attr-defined]  # alive until the interpreter clears modules


def _wait_for(child: int) -> tuple[int | None, int]:
    """The child's exit status, None if it had to be killed; and how often it was looked at until then."""
    for n_looks in range(15 * MOST_LOOKS):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), n_looks
        time.sleep(LOOK_S)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, n_looks


# --- forks


def fork_many(n: int) -> list[str]:
    engine = make_engine(start_thread=True, num_threads=2)
    found = []
    for _ in range(n):
        handle = engine.submit(codes("a"), sampling(max_tokens=150))
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, _use_in_child(engine, handle))
            os._exit(0)
        os.close(write)
        status, _ = _wait_for(child)
        said = os.read(read, 100).decode() if select.select([read], [], [], 0)[0] else ""
        os.close(read)
        right = len(handle.result(60).outputs[0].token_ids) == 150
        found.append("clean" if status == 0 and said == "ok" and right else f"{status} {said} {right}")
    engine.close()
    return found


def _use_in_child(engine, handle) -> bytes:
    for use in (lambda: engine.submit(codes("a"), sampling()), handle.result):
        try:
            use()
            return b"no error"
        except EngineForkedError:
            continue
        except BaseException as error:
            return type(error).__name__.encode()
    engine.close()
    handle.abort()
    return b"ok"


if __name__ == "__main__":
    counting_model()  # the children find it made
    try:
        sys.exit(main())
    except Child as child:
        child.live()
