"""The packed cache: models as the kernels read them, in files that all processes of a user map and share.

A file's name is a hash of the model's path and of the options that change what is packed; its header says
from which files it was made (path, size, time of change, inode) and by which build. Whatever does not fit is
packed anew and replaced. Nothing here ends a load: a cache that cannot be read or written is a line in the
log and a word in `llm.config`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tuili import __version__, _core, threads
from tuili.errors import TuiliError
from tuili.loading.files import StrPath, shown
from tuili.loading.gguf import further_parts
from tuili.loading.model import LoadPlan
from tuili.loading.packed_file import SUFFIX, Content, PackedFile, Stopped, write
from tuili.loading.store import cache_root

logger = logging.getLogger("tuili")

MIN_WEIGHT_BYTES = 8 << 20  # smaller models are packed faster than a file is found
MAX_BYTES = 20 << 30  # of all files; the least recently used go first
RESERVE_BYTES = 1 << 30  # of the disk, that stay free
DELAY_S = 0.5  # before a file is written, so that what the model was loaded for can begin
STALE_S = 3600.0  # after which an unfinished file is nobody's

_NAME = re.compile(r"[0-9a-f]{32}" + re.escape(SUFFIX))
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}-[0-9]+-[0-9]+\.tmp")
_SOURCE_SUFFIXES = (".json", ".safetensors", ".jinja", ".gguf", ".txt", ".model", ".spm")

Identity = list[Any]  # path, size, mtime_ns, inode


def folder_of(cache_dir: StrPath | None) -> str:
    """Where the files lie: beside the pulled models."""
    return str(cache_root(cache_dir).parent / "packed")


class PackedCache:
    """One model's place in the cache.

    state  what became of it, for `llm.config`
    entry  the file to load from, until `close`; None if there is none
    """

    def __init__(self, model: StrPath, cache_dir: StrPath | None, options: dict[str, Any]) -> None:
        """options  what changes the packed bytes, as JSON can hold it"""
        self.entry: PackedFile | None = None
        self.state = "not there yet"
        self._thread: threading.Thread | None = None
        self._stop, self._hurry = threading.Event(), queue.SimpleQueue[None]()  # see worker.Waitable
        try:
            self._model = os.path.abspath(os.fspath(model))
            self._core = _core_identity()
            self._files: list[Identity] | None = _identities(self._model)
        except (OSError, ValueError):  # the loader will say it
            self._files, self.state = None, "off: the model's files cannot be looked at"
            return
        self._options = options
        self._folder = folder_of(cache_dir)
        named = json.dumps([self._model, options, _core.PACKED_LAYOUT_VERSION, __version__])
        self._name = hashlib.sha256(named.encode()).hexdigest()[:32] + SUFFIX
        self._find()

    @property
    def path(self) -> str:
        return os.path.join(self._folder, self._name)

    def _find(self) -> None:
        try:
            entry = PackedFile(self.path)
        except FileNotFoundError:
            return
        except (OSError, TuiliError) as error:
            self.refuse(error)
            return
        facts = entry.facts
        if facts.get("files") != self._files or facts.get("core") != self._core:
            self.state = "out of date"
            entry.close()
            return
        entry.used_now()
        self.entry, self.state = entry, f"read from {self.path}"

    def refuse(self, error: BaseException) -> None:
        """Say that the entry is of no use, and have none."""
        logger.warning("packed cache: %s; the model is packed anew", _reason(error))
        self.close()
        self.state = "damaged"

    def build(self, plan: LoadPlan) -> _core.Model | None:
        """The model that the entry holds; None, and no entry any more, if it is not what the plan wants.

        The plan takes over the formats of the tensors that turned out to be narrower when they were packed.
        """
        if self.entry is None:
            return None
        try:
            if not plan.takes({name: format for name, format, _, _ in self.entry.tensors}):
                raise ValueError("other tensors than the model's files")
            builder = _core.ModelBuilder(plan.spec, compute=plan.compute, num_threads=plan.num_threads)
            return _map(self.entry, builder)
        except (TuiliError, ValueError, TypeError) as error:
            self.refuse(error)
            return None

    def close(self) -> None:
        """Give the entry's descriptor back."""
        if self.entry is not None:
            entry, self.entry = self.entry, None
            entry.close()

    # --- saving ---------------------------------------------------------------------------------------------

    def save(self, model: _core.Model, facts: dict[str, Any], sections: Callable[[], Iterator[Any]]) -> str:
        """Write the model in the background, unless it is small; returns the state at the beginning of that.

        facts, sections  what else the file is to hold
        """
        if self._files is None:
            return self.state
        n_bytes = model.weight_bytes - model.screen_bytes  # which is made again
        if n_bytes < MIN_WEIGHT_BYTES:
            self.state = f"off: the model has less than {MIN_WEIGHT_BYTES >> 20} MiB"
            return self.state
        own = {"files": self._files, "core": self._core, "model": self._model, "options": self._options}
        content = Content(
            {**facts, **own, "tuili": __version__, "weight_bytes": n_bytes},
            model.packed_tensors(),
            sections,
        )
        self.state = state = f"being written to {self.path}"
        thread = threading.Thread(target=self._save, args=(content, n_bytes), name="tuili-packed-cache")
        try:
            threads.start(thread)
        except RuntimeError as error:  # no thread can be had, or the interpreter is ending
            self.state = f"not written: {_reason(error)}"
            return self.state
        self._thread = thread
        return state

    def _save(self, content: Content, n_bytes: int) -> None:
        with contextlib.suppress(queue.Empty):
            self._hurry.get(timeout=DELAY_S)
        try:
            _make_room(self._folder, n_bytes)
            with _temporary(self._folder, self._name) as (fd, temporary):
                total = write(fd, content, self._stop.is_set)
                if _identities(self._model) != self._files:
                    raise OSError("the model's files changed meanwhile")
                os.rename(temporary, self.path)
            trim(self._folder, MAX_BYTES, keep=self._name)
            self.state = f"written to {self.path}: {total} bytes"
        except Stopped:
            self.state = "not written: stopped"
        except Exception as error:
            self.state = f"not written: {_reason(error)}"
            logger.warning("packed cache: not written: %s", _reason(error))

    def wait(self) -> None:
        """Wait until all is written; an interrupt stops the writing."""
        if self._thread is not None:
            self._hurry.put(None)
            try:
                self._thread.join()
            except BaseException:
                self._stop.set()
                raise


