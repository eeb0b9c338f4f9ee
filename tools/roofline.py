"""Speeds of the CUDA kernels, PREDICTED from the emulator's counts, nvcc's code and datasheets; not measured.

    python tools/roofline.py    reads traffic_budget.json and sass_budget.json; exit code 1 unless skinny
                                products and decode attention are predicted to reach 80 % of the memory's
                                bandwidth

For each fixed shape of tests/cuda_emulation/shapes_test.cc: the time that each part of the device would need
for what the kernel asks of it. The largest is the bound. Left out: latency of anything but memory, launches,
caches, and how memory likes the order of addresses. Launches of large shapes took an H200 1.4 to 1.6 times as
long as the largest bound with bf16, 1.9 to 2.9 times with Q4_0 (docs/gpu_proof.md).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
TRAFFIC = TOOLS.parent / "tests" / "cuda_emulation" / "traffic_budget.json"
SASS = TOOLS / "sass_budget.json"


@dataclass(frozen=True)
class Multiprocessor:
    """CUDA C++ Programming Guide 13.0, table "Technical Specifications per Compute Capability"."""

    shared_bytes: int
    n_warps: int
    n_blocks: int
    n_registers: int = 65536


MULTIPROCESSORS = {
    "sm_80": Multiprocessor(164 * 1024, 64, 32),
    "sm_89": Multiprocessor(100 * 1024, 48, 24),
    "sm_90": Multiprocessor(228 * 1024, 64, 32),
    "sm_100": Multiprocessor(228 * 1024, 64, 32),
}
RESERVED_SHARED_BYTES = 1024  # of a block


def resident_blocks(registers: int, threads: int, shared_bytes: int, on: Multiprocessor) -> int:
    """Of one kernel at once."""
    warps = -(-threads // 32)
    registers_per_warp = -(-registers * 32 // 256) * 256
    shared = -(-(shared_bytes + RESERVED_SHARED_BYTES) // 128) * 128
    return min(
        on.n_blocks,
        on.n_warps // warps,
        on.n_registers // registers_per_warp // warps,
        on.shared_bytes // shared,
    )


@dataclass(frozen=True)
class Device:
    """Datasheet rates; `flops` is dense bf16 with f32 sums.

    Hopper and Blackwell reach theirs with wgmma and tcgen05, which mma.sync is not: that bound is optimistic.
    """

    bytes_per_s: float
    flops: float
    n_multiprocessors: int
    clock_hz: float
    multiprocessor: Multiprocessor
    code: str  # the machine code whose counts stand for the device's


DEVICES = {  # NVIDIA: A100, H100 and B200 datasheets (SXM), Ada architecture whitepaper
    "A100": Device(2.039e12, 312e12, 108, 1.41e9, MULTIPROCESSORS["sm_80"], "sm_80"),
    "RTX 4090": Device(1.008e12, 165.2e12, 128, 2.52e9, MULTIPROCESSORS["sm_89"], "sm_80"),
    "H100": Device(3.35e12, 989.4e12, 132, 1.83e9, MULTIPROCESSORS["sm_90"], "sm_90"),
    "B200": Device(8.0e12, 2250e12, 148, 1.85e9, MULTIPROCESSORS["sm_100"], "sm_100"),
}
SECTORS_PER_CLOCK = 4  # of the load and store units of a multiprocessor: 128 bytes
WAVEFRONTS_PER_CLOCK = 1  # of shared memory
INSTRUCTIONS_PER_CLOCK = 4  # of the warps of a multiprocessor, one of a warp
MACS_OF_MMA = 16 * 8 * 16
MEMORY_LATENCY_S = 0.8e-6  # assumed, under load; no datasheet tells it

BAR = 0.8  # of the memory's bandwidth
BOUND_BY_MEMORY = ("gemm m 1 ", "gemm m 8 ", "gemm m 16 ", "gemm q8_0 ", "gemm q4_0 ", "attention ")

Numbers = dict[str, float]


def bounds_s(shape: Numbers, sass: dict, block: Numbers, device: Device) -> dict[str, float]:
    """Seconds that each part of the device needs for one launch, at its full rate.

    shape, block  counts of a launch, and threads and shared memory of its blocks (traffic_budget.json)
    sass          of the kernel, for the device (sass_budget.json)
    """
    blocks = shape["blocks"]
    most_on_one = -(-blocks // device.n_multiprocessors)
    clocks_per_s = device.clock_hz * blocks / most_on_one  # of the multiprocessors that have work to the end
    resident = resident_blocks(
        sass["registers"], int(block["threads"]), int(block["shared_bytes"]), device.multiprocessor
    )
    in_flight = min(blocks, resident * device.n_multiprocessors) * shape["in_flight_bytes"]
    warps = min(resident, most_on_one) * -(-int(block["threads"]) // 32)  # of a multiprocessor, at once
    loop = sass["loop"]
    instructions = shape["macs"] / MACS_OF_MMA * sum(loop.values()) / loop["mma"] if loop else 0.0
    return {
        "memory": (shape["read_bytes"] + shape["written_bytes"]) / device.bytes_per_s,
        "flight": MEMORY_LATENCY_S * shape["read_bytes"] / in_flight if in_flight else 0.0,
        "issue": instructions / min(INSTRUCTIONS_PER_CLOCK, warps) / clocks_per_s,
        "sectors": shape["sectors"] / SECTORS_PER_CLOCK / clocks_per_s,
        "shared": shape["wavefronts"] / WAVEFRONTS_PER_CLOCK / clocks_per_s,
        "tensor": 2 * shape["macs"] / device.flops,
    }


def print_mixes(names: list[str], sass: dict) -> None:
    """Of the loops over tiles, per tensor-core instruction."""
    print(
        "\ninstructions of a warp per mma in the loop over tiles: the fewest, every branch taken that may be"
    )
    classes = ("ldmatrix", "shared", "cp_async", "global", "float", "integers", "waits")
    print(f"{'':<72}{'all':>9}" + "".join(f"{name:>9}" for name in classes))
    for code in ("sm_80", "sm_90", "sm_100"):
        for name in names:
            loop = sass[code].get(name, {}).get("loop")
            if not loop:
                continue
            cells = "".join(f"{loop.get(one, 0) / loop['mma']:>9.2f}" for one in classes)
            print(f"{code + ' ' + name:<72}{sum(loop.values()) / loop['mma']:>9.2f}{cells}")


def main() -> int:
    traffic = json.loads(TRAFFIC.read_text(encoding="utf-8"))
    sass = json.loads(SASS.read_text(encoding="utf-8"))
    print("PREDICTED, not measured: share of the memory's bandwidth, and what limits it")
    print(f"{'shape':<72}" + "".join(f"{name:>16}" for name in DEVICES))
    low: dict[str, str] = {}
    names = []
    for title, shape in traffic["shapes"].items():
        place, name = title.split(": ", 1)
        names.append(name)
        cells = ""
        for device_name, device in DEVICES.items():
            code = sass[device.code].get(name, sass["sm_90"][name])  # of sm_100 products alone are there
            bounds = bounds_s(shape, code, traffic["blocks"][name], device)
            limit = max(bounds, key=lambda part: bounds[part])
            share = bounds["memory"] / bounds[limit]
            cells += f"{100 * share:>7.0f} % {limit:<7}"
            if share < BAR and place.startswith(BOUND_BY_MEMORY):
                low[f"{place} on {device_name}"] = f"{100 * share:.0f} %, bound by {limit}"
        print(f"{place + ' ' + name.split('<')[0]:<72}{cells}")
    print_mixes(sorted(set(names)), sass)
    told = [f"\n  {where}: {what}" for where, what in low.items()]
    print(f"\nbelow {100 * BAR:.0f} %:", *told or ["none"])
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
