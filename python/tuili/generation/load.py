"""How much the engine has taken on, and when that is too much."""

from __future__ import annotations

import threading

from tuili.errors import QueueFullError
from tuili.generation.delivery import Row
from tuili.generation.messages import Submission
from tuili.generation.scheduler import Limits


class Load:
    """Rows that run or wait, and prompt tokens that wait; for any thread.

    lock  the workers', whose holder may be in a finaliser that submits
    """

    def __init__(self, limits: Limits, lock: threading.RLock) -> None:
        self._most_rows = limits.max_num_seqs + limits.max_queue
        self._most_tokens = limits.max_queued_tokens
        self._lock = lock
        self.n_rows = 0
        self.queued_tokens = 0

    def add(self, submission: Submission) -> None:
        """Count it in, or raise QueueFullError. An empty queue takes any request."""
        n, n_new = len(submission.rows), _n_tokens(submission)
        with self._lock:
            n_rows, n_tokens = self.n_rows, self.queued_tokens
            too_many = n_rows > 0 and n_rows + n > self._most_rows
            too_long = n_tokens > 0 and n_tokens + n_new > self._most_tokens
            if not too_many and not too_long:  # no call, and so no Ctrl-C, between these
                self.n_rows, self.queued_tokens, submission.counted = n_rows + n, n_tokens + n_new, True
        if too_many:
            raise QueueFullError(f"{n_rows} sequences run or wait; the limit is {self._most_rows}")
        if too_long:
            raise QueueFullError(f"{n_tokens} prompt tokens wait; the limit is {self._most_tokens}")

    def withdraw(self, submission: Submission) -> None:
        """Forget one that `add` has counted and nobody will take."""
        with self._lock:
            self.n_rows -= len(submission.rows)
            self.queued_tokens -= _n_tokens(submission)

    def start(self, row: Row) -> None:
        """The row waits no more."""
        with self._lock:
            self.queued_tokens -= len(row.request.prompt_token_ids)
        row.queued = False

    def remove(self, row: Row) -> None:
        with self._lock:
            self.n_rows -= 1
            if row.queued:
                self.queued_tokens -= len(row.request.prompt_token_ids)


def _n_tokens(submission: Submission) -> int:
    return len(submission.rows) * len(submission.request.prompt_token_ids)
