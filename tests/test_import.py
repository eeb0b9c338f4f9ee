"""`import tuili` is cheap and quiet: 30 ms over numpy, no thread, no socket, no optional library."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from patience import least, slowness

LIMIT_S = 0.030

_PROBE = """
import json, os, sys, time
import numpy

def n_threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

events = []
sys.addaudithook(lambda name, args: events.append(name) if name.startswith("socket.") else None)
threads = n_threads()
start = time.process_time()
import tuili
elapsed = time.process_time() - start
report = {"elapsed": elapsed, "threads": n_threads() - threads, "sockets": events}
report["modules"] = list(sys.modules)
print(json.dumps(report))
"""


def probe() -> dict[str, Any]:
    """What one fresh process sees while it imports tuili after numpy."""
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first() -> dict[str, Any]:
    return probe()


def test_import_adds_at_most_30_ms_to_numpy(first):
    limit_s = LIMIT_S * slowness()
    assert least(lambda: probe()["elapsed"], limit_s) <= limit_s


def test_import_starts_no_thread(first):
    assert first["threads"] == 0


def test_import_opens_no_socket(first):
    assert first["sockets"] == []


@pytest.mark.parametrize(
    "module", ["tokenizers", "jinja2", "tuili.pipeline", "tuili.server", "asyncio", "http.client"]
)
def test_import_leaves_optional_modules_alone(first, module):
    assert module not in first["modules"]


def test_the_module_shows_what_is_public() -> None:
    import tuili

    assert dir(tuili) == sorted(tuili.__all__) and "LLM" in dir(tuili)
    assert all(hasattr(tuili, name) for name in dir(tuili))
