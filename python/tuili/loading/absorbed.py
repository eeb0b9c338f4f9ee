"""GGUF's tensors for latent attention with absorbed matrices, as the plain ones that they come from.

attn_k_b  [n_heads, kv_rank, nope_dim], turned: it is multiplied with queries instead of latents
attn_v_b  [n_heads, value_dim, kv_rank]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np

from tuili._core import PackedWeight, ops
from tuili.loading.checkpoint import FLOATS, Bytes, Checkpoint, Derived, TensorInfo
from tuili.loading.weights import to_float32


@dataclass(frozen=True)
class Turned:
    """attn_k_b as [n_heads · nope_dim, kv_rank] in float32, a checkpoint's `Derived`.

    before   the tensor as it was listed, with what it is derived from if no file holds it in its format
    """

    before: TensorInfo
    derived: Derived | None

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        return (self.before,) if self.derived is None else self.derived.sources

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> Bytes:
        stored = self.before
        read = (
            partial(checkpoint.read_stored, stored)
            if self.derived is None
            else partial(self.derived.read, checkpoint)
        )
        data = read(0, stored.n_bytes)
        if stored.format in FLOATS:
            values = to_float32(data, stored.format)
        else:
            n = math.prod(stored.shape[:-1])
            packed = PackedWeight(cast(Any, stored.format), n, stored.shape[-1], data)
            values = ops.embed(packed, np.arange(n, dtype=np.int32))
        turned = np.ascontiguousarray(values.reshape(stored.shape).swapaxes(1, 2))
        return turned.view(np.uint8).reshape(-1)[begin : begin + n_bytes]


def take_absorbed(checkpoint: Checkpoint) -> None:
    """Show every attn_k_b and attn_v_b as a matrix of rows."""
    for name, stored in list(checkpoint.tensors.items()):
        if len(stored.shape) != 3 or not name.endswith((".attn_k_b.weight", ".attn_v_b.weight")):
            continue
        n_heads, n_rows, width = stored.shape
        if name.endswith(".attn_v_b.weight"):
            checkpoint.tensors[name] = replace(stored, shape=(n_heads * n_rows, width))
            continue
        shape = (n_heads * width, n_rows)
        size = 4 * math.prod(shape)
        turned = Turned(stored, checkpoint.derived.get(name))
        checkpoint.replace(TensorInfo(name, "f32", shape, stored.offset, size, stored.part), turned)
