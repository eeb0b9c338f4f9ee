"""Opening and reading model files, which may be anything: missing, a pipe, huge, changing, hostile.

Everything here reads by copy (`pread`), never by mapping: a mapped file that is truncated by somebody else
kills the process with SIGBUS.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn

import numpy as np

from tuili.errors import ModelFormatError, ModelIOError, ModelLimitError, ModelPathError

StrPath = str | os.PathLike[str]

# One read call copies at most this much, so that Ctrl-C is noticed within 200 ms on a slow disk.
_SLICE_BYTES = 16 << 20

# The most brackets that a JSON text may hold before its depth is counted in blocks of this size.
_DEPTH_BLOCK_BYTES = 1 << 20


def shown(value: object, limit: int = 64) -> str:
    """`value` for an error message: control characters escaped, cut after `limit` characters; of an object
    that tells no more than where it lies, its type.
    """
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # more digits, or deeper, than Python writes out; an object's own __repr__
        text = ""
    if not isinstance(value, str) and (not text or " at 0x" in text):
        text = f"a value of type {type(value).__name__}"
    text = text[: limit + 1]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[:limit] + "…"


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What must stay the same for two opens of a path to have seen the same file."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class RegularFile:
    """An open regular file; a context manager. `size` and `identity` are those at the time of opening."""

    size: int
    identity: FileIdentity
    _fds: Sequence[int] = ()  # one while it is open

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self) -> os.stat_result:
        """Open it, whatever it is; raises as `open_regular`."""
        fds = self._fds = list[int]()
        try:  # in one step for Ctrl-C, which could come between `os.open` and a name for what it returns
            fds.extend(map(os.open, [self.path], [os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY]))
        except OSError as error:
            raise _io_error("cannot open", self.path, error, code="open_failed") from error
        except ValueError as error:  # a NUL byte, or a lone surrogate
            raise ModelIOError(
                f"cannot open {shown(self.path, 256)}: not a valid path", code="open_failed"
            ) from error
        status = os.fstat(fds[0])
        self.size, self.identity = status.st_size, FileIdentity.of(status)
        return status

    def __enter__(self) -> RegularFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back; harmless when repeated."""
        fds, self._fds = self._fds, ()
        for fd in fds:
            os.close(fd)

    def __del__(self) -> None:  # Ctrl-C may come before `__exit__` has begun
        self.close()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill all of `buffer` with the bytes from `offset`.

        raises  ModelIOError (file_changed) if the file ends early, (read_failed) if the system cannot read
        """
        done = 0
        while done < len(buffer):
            try:
                # Python repeats a call that a signal interrupts (EINTR) by itself.
                n = os.preadv(self._fds[0], [buffer[done : done + _SLICE_BYTES]], offset + done)
            except OSError as error:
                raise _io_error("cannot read", self.path, error, code="read_failed") from error
            if n == 0:
                _changed(self.path, f"it ended at byte {offset + done}; its size was {self.size}")
            done += n

    def pread(self, n_bytes: int, offset: int) -> bytearray:
        """`n_bytes` bytes from `offset`; see `read_into` for the errors."""
        data = bytearray(n_bytes)
        with memoryview(data) as view:
            self.read_into(view, offset)
        return data

    def check_unchanged(self) -> None:
        """Raise ModelIOError (file_changed) if the file's size or time of change is not that of opening."""
        self.check_same(self.identity)

    def check_same(self, identity: FileIdentity) -> None:
        """Raise ModelIOError (file_changed) if the file is not, or no more, the one that was opened then."""
        if FileIdentity.of(os.fstat(self._fds[0])) != identity:
            _changed(self.path, "its size or modification time differs from when it was opened")


def _changed(path: str, what: str) -> NoReturn:
    raise ModelIOError(f"{shown(path, 256)}: the file changed while it was read: {what}", code="file_changed")


def _io_error(doing: str, path: str, error: OSError, *, code: str) -> ModelIOError:
    reason = error.strerror or type(error).__name__
    return ModelIOError(f"{doing} {shown(path, 256)}: {reason}", code=code, errno=error.errno)


def open_regular(path: StrPath, *, inside: StrPath | None = None) -> RegularFile:
    """Open `path` for reading, provided that it is a regular file; never waits on a pipe or device.

    inside  with this folder given (`strict_paths=True`), the file must, after symbolic links, lie in it or in
            the `blobs` folder of its Hugging Face cache, and have no further hard links
    raises  ModelIOError (open_failed) with errno, ModelPathError (not_regular_file, outside_model)
    """
    name = os.fspath(path)
    file = RegularFile(name)
    try:
        status = file.open()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise ModelPathError(f"{shown(name, 256)} is {kind}, not a regular file", code="not_regular_file")
        if inside is not None:
            _check_inside(name, status, os.fspath(inside))
    except BaseException:
        file.close()
        raise
    return file


def _check_inside(path: str, status: os.stat_result, folder: str) -> None:
    real, root = os.path.realpath(path), os.path.realpath(folder)
    allowed = [root]
    if os.path.basename(os.path.dirname(root)) == "snapshots":
        allowed.append(os.path.join(os.path.dirname(os.path.dirname(root)), "blobs"))
    if not any(os.path.commonpath([real, place]) == place for place in allowed):
        raise ModelPathError(
            f"{shown(path, 256)} leads out of the model's folder; strict_paths=True does not allow that",
            code="outside_model",
        )
    if status.st_nlink > 1 or FileIdentity.of(os.stat(real)) != FileIdentity.of(status):
        raise ModelPathError(
            f"{shown(path, 256)} has further hard links; strict_paths=True does not allow that",
            code="outside_model",
        )


