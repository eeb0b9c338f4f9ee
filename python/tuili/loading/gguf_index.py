"""The header of a GGUF file in short, so that a start need not walk through a vocabulary that it has no use
for: everything but the arrays, of which it is noted where they lie.
"""

from __future__ import annotations

import os
from typing import Any

from tuili.loading.checkpoint import Checkpoint, Part, TensorInfo
from tuili.loading.files import FileIdentity, open_regular, shown
from tuili.loading.gguf_metadata import ArrayPlace, Metadata


def to_index(metadata: Metadata, checkpoint: Checkpoint) -> dict[str, Any]:
    """The header as JSON can hold it."""
    values = {
        key: [number, [value.element, value.n, value.begin, value.end]]
        if isinstance(value, ArrayPlace)
        else [number, value]
        for key, (number, value) in metadata.values().items()
    }
    return {
        "values": values,
        "parts": [os.path.basename(part.path) for part in checkpoint.parts],
        "tensors": [
            [info.name, info.format, info.shape, info.offset, info.n_bytes, info.part]
            for info in checkpoint.stored_tensors()
        ],
        "warnings": checkpoint.warnings,
    }


def from_index(path: str, index: dict[str, Any]) -> tuple[Metadata, Checkpoint]:
    """What `gguf.open_gguf(path)` returned when the index was made; the caller knows that the files are the
    same.

    raises  ModelIOError if a file is gone
    """
    checkpoint = Checkpoint(warnings=list(index["warnings"]))
    for i, name in enumerate(index["parts"]):
        place = os.path.join(os.path.dirname(path), name) if i else path
        with open_regular(place) as file:
            checkpoint.parts.append(Part(place, file.identity))
    for name, format, shape, offset, n_bytes, part in index["tensors"]:
        checkpoint.tensors[name] = TensorInfo(name, format, tuple(shape), offset, n_bytes, part)
    values = {
        key: (number, ArrayPlace(*value) if isinstance(value, list) else value)
        for key, (number, value) in index["values"].items()
    }
    return Metadata(shown(path, 256), _FirstPart(checkpoint.parts[0]), values), checkpoint


class _FirstPart:
    """The bytes of a file, read when they are asked for."""

    def __init__(self, part: Part) -> None:
        self._path: str = part.path
        self._identity: FileIdentity = part.identity

    def __getitem__(self, at: slice) -> bytearray:
        with open_regular(self._path) as file:
            data = file.pread(at.stop - at.start, at.start)
            file.check_same(self._identity)
            return data
