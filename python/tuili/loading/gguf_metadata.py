"""The key-value pairs of a GGUF file: their types, and the typed getters that the rest of loading asks.

Arrays are kept as places in the header's bytes and decoded when they are asked for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelFormatError
from tuili.loading.files import shown

# Value types of fixed size by id: name, encoding.
SCALARS = {
    0: ("UINT8", struct.Struct("<B")),
    1: ("INT8", struct.Struct("<b")),
    2: ("UINT16", struct.Struct("<H")),
    3: ("INT16", struct.Struct("<h")),
    4: ("UINT32", struct.Struct("<I")),
    5: ("INT32", struct.Struct("<i")),
    6: ("FLOAT32", struct.Struct("<f")),
    7: ("BOOL", struct.Struct("<B")),
    10: ("UINT64", struct.Struct("<Q")),
    11: ("INT64", struct.Struct("<q")),
    12: ("FLOAT64", struct.Struct("<d")),
}
BOOL = 7
STRING, ARRAY = 8, 9
_TYPE_NAMES = {number: name for number, (name, _) in SCALARS.items()} | {STRING: "STRING", ARRAY: "ARRAY"}

_U64 = struct.Struct("<Q")

T = TypeVar("T")
_REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class ArrayPlace:
    """An array not yet decoded: `n` elements of type `element` in bytes [begin, end) of the header."""

    element: int
    n: int
    begin: int
    end: int


class ByteRanges(Protocol):
    """The header's bytes, or what reads them when they are asked for."""

    def __getitem__(self, at: slice, /) -> bytearray: ...


class Metadata:
    """The key-value pairs of a GGUF file behind typed getters; nothing is converted from one type to another.

    Each getter takes a key, and most a default for when it is absent; without one a missing key is an error.
    raises  ModelFormatError (key_missing, key_type, array_length), naming the key
    """

    def __init__(self, what: str, data: ByteRanges, values: dict[str, tuple[int, Any]]) -> None:
        self.what = what
        self._data = data
        self._values = values
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def values(self) -> dict[str, tuple[int, Any]]:
        """Key -> type and value as they stand in the file, of an array its place."""
        return self._values

    def was_read(self, key: str) -> bool:
        """Whether a getter was asked for a key."""
        return key in self._asked

    def _get(self, key: str, wanted: str, default: T) -> Any | T:
        self._asked.add(key)
        found = self._values.get(key)
        if found is None:
            if default is _REQUIRED:
                raise ModelFormatError(f"{self.what}: key {key} is missing", code="key_missing")
            return default
        number, value = found
        name = (
            f"ARRAY of {_TYPE_NAMES[value.element]}" if isinstance(value, ArrayPlace) else _TYPE_NAMES[number]
        )
        if name != wanted:
            raise ModelFormatError(
                f"{self.what}: key {shown(key)} must be {wanted}, not {name}", code="key_type"
            )
        return value

    def get_u16(self, key: str) -> int:
        """A UINT16."""
        return int(self._get(key, "UINT16", _REQUIRED))

    def get_u32(self, key: str, default: T = _REQUIRED) -> int | T:
        """A UINT32."""
        return self._get(key, "UINT32", default)

    def get_i32(self, key: str) -> int:
        """An INT32."""
        return int(self._get(key, "INT32", _REQUIRED))

    def get_f32(self, key: str, default: T = _REQUIRED) -> float | T:
        """A FLOAT32; may be infinite or not a number."""
        return self._get(key, "FLOAT32", default)

    def get_bool(self, key: str, default: T = _REQUIRED) -> bool | T:
        """A BOOL."""
        return self._get(key, "BOOL", default)

    def get_str(self, key: str, default: T = _REQUIRED) -> str | T:
        """A STRING."""
        return self._get(key, "STRING", default)

    def _array(self, key: str, element: int, n: int | None, default: T) -> ArrayPlace | T:
        found = self._get(key, f"ARRAY of {_TYPE_NAMES[element]}", default)
        if isinstance(found, ArrayPlace) and n is not None and found.n != n:
            raise ModelFormatError(
                f"{self.what}: key {shown(key)} must have {n} elements, not {found.n}", code="array_length"
            )
        return found

    def _numbers(self, key: str, element: int, dtype: str, n: int | None, default: T) -> Any | T:
        array = self._array(key, element, n, default)
        if not isinstance(array, ArrayPlace):
            return array
        return np.frombuffer(self._data[array.begin : array.end], dtype)

    def get_f32_array(self, key: str, n: int | None = None) -> NDArray[np.float32]:
        """An array of FLOAT32, of `n` elements if given."""
        return self._numbers(key, 6, "<f4", n, _REQUIRED)

    def get_i32_array(self, key: str, n: int | None = None, default: T = _REQUIRED) -> NDArray[np.int32] | T:
        """An array of INT32, of `n` elements if given."""
        return self._numbers(key, 5, "<i4", n, default)

    def get_u32_array(self, key: str, n: int | None = None) -> NDArray[np.uint32]:
        """An array of UINT32, of `n` elements if given."""
        return self._numbers(key, 4, "<u4", n, _REQUIRED)

    def get_bool_array(self, key: str, n: int | None = None) -> NDArray[np.bool_]:
        """An array of BOOL, of `n` elements if given."""
        return self._numbers(key, 7, "?", n, _REQUIRED)

    def get_bytes(self, key: str, default: T = _REQUIRED) -> bytes | T:
        """An array of UINT8, or of INT8, as old files have it."""
        found = self._values.get(key)
        signed = found is not None and isinstance(found[1], ArrayPlace) and found[1].element == 1
        numbers = self._numbers(key, int(signed), "u1", None, default)
        return numbers.tobytes() if isinstance(numbers, np.ndarray) else numbers

    def n_strings(self, key: str) -> int:
        """The length of an array of STRING, without decoding it."""
        array = self._array(key, STRING, None, _REQUIRED)
        assert isinstance(array, ArrayPlace)
        return array.n

    def get_str_array(self, key: str, n: int | None = None) -> list[str]:
        """An array of STRING, of `n` elements if given; decoded now.

        raises  ModelFormatError (string_utf8) besides
        """
        array = self._array(key, STRING, n, _REQUIRED)
        assert isinstance(array, ArrayPlace)
        data, at, unpack = bytes(self._data[array.begin : array.end]), 0, _U64.unpack_from
        strings = []
        try:
            for _ in range(array.n):
                begin = at + 8
                at = begin + unpack(data, at)[0]
                strings.append(data[begin:at].decode())
        except UnicodeDecodeError as error:
            raise ModelFormatError(
                f"{self.what}: key {shown(key)}: element {len(strings)} is not UTF-8", code="string_utf8"
            ) from error
        return strings
