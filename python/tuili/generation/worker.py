"""The one thread that computes, and how it begins and ends.

Consumers never touch the core (but see turns.py): they put messages into an inbox and wait. The thread is
started by the first message, takes the GIL only between steps, holds its owner weakly while idle, and is
joined before the interpreter dies (catalogue rows PY-01, PY-03, PY-04, CAN-08).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from tuili import threads
from tuili.errors import (
    EngineClosedError,
    EngineForkedError,
    EngineOutOfMemoryError,
    RequestCancelled,
    TuiliError,
)

T = TypeVar("T")
log = logging.getLogger("tuili")

WAIT_SLICE_S = 0.1  # a waiting thread looks for signals this often, also where a lock cannot be interrupted
CLOSE_WAIT_S = 60.0  # steps are finite: only so that a broken device cannot hang the interpreter's exit


class Waitable:
    """Something that finishes once and that any thread can wait for, in slices, so that Ctrl-C is heard.

    lock  the workers', so that a thread can tell whether its worker may be waiting for it

    There is no Condition: it takes and leaves its lock in functions written in Python, and Ctrl-C within
    those leaves the lock taken for ever.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self.lock = lock
        self.waiting: list[queue.SimpleQueue[None]] = []  # one of each thread in `wait_until`

    def wait_until(self, ready: Callable[[], bool], timeout: float | None, what: str) -> None:
        """Block until `ready()`, called without the lock; TimeoutError after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        try:
            self.waiting.append(bell)  # before the look, so that no change is missed
            while not ready():
                left = WAIT_SLICE_S if end is None else min(WAIT_SLICE_S, end - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"{what} is not ready after {timeout:g} s")
                with contextlib.suppress(queue.Empty):
                    bell.get(timeout=left)
        finally:
            if bell in self.waiting:
                self.waiting.remove(bell)

    def notify(self) -> None:
        """Have all who wait look again."""
        for bell in [*self.waiting]:
            bell.put(None)


class Call(Waitable, Generic[T]):
    """A function that runs on the worker's thread between two steps."""

    def __init__(self, function: Callable[[], T], lock: threading.RLock) -> None:
        super().__init__(lock)
        self._function = function
        self._result: T | None = None
        self._error: BaseException | None = None
        self._done = False
        self.cancelled = False

    def run(self) -> None:
        """Run the function, on the worker's thread."""
        if self.cancelled:
            self.fail(RequestCancelled("cancelled before it began"))
            return
        try:
            result = self._function()
        except BaseException as error:  # whatever it is, the caller waits for it
            self.fail(error)
            return
        with self.lock:
            self._result, self._done = result, True
        self.notify()

    def done(self) -> bool:
        return self._done

    def fail(self, error: BaseException) -> None:
        with self.lock:
            if not self._done:
                self._error, self._done = error, True
        self.notify()

    def result(self) -> T:
        """Wait for the value; a call that has not begun is cancelled if the wait is interrupted."""
        try:
            self.wait_until(self.done, None, "the call")
        except BaseException:
            self.cancelled = True
            raise
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


class _Stop:
    """The message that ends the thread."""


_STOP = _Stop()


