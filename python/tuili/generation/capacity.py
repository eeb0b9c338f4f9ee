"""How much a model may hold at once: the length of a text and the blocks of the key/value cache, before any
is allocated.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, TypedDict, cast

from tuili import _core
from tuili.checks import integer, invalid, one_of
from tuili.errors import ModelLimitError
from tuili.generation.scheduler import Limits
from tuili.loading.memory import available_memory

BLOCK_SIZE = 32  # tokens
DEFAULT_SHARE = 0.25  # of available memory for the cache, where nobody says how much
LARGEST_SHARE = 0.9  # of available memory that a cache may be planned to take
KV_DTYPES = ("auto", "float32", "float16", "bfloat16", "int8")
DEVICE_DEFAULT_SHARE = 0.9  # of a device's memory, which nobody else needs; the rest is the driver's
DEVICE_LARGEST_SHARE = 0.95
MAX_BYTES = 1 << 60

KvDtype = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """max_model_len is the most tokens of one text that are computed; note says why it or the cache is what
    it is.

    max_source_len  most tokens of a source, 0 of a decoder
    n_blocks  for the layers that see all tokens before them; it bounds the tokens that are cached
    windows   number of blocks for the layers of each sliding window
    kv_bytes  of both
    """

    max_model_len: int
    max_source_len: int
    kv_dtype: KvDtype
    n_blocks: int
    windows: dict[int, int]
    kv_bytes: int
    note: str


@dataclass(frozen=True, slots=True)
class Window:
    """What a text needs in the area of a sliding window: `span` blocks at most, of beams each."""

    span: int
    block_bytes: int


@dataclass(frozen=True, slots=True)
class Areas:
    """What blocks cost. block_bytes: over the layers without a window, 0 if there are none."""

    block_bytes: int
    windows: dict[int, Window]

    def text_bytes(self, n_blocks: int) -> int:
        """Bytes of one text of so many blocks."""
        return n_blocks * self.block_bytes + self.windows_bytes(n_blocks)

    def windows_bytes(self, n_blocks: int) -> int:
        return sum(min(n_blocks, window.span) * window.block_bytes for window in self.windows.values())

    def longest(self, n_bytes: int, n_most: int) -> int:
        """Blocks of the longest text that fits, up to n_most."""
        return bisect_right(range(1, n_most + 1), n_bytes, key=self.text_bytes)

    def split(self, n_bytes: int, n_text: int, n_texts: int) -> tuple[int, dict[int, int]]:
        """Blocks for the layers without a window, and by window.

        Windows get their share of texts of n_text blocks, or a spare block more if n_texts of these have
        that; half if there is no room for n_texts: shorter texts fill the windows first, and a prefix is
        found only where they have its end.
        """
        if not self.windows:
            return n_bytes // self.block_bytes, {}
        n_text += n_bytes >= n_texts * self.text_bytes(n_text + 1)
        of_text = self.windows_bytes(n_text)
        share = n_bytes * of_text // self.text_bytes(n_text)
        if n_bytes < n_texts * self.text_bytes(n_text):
            share = max(share, n_bytes // 2)
        share = min(share, n_bytes - n_text * self.block_bytes)
        windows = {
            length: share * min(n_text, window.span) // of_text for length, window in self.windows.items()
        }
        rest = n_bytes - sum(n * self.windows[length].block_bytes for length, n in windows.items())
        n_cached = share // of_text + 1  # ids without memory where no layer sees all tokens
        return rest // self.block_bytes if self.block_bytes else n_text * max(n_texts, n_cached), windows


def areas_of(spec: _core.ModelSpec, dtype: KvDtype, step_tokens: int) -> Areas:
    """Areas for every window that a layer has, so that saved prefixes depend on the model alone."""
    windows = {}
    for length in sorted({layer.sliding_window for layer in spec.layers} - {0}):
        span = _core.BlockPool.window_span(length, BLOCK_SIZE, step_tokens)
        # Where a chunk takes hardly more than decoding does, this has no room for beams' spare blocks.
        span += span - _core.BlockPool.window_span(length, BLOCK_SIZE, 1) < 2
        n_bytes = _core.KvCache.block_bytes(spec, BLOCK_SIZE, dtype, window=length)
        windows[length] = Window(span, n_bytes)
    return Areas(_core.KvCache.block_bytes(spec, BLOCK_SIZE, dtype, window=0), windows)


def kv_dtype(name: str) -> KvDtype:
    """The cache's element type. "auto" is float16: half the memory, and every promise about bits holds for
    it. (Of encoder-decoders it may be float32, see `plan_capacity`.)
    """
    one_of("kv_cache_dtype", name, KV_DTYPES)
    return "float16" if name == "auto" else cast(KvDtype, name)


def check_cache_options(kv_cache_dtype: str, kv_cache_bytes: int | None) -> None:
    """Refuse, before a model is loaded, what no model could use; an encoder needs no more than that."""
    kv_dtype(kv_cache_dtype)
    if kv_cache_bytes is not None:
        integer("kv_cache_bytes", kv_cache_bytes, 1, MAX_BYTES)


def plan_capacity(
    spec: _core.ModelSpec,
    limits: Limits,
    *,
    max_model_len: int | None,
    kv_cache_bytes: int | None,
    kv_cache_dtype: str,
    placed: _core.Model | None = None,
    rounds_activations: bool = False,
) -> Capacity:
    """Decide the cache of a decoder, or an encoder-decoder's.

    placed          the model where it runs; None: on the CPU
    kv_cache_bytes  None: what max_num_seqs full texts need, and a block more each, but at most a quarter of
                    the memory that is available, of a device nine tenths; at least one full text
    max_model_len   None: what the model was trained for, or less if the cache cannot hold that
    rounds_activations
                    as LoadedModel has it: int8 products spoil what float32 keys and values would keep
    raises          InvalidParameterError for contradictions, ModelLimitError (memory) if no text fits
    """
    device = "cpu" if placed is None else placed.device
    dtype = kv_dtype(kv_cache_dtype)
    wanted = checked_length(spec, max_model_len)
    full = -(-wanted // BLOCK_SIZE)  # blocks of one full text
    n_source = 0
    if spec.encoder is not None:
        exact = device == "cpu" and not rounds_activations  # texts are short: answers may be transformers'
        dtype = "float32" if kv_cache_dtype == "auto" and exact else dtype
        n_source = min(spec.encoder.max_positions, max_model_len or spec.encoder.max_positions)
        full += -(-n_source // BLOCK_SIZE)  # and of its source
    areas = areas_of(spec, dtype, limits.prefill_chunk)
    available = _available(placed, runner_options(limits, n_source))
    if kv_cache_bytes is not None:
        n_bytes = integer("kv_cache_bytes", kv_cache_bytes, areas.text_bytes(1), MAX_BYTES)
        note = "kv_cache_bytes as given"
    else:
        # A spare block each: as many beams of one text may need that, where they part.
        n_bytes = areas.text_bytes(full + 1) * limits.max_num_seqs
        note = f"{limits.max_num_seqs} texts of {wanted} tokens"
        room = int(available * (DEFAULT_SHARE if device == "cpu" else DEVICE_DEFAULT_SHARE))
        if room < n_bytes:
            n_bytes = max(areas.text_bytes(full), room)
            note = f"{'a quarter' if device == 'cpu' else 'nine tenths'} of the memory that was available"
    most = int(available * (LARGEST_SHARE if device == "cpu" else DEVICE_LARGEST_SHARE))
    if n_bytes > most:
        if kv_cache_bytes is not None or max_model_len is not None:
            raise ModelLimitError(
                f"a cache of {n_bytes / 2**20:.0f} MiB was asked for, where a text of {wanted} tokens takes "
                f"{areas.text_bytes(full) / 2**20:.0f}; {available / 2**20:.0f} MiB are available",
                code="memory",
            )
        n_bytes = max(areas.text_bytes(1), most)
        note = "all the memory that was available"
    n_text = areas.longest(n_bytes, full)
    n_blocks, windows = areas.split(n_bytes, n_text, limits.max_num_seqs)
    n_bytes = n_blocks * areas.block_bytes
    n_bytes += sum(n * areas.windows[length].block_bytes for length, n in windows.items())
    length = _length(wanted, n_text * BLOCK_SIZE, max_model_len)
    return Capacity(length, min(n_source, n_text * BLOCK_SIZE), dtype, n_blocks, windows, n_bytes, note)


class RunnerOptions(TypedDict):
    max_batch_tokens: int
    max_seqs: int
    max_source_tokens: int


def runner_options(limits: Limits, max_source_len: int) -> RunnerOptions:
    """Of a runner for so many texts; max_source_len is 0 where there are no sources."""
    return {
        "max_batch_tokens": limits.prefill_chunk + limits.max_num_seqs,
        "max_seqs": limits.max_num_seqs,
        "max_source_tokens": max(limits.prefill_chunk, max_source_len) if max_source_len else 0,
    }


def allocate(
    spec: _core.ModelSpec, capacity: Capacity, limits: Limits, device: _core.Device = "cpu"
) -> tuple[_core.KvCache, _core.BlockPool]:
    """The cache, whose memory is committed as it is written, and the ids of its blocks."""
    windows = capacity.windows
    return (
        _core.KvCache(spec, capacity.n_blocks, BLOCK_SIZE, capacity.kv_dtype, windows=windows, device=device),
        _core.BlockPool(
            capacity.n_blocks,
            BLOCK_SIZE,
            prefix_cache=limits.prefix_caching,
            windows=windows,
            step_tokens=limits.prefill_chunk,
        ),
    )


def checked_length(spec: _core.ModelSpec, max_model_len: int | None) -> int:
    """max_model_len, or the model's own; InvalidParameterError if it is more than the model's."""
    if max_model_len is None:
        return spec.max_positions
    return integer("max_model_len", max_model_len, 1, spec.max_positions)


def _length(wanted: int, n_fitting: int, max_model_len: int | None) -> int:
    if n_fitting >= wanted:
        return wanted
    if max_model_len is not None:
        invalid("kv_cache_bytes", f"holds {n_fitting} tokens, less than max_model_len = {max_model_len}")
    return n_fitting


def _available(placed: _core.Model | None, options: RunnerOptions) -> int:
    """Of a device's memory what the runner's workspace leaves. The host's is committed as it is written."""
    if placed is not None and placed.device != "cpu":
        on_device = _core.device_memory(placed.device)
        workspace = _core.Runner.most_workspace_bytes(placed, **options)
        return max(on_device[0] - workspace, 0) if on_device is not None else 0
    found = available_memory()
    return 1 << 40 if found is None else found[0]
