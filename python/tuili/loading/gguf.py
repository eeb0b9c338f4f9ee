"""Reader of GGUF files, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Little-endian: magic, version, counts, then key-value pairs, then tensor infos, then the data. The header is
read in growing pieces and never past its end by more than its own length; long arrays are measured now and
decoded when asked.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Any

import numpy as np

from tuili.errors import ModelFormatError, ModelLimitError, ModelUnsupportedError
from tuili.loading.checkpoint import FOREIGN_FORMATS, FORMATS, Checkpoint, TensorInfo
from tuili.loading.files import RegularFile, StrPath, open_regular, shown
from tuili.loading.gguf_metadata import ARRAY, BOOL, SCALARS, STRING, ArrayPlace, Metadata

MAX_KEYS = 65_536
MAX_TENSORS = 65_536
MAX_KEY_BYTES = 65_535
MAX_STRING_BYTES = 4 << 20
MAX_TENSOR_NAME_BYTES = 63  # 64 with the terminating zero in C
MAX_ARRAY_BYTES = 256 << 20  # of an array of strings, decoded
MAX_DIMS = 4
MAX_PARTS = 1024

# A decoded string costs this much beside its text (sys.getsizeof("") and a list entry).
_STRING_OVERHEAD_BYTES = 57

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

# Tensor types by id. Those that are not in FORMATS exist but cannot be loaded; 4, 5, 31-33 and 36-38 were
# removed.
_TENSOR_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k",
    11: "q3_k", 12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs",
    18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "i8",
    25: "i16", 26: "i32", 27: "i64", 28: "f64", 29: "iq1_m", 30: "bf16", 34: "tq1_0", 35: "tq2_0",
    39: "mxfp4", 40: "nvfp4",
}  # fmt: skip
_REMOVED_TYPES = frozenset({4, 5, 31, 32, 33, 36, 37, 38})


class _Header:
    """The bytes of a file from its start, read as far as they are asked for, and a position in them."""

    def __init__(self, file: RegularFile) -> None:
        self.file = file
        self.what = shown(file.path, 256)
        self.bytes = bytearray()
        self.at = 0

    def need(self, n_bytes: int, field: str) -> int:
        """Make the next `n_bytes` bytes available and step over them; returns where they begin."""
        begin, end = self.at, self.at + n_bytes
        if end > len(self.bytes):
            if end > self.file.size:
                raise ModelFormatError(
                    f"{self.what}: byte {begin}: {field} needs {n_bytes} bytes, but "
                    f"{self.file.size - begin} are left",
                    code="truncated",
                )
            # Doubling keeps what is read below twice the header, or 256 KiB.
            target = min(self.file.size, max(end, 2 * len(self.bytes), 256 << 10))
            self.bytes += self.file.pread(target - len(self.bytes), len(self.bytes))
        self.at = end
        return begin

    def u32(self, field: str) -> int:
        begin = self.need(4, field)
        return int(_U32.unpack_from(self.bytes, begin)[0])

    def u64(self, field: str) -> int:
        begin = self.need(8, field)
        return int(_U64.unpack_from(self.bytes, begin)[0])

    def string(self, field: str, max_bytes: int) -> str:
        n_bytes = self.u64(field)
        if n_bytes > self.file.size - self.at:
            raise ModelFormatError(
                f"{self.what}: byte {self.at - 8}: {field} has {n_bytes} bytes, but "
                f"{self.file.size - self.at} are left",
                code="truncated",
            )
        if n_bytes > max_bytes:
            raise ModelLimitError(
                f"{self.what}: byte {self.at - 8}: {field} has {n_bytes} bytes; the limit is {max_bytes}",
                code="string_too_long",
            )
        begin = self.need(n_bytes, field)
        try:
            return self.bytes[begin : self.at].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelFormatError(
                f"{self.what}: byte {begin}: {field} is not UTF-8", code="string_utf8"
            ) from error

    def count(self, field: str, smallest: int, limit: int) -> int:
        """A u64 count of things of at least `smallest` bytes each."""
        begin, n = self.at, self.u64(field)
        left = self.file.size - self.at
        if n > left // smallest:
            raise ModelFormatError(
                f"{self.what}: byte {begin}: {field} is {n}, but {left} bytes are left",
                code="count_exceeds_file",
            )
        if n > limit:
            raise ModelLimitError(
                f"{self.what}: byte {begin}: {field} is {n}; the limit is {limit}", code="count_limit"
            )
        return n

    def skip_strings(self, n: int, field: str, max_bytes: int) -> None:
        """Step over `n` strings of at most `max_bytes` in all, checking that each lies in the file."""
        end = self.at + max_bytes
        while n:
            chunk = min(n, 16_384)
            if not self._skip_short_strings(chunk):
                chunk = min(n, 64)
                for _ in range(chunk):
                    self._skip_string(field)
            if self.at > end:
                raise ModelLimitError(
                    f"{self.what}: byte {self.at}: {field} takes more than {max_bytes} bytes",
                    code="array_too_large",
                )
            n -= chunk

    def _skip_string(self, field: str) -> None:
        n_bytes = self.u64(field)
        if MAX_STRING_BYTES < n_bytes <= self.file.size - self.at:
            raise ModelLimitError(
                f"{self.what}: byte {self.at - 8}: a string of {field} has {n_bytes} bytes; "
                f"the limit is {MAX_STRING_BYTES}",
                code="string_too_long",
            )
        self.need(n_bytes, field)

    def _skip_short_strings(self, n: int) -> bool:
        """Step over `n` strings if all are shorter than 256 bytes and already read; False, and no step, if
        not.

        The loop looks at the lowest byte of each length only; numpy checks that the other seven were zero.
        """
        data, at, starts = self.bytes, self.at, []
        try:
            for _ in range(n):
                starts.append(at)
                at += 8 + data[at]
        except IndexError:
            return False
        if at > len(data):
            return False
        high_bytes = np.array(starts)[:, None] + np.arange(1, 8)
        if np.frombuffer(data, np.uint8)[high_bytes].any():
            return False
        self.at = at
        return True


def _read_value(header: _Header, key: str) -> tuple[int, Any]:
    """The type and value of one pair; arrays are measured, not decoded."""
    at = header.at
    number = header.u32(f"the type of key {shown(key)}")
    where = f"key {shown(key)}"
    if number in SCALARS:
        encoding = SCALARS[number][1]
        begin = header.need(encoding.size, where)
        (value,) = encoding.unpack_from(header.bytes, begin)
        if number == BOOL and value > 1:
            raise ModelFormatError(
                f"{header.what}: byte {begin}: {where} is a BOOL of value {value}", code="bool_value"
            )
        return number, bool(value) if number == BOOL else value
    if number == STRING:
        return number, header.string(where, MAX_STRING_BYTES)
    if number == ARRAY:
        return number, _read_array(header, where)
    raise ModelFormatError(
        f"{header.what}: byte {at}: {where} has the unknown type {number}", code="value_type"
    )


def _read_array(header: _Header, where: str) -> ArrayPlace:
    at = header.at
    element = header.u32(f"the element type of {where}")
    if element == ARRAY:
        raise ModelFormatError(
            f"{header.what}: byte {at}: {where} is an array of arrays", code="nested_array"
        )
    if element == STRING:
        n = header.count(f"the length of {where}", 8, MAX_ARRAY_BYTES // _STRING_OVERHEAD_BYTES)
        begin = header.at
        header.skip_strings(n, where, MAX_ARRAY_BYTES - n * _STRING_OVERHEAD_BYTES)
        return ArrayPlace(element, n, begin, header.at)
    if element not in SCALARS:
        raise ModelFormatError(
            f"{header.what}: byte {at}: {where} has the unknown element type {element}", code="value_type"
        )
    size = SCALARS[element][1].size
    n = header.count(f"the length of {where}", size, MAX_ARRAY_BYTES // size)
    begin = header.need(n * size, where)
    if element == BOOL and n and max(header.bytes[begin : header.at]) > 1:
        raise ModelFormatError(
            f"{header.what}: byte {begin}: {where} holds a BOOL other than 0 and 1", code="bool_value"
        )
    return ArrayPlace(element, n, begin, header.at)


def _read_start(header: _Header) -> tuple[int, int]:
    """Magic and version checked; the counts of tensors and of keys."""
    if header.file.size < 24:
        raise ModelFormatError(
            f"{header.what}: {header.file.size} bytes; a GGUF file has at least 24", code="header_too_small"
        )
    magic = bytes(header.bytes[header.need(4, "the magic") :][:4])
    if magic != b"GGUF":
        raise ModelFormatError(f"{header.what}: starts with {shown(magic)}, not with b'GGUF'", code="magic")
    version = header.u32("the version")
    if version in (0x01000000, 0x02000000, 0x03000000):
        raise ModelFormatError(
            f"{header.what}: a big-endian GGUF file; only little-endian is read", code="big_endian"
        )
    if version not in (2, 3):
        raise ModelUnsupportedError(
            f"{header.what}: GGUF version {version}; 2 and 3 are read", code="version"
        )
    # The smallest tensor info is 24 bytes with an empty name and no dimension, the smallest pair 13.
    n_tensors = header.count("the number of tensors", 24, MAX_TENSORS)
    return n_tensors, header.count("the number of keys", 13, MAX_KEYS)


def _read_pairs(header: _Header, n_keys: int) -> dict[str, tuple[int, Any]]:
    values: dict[str, tuple[int, Any]] = {}
    for i in range(n_keys):
        at = header.at
        key = header.string(f"the name of key {i}", MAX_KEY_BYTES)
        if not key.isprintable() or not key.strip(". "):
            raise ModelFormatError(f"{header.what}: byte {at}: '{shown(key)}' is not a key", code="key_name")
        if key in values:
            raise ModelFormatError(
                f"{header.what}: byte {at}: key {shown(key)} appears twice", code="key_duplicate"
            )
        values[key] = _read_value(header, key)
    return values


def _read_tensor(header: _Header, i: int) -> TensorInfo:
    """One tensor info; `offset` is still relative to the start of the data."""
    name = header.string(f"the name of tensor {i}", MAX_TENSOR_NAME_BYTES)
    where = f"{header.what}: tensor '{shown(name)}'"
    if not name or not name.isprintable():
        raise ModelFormatError(
            f"{header.what}: the name of tensor {i} is empty or unprintable", code="tensor_name"
        )
    n_dims = header.u32(f"the dimensions of tensor '{shown(name)}'")
    if not 1 <= n_dims <= MAX_DIMS:
        raise ModelFormatError(
            f"{where} has {n_dims} dimensions; 1 to {MAX_DIMS} are allowed", code="tensor_dims"
        )
    begin = header.need(8 * n_dims + 12, f"the info of tensor '{shown(name)}'")
    *dims, number, offset = struct.unpack_from(f"<{n_dims}QIQ", header.bytes, begin)
    if number not in _TENSOR_TYPES and number not in _REMOVED_TYPES:
        raise ModelFormatError(f"{where} has the unknown type {number}", code="tensor_type")
    type_name = _TENSOR_TYPES.get(number, f"type {number} (removed from GGUF)")
    block = FORMATS.get(type_name) or FOREIGN_FORMATS.get(type_name)
    if block is None:
        raise ModelUnsupportedError(
            f"{where} is stored as {type_name}, which is not supported", code="tensor_type"
        )
    if dims[0] % block.n_values:
        raise ModelFormatError(
            f"{where}: rows of {dims[0]} values are not whole blocks of {block.n_values}", code="tensor_shape"
        )
    n_bytes = dims[0] // block.n_values * block.n_bytes
    for dim in dims[1:]:
        n_bytes *= dim
    if not 0 < n_bytes <= header.file.size:  # Python's integers do not wrap
        raise ModelFormatError(
            f"{where}: shape {dims} takes {n_bytes} bytes in a file of {header.file.size}",
            code="tensor_shape",
        )
    return TensorInfo(name, type_name, tuple(reversed(dims)), offset, n_bytes)


def _place(header: _Header, infos: list[TensorInfo], alignment: int) -> list[TensorInfo]:
    """The infos with offsets from the file's start; tensors must follow each other with padding only."""
    data_begin = -(-header.at // alignment) * alignment
    placed, expected = [], 0
    for info in infos:
        if info.offset != expected:
            raise ModelFormatError(
                f"{header.what}: tensor '{shown(info.name)}' must be at offset {expected}, not "
                f"{info.offset}: tensors follow each other, aligned to {alignment}",
                code="tensor_offset",
            )
        begin = data_begin + info.offset
        if begin + info.n_bytes > header.file.size:
            raise ModelFormatError(
                f"{header.what}: tensor '{shown(info.name)}' ends at byte {begin + info.n_bytes}, "
                f"the file at {header.file.size}",
                code="truncated",
            )
        placed.append(TensorInfo(info.name, info.format, info.shape, begin, info.n_bytes))
        expected = -(-(info.offset + info.n_bytes) // alignment) * alignment
    return placed


def read_header(
    file: RegularFile, *, strict: bool = True, warnings: list[str] | None = None
) -> tuple[Metadata, list[TensorInfo]]:
    """The key-value pairs and tensors of one GGUF file, everything checked.

    strict  False tolerates bytes behind the last tensor, with a line in `warnings`
    raises  ModelFormatError, ModelLimitError, ModelUnsupportedError; reads at most twice the header, or 256
            KiB
    """
    header = _Header(file)
    n_tensors, n_keys = _read_start(header)
    metadata = Metadata(header.what, header.bytes, _read_pairs(header, n_keys))
    alignment = metadata.get_u32("general.alignment", 32)
    if alignment & (alignment - 1) or not 8 <= alignment <= 65_536:
        raise ModelFormatError(
            f"{header.what}: general.alignment must be a power of two from 8 to 65536, not {alignment}",
            code="alignment",
        )
    infos: list[TensorInfo] = []
    names: set[str] = set()
    for i in range(n_tensors):
        info = _read_tensor(header, i)
        if info.name in names:
            raise ModelFormatError(
                f"{header.what}: tensor '{shown(info.name)}' appears twice", code="tensor_duplicate"
            )
        names.add(info.name)
        infos.append(info)
    tensors = _place(header, infos, alignment)
    end = tensors[-1].offset + tensors[-1].n_bytes if tensors else header.at
    if file.size - end >= alignment:
        problem = f"{header.what}: {file.size - end} bytes follow the last tensor"
        if strict:
            raise ModelFormatError(f"{problem}; strict=False accepts that", code="trailing_bytes")
        if warnings is not None:
            warnings.append(problem)
    file.check_unchanged()
    return metadata, tensors


def open_gguf(
    path: StrPath, *, strict: bool = True, strict_paths: bool = False
) -> tuple[Metadata, Checkpoint]:
    """The metadata and tensors of a GGUF model, all parts if it is split (NAME-00001-of-00003.gguf)."""
    name = os.fspath(path)
    checkpoint = Checkpoint(inside=os.path.dirname(os.path.abspath(name)) if strict_paths else None)
    with open_regular(name, inside=checkpoint.inside) as file:
        metadata, tensors = read_header(file, strict=strict, warnings=checkpoint.warnings)
        checkpoint.add_part(file, tensors)
    kind = metadata.get_str("general.type", "model")
    if kind != "model":
        raise ModelUnsupportedError(
            f"{metadata.what}: general.type is '{shown(kind)}'; only models can be loaded", code="gguf_kind"
        )
    if "split.count" in metadata:
        _open_parts(name, metadata, checkpoint, strict=strict)
    return metadata, checkpoint


def further_parts(path: str) -> list[str]:
    """The names of parts 2 to n of a split model, by that of the first; of too many, one more than may be."""
    named = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", path, re.DOTALL)
    if named is None:
        return []
    last = min(int(named[2]), MAX_PARTS + 1)
    return [f"{named[1]}-{no:05}-of-{named[2]}.gguf" for no in range(2, last + 1)]


def _open_parts(path: str, first: Metadata, checkpoint: Checkpoint, *, strict: bool) -> None:
    """Add parts 2 to n; their names are derived from the first one's, never read from a file."""
    count, n_tensors = first.get_u16("split.count"), first.get_i32("split.tensors.count")
    if not 1 <= count <= MAX_PARTS:
        raise ModelFormatError(
            f"{first.what}: split.count must be 1 to {MAX_PARTS}, not {count}", code="split"
        )
    if first.get_u16("split.no") != 0:
        raise ModelFormatError(
            f"{first.what}: split.no is not 0; give the first part of a split model", code="split"
        )
    parts = further_parts(path)
    if count > 1 and len(parts) != count - 1:
        raise ModelFormatError(
            f"{first.what}: the first of {count} parts must be named NAME-00001-of-{count:05}.gguf",
            code="split",
        )
    for no, part in enumerate(parts[: count - 1], 1):
        with open_regular(part, inside=checkpoint.inside) as file:
            metadata, tensors = read_header(file, strict=strict, warnings=checkpoint.warnings)
            same = ("general.architecture", "general.name", "general.uuid")
            if (
                (metadata.get_u16("split.no"), metadata.get_u16("split.count")) != (no, count)
                or metadata.get_i32("split.tensors.count") != n_tensors
                or any(key in metadata and metadata.get_str(key) != first.get_str(key, None) for key in same)
            ):
                raise ModelFormatError(
                    f"{metadata.what}: not part {no + 1} of the model of {first.what}", code="split"
                )
            checkpoint.add_part(file, tensors)
    if len(checkpoint.tensors) != n_tensors:
        raise ModelFormatError(
            f"{first.what}: split.tensors.count is {n_tensors}, the parts hold {len(checkpoint.tensors)}",
            code="split",
        )