def _map(entry: PackedFile, builder: _core.ModelBuilder) -> _core.Model:
    """raises  ModelFormatError, EngineOutOfMemoryError, TypeError"""
    builder.map(entry.fd, entry.n_bytes)
    for name, format, begin, n_bytes in entry.tensors:
        builder.place(name, format, begin, n_bytes)  # type: ignore[arg-type]  # checked there
    return builder.finish()


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f": {shown(str(error.filename), 256)}"
        return error.strerror + place
    return shown(str(error) or type(error).__name__, 300)


# ---- what a file was made from


def _identities(model: str) -> list[Identity]:
    """The identities of what loading may read: the GGUF file and its further parts, or the folder's files."""
    if os.path.isdir(model):
        entries = sorted(os.scandir(model), key=lambda entry: entry.path)
        paths = [entry.path for entry in entries if entry.name.endswith(_SOURCE_SUFFIXES)]
        has_modules = any(entry.name == "modules.json" for entry in entries)  # with folders of their own
        for entry in entries if has_modules else ():
            inner = sorted(os.listdir(entry.path)) if entry.is_dir() else ()
            found = (os.path.join(entry.path, name) for name in inner if name.endswith(_SOURCE_SUFFIXES))
            paths += [path for path in found if os.path.isfile(path)]
    else:
        paths = [model, *filter(os.path.exists, further_parts(model))]
    return [_identity(path) for path in paths]


def _identity(path: str) -> Identity:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError
    return [path, status.st_size, status.st_mtime_ns, status.st_ino]


def _core_identity() -> list[int]:
    """The extension module's identity: only a build knows its own layout, whatever its version."""
    status = os.stat(_core.__file__)
    return [status.st_size, status.st_mtime_ns]


# ---- the folder


@contextlib.contextmanager
def _temporary(folder: str, name: str) -> Iterator[tuple[int, str]]:
    """A new file that is gone afterwards, unless it was renamed."""
    path = os.path.join(folder, f".{name.removesuffix(SUFFIX)}-{os.getpid()}-{time.monotonic_ns()}.tmp")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield fd, path
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(path)


def _make_room(folder: str, n_bytes: int) -> None:
    """Raise OSError if the folder should not take so much, remove what is older if it is too full."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if n_bytes > MAX_BYTES:
        raise OSError(f"{n_bytes} bytes; the limit is {MAX_BYTES}")
    trim(folder, MAX_BYTES - n_bytes)
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < n_bytes + RESERVE_BYTES:
        raise OSError(f"less than {(n_bytes + RESERVE_BYTES) >> 20} MiB are free on the disk")


@dataclass(frozen=True)
class Entry:
    """A file of the cache; `facts` is None if its header is damaged, foreign or of another version."""

    path: str
    n_bytes: int
    used: float
    facts: dict[str, Any] | None


def _files_in(folder: str) -> list[tuple[str, os.stat_result]]:
    """Our files and their status, the least recently used first."""
    found = []
    with contextlib.suppress(OSError):
        for item in os.scandir(folder):
            if _NAME.fullmatch(item.name) or _TEMPORARY.fullmatch(item.name):
                with contextlib.suppress(OSError):  # gone meanwhile
                    status = item.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                        found.append((item.path, status))
    return sorted(found, key=lambda file: file[1].st_mtime_ns)


def entries(folder: str) -> list[Entry]:
    """All files, the most recently used first."""
    found = []
    for path, status in reversed(_files_in(folder)):
        if not path.endswith(SUFFIX):
            continue
        facts = None
        with contextlib.suppress(OSError, TuiliError), PackedFile(path) as file:
            facts = file.facts
        found.append(Entry(path, status.st_size, status.st_mtime, facts))
    return found


def trim(folder: str, max_bytes: int, keep: str | None = None) -> list[str]:
    """Remove the least recently used files until the rest has at most `max_bytes`; returns their paths.

    keep  the name of a file that stays. Unfinished files go if nobody can be writing them any more.
    """
    files, removed = _files_in(folder), []
    total = sum(status.st_size for _, status in files)
    for path, status in files:
        unfinished = not path.endswith(SUFFIX)
        if unfinished and time.time() - status.st_mtime < STALE_S:
            continue
        if (unfinished or total > max_bytes) and os.path.basename(path) != keep:
            with contextlib.suppress(OSError):
                os.unlink(path)
                removed.append(path)
                total -= status.st_size
    return removed


def verify(path: str, progress: Callable[[int], None] | None = None) -> str | None:
    """What is wrong with a file, down to its last byte, or None."""
    try:
        with PackedFile(path) as file:
            return file.verify(progress)
    except (OSError, TuiliError) as error:
        return _reason(error)
