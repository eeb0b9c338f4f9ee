"""Takes each barrier, __syncwarp and wait or commit of cp.async out of the CUDA kernels, one at a time, and
demands that the tests of the trace build fail.

    python tests/cuda_emulation/mutate.py                  every statement; fails (exit code 1) below 95 %, or
                                                           with a survivor that mutation_survivors.json does
                                                           not explain
    python tests/cuda_emulation/mutate.py --only gemm.cuh  those of one file
    python tests/cuda_emulation/mutate.py --all            whether the explained ones still survive, too
    python tests/cuda_emulation/mutate.py --counts FILE    as traffic.py

Only the kernel concerned is compiled again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rebuilt import KERNELS, Built, finished_build, rebuild
from traffic import counted_lines, frames_of_lines

SOURCE = Path(__file__).resolve().parent
EXPLAINED = Path(__file__).with_name("mutation_survivors.json")
BAR = 0.95
STATEMENT = re.compile(
    r"(?<!void )\b(?:ptx::)?(__syncthreads|__syncwarp|cp_async_commit|cp_async_wait)\s*"
    r"(?:<[^;]*?>)?\s*\([^;]*?\)\s*;"
)
NOT_KERNELS = {"ptx.cuh", "launch.h", "kernels.h"}
TIMEOUT_S = 900


@dataclass(frozen=True)
class Mutant:
    path: Path
    name: str  # "gemm.cuh: cp_async_wait 2", the second of its file
    line: int
    text: str  # of the whole file without the statement


Tests = dict[str, list[str]]  # of each file of kernels: the tests that run its code, the cheap ones first


def mutants(only: str) -> Iterator[Mutant]:
    for path in sorted([*KERNELS.glob("*.cuh"), *KERNELS.glob("*.cu")]):
        if path.name in NOT_KERNELS or only not in path.name:
            continue
        text = path.read_text(encoding="utf-8")
        numbers: Counter[str] = Counter()
        for match in STATEMENT.finditer(text):
            begin_of_line = text.rfind("\n", 0, match.start()) + 1
            if "//" in text[begin_of_line : match.start()]:
                continue
            numbers[match[1]] += 1
            yield Mutant(
                path,
                f"{path.name}: {match[1]} {numbers[match[1]]}",
                text.count("\n", 0, match.start()) + 1,
                text[: match.start()] + "static_cast<void>(0);" + text[match.end() :],
            )


def build(folder: Path) -> Built:
    if not (folder / "CMakeCache.txt").exists():
        subprocess.run(["cmake", "-S", SOURCE, "-B", folder], check=True, stdout=subprocess.DEVNULL)
    command = ["cmake", "--build", folder, "--target", "traced_kernels_test", "--parallel", "2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return finished_build(folder, "traced_kernels", "traced_kernels_test", "tuili_TRACED")


def tests_of_files(program: Path, counts: Path | None) -> Tests:
    lines = counted_lines(program, counts)
    frames = frames_of_lines(program, lines)
    cost: Counter[str] = Counter()
    tests: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        cost[line["test"]] += sum(site[2] for site in line["sites"])
        for address in (site[0] for site in line["sites"]):
            for _, place in frames[address]:
                tests[place.split(":")[0]].add(line["test"])
    return {name: sorted(found, key=lambda test: cost[test]) for name, found in tests.items()}


def verdict(built: Built, tests: Tests, mutant: Mutant) -> str:
    """The first failing test and why; "" when all that run the mutated file pass."""
    only = [part for test in tests.get(mutant.path.name, []) for part in ("--only", test)]
    with tempfile.TemporaryDirectory() as folder:
        program = rebuild(built, mutant.path, mutant.text, Path(folder))
        command = [program, "--stop", *only]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, errors="replace"
            )
        except subprocess.TimeoutExpired:
            return f"still running after {TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert failed or done.returncode < 0, f"{mutant.name}: no test failed, yet exit status {done.returncode}"
    return failed[0] if failed else f"ended by signal {-done.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="part of a file's name")
    parser.add_argument(
        "--build-folder", type=Path, default=SOURCE.parent.parent / "build" / "cuda_emulation"
    )
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--counts", type=Path)
    options = parser.parse_args()
    explained: dict[str, str] = json.loads(EXPLAINED.read_text(encoding="utf-8"))
    all_mutants = list(mutants(options.only))
    if not all_mutants:
        is_there = any(options.only in path.name for path in KERNELS.glob("*.cu*"))
        print(f"{options.only}: " + ("nothing in it orders memory" if is_there else "there is no such file"))
        return 0 if is_there else 2
    built = build(options.build_folder)
    tests = tests_of_files(built.folder / "traced_kernels_test", options.counts)
    tried = [mutant for mutant in all_mutants if options.all or mutant.name not in explained]
    with ThreadPoolExecutor(max_workers=2) as pool:
        verdicts = dict(
            zip(tried, pool.map(lambda mutant: verdict(built, tests, mutant), tried), strict=True)
        )
    survivors = []
    for mutant in all_mutants:
        why = verdicts.get(mutant, "")
        told = why or f"SURVIVES: {explained.get(mutant.name, 'unexplained')}"
        print(f"{mutant.path.name}:{mutant.line} without {mutant.name.split(': ')[1]}: {told[:160]}")
        if not why:
            survivors.append(mutant.name)
    n_caught = len(all_mutants) - len(survivors)
    share = n_caught / len(all_mutants)
    print(f"caught {n_caught} of {len(all_mutants)}: {100 * share:.1f} %, bar {100 * BAR:.0f} %")
    unexplained = [name for name in survivors if name not in explained]
    stale = [name for name in explained if options.only in name.split(":")[0] and name not in survivors]
    if unexplained:
        print("not explained in mutation_survivors.json:", ", ".join(unexplained))
    if stale:
        print("explained, but caught or gone:", ", ".join(stale))
    return 0 if share >= BAR and not unexplained and not stale else 1


if __name__ == "__main__":
    sys.exit(main())
