"""The settings of a trusted GGUF file, read by the `gguf` package."""

from __future__ import annotations

from typing import Any

import gguf


class Metadata:
    """The key-value part of a GGUF file; `self["x"]` is the value of `<architecture>.x`."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        self._reader = reader
        self.architecture: str = self.general("general.architecture")

    def general(self, key: str) -> Any:
        """The value of a full key; KeyError if the file lacks it."""
        return self._reader.fields[key].contents()

    def __getitem__(self, key: str) -> Any:
        return self.general(f"{self.architecture}.{key}")