def read_file(path: StrPath, max_bytes: int, *, inside: StrPath | None = None) -> bytes:
    """The whole content of a regular file of at most `max_bytes` bytes.

    raises  ModelLimitError (file_too_large), and the errors of `open_regular` and `RegularFile`
    """
    with open_regular(path, inside=inside) as file:
        if file.size > max_bytes:
            raise ModelLimitError(
                f"{shown(file.path, 256)} has {file.size} bytes; the limit for such a file is {max_bytes}",
                code="file_too_large",
            )
        data = bytes(file.pread(file.size, 0))
        file.check_unchanged()
        return data


# ---- JSON


def parse_json(
    data: bytes,
    what: str,
    max_depth: int = 64,
    max_containers: int | None = None,
    max_keys: int | None = None,
) -> object:
    """The value of a JSON text (RFC 8259), read more strictly than `json.loads` does.

    data            UTF-8 without byte order mark
    what            the name used in errors, normally the file's
    max_containers  the most objects and arrays, each of which takes far more memory than its two brackets
    max_keys        the most keys, of all objects together
    raises          ModelFormatError: json_utf8, json_depth, json_duplicate_key, json_number (NaN, Infinity,
                    1e400, or an integer of thousands of digits), json_surrogate, json (any other syntax
                    error); ModelLimitError (json_size)
    """
    text = _small_enough(data, what, max_depth, max_containers, max_keys)

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(items)
        if len(result) != len(items):
            seen: set[str] = set()
            for name, _ in items:
                if name in seen:
                    raise ModelFormatError(
                        f"{what}: key '{shown(name)}' appears twice", code="json_duplicate_key"
                    )
                seen.add(name)
        return result

    def constant(name: str) -> NoReturn:
        raise ModelFormatError(f"{what}: the number {name} is not JSON", code="json_number")

    def decimal(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise ModelFormatError(f"{what}: the number {shown(digits)} is too large", code="json_number")
        return number

    # Long integers take long; the library's own loop would keep all other threads waiting.
    integer = (lambda digits: int(digits)) if _LONG_RUN in data.translate(_DIGITS_AS_ZEROS) else None
    try:
        value = json.loads(
            text, object_pairs_hook=pairs, parse_constant=constant, parse_float=decimal, parse_int=integer
        )
    except json.JSONDecodeError as error:
        raise ModelFormatError(
            f"{what}: line {error.lineno} column {error.colno}: {error.msg}", code="json"
        ) from error
    except ModelFormatError:
        raise
    except ValueError as error:  # int() refuses thousands of digits: it takes quadratic time
        raise ModelFormatError(f"{what}: an integer has too many digits", code="json_number") from error
    if re.search(rb"\\u[dD][89a-fA-F]", data):
        _check_surrogates(value, what)
    return value


def _small_enough(
    data: bytes, what: str, max_depth: int, max_containers: int | None, max_keys: int | None
) -> str:
    """The text, if it is within the limits."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{what}: byte {error.start} is not UTF-8", code="json_utf8") from error
    if text.startswith("\ufeff"):
        raise ModelFormatError(
            f"{what}: begins with a byte order mark (EF BB BF), which JSON does not allow", code="json"
        )
    depth, n_containers, n_keys = json_nesting(data)
    if depth > max_depth:
        raise ModelFormatError(f"{what}: nested deeper than {max_depth} levels", code="json_depth")
    if max_containers is not None and n_containers > max_containers:
        raise ModelLimitError(
            f"{what}: {n_containers} objects and arrays; the limit is {max_containers}", code="json_size"
        )
    if max_keys is not None:
        _check_keys(n_keys, what, max_keys)
    return text


def _check_keys(n_keys: int, what: str, max_keys: int) -> None:
    if n_keys > max_keys:
        raise ModelLimitError(f"{what}: {n_keys} keys; the limit is {max_keys}", code="json_size")


def _check_surrogates(value: object, what: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ModelFormatError(
            f"{what}: half of a surrogate pair in a string", code="json_surrogate"
        ) from error


# All bytes but quotes, brackets and colons, for bytes.translate to delete.
_NOT_STRUCTURE = bytes(b for b in range(256) if b not in b'"[]{}:')
_DIGITS_AS_ZEROS = bytes(ord("0") if chr(b).isdigit() and b < 128 else b for b in range(256))
_LONG_RUN = b"0" * 100


def json_nesting(data: bytes) -> tuple[int, int, int]:
    """How deep a JSON text nests, how many objects and arrays it opens and how many keys it has, counted
    without recursion.

    Exact up to the text's first syntax error.
    """
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(None, _NOT_STRUCTURE)
    deepest = depth = n_opens = n_keys = in_string = 0
    for start in range(0, len(marks), _DEPTH_BLOCK_BYTES):
        block = np.frombuffer(marks, np.uint8, min(_DEPTH_BLOCK_BYTES, len(marks) - start), start)
        # Parity of the quotes so far; uint8 wraps at 256, which keeps the parity.
        inside = (np.cumsum(block == ord('"'), dtype=np.uint8) + np.uint8(in_string)) & 1
        opens = ((block == ord("[")) | (block == ord("{"))) & (inside == 0)
        closes = ((block == ord("]")) | (block == ord("}"))) & (inside == 0)
        depths = np.cumsum(opens.astype(np.int8) - closes.astype(np.int8), dtype=np.int32) + depth
        deepest = max(deepest, int(depths.max()))
        depth, in_string = int(depths[-1]), int(inside[-1])
        n_opens += int(np.count_nonzero(opens))
        n_keys += int(np.count_nonzero((block == ord(":")) & (inside == 0)))
    return deepest, n_opens, n_keys
