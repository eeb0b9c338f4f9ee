"""The rows of DeBERTa's table of distances, where buckets come back to rows that they have left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from tuili.errors import ModelFormatError
from tuili.loading.architectures.deberta_distances import kinds_of, places_of
from tuili.loading.checkpoint import Bytes, Checkpoint, TensorInfo
from tuili.loading.config import Config

TABLE = "encoder.rel_embeddings.weight"


@dataclass(frozen=True)
class _Met:
    """The rows of a table as distances meet them, one after another, a checkpoint's `Derived`."""

    sources: tuple[TensorInfo, ...]
    rows: tuple[int, ...]

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> Bytes:
        (stored,) = self.sources
        data = checkpoint.read_stored(stored, 0, stored.n_bytes).reshape(stored.shape[0], -1)
        return data[list(self.rows)].reshape(-1)[begin : begin + n_bytes]


def derive(checkpoint: Checkpoint, config: Config) -> None:
    """Show the rows as distances meet them, where these come back to rows that they have left, which they do
    where position_buckets is more than twice max_relative_positions."""
    if not kinds_of(config):
        return
    places, n_rows = places_of(config)
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
