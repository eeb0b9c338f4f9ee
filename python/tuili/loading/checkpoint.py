"""Named tensors in one or more files, whatever the format: what the readers produce and `model` consumes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelFormatError, ModelIOError
from tuili.loading.files import FileIdentity, RegularFile, StrPath, open_regular, shown


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How a format stores numbers: blocks of `n_values` consecutive elements of a row in `n_bytes` bytes.

    scales  byte offsets, in a block, of its float16 scales and minima (quantized formats)
    """

    n_values: int
    n_bytes: int
    scales: tuple[int, ...] = ()


# The formats that can be loaded, by the names that `_core.ModelBuilder.add` takes.
FORMATS = {
    "f32": BlockFormat(1, 4),
    "f16": BlockFormat(1, 2),
    "bf16": BlockFormat(1, 2),
    "q4_0": BlockFormat(32, 18, (0,)),
    "q4_1": BlockFormat(32, 20, (0, 2)),
    "q5_0": BlockFormat(32, 22, (0,)),
    "q5_1": BlockFormat(32, 24, (0, 2)),
    "q8_0": BlockFormat(32, 34, (0,)),
    "q4_k": BlockFormat(256, 144, (0, 2)),
    "q5_k": BlockFormat(256, 176, (0, 2)),
    "q6_k": BlockFormat(256, 210, (208,)),
}
FLOATS = ("f32", "f16", "bf16")
Bytes = NDArray[np.uint8]

# Those that are stored in files alone, and become others while they are read.
FOREIGN_FORMATS = {
    "mxfp4": BlockFormat(32, 17),
    "iq4_nl": BlockFormat(32, 18),
    "q3_k": BlockFormat(256, 110),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies and what it is.

    format   a key of FORMATS or FOREIGN_FORMATS, or the file's own name of a type that cannot be loaded
             (such as "I64")
    shape    row-major as in numpy: a weight is (n_out, n_in)
    part     index of the file in `Checkpoint.parts`; `offset` counts from that file's first byte
    """

    name: str
    format: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a checkpoint, and what must not change about it between planning and loading."""

    path: str
    identity: FileIdentity


class Derived(Protocol):
    """A tensor that is computed from others of the files."""

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        """The tensors that it is computed from."""

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> Bytes:
        """Its bytes [begin, begin + n_bytes)."""


@dataclass
class Checkpoint:
    """Tensors by name over one or several files, of which at most one is open at a time; a context manager.

    derived   those of the tensors that no file holds as they are
    inside    the folder that every file must lie in (`strict_paths=True`), or None
    warnings  oddities that `strict=False` let pass
    """

    parts: list[Part] = field(default_factory=list)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    inside: StrPath | None = None
    warnings: list[str] = field(default_factory=list)
    derived: dict[str, Derived] = field(default_factory=dict)
    _open: RegularFile | None = None
    _open_part: int = -1

    def add_part(self, file: RegularFile, tensors: Iterable[TensorInfo]) -> None:
        """Adopt the tensors of another file; they must be named differently from all before."""
        part = len(self.parts)
        self.parts.append(Part(file.path, file.identity))
        for tensor in tensors:
            if tensor.name in self.tensors:
                other = self.parts[self.tensors[tensor.name].part].path
                raise ModelFormatError(
                    f"tensor '{shown(tensor.name)}' is both in {shown(other, 256)} and in "
                    f"{shown(file.path, 256)}",
                    code="tensor_duplicate",
                )
            self.tensors[tensor.name] = TensorInfo(
                tensor.name, tensor.format, tensor.shape, tensor.offset, tensor.n_bytes, part
            )

    def read(self, name: str, begin: int = 0, n_bytes: int | None = None) -> Bytes:
        """The bytes of a tensor, or n_bytes of them from `begin` on, in an array of their own."""
        tensor = self.tensors[name]
        length = tensor.n_bytes if n_bytes is None else n_bytes
        if name in self.derived:
            return self.derived[name].read(self, begin, length)
        return self.read_stored(tensor, begin, length)

    def read_stored(self, tensor: TensorInfo, begin: int, n_bytes: int) -> Bytes:
        """The same of a tensor that a file holds, also if it is no part of the model itself."""
        data = np.empty(n_bytes, np.uint8)
        self._file(tensor.part).read_into(data.data, tensor.offset + begin)
        return data

    def stored_tensors(self) -> list[TensorInfo]:
        """The tensors as the files list them."""
        return [
            stored
            for name, tensor in self.tensors.items()
            for stored in (self.derived[name].sources if name in self.derived else (tensor,))
        ]

    def replace(self, info: TensorInfo, derived: Derived) -> None:
        """Have `info` computed by `derived` from tensors that are then no longer listed."""
        for tensor in derived.sources:
            del self.tensors[tensor.name]
        if info.name in self.tensors:
            raise ModelFormatError(
                f"tensor '{shown(info.name)}' is there twice, as it is and quantized", code="tensor_duplicate"
            )
        self.tensors[info.name], self.derived[info.name] = info, derived

    def _file(self, part: int) -> RegularFile:
        if self._open is None or part != self._open_part:
            self.close()
            file = open_regular(self.parts[part].path, inside=self.inside)
            if file.identity != self.parts[part].identity:
                file.close()
                raise ModelIOError(
                    f"{shown(file.path, 256)}: the file changed between planning and loading",
                    code="file_changed",
                )
            self._open, self._open_part = file, part
        return self._open

    def close(self) -> None:
        """Close the open file, after a last look whether it changed meanwhile."""
        file, self._open, self._open_part = self._open, None, -1
        if file is not None:
            with file:
                file.check_unchanged()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            self.close()
        elif self._open is not None:
            self._open.close()
            self._open = None
