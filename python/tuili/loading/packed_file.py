"""One file of the packed cache: a model as the kernels read it, mapped instead of read and packed.

    bytes 0 to 4096   magic, layout version, where the header lies, the file's length, the header's sha256
    tensors           as `_core` packs them, each aligned to 64 bytes
    sections          other bytes by name, aligned alike
    header            JSON: what the file was made from, and name, place and sha256 of all that precedes

A file is written under another name, synchronized and renamed, and from then on only unlinked: it is never
truncated, which would kill the processes that map it. Opening checks the length and the header's sum,
`verify` every byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tuili._core import PACKED_LAYOUT_VERSION
from tuili.errors import ModelFormatError
from tuili.loading.checkpoint import Bytes

MAGIC = b"TUILIPAK"
SUFFIX = ".packed"
MAX_HEADER_BYTES = 64 << 20

_PREAMBLE = struct.Struct("<8sIIQQQ32s")  # magic, layout, 0, header's begin and length, file's length, sha256
_DATA_BEGIN = 4096
_ALIGNMENT = 64
_SLICE_BYTES = 16 << 20
_WRITE_BYTES = 4 << 20  # twice a huge page

Place = tuple[int, int, str]  # begin, length, sha256


class PackedFile:
    """An open file whose header has been checked; a context manager.

    tensors   (name, format, begin, length) of each
    facts     what the writer put into the header
    """

    _fds: Sequence[int] = ()  # one while it is open

    def __init__(self, path: str) -> None:
        """raises OSError, ModelFormatError (packed_file) for what this version and this user did not write"""
        self.path = path
        fds = self._fds = list[int]()
        # In one step for Ctrl-C, as RegularFile has it.
        fds.extend(map(os.open, [path], [os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK]))
        try:
            status = os.fstat(self.fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise _wrong(path, "not a file that only this user can write")
            self.n_bytes = status.st_size
            header, self._header_begin = _read_header(self.fd, path, status.st_size)
            self.facts: dict[str, Any] = {**header["facts"]}
            self._tensors: list[tuple[str, str, Place]] = [
                (str(name), str(format), _place(*place)) for name, format, *place in header["tensors"]
            ]
            self._sections = {str(name): _place(*place) for name, place in header["sections"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            self.close()
            if isinstance(error, ModelFormatError):
                raise
            raise _wrong(path, "a header that makes no sense") from error
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        return self._fds[0]

    @property
    def tensors(self) -> list[tuple[str, str, int, int]]:
        return [(name, format, place[0], place[1]) for name, format, place in self._tensors]

    def section(self, name: str) -> tuple[int, int]:
        """Begin and length of a section; KeyError if there is none of that name."""
        return self._sections[name][:2]

    def used_now(self) -> None:
        """Remember the time, by which the least recently used file is told."""
        try:
            os.utime(self.fd)
        except OSError:  # a file system that is mounted read-only
            return

    def verify(self, progress: Callable[[int], None] | None = None) -> str | None:
        """What is wrong with the content, or None: every byte but the header, which is checked already.

        progress  called with the number of bytes after each part
        """
        at = _DATA_BEGIN
        places = [(f"tensor {name}", place) for name, _, place in self._tensors]
        places += [(f"section {name}", place) for name, place in self._sections.items()]
        if any(os.pread(self.fd, _DATA_BEGIN, 0)[_PREAMBLE.size :]):
            return "bytes that should be zero are not"
        for what, (begin, n_bytes, digest) in sorted(places, key=lambda item: item[1]):
            if begin != _aligned(at) or any(os.pread(self.fd, begin - at, at)):
                return f"a gap before {what}"
            found = hashlib.sha256()
            for offset in range(begin, begin + n_bytes, _SLICE_BYTES):
                found.update(os.pread(self.fd, min(_SLICE_BYTES, begin + n_bytes - offset), offset))
            if found.hexdigest() != digest:
                return f"{what} is damaged"
            at = begin + n_bytes
            if progress is not None:
                progress(n_bytes)
        if self._header_begin != _aligned(at) or any(os.pread(self.fd, self._header_begin - at, at)):
            return "a gap before the header"
        return None

    def close(self) -> None:
        fds, self._fds = self._fds, ()
        for fd in fds:
            os.close(fd)

    def __del__(self) -> None:  # Ctrl-C may come before `__exit__` has begun
        self.close()

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()


def _wrong(path: str, what: str) -> ModelFormatError:
    return ModelFormatError(f"{os.path.basename(path)}: {what}", code="packed_file")


def _place(begin: Any, n_bytes: Any, digest: Any) -> Place:
    if type(begin) is not int or type(n_bytes) is not int or not isinstance(digest, str):
        raise TypeError
    return begin, n_bytes, digest


def _aligned(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT


def _read_header(fd: int, path: str, n_bytes: int) -> tuple[dict[str, Any], int]:
    """The header and where it begins."""
    start = os.pread(fd, _PREAMBLE.size, 0)
    if len(start) < _PREAMBLE.size or start[: len(MAGIC)] != MAGIC:
        raise _wrong(path, "no file of the packed cache")
    _, layout, zero, begin, length, total, digest = _PREAMBLE.unpack(start)
    if layout != PACKED_LAYOUT_VERSION or zero:
        raise _wrong(path, f"layout version {layout}; this is {PACKED_LAYOUT_VERSION}")
    if total != n_bytes or length > MAX_HEADER_BYTES or begin + length != total:
        raise _wrong(path, f"it must have {total} bytes, not {n_bytes}")
    header = os.pread(fd, length, begin)
    if hashlib.sha256(header).digest() != digest:
        raise _wrong(path, "the header is damaged")
    return json.loads(header), begin


# ---- writing


class Stopped(Exception):
    """The writer was told to stop."""


@dataclass(frozen=True)
class Content:
    """What a file is to hold; `sections` is asked for last, since making it may take time."""

    facts: dict[str, Any]
    tensors: Iterable[tuple[str, str, Bytes]]
    sections: Callable[[], Iterable[tuple[str, bytes | Bytes]]]


def write(fd: int, content: Content, stopped: Callable[[], bool]) -> int:
    """Fill an empty file and have it on the disk; returns its length.

    stopped  asked between slices
    raises   OSError, Stopped
    """
    writer = _Writer(fd, stopped)
    tensors = [[name, format, *writer.put(data)] for name, format, data in content.tensors]
    sections = {name: writer.put(data) for name, data in content.sections()}
    document = {"facts": content.facts, "tensors": tensors, "sections": sections}
    header = json.dumps(document, separators=(",", ":")).encode()
    begin, length, digest = writer.put(header)
    writer.flush()
    total = begin + length
    start = _PREAMBLE.pack(MAGIC, PACKED_LAYOUT_VERSION, 0, begin, length, total, bytes.fromhex(digest))
    _write_all(fd, memoryview(start), 0)
    # Without this a file that was renamed in time, but not written, would look whole after a loss of power.
    os.fdatasync(fd)
    return total


class _Writer:
    """Writes pieces that begin at multiples of their size: file systems keep those in huge pages, and a step,
    which reads all weights, walks fewer page tables."""

    def __init__(self, fd: int, stopped: Callable[[], bool]) -> None:
        self._fd, self._stopped = fd, stopped
        self._piece, self._at = memoryview(bytearray(_WRITE_BYTES)), _DATA_BEGIN

    def put(self, data: bytes | Bytes) -> Place:
        """Append, aligned; returns where it is and its sum."""
        self._append(memoryview(bytes(_aligned(self._at) - self._at)))
        begin, digest = self._at, hashlib.sha256()
        view = memoryview(data) if isinstance(data, bytes) else data.data
        for offset in range(0, view.nbytes, _SLICE_BYTES):
            if self._stopped():
                raise Stopped
            part = view[offset : offset + _SLICE_BYTES]
            digest.update(part)
            self._append(part)
        return begin, view.nbytes, digest.hexdigest()

    def flush(self) -> None:
        """Write what is left."""
        _write_all(self._fd, self._piece[: self._at % _WRITE_BYTES], self._at // _WRITE_BYTES * _WRITE_BYTES)

    def _append(self, data: memoryview) -> None:
        while data:
            place = self._at % _WRITE_BYTES
            n = min(len(data), _WRITE_BYTES - place)
            self._piece[place : place + n] = data[:n]
            data, self._at = data[n:], self._at + n
            if place + n == _WRITE_BYTES:
                _write_all(self._fd, self._piece, self._at - _WRITE_BYTES)


def _write_all(fd: int, data: memoryview, at: int) -> None:
    while data:
        n = os.pwrite(fd, data, at)
        data, at = data[n:], at + n
