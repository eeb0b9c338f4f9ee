"""Weights lie in huge pages where the system has them: a step reads all of them, page by page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiny_core import core_spec
from tiny_models import tiny_llama
from tuili import _core

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
N_LAYERS, WIDTH, D_FF = 8, 512, 512  # tensors of 1 MB, each too small for a huge page of its own


def advised_bytes() -> int:
    """Of this process's memory, what the system was asked to have in huge pages: whether it has any left is
    its own affair."""
    total = resident = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Rss":
            resident = int(value.split()[0]) << 10
        elif name == "VmFlags" and "hg" in value.split():
            total += resident
    return total


@pytest.mark.skipif(not SETTING.exists(), reason="a system without huge pages")
def test_small_tensors_share_huge_pages() -> None:
    """Where tensors have buffers of their own, none of these does."""
    tiny = tiny_llama(n_layers=N_LAYERS)
    layer = tiny.spec["layers"][0] | {"n_heads": 8, "n_kv_heads": 8, "head_dim": 64, "d_ff": D_FF}
    rope = {"inv_freq": tiny.spec["ropes"][0]["inv_freq"][:1] * 32}
    tiny.spec |= {"layers": [layer] * N_LAYERS, "d_model": WIDTH, "ropes": [rope]}
    before = advised_bytes()
    builder = _core.ModelBuilder(core_spec(tiny), compute="auto", num_threads=1)
    for name, shape in builder.expected():
        builder.add(name, "f32", shape, np.ones(shape, np.float32).view(np.uint8).reshape(-1))
    model = builder.finish()
    assert model.weight_bytes > 8 * 7 << 20
    assert advised_bytes() - before > model.weight_bytes / 2
