"""From the start of a process to its first token or vector, its memory, and what four processes share.

    python bench/startup.py [--repeats 7] [--json]

Each start is a fresh process that imports tuili, opens a model with default options and asks for one token
(or vector). File cache and packed cache are warm: two starts that do not count come first. The clock is
CLOCK_MONOTONIC, which processes share. Figures are medians. The exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from verdicts import Row, at_most, missed, show

MB = 1e6
CHILD = """
import json, sys, time
model, kind, cached, wait = sys.argv[1:]
from tuili import LLM

def resident(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))

llm = LLM(model, packed_cache=cached == "on")
if llm.kind == "encoder":
    llm.embed("The river runs to the sea.")
else:
    llm.generate([2, 3, 4] if kind == "ids" else "The river runs to the sea.", max_tokens=1, temperature=0)
first = time.monotonic()
peak, before = resident("VmHWM"), resident("VmRSS")
lazy = kind == "ids" and not wait  # the tokenizer's share is measured once all else is there
if lazy:
    llm.tokenizer.encode("a")
cache = llm.config.get("kv_cache")
print(json.dumps({
    "first": first, "peak": peak, "tokenizer": resident("VmHWM") - before if lazy else 0,
    "weights": llm.memory["weights"], "packed": llm.config["packed_cache"],
    "kv": llm.memory["kv_cache"] // (cache["tokens"] // 32) if cache else 0,
}), flush=True)
if wait == "wait":
    sys.stdin.read()
llm.close()
"""

# model, what is asked for, seconds allowed
STARTS = (
    ("smollm2-135m-instruct", "ids", 0.45),
    ("smollm2-135m-instruct", "text", 0.45),
    ("gemma3-270m", "ids", 0.6),
    ("gemma3-270m", "text", 2.0),
    ("all-minilm-l6-v2", "vector", 0.3),
)


def start(model: str, kind: str, cached: str = "on", wait: str = "") -> subprocess.Popen[str]:
    # An installed package has its bytecode; so has a source tree once it was run without this variable.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = (sys.executable, "-c", CHILD, model, kind, cached, wait)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)


def measure(model: str, kind: str, cached: str = "on") -> dict[str, Any]:
    """What one process says, and its seconds from start to first token."""
    begin = time.monotonic()
    child = start(model, kind, cached)
    out, _ = child.communicate(timeout=120)
    if child.returncode:
        sys.exit(f"{model} {kind}: the process failed")
    result: dict[str, Any] = json.loads(out)
    return result | {"seconds": result["first"] - begin}


def shared(model: str, n_processes: int = 4) -> dict[str, float]:
    """Proportional set size of the weights' mapping, over processes that run at the same time."""
    children = [start(model, "ids", wait="wait") for _ in range(n_processes)]
    totals, pss = [], 0.0
    said = [json.loads(child.stdout.readline()) for child in children if child.stdout]
    for child in children:
        with open(f"/proc/{child.pid}/smaps", encoding="utf-8") as file:
            name, total = "", 0
            for line in file:
                word, *rest = line.split()
                name = name if word.endswith(":") else line
                if word == "Pss:":
                    total += int(rest[0]) * 1024
                    pss += int(rest[0]) * 1024 if ".packed" in name else 0
            totals.append(total)
    for child in children:
        child.communicate()
    return {"weights": said[0]["weights"], "pss_of_weights": pss, "pss_per_process": statistics.mean(totals)}


def measure_starts(repeats: int) -> list[Row]:
    """Seconds to the first token or vector, and peak RSS: at most 1.15 × (weights + KV in use) + 60 MB + the
    tokenizer's own.
    """
    rows = []
    for model, kind, bar in STARTS:
        for _ in range(2):  # the first one may have had to write the cache
            measure(model, kind)
        runs = [measure(model, kind) for _ in range(repeats)]
        own = measure(model, "ids")["tokenizer"] if kind != "ids" else 0
        last, what = runs[-1], f"{model} from {kind}"
        seconds, peaks = [run["seconds"] for run in runs], [run["peak"] / MB for run in runs]
        without = statistics.median(measure(model, kind, "off")["seconds"] for _ in range(2))
        text = f"without the cache {without:.3f}"
        rows.append(at_most(what, statistics.median(seconds), bar, "s", text, seconds))
        parts = {"weights": last["weights"], "kv": last["kv"], "tokenizer": own}
        text = ", ".join(f"{part} {n_bytes / MB:.1f}" for part, n_bytes in parts.items())
        allowed = 1.15 * (last["weights"] + last["kv"]) / MB + 60 + own / MB
        rows.append(at_most(f"{what}, peak RSS", statistics.median(peaks), allowed, "MB", text, peaks))
    return rows


def measure_shared() -> list[Row]:
    """PSS of the weights, summed over four processes at once: at most 1.15 × the weights."""
    rows = []
    for model in ("smollm2-135m-instruct", "gemma3-270m"):
        found = shared(model)
        text = f"PSS of a whole process {found['pss_per_process'] / MB:.1f}"
        pss, allowed = found["pss_of_weights"] / MB, 1.15 * found["weights"] / MB
        rows.append(at_most(f"{model}, weights in four processes", pss, allowed, "MB", text, ()))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure_starts(options.repeats) + measure_shared()
    if options.json:
        print(json.dumps({"rows": rows, "missed": missed(rows)}))
    else:
        show(rows)
    return int(bool(missed(rows)))


if __name__ == "__main__":
    sys.exit(main())
