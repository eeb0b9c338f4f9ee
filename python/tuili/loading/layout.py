"""Where a stored tensor's parts belong: fused projections, transposed weights, stacked experts, constants.

A name map leads from the names in files to ours. A value is our name, or a `Parts` where one tensor holds
several of ours or lies in another order. `{i}` stands for the layer, `{e}` for the expert or head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelFormatError
from tuili.loading.checkpoint import FORMATS, Bytes, TensorInfo
from tuili.loading.config import Config
from tuili.loading.files import shown

Shape = tuple[int, ...]
Constant = float | NDArray[np.float32]  # of all elements, or each


class Parts(NamedTuple):
    """What one stored tensor holds.

    names       ours, in order
    order       of their rows: "rows" one part after another; "heads" for each key-value head its queries, its
                key, its value; "interleaved" a row of each in turn
    transposed  stored [n_in, n_out]
    stacked     a first dimension more: one for each {e}
    repeated    one tensor for every {e}
    row         a vector stored [1, n]
    flat        stored with more than two dimensions, those behind the first as one
    n_groups    of "heads", if there are not as many as key-value heads
    """

    names: tuple[str, ...]
    order: Literal["rows", "heads", "interleaved"] = "rows"
    transposed: bool = False
    stacked: bool = False
    repeated: bool = False
    row: bool = False
    flat: bool = False
    n_groups: int = 0


Names = Mapping[str, "str | Parts"]


@dataclass(frozen=True, slots=True)
class Place:
    """One of our tensors in a stored one, whose parts have `rows` rows; `n_groups` key-value heads."""

    stored: TensorInfo
    parts: Parts
    index: int
    stack: int
    n_stacked: int
    rows: tuple[int, ...] = ()
    n_groups: int = 1
    constant: Constant | None = None  # instead of what is stored

    @property
    def begin(self) -> int:
        """Where the bytes that are read for it begin."""
        return self.stack * self.read_bytes if self.parts.stacked else 0

    @property
    def read_bytes(self) -> int:
        """Bytes that are read for it."""
        return self.stored.n_bytes // self.n_stacked


def whole(stored: TensorInfo, name: str, constant: Constant | None = None) -> Place:
    """A tensor of ours that is stored as it is, or not at all and `constant`."""
    return Place(stored, Parts((name,)), 0, 0, 1, constant=constant)


def our_names(theirs: str, names: Names, prefix: str = "") -> Parts | None:
    """What a stored tensor holds, by an architecture's table, with {i} filled in; None if it is not there.

    prefix  that some files leave out
    """
    if theirs in names:  # with the number of a layer that others share
        own = names[theirs]
        return Parts((own,)) if isinstance(own, str) else own
    numbers: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        numbers.append(match[0])
        return ("{i}", "{e}")[len(numbers) - 1]

    pattern = re.sub(r"(?<=\.)(0|[1-9]\d{0,6})(?=\.)", placeholder, theirs, count=2)
    ours = names.get(pattern)
    if ours is None:
        return our_names(prefix + theirs, names) if prefix else None
    parts = Parts((ours,)) if isinstance(ours, str) else ours
    for mark, number in zip(("{i}", "{e}"), numbers, strict=False):
        parts = parts._replace(names=tuple(name.replace(mark, number) for name in parts.names))
    return parts


def places(stored: TensorInfo, parts: Parts, expected: Mapping[str, Shape]) -> Iterator[tuple[str, Place]]:
    """Our tensors in a stored one, as many of each {e} as are expected."""
    n = 1
    if parts.stacked or parts.repeated:
        n = next(e for e in range(1 << 20) if parts.names[0].replace("{e}", str(e)) not in expected)
    for e in range(max(n, 1)):
        for index, name in enumerate(parts.names):
            yield (
                name.replace("{e}", str(e)),
                Place(stored, parts, index, e, max(n, 1) if parts.stacked else 1),
            )


def checked(place: Place, shape: Shape, expected: Mapping[str, Shape], n_groups: int, where: str) -> Place:
    """The place, provided that the stored tensor has the shape that the configuration asks for."""
    parts, stored = place.parts, place.stored
    shapes = [expected.get(name.replace("{e}", str(place.stack)), ()) for name in parts.names]
    rows = tuple(part[0] if part else 0 for part in shapes)
    wanted: Shape = (sum(rows), *shape[1:])
    if parts.transposed:
        wanted = wanted[::-1]
    if parts.row:
        wanted = (1, *wanted)
    if parts.stacked:
        wanted = (place.n_stacked, *wanted)
    found = (stored.shape[0], math.prod(stored.shape[1:])) if parts.flat and stored.shape else stored.shape
    if found != wanted:
        raise ModelFormatError(
            f"{where}: tensor '{shown(stored.name)}' has shape {list(stored.shape)}, "
            f"the configuration asks for {list(wanted)}",
            code="tensor_shape",
        )
    groups = parts.n_groups or n_groups
    return Place(stored, parts, place.index, place.stack, place.n_stacked, rows, groups)


def cut(data: Bytes, place: Place) -> Bytes:
    """The bytes of one of our tensors, from those read for it."""
    parts, rows = place.parts, place.rows
    if parts.transposed:
        size = FORMATS[place.stored.format].n_bytes
        stored: NDArray[Any] = data.view(f"V{size}").reshape(-1, sum(rows))
        data = np.ascontiguousarray(stored.T).view(np.uint8)
    if len(parts.names) == 1:
        return data.reshape(-1)
    table = data.reshape(sum(rows), -1)
    if parts.order == "interleaved":
        return np.ascontiguousarray(table[place.index :: len(rows)]).reshape(-1)
    begin = sum(rows[: place.index])
    if parts.order == "rows":
        return np.ascontiguousarray(table[begin : begin + rows[place.index]]).reshape(-1)
    n = place.n_groups
    groups = table.reshape(n, sum(rows) // n, -1)
    return np.ascontiguousarray(groups[:, begin // n : (begin + rows[place.index]) // n]).reshape(-1)


def constant(name: str, module: Any, config: Config) -> Constant | None:
    """The value of a tensor that files of this architecture do not hold, by its `constants(config)`."""
    table: dict[str, Constant] = module.constants(config) if hasattr(module, "constants") else {}
    for pattern, value in table.items():
        if re.fullmatch(pattern, name):
            return value
    return None
