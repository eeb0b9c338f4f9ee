"""Folders whose first module is StaticEmbedding: a tokenizer, and a table whose rows' mean is a vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.checkpoint import FLOATS, Checkpoint, TensorInfo
from tuili.loading.config import MAX_POSITIONS, Config
from tuili.loading.files import parse_json
from tuili.loading.weights import to_float32

TABLE = "embedding.weight"
# Of Model2Vec: rows, the row of each token id, and a factor of each token id.
_ROWS, _PLACES, _FACTORS = "embeddings", "mapping", "weights"
_INTEGERS, _NUMBERS = ("I64", "I32"), (*FLOATS, "F64", "I8")
_PLAIN = {"F64": "<f8", "I64": "<i8", "I32": "<i4", "I8": "<i1"}


@dataclass(frozen=True)
class Folded:
    """rows[places[i]] · factors[i] for each token id i, float32: a checkpoint's `Derived`. sources: the rows,
    and what there is of the two others."""

    sources: tuple[TensorInfo, ...]

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> np.ndarray:
        found = {info.name: _values(checkpoint, info) for info in self.sources}
        rows = found[self.sources[0].name]
        if _PLACES in found:
            places = found[_PLACES]
            if places.min() < 0 or places.max() >= len(rows):
                raise ModelFormatError(
                    f"tensor {_PLACES}: a row is outside [0, {len(rows)})", code="tensor_shape"
                )
            rows = rows[places]
        if _FACTORS in found:
            rows = rows * found[_FACTORS][:, None]
        with np.errstate(over="ignore"):  # what is beyond float32 is seen where it is asked for
            rows = np.ascontiguousarray(rows, np.float32)
        return rows.view(np.uint8).reshape(-1)[begin : begin + n_bytes]


def _values(checkpoint: Checkpoint, info: TensorInfo) -> np.ndarray:
    data = checkpoint.read_stored(info, 0, info.n_bytes)
    values = data.view(_PLAIN[info.format]) if info.format in _PLAIN else to_float32(data, info.format)
    return values.reshape(info.shape)


def config_of(checkpoint: Checkpoint, where: str) -> Config:
    """The sizes of the table, which Model2Vec's tensors are folded into.

    raises  ModelFormatError, ModelUnsupportedError for tensors that are none
    """
    tensors = checkpoint.tensors
    table = tensors.get(TABLE) or tensors.get(_ROWS)
    if table is None:
        raise ModelFormatError(f"{where}: there is no matrix {TABLE} or {_ROWS}", code="tensor_missing")
    names = () if table.name == TABLE else (_PLACES, _FACTORS)
    parts = [tensors[name] for name in names if name in tensors]
    if parts or table.format in _PLAIN:
        table = _fold(checkpoint, table, parts, where)
    if len(table.shape) != 2:
        raise ModelFormatError(f"{where}: tensor {table.name} is no matrix", code="tensor_shape")
    return Config({"vocab_size": table.shape[0], "hidden_size": table.shape[1]}, where)


def _fold(checkpoint: Checkpoint, rows: TensorInfo, parts: list[TensorInfo], where: str) -> TensorInfo:
    """The table that is made of `rows`, in their place."""
    n = (parts or [rows])[0].shape[:1]
    for info, n_dims in ((rows, 2), *((part, 1) for part in parts)):
        known = _INTEGERS if info.name == _PLACES else _NUMBERS
        if info.format not in known or len(info.shape) != n_dims or 0 in info.shape:
            raise ModelUnsupportedError(
                f"{where}: tensor {info.name} must have {n_dims} dimensions of {', '.join(known)}, not "
                f"{info.format} {list(info.shape)}",
                code="tensor_dtype",
            )
        if info.shape[:1] != n and (info is not rows or _PLACES not in [part.name for part in parts]):
            raise ModelFormatError(
                f"{where}: tensor {info.name} has {info.shape[0]} entries, {parts[0].name} {n[0]}",
                code="tensor_shape",
            )
    shape = (*n, rows.shape[1])
    table = TensorInfo(TABLE, "f32", shape, 0, 4 * shape[0] * shape[1])
    checkpoint.replace(table, Folded((rows, *parts)))
    return table


def limit_of(tokenizer_json: bytes) -> int | None:
    """The most tokens of a text: those that tokenizer.json cuts texts to.

    raises  ModelFormatError, ModelUnsupportedError for a cut at another end
    """
    document = parse_json(tokenizer_json, "tokenizer.json")
    given = document.get("truncation") if isinstance(document, dict) else None
    if not isinstance(given, dict):  # the tokenizer's loader tells what is wrong
        return None
    cut = Config(given, "tokenizer.json: truncation")
    cut.choice("direction", ("Right",), "Right")
    limit: int = cut.integer("max_length", 1, MAX_POSITIONS)
    return limit
