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


def report(rows: list[dict[str, Any]], together: list[dict[str, Any]], repeats: int) -> None:
    word = {True: "met", False: "MISSED"}
    print(f"start to first token or vector, seconds, median of {repeats} (least to most)")
    for row in rows:
        row["name"] = f"  {row['model']:<22} from {row['from']:<6}"
        met = word[row["seconds"] <= row["bar"]]
        print("{name} {seconds:.3f} ({least:.3f}-{most:.3f})  bar {bar:.2f} ".format(**row) + met, end="")
        print("; without the cache {without_cache:.3f}".format(**row))
    print("peak RSS, MB: at most 1.15 x (weights + KV in use) + 60 + the tokenizer's own")
    for row in rows:
        met = word[row["peak"] <= row["peak_bar"]]
        print(f"{row['name']} {row['peak'] / MB:6.1f}  bar {row['peak_bar'] / MB:6.1f} {met}; ", end="")
        print(", ".join(f"{part} {row[part] / MB:.1f}" for part in ("weights", "kv", "tokenizer")))
    print("four processes at once, MB: the weights' PSS summed over all, at most 1.15 x the weights")
    for entry in together:
        pss, weights = entry["pss_of_weights"] / MB, entry["weights"] / MB
        print(f"  {entry['model']:<22} {pss:6.1f} of {weights:.1f} {word[pss <= 1.15 * weights]}; ", end="")
        print(f"PSS of a whole process {entry['pss_per_process'] / MB:.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for model, kind, bar in STARTS:
        for _ in range(2):  # the first one may have had to write the cache
            measure(model, kind)
        runs = [measure(model, kind) for _ in range(options.repeats)]
        own = measure(model, "ids")["tokenizer"] if kind != "ids" else 0
        seconds, last = [run["seconds"] for run in runs], runs[-1]
        allowed = 1.15 * (last["weights"] + last["kv"]) + 60 * MB + own
        without = statistics.median(measure(model, kind, "off")["seconds"] for _ in range(2))
        rows.append({"model": model, "from": kind, "seconds": statistics.median(seconds), "bar": bar,
                     "least": min(seconds), "most": max(seconds), "without_cache": without,
                     "peak": statistics.median(run["peak"] for run in runs), "peak_bar": allowed,
                     "weights": last["weights"], "kv": last["kv"], "tokenizer": own,
                     "packed": last["packed"]})  # fmt: skip
    together = [{"model": model} | shared(model) for model in ("smollm2-135m-instruct", "gemma3-270m")]
    missed = sum(row["seconds"] > row["bar"] or row["peak"] > row["peak_bar"] for row in rows)
    missed += sum(row["pss_of_weights"] > 1.15 * row["weights"] for row in together)
    if options.json:
        print(json.dumps({"starts": rows, "four_processes": together, "missed": missed}))
    else:
        report(rows, together, options.repeats)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
