"""Memory that runs out at any moment is a typed error, loses nothing, and ends no engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads a library for glibc")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_each_allocation_may_fail(tmp_path: Path) -> None:
    """Of a load, of an engine that is made, of submissions and their steps, of an encoder's batch."""
    library = tmp_path / "failing_memory.so"
    source = TESTS / "failing_memory.cc"
    subprocess.run(["g++", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, TESTS / "memory_sweep.py", library]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("allocations lost: ") == 6
