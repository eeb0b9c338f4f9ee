"""How much a model may hold at once: the length of a text and the blocks of the key/value cache, before any
is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from tuili import _core
from tuili.errors import InvalidParameterError, ModelLimitError
from tuili.generation.checks import integer
from tuili.loading.memory import available_memory

BLOCK_SIZE = 32  # tokens
DEFAULT_SHARE = 0.25  # of available memory for the cache, where nobody says how much
LARGEST_SHARE = 0.9  # of available memory that a cache may be planned to take
KV_DTYPES = ("auto", "float32", "float16", "bfloat16", "int8")
MAX_BYTES = 1 << 60

KvDtype = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """max_model_len is the most tokens of one text that are computed; note says why it or the cache is what
    it is.
    """

    max_model_len: int
    kv_dtype: KvDtype
    n_blocks: int
    block_bytes: int
    note: str

    @property
    def kv_bytes(self) -> int:
        return self.n_blocks * self.block_bytes


def kv_dtype(name: str) -> KvDtype:
    """The cache's element type. "auto" is float16: half the memory, and every promise about bits holds for
    it.
    """
    if not isinstance(name, str) or name not in KV_DTYPES:
        raise InvalidParameterError(
            f"kv_cache_dtype must be one of {', '.join(KV_DTYPES)}", param="kv_cache_dtype"
        )
    return "float16" if name == "auto" else cast(KvDtype, name)


def check_cache_options(kv_cache_dtype: str, kv_cache_bytes: int | None) -> None:
    """Refuse, before a model is loaded, what no model could use; an encoder needs no more than that."""
    kv_dtype(kv_cache_dtype)
    if kv_cache_bytes is not None:
        integer("kv_cache_bytes", kv_cache_bytes, 1, MAX_BYTES)


def plan_capacity(
    spec: _core.ModelSpec,
    *,
    max_model_len: int | None,
    kv_cache_bytes: int | None,
    kv_cache_dtype: str,
    max_num_seqs: int,
) -> Capacity:
    """Decide the cache of a decoder.

    kv_cache_bytes  None: what max_num_seqs full texts need, but at most a quarter of the memory that is
                    available; at least one full text
    max_model_len   None: what the model was trained for, or less if the cache cannot hold that
    raises          InvalidParameterError for contradictions, ModelLimitError (memory) if one text does not
                    fit
    """
    dtype = kv_dtype(kv_cache_dtype)
    wanted = checked_length(spec, max_model_len)
    block_bytes = _core.KvCache.block_bytes(spec, BLOCK_SIZE, dtype)
    full = -(-wanted // BLOCK_SIZE)  # blocks of one full text
    if kv_cache_bytes is not None:
        n_blocks = integer("kv_cache_bytes", kv_cache_bytes, block_bytes, MAX_BYTES) // block_bytes
        note = "kv_cache_bytes as given"
    else:
        n_blocks, note = full * max_num_seqs, f"{max_num_seqs} texts of {wanted} tokens"
        quarter = int(_available() * DEFAULT_SHARE) // block_bytes
        if quarter < n_blocks:
            n_blocks, note = max(full, quarter), "a quarter of the memory that was available"
    if n_blocks * block_bytes > _available() * LARGEST_SHARE:
        if kv_cache_bytes is not None or max_model_len is not None:
            raise ModelLimitError(
                f"a cache of {n_blocks * block_bytes / 2**20:.0f} MiB for {n_blocks * BLOCK_SIZE} tokens was "
                f"asked for; {_available() / 2**20:.0f} MiB are available",
                code="memory",
            )
        n_blocks = max(1, int(_available() * LARGEST_SHARE) // block_bytes)
        note = "all the memory that was available"
    return Capacity(_length(wanted, n_blocks, max_model_len), dtype, n_blocks, block_bytes, note)


def checked_length(spec: _core.ModelSpec, max_model_len: int | None) -> int:
    """max_model_len, or the model's own; InvalidParameterError if it is more than the model's."""
    if max_model_len is None:
        return spec.max_positions
    return integer("max_model_len", max_model_len, 1, spec.max_positions)


def _length(wanted: int, n_blocks: int, max_model_len: int | None) -> int:
    if n_blocks * BLOCK_SIZE >= wanted:
        return wanted
    if max_model_len is not None:
        raise InvalidParameterError(
            f"kv_cache_bytes holds {n_blocks * BLOCK_SIZE} tokens, less than max_model_len = {max_model_len}",
            param="kv_cache_bytes",
        )
    return n_blocks * BLOCK_SIZE


def _available() -> int:
    found = available_memory()
    return 1 << 40 if found is None else found[0]
