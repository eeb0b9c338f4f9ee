"""The other side of peers/worker.py: a peer's process, stopped while others are measured."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
STARTS_WITHIN_S, ENDS_WITHIN_S = 120.0, 10.0


class PeerError(Exception):
    """Why a peer gave no value: its own message, or that it ended or took too long."""


class PeerProcess:
    """`python -m peers.worker module`. Between calls of `ask` it is stopped, so that threads of its engine
    that spin while they wait take nothing from the others.

    log  file that gets what the peer prints
    """

    def __init__(self, module: str, python: str | None, threads: int, log: Path) -> None:
        paths = [str(BENCH), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        self._log = log.open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", "peers.worker", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        self.pid = self._process.pid
        self._buffer = b""

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to one request. After a PeerError for time or a lost process it cannot be used again."""
        assert self._process.stdin is not None
        try:
            self._signal(signal.SIGCONT)
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._line(time.monotonic() + timeout_s))
        except BrokenPipeError:
            raise PeerError(f"its process ended with {self._process.wait()}") from None
        self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.close()
            self._process.wait(ENDS_WITHIN_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._process.kill()
                raise PeerError("took too long")
            data = os.read(out, 1 << 16)
            if not data:
                raise BrokenPipeError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
