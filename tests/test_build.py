"""What the build promises about the extension and its dependencies."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tuili import _core

REPOSITORY = Path(__file__).resolve().parent.parent


def readelf(*options: str) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    return subprocess.run(
        ["readelf", "--wide", *options, _core.__file__], capture_output=True, text=True, check=True
    ).stdout


def test_the_extension_is_hardened() -> None:
    """Relocations become read-only, the stack is not executable, nothing is writable and executable."""
    segments = readelf("--program-headers")
    assert "GNU_RELRO" in segments
    assert "BIND_NOW" in readelf("--dynamic") or "NOW" in readelf("--dynamic")
    stack = next(line for line in segments.splitlines() if "GNU_STACK" in line)
    assert "RWE" not in stack
    assert not re.search(r"LOAD\s.*RWE", segments)
    assert "TEXTREL" not in readelf("--dynamic")


def test_minimum_versions_exclude_known_holes() -> None:
    """jinja2 before 3.1.6 has a way out of the sandbox (CVE-2025-27516)."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "jinja2>=3.1.6" in project["dependencies"]


def test_the_extension_needs_no_cuda_library() -> None:
    """Not in a CUDA build either: its runtime is linked statically and looks for the driver when asked."""
    needed = re.findall(r"Shared library: \[(.*)\]", readelf("--dynamic"))
    assert needed, "readelf names no library: the test looks at the wrong lines"
    assert not [name for name in needed if re.search("cuda|cudart|cublas|nv", name)]
