"""The engine's speed on a device, with random weights: tokens per second of prefill and decode.

    PYTHONPATH=python python bench/gpu_engine.py [--device cpu] [--shapes smollm2-135m,llama-1.1b]

Figures of an emulated device are no figures.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from random_model import Running, Shape, build

from tuili import _core
from tuili.generation.scheduler import Limits

SHAPES = {
    "smollm2-135m": Shape(30, 576, 9, 3, 1536, 49152, 8192),
    "llama-1.1b": Shape(),
    "olmoe-1b-7b": Shape(16, 2048, 16, 16, 1024, 50304, 4096, n_experts=64, n_used=8),
    "tiny": Shape(2, 64, 4, 2, 96, 300, 2048),
    "tiny-experts": Shape(2, 64, 4, 2, 96, 300, 2048, n_experts=8, n_used=2),
}
N_SEQS = (1, 8, 64)
DEPTH = 64  # tokens of the prompts that are decoded from


def measure(shape: str, format: str, device: str, quick: bool) -> None:
    """A few lines of the table."""
    start = time.monotonic()
    model = build(SHAPES[shape], format)
    built = time.monotonic()
    if device == "cuda":
        model = model.upload()
    print(f"{shape} {format}: made in {built - start:.1f} s, uploaded in {time.monotonic() - built:.1f} s")
    n_prompt, n_new, n_seqs = (32, 4, (1, 2)) if quick else (2000, 128, N_SEQS)
    chunk = min(n_prompt, 2000)
    limits = Limits(max_num_seqs=max(n_seqs), prefill_chunk=chunk, step_budget_s=1.0)
    n_tokens = max(4096, max(n_seqs) * (DEPTH + n_new + 32))  # room for all texts at once
    running = Running(model, limits=limits, n_tokens=n_tokens)
    running.prefill(n_prompt)
    rates = {f"prefill {n_prompt}": max(running.prefill(n_prompt) for _ in range(1 if quick else 3))}
    for n in n_seqs:
        running.decode(4, DEPTH, n)
        rates[f"decode {n} x greedy"] = running.decode(n_new, DEPTH, n)
    rates[f"decode {n_seqs[-1]} x drawn"] = running.decode(n_new, DEPTH, n_seqs[-1], temperature=1.0)
    if not quick:
        rates["decode 1 x greedy at 1900"] = running.decode(n_new // 2, 1900, 1)
    for name, rate in rates.items():
        print(f"{shape:14} {format:6} {device:5} {name:28} {rate:12.1f} tok/s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--shapes", default="smollm2-135m,llama-1.1b")
    parser.add_argument("--formats", default="bf16")
    parser.add_argument("--quick", action="store_true", help="a few tokens: does it run at all?")
    arguments = parser.parse_args()
    print(_core.build_info(), _core.device_memory())
    for shape in arguments.shapes.split(","):
        for format in arguments.formats.split(","):
            measure(shape, format, arguments.device, arguments.quick)
            gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
