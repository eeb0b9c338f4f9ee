"""What a DeBERTa's settings say of scores from distances."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili._core import DistanceSpec
from tuili.errors import ModelFormatError
from tuili.loading.checkpoint import Checkpoint, TensorInfo
from tuili.loading.config import MAX_POSITIONS, Config
from tuili.loading.distances import buckets

TABLE = "encoder.rel_embeddings.weight"
_MOST_POSITIONS = 1 << 16  # whose distances are listed, one by one


def named_kinds(config: Config) -> list[str]:
    """Of "c2p" (queries meet the table's keys) and "p2c" (keys meet its queries), those named."""
    given: Any = config.values.get("pos_att_type") or []
    if isinstance(given, str):
        given = [kind.strip() for kind in given.lower().split("|")]
    if not isinstance(given, list) or not all(isinstance(kind, str) for kind in given):
        raise config.wrong("pos_att_type", "a list of c2p and p2c")
    return [kind for kind in ("c2p", "p2c") if kind in given]


def kinds_of(config: Config) -> list[str]:
    """Of those, the ones that there is a table for."""
    return named_kinds(config) if config.flag("relative_attention", False) else []


def is_normed(config: Config) -> bool:
    """Whether the table goes through a norm."""
    named = config.text("norm_rel_ebd", "none") or "none"
    return "layer_norm" in [part.strip() for part in named.lower().split("|")]


def _places(config: Config) -> tuple[NDArray[np.int64], int]:
    """The row of the table for each distance, query minus key, from the most negative on; how many rows."""
    n_positions = config.integer("max_position_embeddings", 1, _MOST_POSITIONS)
    farthest = config.integer("max_relative_positions", -1, MAX_POSITIONS, -1)
    farthest = farthest if farthest >= 1 else n_positions
    n_buckets = max(0, config.integer("position_buckets", -1, MAX_POSITIONS, -1))
    if n_buckets == 1 or n_positions - 1 > n_buckets // 2 == farthest - 1 > 0:
        raise config.wrong(
            "position_buckets", f"more than 1, and half of it not max_relative_positions - 1 = {farthest - 1}"
        )
    reach = n_buckets or farthest
    places = buckets(np.arange(1 - n_positions, n_positions), n_buckets, farthest) + reach
    return np.clip(places, 0, 2 * reach - 1), 2 * reach


@dataclass(frozen=True)
class _Met:
    """The rows of a table as distances meet them, one after another, a checkpoint's `Derived`."""

    sources: tuple[TensorInfo, ...]
    rows: tuple[int, ...]

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> NDArray[np.uint8]:
        (stored,) = self.sources
        data = checkpoint.read_stored(stored, 0, stored.n_bytes).reshape(stored.shape[0], -1)
        return data[list(self.rows)].reshape(-1)[begin : begin + n_bytes]


def derive(checkpoint: Checkpoint, config: Config) -> None:
    """Show the rows as distances meet them, where these come back to rows that they have left, which they do
    where position_buckets is more than twice max_relative_positions."""
    if not kinds_of(config):
        return
    places, n_rows = _places(config)
    table = checkpoint.tensors.get(f"deberta.{TABLE}") or checkpoint.tensors.get(TABLE)
    if table is None or (np.diff(places) >= 0).all():
        return
    if len(table.shape) != 2 or table.shape[0] != n_rows:
        raise ModelFormatError(
            f"{config.what}: tensor {table.name} has shape {list(table.shape)}, position_buckets asks for "
            f"{n_rows} rows",
            code="tensor_shape",
        )
    rows = tuple(int(place) for place, _ in groupby(places))
    n_bytes = table.n_bytes // n_rows * len(rows)
    shown = replace(table, shape=(len(rows), table.shape[1]), n_bytes=n_bytes)
    checkpoint.replace(shown, _Met((table,), rows))


def distances_of(config: Config) -> DistanceSpec | None:
    """What the scores of distances are; None without them."""
    kinds = kinds_of(config)
    if not kinds:
        return None
    places, n_rows = _places(config)
    if (np.diff(places) < 0).any():  # of the rows that `derive` shows
        places = np.cumsum(np.diff(places, prepend=places[0]) != 0)
        n_rows = int(places[-1]) + 1
    return DistanceSpec(
        places=places.tolist(),
        n_rows=n_rows,
        keys="c2p" in kinds,
        queries="p2c" in kinds,
        shared=config.flag("share_att_key", False),
        norm=is_normed(config),
    )
