"""What C++ test programs say: a line for each of their tests, PASS or FAIL, its name and why."""

from __future__ import annotations

import subprocess
from pathlib import Path


def results_of(*command: str | Path) -> dict[str, str]:
    """Name of each test -> "" or why it failed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    results = {}
    for line in done.stdout.splitlines():
        verdict, _, rest = line.partition(" ")
        name, _, why = rest.partition(": ")
        results[name] = "" if verdict == "PASS" else why or verdict
    if done.returncode not in (0, 1) or (done.returncode == 1) != any(results.values()):
        results["the whole program"] = f"exit status {done.returncode}: {done.stderr[-2000:]}"
    return results


def assert_passes(results: dict[str, str], at_least: int) -> None:
    failures = {name: why for name, why in results.items() if why}
    assert not failures, failures
    assert len(results) >= at_least, f"only {len(results)} tests ran"
