"""Prefixes as bytes: the keys and values of a prompt's whole blocks, computed once and found by whoever loads
them.

    header    magic and versions; what made the blocks (see `Origin`); the salt's check; counts
    tokens    int32 [n_tokens]
    blocks    as they lie in the cache; of layers with a sliding window those that tokens to come see
    checksum  sha256 of all before it

Numbers are little-endian. The checksum finds damage, not malice: whatever the bytes say is checked before it
is used, and a forged file can make answers wrong, nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili import __version__, _core
from tuili.checks import described, invalid
from tuili.errors import InvalidParameterError, KVCacheExhaustedError, ModelFormatError, NumericError
from tuili.generation.capacity import KvDtype
from tuili.generation.core_params import salt_number
from tuili.generation.engine import Engine
from tuili.generation.params import SamplingParams, resolve
from tuili.loading.checkpoint import Bytes
from tuili.loading.files import shown

MAGIC = b"TUILIKVP"
FORMAT_VERSION = 2
SLICE_BYTES = 16 << 20  # copied at a time, so that streams do not notice
N_TRIES = 3  # at computing a prefix whose blocks others take before they are copied

# magic, format, layout, version of tuili, architecture, dtype, block size, bytes of a block over all layers,
# model, salt, n_tokens, bytes of all blocks
_HEADER = struct.Struct("<8sII16s32s16sIQ32s32sQQ")
_SUM_BYTES = 32


@dataclass(frozen=True)
class Origin:
    """What must be equal for blocks to mean the same, bit for bit.

    block_bytes  over all layers
    model        sha256 of the configuration and of every weight as it is packed
    """

    version: str
    architecture: str
    kv_dtype: str
    block_size: int
    block_bytes: int
    model: bytes

    def check(self, own: Origin) -> None:
        """Raise InvalidParameterError that names the first difference to `own`."""
        for name, what in _NAMES.items():
            theirs, ours = getattr(self, name), getattr(own, name)
            if theirs == ours:
                continue
            if name == "model":
                theirs, ours = f"another {self.architecture}", "one with other weights or settings"
            raise InvalidParameterError(
                f"the prefix was saved with {what} {shown(str(theirs))}; this engine has {shown(str(ours))}",
                param="data",
                code=f"prefix_{name}",
            )


_NAMES = {
    "version": "tuili",
    "architecture": "the architecture",
    "model": "the model",
    "kv_dtype": "kv_cache_dtype",
    "block_size": "block size",
    "block_bytes": "bytes per block",
}


class Prefixes:
    """Saves and loads the prefixes of an engine; for any thread.

    cache      the engine's, of whose blocks `pool` has the ids
    settings   what decides the model's bits beside its weights and its spec
    """

    def __init__(
        self,
        engine: Engine,
        pool: _core.BlockPool,
        cache: _core.KvCache,
        model: _core.Model,
        *,
        architecture: str,
        kv_dtype: KvDtype,
        settings: dict[str, Any],
    ) -> None:
        self._engine, self._pool, self._cache, self._model = engine, pool, cache, model
        self._architecture, self._kv_dtype, self._settings = architecture, kv_dtype, settings

    @functools.cached_property
    def origin(self) -> Origin:
        """Reads all weights, once."""
        return Origin(
            version=__version__[:16],
            architecture=self._architecture[:32],
            kv_dtype=self._kv_dtype,
            block_size=self._pool.block_size,
            block_bytes=_core.KvCache.block_bytes(self._model.spec, self._pool.block_size, self._kv_dtype),
            model=identity(self._model, self._settings),
        )

    def save(self, token_ids: NDArray[np.int32], cache_salt: str | None) -> bytes:
        """Compute the whole blocks of a prompt, unless they are cached, and pack them.

        raises  InvalidParameterError for a prompt shorter than a block, NumericError, KVCacheExhaustedError
                if others keep taking the blocks away, and what `Engine.submit` raises
        """
        size = self._pool.block_size
        ids = token_ids[: len(token_ids) // size * size]
        if not len(ids):
            raise InvalidParameterError(
                f"prompt: {len(token_ids)} tokens; a prefix is saved in whole blocks of {size}",
                param="prompt",
                code="prefix_too_short",
            )
        params = resolve(SamplingParams(max_tokens=1, temperature=0, cache_salt=cache_salt), {})
        for _ in range(N_TRIES):
            self._engine.submit(ids, params).result()
            pieces = self._read(ids, salt_number(cache_salt))
            if pieces is not None:
                return _packed(self.origin, ids, _salt_check(self.origin, ids, cache_salt), pieces)
        raise KVCacheExhaustedError(
            f"other requests took the prefix's {len(ids) // size} blocks before they were copied; give more "
            "kv_cache_bytes"
        )

    def load(self, data: object, cache_salt: str | None) -> int:
        """Make a saved prefix findable under the salt it was saved with; returns its tokens.

        raises  ModelFormatError for bytes that `save` did not make, InvalidParameterError for those of
                another model, cache type, salt or version, KVCacheExhaustedError if there is no room
        """
        raw = _bytes_of(data)
        theirs, ids, check, blocks = _unpacked(raw)
        theirs.check(self.origin)
        n_bytes = self.n_bytes(len(ids))
        if len(blocks) != n_bytes:
            raise _wrong(f"{len(blocks)} bytes of blocks; they are {n_bytes}")
        n_vocab = self._model.spec.n_vocab
        if ((ids < 0) | (ids >= n_vocab)).any():
            raise _wrong(f"a token id that is not in [0, {n_vocab})")
        if check != _salt_check(self.origin, ids, cache_salt):
            raise InvalidParameterError(
                "the prefix was saved under another cache_salt", param="cache_salt", code="prefix_salt"
            )
        if len(ids) > self._engine.max_model_len:
            raise InvalidParameterError(
                f"the prefix has {len(ids)} tokens; max_model_len is {self._engine.max_model_len}",
                param="data",
                code="prefix_too_long",
            )
        if not self._cache.is_finite(len(ids), 0, len(ids) // self._pool.block_size, blocks):
            raise _wrong("a key or value is not a finite number")
        self._write(ids, salt_number(cache_salt), blocks)
        return len(ids)

    def n_bytes(self, n_tokens: int) -> int:
        """Bytes of the whole blocks of so many tokens."""
        n_blocks = n_tokens // self._pool.block_size
        return self._cache.prefix_bytes(n_blocks * self._pool.block_size, n_blocks)

    # --- between two steps of the engine --------------------------------------------------------------------

    @property
    def _slice(self) -> int:
        """Blocks that are copied at a time."""
        return max(1, SLICE_BYTES // self.origin.block_bytes)

    def _read(self, ids: NDArray[np.int32], salt: int) -> list[Bytes] | None:
        """The prefix's blocks as they are cached; None if they are not, or not any more."""
        n_blocks = len(ids) // self._pool.block_size

        def read(first: int) -> Bytes | None:
            sequence = _findable(ids, salt)
            try:
                if self._pool.attach_prefix(sequence) < len(ids):
                    return None
                return self._cache.read(sequence, len(ids), first, min(self._slice, n_blocks - first))
            finally:
                self._pool.release(sequence)

        pieces: list[Bytes] = []
        for first in range(0, n_blocks, self._slice):
            piece = self._engine.call(functools.partial(read, first))
            if piece is None:
                return None
            if not self._cache.is_finite(len(ids), first, min(self._slice, n_blocks - first), piece):
                raise NumericError("the model's keys and values for this prompt are not numbers")
            pieces.append(piece)
        return pieces

    def _write(self, ids: NDArray[np.int32], salt: int, blocks: Bytes) -> None:
        """Publish what is not there yet, a slice at a time."""
        size = self._pool.block_size
        n_bytes = functools.partial(self._cache.prefix_bytes, len(ids))

        def write(begin: int) -> int:
            """The slice that begins there, or earlier if what precedes it is gone; returns its end."""
            sequence = _findable(ids, salt)
            try:
                found = self._pool.attach_prefix(sequence)
                if found == len(ids):
                    return found
                self._pool.release(sequence)
                first = self._pool.attach_chain(sequence, max(found, begin)) // size
                end = min(first + self._slice, len(ids) // size)
                if not self._pool.grow(sequence, end * size, position=len(ids)):
                    free = [f"{self._pool.n_free} of {self._pool.n_blocks}"]
                    for area in self._pool.windows:
                        free.append(f"of the window of {area.window} tokens {area.n_free} of {area.n_blocks}")
                    raise KVCacheExhaustedError(
                        f"the prefix needs {len(ids) // size} cache blocks; {', '.join(free)} are not in use"
                    )
                piece = blocks[n_bytes(first) : n_bytes(end)]
                self._cache.write(sequence, len(ids), end - first, piece)
                self._pool.publish(sequence)
                return end * size
            finally:
                self._pool.release(sequence)

        begin, n_slices = 0, -(-len(ids) // (self._slice * size))
        for _ in range(2 * n_slices):
            begin = self._engine.call(functools.partial(write, begin))
            if begin == len(ids):
                return
        raise KVCacheExhaustedError("other requests took the prefix's blocks while it was loaded")


def _findable(ids: NDArray[np.int32], salt: int) -> _core.Sequence:
    """A sequence that may share all blocks of the ids: one token more is left to compute."""
    return _core.Sequence(np.append(ids, np.int32(0)), salt=salt)


def _salt_check(origin: Origin, ids: NDArray[np.int32], cache_salt: str | None) -> bytes:
    """Tells whether two salts are equal, and nothing about them across prefixes."""
    digest = hashlib.sha256(b"tuili prefix salt")
    digest.update(origin.model)
    digest.update(salt_number(cache_salt).to_bytes(8, "little"))
    digest.update(ids.astype("<i4").tobytes())
    return digest.digest()


def identity(model: _core.Model, settings: dict[str, Any]) -> bytes:
    """sha256 of what decides a model's bits."""
    tensors = [
        [name, format, hashlib.sha256(data.data).hexdigest()] for name, format, data in model.packed_tensors()
    ]
    document = {
        "spec": _fields(model.spec),
        "tensors": tensors,
        "packed_layout": _core.PACKED_LAYOUT_VERSION,
        "settings": settings,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()


def _fields(spec: Any) -> Any:
    """The attributes of a spec and of the specs in it, as JSON can hold them."""
    if isinstance(spec, list | tuple):
        return [_fields(item) for item in spec]
    if isinstance(spec, str | int | float | bool):
        return spec
    return {name: _fields(getattr(spec, name)) for name in dir(spec) if not name.startswith("_")}


# ---- the bytes


def _packed(origin: Origin, ids: NDArray[np.int32], salt: bytes, blocks: list[Bytes]) -> bytes:
    header = _HEADER.pack(
        MAGIC,
        FORMAT_VERSION,
        _core.KV_LAYOUT_VERSION,
        origin.version.encode(),
        origin.architecture.encode(),
        origin.kv_dtype.encode(),
        origin.block_size,
        origin.block_bytes,
        origin.model,
        salt,
        len(ids),
        sum(map(len, blocks)),
    )
    parts: list[Any] = [header, ids.astype("<i4").tobytes(), *blocks]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()])


def _bytes_of(data: object) -> memoryview:
    if not isinstance(data, bytes | bytearray | memoryview):
        invalid("data", f"must be bytes, not {described(data)}")
    try:
        return memoryview(data).cast("B").toreadonly()
    except (TypeError, ValueError):
        raise InvalidParameterError("data must be contiguous and not released", param="data") from None


def _unpacked(raw: memoryview) -> tuple[Origin, NDArray[np.int32], bytes, Bytes]:
    """(origin, ids, the salt's check, blocks) of bytes whose lengths and checksum fit; no block is copied."""
    if len(raw) < _HEADER.size + _SUM_BYTES or raw[: len(MAGIC)] != MAGIC:
        raise _wrong(f"{len(raw)} bytes that do not begin like one")
    _, format, layout, *texts, size, block_bytes, model, salt, n_tokens, n_bytes = _HEADER.unpack_from(raw)
    if (format, layout) != (FORMAT_VERSION, _core.KV_LAYOUT_VERSION):
        raise _wrong(
            f"format {format}, layout {layout}; this version of tuili reads {FORMAT_VERSION} and "
            f"{_core.KV_LAYOUT_VERSION}"
        )
    if not 1 <= size <= 1024 or n_tokens == 0 or n_tokens % size:
        raise _wrong(f"{n_tokens} tokens in blocks of {size}")
    begin = _HEADER.size + 4 * n_tokens
    end = begin + n_bytes
    if len(raw) != end + _SUM_BYTES:
        raise _wrong(f"{len(raw)} bytes; the header says {end + _SUM_BYTES}")
    if hashlib.sha256(raw[:end]).digest() != raw[end:]:
        raise _wrong("the checksum does not fit: the bytes were damaged")
    try:
        version, architecture, dtype = (text.rstrip(b"\0").decode("ascii") for text in texts)
    except UnicodeDecodeError:
        raise _wrong("a name that is not ASCII") from None
    ids = np.frombuffer(raw[_HEADER.size : begin], "<i4").astype(np.int32)
    blocks = np.frombuffer(raw[begin:end], np.uint8)
    return Origin(version, architecture, dtype, size, block_bytes, model), ids, salt, blocks


def _wrong(what: str) -> ModelFormatError:
    return ModelFormatError(f"not a saved prefix: {what}", code="prefix_format")
