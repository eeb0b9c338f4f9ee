"""`import tuili` is cheap and quiet: 30 ms over numpy, no thread, no socket, no optional library."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

LIMIT_S = 0.030

_PROBE = """
import json, os, sys, time
import numpy

def n_threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

events = []
sys.addaudithook(lambda name, args: events.append(name) if name.startswith("socket.") else None)
threads = n_threads()
start = time.perf_counter()
import tuili
elapsed = time.perf_counter() - start
report = {"elapsed": elapsed, "threads": n_threads() - threads, "sockets": events}
report["modules"] = list(sys.modules)
print(json.dumps(report))
"""


def probe() -> dict[str, object]:
    """What one fresh process sees while it imports tuili after numpy."""
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first() -> dict[str, object]:
    return probe()


def test_import_adds_at_most_30_ms_to_numpy(first):
    medians = []
    for _ in range(3):  # a busy machine can spoil one median, hardly three
        medians.append(statistics.median(probe()["elapsed"] for _ in range(5)))
        if medians[-1] <= LIMIT_S:
            return
    pytest.fail(
        f"import tuili took {', '.join(f'{1000 * m:.1f}' for m in medians)} ms (medians of 5), limit 30 ms"
    )


def test_import_starts_no_thread(first):
    assert first["threads"] == 0


def test_import_opens_no_socket(first):
    assert first["sockets"] == []


@pytest.mark.parametrize(
    "module", ["tokenizers", "jinja2", "tuili.pipeline", "tuili.server", "asyncio", "http.client"]
)
def test_import_leaves_optional_modules_alone(first, module):
    assert module not in first["modules"]
