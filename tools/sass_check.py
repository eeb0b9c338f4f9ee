"""What nvcc makes of the CUDA kernels, against a budget; needs nvcc and nvdisasm, and no GPU.

    python tools/sass_check.py              compiles for sm_80 and sm_90, products for sm_100;
                                            exit code 1 for a warning, a spill, local memory, a double, or
                                            more than the budget
    python tools/sass_check.py --update     writes the budget of this nvcc; fails for all but the last

Per kernel and architecture: registers, occupancy (with the block sizes that the emulator saw launched), how
often the instructions occur that make a kernel fast, and the instructions of its loop over tiles. nvdisasm is
on PyPI: nvidia-cuda-nvdisasm. What the numbers promise: tools/roofline.py.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from inner_loop import mix_of
from roofline import MULTIPROCESSORS, resident_blocks

REPOSITORY = Path(__file__).resolve().parent.parent
KERNELS = REPOSITORY / "csrc" / "kernels" / "cuda"
BUDGET = Path(__file__).with_name("sass_budget.json")
TRAFFIC = REPOSITORY / "tests" / "cuda_emulation" / "traffic_budget.json"
ARCHITECTURES = {"sm_80": "*.cu", "sm_90": "*.cu", "sm_100": "gemm*.cu"}  # where instructions differ
TOLERANCE = 0.05  # of the number of instructions

FORBIDDEN = {
    "local": r"(LDL|STL)\b",
    "doubles": r"D(ADD|MUL|FMA|SETP|MNMX|MMA)\b|\S*\.F64\b|MUFU\.\w+64H",
}
WANTED = {  # must not vanish
    "wide_loads": r"LDG\.\S*128",
    "cp_async": r"LDGSTS",
    "ldmatrix": r"LDSM",
    "hmma": r"HMMA",
    "imma": r"IMMA",
}

Numbers = dict[str, Any]  # of one kernel on one architecture


def nvdisasm() -> str | None:
    """Path of the disassembler: on PATH, or in the PyPI package."""
    on_path = shutil.which("nvdisasm")
    if on_path:
        return on_path
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "nvdisasm"), None)


def kernel_name(mangled: str) -> str:
    """As the traffic budget spells it, e.g. "gemm_kernel<Access 0, float>"."""
    plain = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    match = re.match(r"(?:void )?tuili::cuda::(\w+)(<.*>)?\(", plain)
    if not match:
        return plain
    arguments = re.sub(r"\((?:\w+::)*(\w+)\)(\d+)", r"\1 \2", match[2] or "")
    return match[1] + arguments.replace("tuili::cuda::", "").replace("__nv_bfloat16", "bf16")


def occupancy(registers: int, threads: int, shared_bytes: int, architecture: str) -> float:
    """Share of a multiprocessor's warps that can be resident at once."""
    multiprocessor = MULTIPROCESSORS[architecture]
    blocks = resident_blocks(registers, threads, shared_bytes, multiprocessor)
    return round(blocks * -(-threads // 32) / multiprocessor.n_warps, 4)


def compile_and_read(
    source: Path, architecture: str, disassembler: str
) -> tuple[dict[str, Numbers], list[str]]:
    """Numbers of each kernel of a .cu file, and nvcc's warnings."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        command = [
            "nvcc",
            "-std=c++20",
            f"-arch={architecture}",
            "-Xptxas",
            "-v",
            "-I",
            KERNELS.parent.parent,
        ]
        done = subprocess.run([*command, "-cubin", source, "-o", cubin], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{source.name} does not compile for {architecture}:\n{done.stderr}")
        code = subprocess.run([disassembler, "-c", cubin], capture_output=True, text=True, check=True).stdout
    warnings = [
        line for line in done.stderr.splitlines() if line.strip() and not re.match(r"ptxas info|\s+\d", line)
    ]
    kernels = {}
    report = r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    report += r"(\d+) bytes spill loads.*?Used (\d+) registers"
    for name, stack, stores, loads, registers in re.findall(report, done.stderr, re.DOTALL):
        section = re.search(rf"^\.text\.{name}:\n(.*?)(?=^//----|\Z)", code, re.DOTALL | re.MULTILINE)
        assert section, f"{name} is not in nvdisasm's output"
        instructions = re.findall(
            r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+)", section[1], re.MULTILINE
        )
        numbers: Numbers = {"registers": int(registers), "instructions": len(instructions)}
        numbers["stack_and_spills"] = int(stack) + int(stores) + int(loads)
        for what, pattern in (FORBIDDEN | WANTED).items():
            numbers[what] = sum(re.match(pattern, instruction) is not None for instruction in instructions)
        numbers["loop"] = mix_of(section[1])
        kernels[kernel_name(name)] = numbers
    return kernels, warnings


def survey(disassembler: str) -> tuple[dict[str, dict[str, Numbers]], list[str]]:
    """Numbers by architecture and kernel, and all warnings."""
    blocks = json.loads(TRAFFIC.read_text(encoding="utf-8"))["blocks"]
    jobs = [(source, arch) for arch, files in ARCHITECTURES.items() for source in sorted(KERNELS.glob(files))]
    with ThreadPoolExecutor(max_workers=2) as pool:
        done = list(pool.map(lambda job: compile_and_read(*job, disassembler), jobs))
    found: dict[str, dict[str, Numbers]] = {arch: {} for arch in ARCHITECTURES}
    warnings = []
    for (source, arch), (kernels, warned) in zip(jobs, done, strict=True):
        warnings += [f"{source.name}, {arch}: {line}" for line in warned]
        for name, numbers in kernels.items():
            if name in blocks:
                block = blocks[name]
                numbers["occupancy"] = occupancy(
                    int(numbers["registers"]), block["threads"], block["shared_bytes"], arch
                )
            found[arch][name] = numbers
    return found, warnings


def failures(found: dict[str, dict[str, Numbers]], budget: dict, same_nvcc: bool) -> list[str]:
    """What no kernel may have, and, for the nvcc of the budget, what is worse than there."""
    wrong = []
    for arch, kernels in found.items():
        for name, numbers in kernels.items():
            here = f"{arch} {name}"
            wrong += [
                f"{here}: {numbers[what]:.0f} {what}"
                for what in ("stack_and_spills", *FORBIDDEN)
                if numbers[what]
            ]
            allowed = budget.get(arch, {}).get(name)
            if allowed is None:
                wrong.append(f"{here}: not in the budget; add it with --update")
                continue
            wrong += [f"{here}: no {what} any more" for what in WANTED if allowed[what] and not numbers[what]]
            if not same_nvcc:
                continue
            if numbers["registers"] > allowed["registers"]:
                wrong.append(f"{here}: {numbers['registers']} registers, allowed {allowed['registers']}")
            if numbers["instructions"] > allowed["instructions"] * (1 + TOLERANCE):
                wrong.append(
                    f"{here}: {numbers['instructions']} instructions, allowed {allowed['instructions']}"
                )
            here_loop, allowed_loop = sum(numbers["loop"].values()), sum(allowed["loop"].values())
            if here_loop > allowed_loop * (1 + TOLERANCE):
                wrong.append(
                    f"{here}: {here_loop} instructions in the loop over tiles, allowed {allowed_loop}"
                )
            if numbers.get("occupancy", 1) < allowed.get("occupancy", 0):
                wrong.append(f"{here}: occupancy {numbers['occupancy']}, at least {allowed['occupancy']}")
    return wrong


def print_table(found: dict[str, dict[str, Numbers]]) -> None:
    columns = ("registers", "occupancy", "instructions", *WANTED)
    print(f"{'kernel':<64}" + "".join(f"{column:>13}" for column in columns))
    for arch, kernels in found.items():
        for name, numbers in sorted(kernels.items()):
            cells = "".join(f"{numbers.get(column, '-'):>13}" for column in columns)
            print(f"{arch + ' ' + name:<64}{cells}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    disassembler = nvdisasm()
    missing = [
        tool for tool, path in (("nvcc", shutil.which("nvcc")), ("nvdisasm", disassembler)) if not path
    ]
    if missing or not disassembler:
        print(f"NOT CHECKED: needs {' and '.join(missing)}")
        return 0
    version = re.search(r"V(\d+\.\d+\.\d+)", subprocess.check_output(["nvcc", "--version"], text=True))
    assert version, "nvcc tells no version"
    found, warnings = survey(disassembler)
    print_table(found)
    if options.update:
        BUDGET.write_text(json.dumps({"nvcc": version[1], **found}, indent=1) + "\n", encoding="utf-8")
    budget = json.loads(BUDGET.read_text(encoding="utf-8"))
    if version[1] != budget["nvcc"]:
        print(
            f"nvcc {version[1]}: the budget is of {budget['nvcc']}, so registers and lengths are not compared"
        )
    wrong = warnings + failures(found, budget, version[1] == budget["nvcc"])
    print("\n".join(wrong) or f"{len(found['sm_80'])} kernels within the budget, no warning, spill or double")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
