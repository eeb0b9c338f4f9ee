"""What the CUDA kernels ask of memory on the emulator's trace build, against a budget.

    python tests/cuda_emulation/traffic.py             counts, and fails (exit code 1) above the budget
    python tests/cuda_emulation/traffic.py --update    counts, and writes the budget
    python tests/cuda_emulation/traffic.py --places    also lists the lines that waste most
    python tests/cuda_emulation/traffic.py --counts F  reads what a run of the tests has left in file F

Per kernel, over all tests but those of fixed shapes: wavefronts of shared memory (more than the least are
bank conflicts) and 32-byte sectors of global memory, each as a multiple of the least that as many bytes need.
Per fixed shape of shapes_test.cc: the counts themselves. The same source gives the same counts; nothing here
is a time.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
BUDGET = Path(__file__).with_name("traffic_budget.json")
TOLERANCE = 0.01  # of a ratio: tests of other shapes may join
FEWER_IS_WORSE = {"in_flight_bytes"}

Frame = tuple[str, str]  # function, "file:line"


@dataclass
class Traffic:
    """Sums over requests; `served` and `least` count wavefronts (shared) or sectors (global)."""

    requests: int = 0
    served: int = 0
    least: int = 0

    def add(self, requests: int, served: int, least: int) -> None:
        self.requests += requests
        self.served += served
        self.least += least

    @property
    def ratio(self) -> float:
        return round(self.served / self.least, 4) if self.least else 1.0


@dataclass
class Kernel:
    shared: Traffic = field(default_factory=Traffic)
    global_: Traffic = field(default_factory=Traffic)
    launches: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    macs: int = 0
    threads: int = 0  # of a block, the most
    shared_bytes: int = 0
    blocks: int = 0  # of a launch, the most
    in_flight_bytes: int = 0  # that a block has asked cp.async for and not awaited, the most
    places: Counter[str] = field(default_factory=Counter)  # wavefronts and sectors above the least


def kernel_of(functions: list[str]) -> str:
    """Kernel among the functions of a launch, e.g. "gemm_kernel<Access 0, float>"; "" for a test's own."""
    for function in functions:
        match = re.match(r"(?:void )?tuili::cuda::(\w+_kernel)(<.*>)?\(", function)
        if match:
            arguments = re.sub(r"\((?:\w+::)*(\w+)\)(\d+)", r"\1 \2", match[2] or "")
            return match[1] + arguments.replace("tuili::cuda::", "").replace("__nv_bfloat16", "bf16")
    return ""


def place_of(frames: list[Frame]) -> str:
    """The innermost line that is not a wrapper's."""
    places = [place for _, place in frames if not place.startswith("ptx.cuh")]
    return places[0].split(" ")[0] if places else "?"


def frames_of(program: Path, addresses: list[int]) -> dict[int, list[Frame]]:
    """Inlined call chain of each address, the innermost first."""
    command = ["addr2line", "-a", "-f", "-C", "-i", "-s", "-e", str(program)]
    text = "\n".join(hex(address) for address in addresses)
    out = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    frames: dict[int, list[Frame]] = {}
    i = 0
    while i < len(out):
        if re.fullmatch(r"0x[0-9a-f]+", out[i]):
            here = frames[int(out[i], 16)] = []
            i += 1
        else:
            here.append((out[i], out[i + 1]))
            i += 2
    return frames


