"""A server in a process of its own, and readers of its streams: little code, so that they cost little."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

STARTS_WITHIN_S = 120.0


@dataclass
class Read:
    """A stream as its reader saw it: when it was asked for, when each event with text came, the status."""

    asked: float
    status: int = 0
    events: list[float] = field(default_factory=list)
    n_tokens: int = 0

    @property
    def first_s(self) -> float:
        return self.events[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.events, self.events[1:], strict=False)]


class ServerProcess:
    """A command that serves OpenAI's interface on `port` of this machine, once /health answers."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self.port = port
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + STARTS_WITHIN_S
        while asyncio.run(self._health()) != 200:
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{command[0]} does not serve")
            time.sleep(0.1)

    async def _health(self) -> int:
        try:
            return (await ask(self.port, "/health", None)).status
        except OSError:
            return 0

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(60)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        with open(f"/proc/{self._process.pid}/stat", encoding="ascii", errors="replace") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        with open(f"/proc/{self._process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tuili_command(model: str, port: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "tuili", "serve", model, "--port", str(port), *more]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def request(path: str, body: dict[str, Any] | bytes | None) -> bytes:
    """A request's bytes, after which the connection closes."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return f"{head}\r\n".encode() + data


async def ask(port: int, path: str, body: dict[str, Any] | bytes | None) -> Read:
    """Send a request and read its answer to the end; events are those of a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    read = Read(time.monotonic())
    try:
        writer.write(request(path, body))
        while line := await reader.readline():
            if line.startswith(b"HTTP/1.1 "):
                read.status = int(line[9:12])
            elif line.startswith(b"data: ") and (b'"text":"' in line or b'"content":"' in line):
                read.events.append(time.monotonic())
            if line.startswith(b"data: ") and (usage := re.search(rb'"completion_tokens":(\d+)', line)):
                read.n_tokens = int(usage[1])
    finally:
        writer.close()
    return read


async def ask_all(port: int, path: str, bodies: Sequence[dict[str, Any]]) -> list[Read]:
    return list(await asyncio.gather(*(ask(port, path, body) for body in bodies)))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
