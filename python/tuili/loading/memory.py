"""How much memory this process may still take; a model is refused before it is allocated or not at all."""

from __future__ import annotations

import os
import resource


def available_memory(proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> tuple[int, str] | None:
    """Bytes that can still be allocated and the limit that says so; None where the system does not tell.

    The least of MemAvailable, the memory.max of each control group (version 2) above this process, and
    RLIMIT_AS.
    """
    found = [
        limit
        for limit in (_mem_available(proc), *_cgroup_limits(proc, cgroups), _address_space(proc))
        if limit
    ]
    return min(found) if found else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def _mem_available(proc: str) -> tuple[int, str] | None:
    for line in _read(os.path.join(proc, "meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024, "MemAvailable"
    return None


def _cgroup_limits(proc: str, cgroups: str) -> list[tuple[int, str]]:
    """What each group up to the root leaves; its page cache counts as free, because it can be dropped."""
    own = next(
        (line[3:] for line in _read(f"{proc}/self/cgroup").splitlines() if line.startswith("0::")), "/"
    )
    limits = []
    parts = [part for part in own.split("/") if part]
    for depth in range(len(parts), -1, -1):
        group = os.path.join(cgroups, *parts[:depth])
        most, used = _read(f"{group}/memory.max").strip(), _read(f"{group}/memory.current").strip()
        if most.isdecimal() and used.isdecimal():
            statistics = dict(line.split(" ", 1) for line in _read(f"{group}/memory.stat").splitlines())
            cache = int(statistics.get("inactive_file", "0")) + int(statistics.get("active_file", "0"))
            limits.append((max(0, int(most) - max(0, int(used) - cache)), "the control group's memory.max"))
    return limits


def _address_space(proc: str) -> tuple[int, str] | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read(f"{proc}/self/statm").split()
    if soft == resource.RLIM_INFINITY or not pages:
        return None
    return max(0, soft - int(pages[0]) * resource.getpagesize()), "RLIMIT_AS"
