"""Instructions that each kernel executes on fixed shapes, counted by callgrind, against a budget.

    python bench/instructions.py             counts, and fails (exit code 1) at more than 2 % over the budget
    python bench/instructions.py --update    counts, and writes them as the budget of this compiler
    python bench/instructions.py --filter gemm_int8/q4_0

A clock on a shared machine says little; a count is the same every time. It depends on the compiler, so a
budget belongs to one: for an unknown compiler there is nothing to compare with, which is printed. Valgrind
knows no AVX-512, so the tables are "avx2" and "generic".
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BUDGET = Path(__file__).with_name("instruction_budget.json")
ISAS = ("avx2", "generic")
TOLERANCE = 0.02
SLACK = 8  # instructions: 2 % of a very short kernel is less than a moved one

Counts = dict[str, int]  # "avx2/gemm_int8/q4_0/counted/m:8" -> instructions


def build(folder: Path) -> Path:
    """The program that runs the cases, built."""
    configure = ["cmake", "-S", str(REPOSITORY), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"]
    configure += ["-DTUILI_BENCH=ON", "-DTUILI_PYTHON=OFF"]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    if not (folder / "CMakeCache.txt").exists():
        subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    command = ["cmake", "--build", str(folder), "--target", "count_instructions", "--parallel", "2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "bench" / "count_instructions"


def compiler(folder: Path) -> str:
    """Name and version: "GNU 12.2.0"."""
    [path] = (folder / "CMakeFiles").glob("*/CMakeCXXCompiler.cmake")
    text = path.read_text(encoding="utf-8")
    found = [
        match[1]
        for name in ("ID", "VERSION")
        if (match := re.search(rf'set\(CMAKE_CXX_COMPILER_{name} "([^"]+)"\)', text))
    ]
    return " ".join(found)


def count(program: Path, isa: str, part: str) -> Counts:
    """Instructions of each case, one run of valgrind."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        environment = os.environ | {"TUILI_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, program, isa, part], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{isa}: {done.stderr[-2000:]}")
        dumps = [path.read_text(encoding="utf-8") for path in Path(folder).glob("out.*")]
    counts = {}
    for dump in dumps:
        trigger = re.search(r"^desc: Trigger: Client Request: (.+)$", dump, re.MULTILINE)
        total = re.search(r"^(?:summary|totals): (\d+)", dump, re.MULTILINE)
        if trigger and total:
            counts[f"{isa}/{trigger[1]}"] = int(total[1])
    missing = set(done.stdout.split()) - {name.partition("/")[2] for name in counts}
    if missing:
        raise SystemExit(f"{isa}: no dump of {sorted(missing)}")
    return counts


def compare(counts: Counts, budget: Counts) -> tuple[list[str], list[str]]:
    """(cases that are over the budget, notices)."""
    over, notices = [], []
    for name, n in sorted(counts.items()):
        if name not in budget:
            notices.append(f"{name}: no budget, {n:,} instructions")
            continue
        change = n / budget[name] - 1
        line = f"{name}: {n:,} instructions, budget {budget[name]:,} ({100 * change:+.1f} %)"
        if n > budget[name] * (1 + TOLERANCE) + SLACK:
            over.append(line)
        elif n < budget[name] * (1 - TOLERANCE) - SLACK:
            notices.append(f"{line}: better, --update would keep it")
    return over, notices


def update(name: str, counts: Counts, part: str) -> None:
    """Write the counts as this compiler's budget; a filter keeps the others."""
    budgets = json.loads(BUDGET.read_text(encoding="utf-8")) if BUDGET.exists() else {}
    kept = budgets.get(name, {}) if part else {}
    budgets[name] = dict(sorted((kept | counts).items()))
    BUDGET.write_text(json.dumps(budgets, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{BUDGET.name}: {len(counts)} cases of {name}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--filter", default="", metavar="PART", help="cases whose name contains it")
    parser.add_argument("--build-folder", type=Path, default=REPOSITORY / "build" / "instructions")
    options = parser.parse_args(arguments)
    for tool in ("valgrind", "cmake"):
        if shutil.which(tool) is None:
            print(f"NOTICE: instructions were not counted: {tool} is not installed")
            return 0
    program = build(options.build_folder)
    counts: Counts = {}
    for isa in ISAS:
        counts |= count(program, isa, options.filter)
    name = compiler(options.build_folder)
    if options.update:
        update(name, counts, options.filter)
        return 0
    budgets = json.loads(BUDGET.read_text(encoding="utf-8")) if BUDGET.exists() else {}
    if name not in budgets:
        print(
            f"NOTICE: {len(counts)} cases counted, 0 compared: no budget for {name}, only for {list(budgets)}"
        )
        return 0
    over, notices = compare(counts, budgets[name])
    print("\n".join([*notices, *(f"OVER {line}" for line in over)]))
    print(f"{len(counts)} cases of {name}, {len(over)} over the budget, {len(notices)} notices")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
