"""RoFormer's table of positions, which files hold and nothing here reads: heads turn by what is computed."""

from __future__ import annotations

import numpy as np

from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import sizes
from tuili.loading.checkpoint import FLOATS, Checkpoint
from tuili.loading.config import Config
from tuili.loading.weights import to_float32

POSITIONS = "encoder.embed_positions.weight"
_ROUNDED, _EXACT = 2.0**-8, 2.0**-20  # of the largest: what bfloat16 stores, what float32 may be off
_STEP = 4096


def derive(checkpoint: Checkpoint, config: Config) -> None:
    """Refuse a table of positions that is not the one that is computed here, which files hold, rounded
    perhaps, as a warning says: sin and cos of position / 10000^(2i / head_dim), one behind the other."""
    found = checkpoint.tensors.get(f"roformer.{POSITIONS}") or checkpoint.tensors.get(POSITIONS)
    size = sizes(config)
    if found is None or size.head_dim % 2:  # which no heads can turn
        return
    alike = found.shape == (size.max_positions, size.head_dim) and found.format in FLOATS
    inverse = 10000.0 ** (-2.0 * np.arange(size.head_dim // 2) / size.head_dim)
    row, off = found.n_bytes // size.max_positions, 0.0
    for begin in range(0, size.max_positions if alike else 0, _STEP):
        angles = np.arange(begin, min(begin + _STEP, size.max_positions))[:, None] * inverse
        stored = to_float32(checkpoint.read(found.name, begin * row, len(angles) * row), found.format)
        wanted = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        off = max(off, float(np.max(np.nan_to_num(abs(stored.reshape(wanted.shape) - wanted), nan=np.inf))))
    if not alike or off > _ROUNDED:
        raise ModelUnsupportedError(
            f"{config.what}: tensor {found.name} is not the sines and cosines of {size.max_positions} "
            f"positions for heads of {size.head_dim}",
            code="config_unsupported",
        )
    if off > _EXACT:
        checkpoint.warnings.append(
            f"tensor {found.name} is rounded and goes unread: transformers' heads turn by it, here they turn "
            "by what it was in float32"
        )
