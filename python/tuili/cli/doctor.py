"""What this computer offers, and whether the installation works: `tuili doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import numpy as np

from tuili import __version__, _core
from tuili.loading.files import StrPath
from tuili.loading.memory import available_memory
from tuili.loading.store import cache_root, models

_SMALL_MEMORY = 1 << 30


def examine(cache_dir: StrPath | None = None) -> tuple[dict[str, Any], list[str]]:
    """(facts in the order to show them, problems)."""
    available = available_memory()
    facts: dict[str, Any] = {
        "tuili": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "isa_tables": _core.available_isas(),
        "build": ", ".join(f"{name} {value}" for name, value in sorted(_core.build_info().items())),
        "threads": f"{_core.default_num_threads()} of {os.cpu_count()} CPUs",
        "memory": "unknown" if available is None else f"{available[0] / 2**30:.1f} GiB ({available[1]})",
        "libraries": [
            f"{name} {_version(name)}" for name in ("numpy", "tokenizers", "safetensors", "jinja2")
        ],
        "models_folder": str(cache_root(cache_dir)),
        "models_here": [entry.name for entry in models(cache_dir) if entry.path] or ["none"],
    }
    problems = [f"{check.__doc__}: {found}" for check in (_same_bits, _threads) if (found := check())]
    if available is not None and available[0] < _SMALL_MEMORY:
        problems.append(f"only {available[0] / 2**20:.0f} MiB of memory are available")
    folder = cache_root(cache_dir)
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        problems.append(f"models cannot be stored: {folder} is not writable; give --cache-dir")
    return facts, problems


def cpu_name() -> str:
    """The processor's own name for itself, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(("model name", "Model")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _same_bits() -> str | None:
    """every instruction set gives the same bits"""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 96), dtype=np.float32)
    weights = rng.standard_normal((33, 96), dtype=np.float32)
    packed = _core.PackedWeight("f32", 33, 96, weights.view(np.uint8).reshape(33, -1))
    results = {isa: _core.ops.gemm(x, packed, isa=isa).tobytes() for isa in _core.available_isas()}
    return None if len(set(results.values())) == 1 else f"{', '.join(results)} differ on a matrix product"


def _threads() -> str | None:
    """the thread count is sensible"""
    n_threads, n_cpus = _core.default_num_threads(), os.cpu_count() or 1
    return None if n_threads <= n_cpus else f"{n_threads} threads for {n_cpus} CPUs (TUILI_NUM_THREADS?)"
