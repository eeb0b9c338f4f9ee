"""A roofline of the CUDA kernels, PREDICTED from the emulator's counts and datasheets: nothing was measured.

For each fixed shape of tests/cuda_emulation/shapes_test.cc: the time that device memory, the load and store
units, shared memory and the tensor cores would need for what the kernel asks of them, were the whole device
busy with many such launches. The largest is the bound. What it leaves out: latency, launches, caches, and the
tail of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Datasheet rates; `flops` is dense bf16 with f32 sums.

    Hopper and Blackwell reach theirs with wgmma and tcgen05, which mma.sync is not: that bound is optimistic.
    """

    bytes_per_s: float
    flops: float
    n_multiprocessors: int
    clock_hz: float


DEVICES = {  # NVIDIA: A100, H100 and B200 datasheets (SXM), Ada architecture whitepaper
    "A100": Device(2.039e12, 312e12, 108, 1.41e9),
    "RTX 4090": Device(1.008e12, 165.2e12, 128, 2.52e9),
    "H100": Device(3.35e12, 989.4e12, 132, 1.83e9),
    "B200": Device(8.0e12, 2250e12, 148, 1.85e9),
}
SECTORS_PER_CLOCK = 4  # of the load and store units of a multiprocessor: 128 bytes
WAVEFRONTS_PER_CLOCK = 1  # of shared memory


def bounds_s(shape: dict[str, float], device: Device) -> dict[str, float]:
    """Seconds that each part of the device needs for one launch, at its full rate."""
    clocks_per_s = device.n_multiprocessors * device.clock_hz
    return {
        "memory": (shape["read_bytes"] + shape["written_bytes"]) / device.bytes_per_s,
        "sectors": shape["sectors"] / SECTORS_PER_CLOCK / clocks_per_s,
        "shared": shape["wavefronts"] / WAVEFRONTS_PER_CLOCK / clocks_per_s,
        "tensor": 2 * shape["macs"] / device.flops,
    }


def print_roofline(shapes: dict[str, dict[str, float]]) -> None:
    print("\npredicted, not measured: share of the device's memory bandwidth, and what limits it")
    print(f"{'shape: kernel':<72}" + "".join(f"{name:>16}" for name in DEVICES))
    for name, shape in shapes.items():
        cells = ""
        for device in DEVICES.values():
            bounds = bounds_s(shape, device)
            limit = max(bounds, key=lambda part: bounds[part])
            cells += f"{100 * bounds['memory'] / bounds[limit]:>8.0f} % {limit:<6}"
        print(f"{name:<72}{cells}")