class Worker:
    """Runs calls, and in a subclass steps, on one thread of its own.

    start_thread  False: nothing runs until `step()` is called, as tests do
    """

    # Reentrant: a signal's handler, or a finaliser, may submit or close at any moment. One for all workers:
    # that moment may be in another's call. Also the lock of all that can be waited for, and of the size of
    # new threads' stacks, which is the process's.
    _lock: ClassVar[threading.RLock] = threading.RLock()
    _workers: ClassVar[weakref.WeakSet[Worker]] = weakref.WeakSet()
    # Whom each thread waits for that does, and whether what it waits for is there.
    _awaited: ClassVar[dict[int, tuple[Worker, Callable[[], bool]]]] = {}
    _exit_hooked: ClassVar[bool] = False
    thread_name: ClassVar[str] = "tuili-engine"
    stack_bytes: ClassVar[int] = 0  # of the thread; 0: the system's default

    def __init__(self, *, start_thread: bool = True) -> None:
        # SimpleQueue.put is reentrant, so that a finaliser may call it at any moment, also inside another
        # put.
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start_thread = start_thread
        self._closed = False
        self._pid = os.getpid()

    # --- for any thread -------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed

    def check_process(self) -> None:
        """Raise EngineForkedError in a child of the process that made this."""
        if os.getpid() != self._pid:
            raise EngineForkedError(
                "this engine was created before fork(), and its threads exist only in the parent; load the "
                "model in the child, or start processes with the spawn method"
            )

    def check_may_wait(self) -> None:
        """Raise as `check_process`, and TuiliError (waits_for_itself) on the worker's own thread, or in a
        finaliser or a signal's handler that comes while this thread holds the workers' lock.
        """
        self.check_process()
        if threading.current_thread() is self._thread:
            raise TuiliError(
                "a function that the engine calls cannot wait for the engine", code="waits_for_itself"
            )
        if self._in_a_call():
            raise TuiliError(
                "a finaliser or a signal's handler came in the middle of a call and cannot wait for the "
                "engine there; `submit` waits for nothing",
                code="waits_for_itself",
            )

    def while_awaited(self, wait: Callable[[], T], ready: Callable[[], bool] = lambda: False) -> T:
        """`wait()`, which waits for this worker until `ready()`.

        raises  as `check_may_wait`; also TuiliError (waits_for_itself) where the worker, or one that it waits
                for, waits for this thread: a finaliser or a function of the user's may wait in any of them
        """
        self.check_may_wait()
        here = threading.get_ident()
        outer = self._awaited.get(here)
        try:
            # Before the look, so that of two who begin at once one sees the other.
            self._awaited[here] = (self, ready)
            self._check_no_circle(here)
            return wait()
        finally:
            if outer is None:
                self._awaited.pop(here, None)
            else:
                self._awaited[here] = outer

    def _check_no_circle(self, here: int) -> None:
        worker, seen = self, set[Worker]()
        while worker not in seen and (thread := worker.busy_thread()) is not None:
            if thread == here:
                raise TuiliError(
                    "this thread cannot wait for the engine, which waits for this thread",
                    code="waits_for_itself",
                )
            seen.add(worker)
            worker, ready = self._awaited.get(thread, (worker, None))
            if ready is not None and ready():  # that thread goes on as soon as it wakes
                return

    def busy_thread(self) -> int | None:
        """The thread that has to go on before this does; None where there is none."""
        thread = self._thread
        return thread.ident if thread is not None and thread.is_alive() else None

    def _in_a_call(self) -> bool:
        """Whether this thread holds the workers' lock, which the worker's thread may be waiting for."""
        owned: bool = self._lock._is_owned()  # type: ignore[attr-defined]  # what a Condition asks its lock
        return owned

    def check_usable(self) -> None:
        """Raise EngineForkedError or EngineClosedError before any work is put into a request."""
        self.check_process()
        if self._closed:
            raise EngineClosedError("the engine is closed")

    def post(self, make: Callable[[], T]) -> T:
        """Hand the message that `make` makes to the thread, which is started if need be, and return it.

        Messages arrive in the order in which they are made: `make` runs under the workers' lock.
        raises  EngineForkedError, EngineClosedError, EngineOutOfMemoryError where no thread can be started
        """
        self.check_process()
        with self._lock:
            if self._closed:
                raise EngineClosedError("the engine is closed")
            if self._start_thread and self._thread is None:
                self._begin()
            message = make()
            self._put(message)
            if self._closed and not self._lives():  # by a signal's handler, meanwhile
                self._abandon()
            return message

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the worker's thread and return what it returns, or raise what it raises."""
        call = Call(function, self._lock)
        return self.while_awaited(lambda: self.post(lambda: call).result(), call.done)

    def close(self) -> None:
        """End the thread after its step; whoever waits gets EngineClosedError. Harmless when repeated, from
        any thread. In a finaliser or a signal's handler in the middle of a call it does not wait for the end.
        """
        if os.getpid() != self._pid:
            return
        waits = not self._in_a_call()
        with self._lock:
            already, self._closed = self._closed, True
            thread = self._thread
        self._put(_STOP)
        if waits and thread is not None and thread is not threading.current_thread() and self._lives():
            thread.join(CLOSE_WAIT_S)
        if not already and not self._lives():
            self._abandon()

    def _lives(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _put(self, message: object) -> None:
        """Leave a message and ask for attention; takes no lock."""
        self._inbox.put(message)
        self.interrupt()

    def interrupt(self) -> None:
        """Make a long piece of `work` return soon. Called from any thread, after the message."""

    def __del__(self) -> None:
        inbox = getattr(self, "_inbox", None)
        if inbox is not None:
            inbox.put(_STOP)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be pickled or copied; create one in each process")

    # --- for the worker's thread, or a test -----------------------------------------------------------------

    def step(self, first: object = None) -> bool:
        """Take the messages that are there (after `first`, if given), then do one piece of work.

        returns  whether there is more to do without a further message
        """
        if first is not None:
            self.handle(first)
        while not self._inbox.empty():  # nobody else takes from it
            message = self._inbox.get_nowait()
            if message is _STOP:  # the thread's loop has to see it, too
                self._inbox.put(_STOP)
                return False
            self.handle(message)
        return self.work()

    def handle(self, message: object) -> None:
        if isinstance(message, Call):
            message.run()

    def work(self) -> bool:
        return False

    def wakes_in(self) -> float | None:
        """After how many seconds without a message there is work again; None: never."""
        return None

    def rescue(self, error: BaseException) -> None:
        """Tell whoever waits that a step failed."""

    def _abandon(self) -> None:
        """Fail every message that nobody will take any more."""
        error = EngineClosedError("the engine was closed before this was done")
        with self._lock:  # whose holder may be about to leave one, having closed this in the middle of `post`
            while True:
                try:
                    message = self._inbox.get_nowait()
                except queue.Empty:
                    return
                self.reject(message, error)

    def reject(self, message: object, error: Exception) -> None:
        if isinstance(message, Call):
            message.fail(error)

    # --- the thread -----------------------------------------------------------------------------------------

    def watch_exit(self) -> None:
        """Have this closed before the interpreter ends; harmless when repeated."""
        if not Worker._exit_hooked:
            Worker._exit_hooked = True
            # Runs before threading's own exit joins threads, hence before daemon threads lose the
            # interpreter.
            getattr(threading, "_register_atexit", atexit.register)(_close_all)
        Worker._workers.add(self)

    def _begin(self) -> None:
        self.watch_exit()
        turn = threading.Lock()  # for whoever is first: the thread, or Ctrl-C while it starts
        thread = threading.Thread(
            target=_run, args=(weakref.ref(self), self._inbox, turn), name=self.thread_name, daemon=True
        )
        before = threading.stack_size()
        try:
            if self._thread is not None:  # a signal's handler has begun it meanwhile
                return
            self._thread = thread
            threading.stack_size(self.stack_bytes)
            threads.start(thread)
        except BaseException as error:
            if self._thread is thread and turn.acquire(blocking=False):  # it will not run
                self._thread = None
                if isinstance(error, RuntimeError) and thread.ident is None:
                    raise EngineOutOfMemoryError("the system refuses another thread") from None
            raise
        finally:
            threading.stack_size(before)
        self.begun(thread)

    def begun(self, thread: threading.Thread) -> None:
        """Told once that the thread runs."""


def call_apart(function: Callable[[], T]) -> T:
    """`function()` on a thread of its own, for what runs long in one call of a library: Ctrl-C ends the wait
    for it at once, though not the call. Here, where no signal is heard or nothing can be waited for.

    raises  what it raises; EngineOutOfMemoryError where no thread can be started
    """
    worker = Worker()
    if threading.current_thread() is not threading.main_thread() or worker._in_a_call():
        return function()
    try:
        return worker.call(function)
    finally:
        worker._put(_STOP)  # an error's frames may keep the worker for a while: its thread ends now


def _run(owner: weakref.ref[Worker], inbox: queue.SimpleQueue[Any], turn: threading.Lock) -> None:
    """The thread: sleeps on the inbox without holding its owner, steps while there is work."""
    if not turn.acquire(blocking=False):
        return
    busy, wakes_in = False, None
    while True:
        message = None if busy else _next_message(inbox, wakes_in)
        worker = owner()
        if worker is None or message is _STOP or worker.closed:
            break
        try:
            busy = worker.step(message)
            wakes_in = worker.wakes_in()
        except BaseException as error:  # a defect of ours: whoever waits is told, and the thread lives on
            log.exception("the engine's step failed outside the model")
            busy = False
            worker.rescue(error)
        del worker, message  # neither may outlive its users while this thread sleeps
    if (worker := owner()) is not None:
        if message is not None and message is not _STOP:  # taken when the worker was already closed
            worker.reject(message, EngineClosedError("the engine was closed before this was done"))
        worker._abandon()


def _next_message(inbox: queue.SimpleQueue[Any], seconds: float | None) -> object:
    """The next message, or None when so many seconds have passed."""
    try:
        return inbox.get(timeout=None if seconds is None else min(seconds, 3600.0))
    except queue.Empty:
        return None


def forget_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and its causes: their frames would keep the engine alive with them.
    What was not foreseen is logged before.
    """
    unforeseen = error
    while unforeseen is not None and isinstance(unforeseen, TuiliError):
        unforeseen = unforeseen.__cause__
    if unforeseen is not None and unforeseen.__traceback__ is not None:
        log.warning("a request failed\n%s", "".join(traceback.format_exception(unforeseen)))
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _in_child() -> None:
    Worker._lock = threading.RLock()  # another thread, which is not here, may have it
    Worker._awaited.clear()


os.register_at_fork(after_in_child=_in_child)


def _close_all() -> None:
    for worker in list(Worker._workers):
        worker.close()
