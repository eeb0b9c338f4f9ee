"""Shapes that tests run over: real ones, and tails on purpose."""

from __future__ import annotations

import dataclasses

from reference_formats import BLOCKS, FLOAT_FORMATS, QUANTIZED_FORMATS

# Rows of activations: one, as in decoding, and around the tiles of rows.
ROW_COUNTS = [1, 2, 5, 17]

# Elements of a normed row: around the 32 canonical lanes.
ROW_SIZES = [1, 31, 32, 33, 100, 1024]


def weight_shapes(format: str) -> list[tuple[int, int]]:
    """(n, k) with tails: of a panel of 16, of a group of 32, of a block of 512."""
    if format in FLOAT_FORMATS:
        return [(1, 1), (8, 64), (33, 257), (17, 1030)]
    return [(1, 256), (33, 512), (16, 768)] if format.endswith("_k") else [(1, 32), (33, 96), (17, 1056)]


# (format, n, k)
FLOAT_GEMM = [(format, n, k) for format in BLOCKS for n, k in weight_shapes(format)]
INT8_GEMM = [(format, n, k) for format in QUANTIZED_FORMATS for n, k in weight_shapes(format)]


@dataclasses.dataclass(frozen=True)
class AttentionShape:
    """The queries are the last of the keys' positions."""

    n_queries: int
    n_keys: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    causal: bool = True
    window: int = 0
    softcap: float = 0.0


ATTENTION = [
    AttentionShape(1, 1, 1, 1, 16),
    AttentionShape(1, 65, 4, 2, 64),  # a tile of 64 keys and one more
    AttentionShape(7, 7, 3, 3, 32),
    AttentionShape(13, 64, 9, 3, 64),  # SmolLM2's heads
    AttentionShape(33, 130, 4, 1, 80, window=8),
    AttentionShape(5, 600, 4, 1, 256, window=512),  # Gemma 3's heads, and a second split of 512 keys
    AttentionShape(2, 1100, 2, 1, 16),
    AttentionShape(40, 40, 12, 12, 32, causal=False),  # MiniLM's heads
    AttentionShape(17, 70, 8, 4, 48, window=30, softcap=50.0),
]