def counted_lines(program: Path, counts: Path | None) -> list[dict]:
    """What trace_main.cc writes per test and kernel, read or counted; fails when a test does."""
    if counts is not None:
        return [json.loads(line) for line in counts.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.jsonl"
        done = subprocess.run([program, "--counts", path], capture_output=True, text=True, timeout=1800)
        if done.returncode != 0:
            failures = [line for line in done.stdout.splitlines() if not line.startswith("PASS")]
            sys.exit("\n".join(["the tests of the trace build fail:", *failures, done.stderr]))
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def frames_of_lines(program: Path, lines: list[dict]) -> dict[int, list[Frame]]:
    """Call chains of all addresses in those lines."""
    sites = {site[0] for line in lines for site in line["sites"]}
    return frames_of(program, sorted(sites.union(*(line["entered"] for line in lines))))


def count(program: Path, counts: Path | None) -> dict[str, dict[str, Kernel]]:
    """Counts of each kernel in each test."""
    lines = counted_lines(program, counts)
    frames = frames_of_lines(program, lines)
    tests: dict[str, dict[str, Kernel]] = {}
    for line in lines:
        # A kernel that is launched by its name may have been inlined: then only its accesses tell.
        addresses = line["entered"] + [site[0] for site in line["sites"]]
        name = kernel_of([function for address in addresses for function, _ in reversed(frames[address])])
        if not name:
            continue
        kernel = tests.setdefault(line["test"], {}).setdefault(name, Kernel())
        for address, space, requests, served, least in line["sites"]:
            (kernel.shared if space == "shared" else kernel.global_).add(requests, served, least)
            kernel.places[f"{place_of(frames[address])} {space}"] += served - least
        kernel.launches += line["launches"]
        kernel.read_bytes += line["read_bytes"]
        kernel.written_bytes += line["written_bytes"]
        kernel.macs += line["macs"]
        kernel.threads = max(kernel.threads, line["threads"])
        kernel.shared_bytes = max(kernel.shared_bytes, line["shared_bytes"])
        kernel.blocks = max(kernel.blocks, line["blocks"])
        kernel.in_flight_bytes = max(kernel.in_flight_bytes, line["in_flight_bytes"])
    return tests


def summary(tests: dict[str, dict[str, Kernel]]) -> dict[str, dict[str, dict[str, float]]]:
    """The budget: "kernels" and "blocks" (what tools/sass_check.py needs of a launch) by kernel, "shapes"."""
    kernels: dict[str, Kernel] = defaultdict(Kernel)
    shapes: dict[str, dict[str, float]] = {}
    for test, counted in tests.items():
        for name, kernel in counted.items():
            kernels[name].threads = max(kernels[name].threads, kernel.threads)
            kernels[name].shared_bytes = max(kernels[name].shared_bytes, kernel.shared_bytes)
            if test.startswith("shape: "):
                shapes[f"{test.removeprefix('shape: ')}: {name}"] = {
                    "wavefronts": kernel.shared.served,
                    "bank_conflicts": kernel.shared.served - kernel.shared.least,
                    "sectors": kernel.global_.served,
                    "least_sectors": kernel.global_.least,
                    "read_bytes": kernel.read_bytes,
                    "written_bytes": kernel.written_bytes,
                    "macs": kernel.macs,
                    "blocks": kernel.blocks,
                    "in_flight_bytes": kernel.in_flight_bytes,
                }
                continue
            kernels[name].shared.add(kernel.shared.requests, kernel.shared.served, kernel.shared.least)
            kernels[name].global_.add(kernel.global_.requests, kernel.global_.served, kernel.global_.least)
    ratios = {
        name: {"wavefronts": kernel.shared.ratio, "sectors": kernel.global_.ratio}
        for name, kernel in sorted(kernels.items())
    }
    blocks = {
        name: {"threads": kernel.threads, "shared_bytes": kernel.shared_bytes}
        for name, kernel in sorted(kernels.items())
    }
    return {"kernels": ratios, "blocks": blocks, "shapes": dict(sorted(shapes.items()))}


def excesses(counted: dict, budget: dict) -> list[str]:
    """What is above the budget or not in it."""
    found = []
    for part, tolerance in (("kernels", TOLERANCE), ("shapes", 0.0)):
        for name, numbers in counted[part].items():
            allowed = budget[part].get(name)
            if allowed is None:
                found.append(f"{name}: not in the budget; add it with --update")
                continue
            for what, number in numbers.items():
                sign = -1 if what in FEWER_IS_WORSE else 1
                if sign * number > sign * allowed[what] * (1 + tolerance):
                    found.append(f"{name}: {what} {number}, allowed {allowed[what]}")
    return found


def build(folder: Path) -> Path:
    """The traced tests, built."""
    if not (folder / "CMakeCache.txt").exists():
        subprocess.run(["cmake", "-S", SOURCE, "-B", folder], check=True, stdout=subprocess.DEVNULL)
    command = ["cmake", "--build", folder, "--target", "traced_kernels_test", "--parallel", "2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "traced_kernels_test"


def print_table(counted: dict, tests: dict[str, dict[str, Kernel]], places: bool) -> None:
    print(f"{'kernel':<60} {'wavefronts/least':>17} {'sectors/least':>14}")
    for name, numbers in counted["kernels"].items():
        print(f"{name:<60} {numbers['wavefronts']:>17.3f} {numbers['sectors']:>14.3f}")
    if places:
        waste: Counter[str] = Counter()
        for kernels in tests.values():
            for kernel in kernels.values():
                waste += kernel.places
        for place, n in waste.most_common(20):
            print(f"  {place}: {n} above the least")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--places", action="store_true")
    parser.add_argument("--counts", type=Path)
    parser.add_argument(
        "--build-folder", type=Path, default=SOURCE.parent.parent / "build" / "cuda_emulation"
    )
    options = parser.parse_args()
    tests = count(build(options.build_folder), options.counts)
    counted = summary(tests)
    print_table(counted, tests, options.places)
    if options.update:
        BUDGET.write_text(json.dumps(counted, indent=1) + "\n", encoding="utf-8")
        return 0
    found = excesses(counted, json.loads(BUDGET.read_text(encoding="utf-8")))
    print("\n".join(found) or "within the budget")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
