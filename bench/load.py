"""Who else used the processors while something was measured. Linux only; elsewhere nothing is known."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType


class Watch:
    """`with Watch(pid) as watch:`, then watch.outside: processor seconds per second that neither the process
    nor its ended children used, those that a hypervisor took among them; None where that is not known.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.outside: float | None = None

    def __enter__(self) -> Watch:
        self._start = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        end = self._now()
        if self._start is not None and end is not None and end[0] > self._start[0]:
            seconds, busy, own = (b - a for a, b in zip(self._start, end, strict=True))
            self.outside = max(0.0, busy - own) / seconds

    def _now(self) -> tuple[float, float, float] | None:
        """(clock, processor seconds of everybody, those of the process)"""
        if sys.platform != "linux":
            return None
        try:
            with open("/proc/stat", encoding="ascii") as file:
                ticks = [int(field) for field in file.readline().split()[1:]]
            with open(f"/proc/{self._pid}/stat", encoding="ascii", errors="replace") as file:
                own = file.read().rpartition(")")[2].split()[11:15]  # utime stime cutime cstime
        except (OSError, ValueError):
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = ticks[:8]
        hz = os.sysconf("SC_CLK_TCK")
        busy = user + nice + system + irq + softirq + steal
        return time.monotonic(), busy / hz, sum(map(int, own)) / hz
