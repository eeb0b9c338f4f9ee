"""Vectors of texts: batches by length, similarity, ranking."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

import numpy as np

from tuili import _core
from tuili.errors import CUTTING_HELPS, InvalidParameterError, NumericError, PromptTooLongError
from tuili.generation.checks import described, invalid, one_of
from tuili.generation.token_ids import checked_ids
from tuili.generation.turns import TurnWorker
from tuili.rereading import Rereading

Progress = Callable[[int, int], None]  # (done, in all)
Pooling = Literal["mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean"]
POOLINGS = get_args(Pooling)
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")

SHORT_S = 0.02  # a batch that takes no longer runs on the caller's thread, which hears Ctrl-C after it


def checked_finite(vectors: np.ndarray) -> np.ndarray:
    """The same vectors [n, width]; raises NumericError if one holds Inf or NaN."""
    finite = np.isfinite(vectors)
    if not finite.all():
        raise NumericError(f"the model's vector of text {int(finite.all(axis=1).argmin())} is not finite")
    return vectors


@dataclass(slots=True)
class EncoderCounters:
    """What `stats()` shows."""

    texts: int = 0
    tokens: int = 0
    batches: int = 0


class Encoder:
    """An encoder with its runner. Batches run one at a time, long ones on the worker's thread; callers take
    turns between them.

    max_len        longest text to embed, in tokens, which may be less than
    max_positions  the longest the model takes
    rereading      how a second half reads texts, if there is one
    """

    def __init__(
        self,
        runner: _core.Runner,
        *,
        n_vocab: int,
        max_len: int,
        max_positions: int,
        max_batch_tokens: int,
        max_seqs: int,
        rereading: Rereading | None = None,
    ) -> None:
        self._runner, self.rereading = runner, rereading
        self._n_vocab, self.max_len, self._max_positions = n_vocab, max_len, max_positions
        self._max_batch_tokens, self._max_seqs = max_batch_tokens, max_seqs
        self.worker = TurnWorker()
        self.counters = EncoderCounters()
        self._s_per_token = float("inf")  # of the batch before

    def embed(
        self,
        texts: Sequence[Sequence[int]],
        poolings: Sequence[Pooling],
        *,
        normalize: bool,
        progress: Progress | None = None,
        n_skipped: int = 0,
    ) -> np.ndarray:
        """Vectors float32 [n_texts, d_model · n_poolings], in the order given; normalize needs one pooling.

        texts     token ids, of which pooling skips the first n_skipped
        progress  called with (texts done, texts in all) after each batch
        raises    PromptTooLongError, TokenIdError, InvalidParameterError, NumericError
        """

        def run(runner: _core.Runner, batch: list[int]) -> list[np.ndarray]:
            sequences = [self.sequence(texts[i]) for i in batch]
            lengths = [len(texts[i]) for i in batch]
            vectors = [
                _weighted_mean(runner, sequences, lengths, normalize=normalize, n_skipped=n_skipped)
                if pooling == "weighted_mean" and n_skipped
                else runner.encode(sequences, pooling, normalize, n_skipped)
                for pooling in poolings
            ]
            return list(vectors[0] if len(vectors) == 1 else np.concatenate(vectors, axis=1))

        rows = self.each(texts, run, progress)
        return checked_finite(np.stack(rows) if len(rows) > 1 else rows[0][np.newaxis])

    def each(
        self,
        texts: Sequence[Sequence[int]],
        run: Callable[[_core.Runner, list[int]], list[np.ndarray]],
        progress: Progress | None = None,
    ) -> list[np.ndarray]:
        """What `run` gives for each text, in the order given; it is called for batches of their indices.

        progress, raises  as `embed`
        """
        ids = [self._checked(text, f"text {i}", self.max_len) for i, text in enumerate(texts)]
        results: list[np.ndarray | None] = [None] * len(ids)
        n_done = 0
        for batch in self._batches(ids):
            n_tokens = sum(len(ids[i]) for i in batch)
            is_short = n_tokens * self._s_per_token <= SHORT_S
            call = self.worker.call_here if is_short else self.worker.call
            rows = call(partial(self._run, run, batch, n_tokens))
            for i, row in zip(batch, rows, strict=True):
                results[i] = row
            n_done += len(batch)
            if progress is not None:
                progress(n_done, len(ids))
        return cast(list[np.ndarray], results)

    def hidden_states(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """After the embedding and each layer, float32 [n_layers + 1, n_tokens, d_model]."""
        ids = self._checked(token_ids, "token_ids", self._max_positions)
        sequence = self.sequence(ids, collect_hidden=True)
        self.worker.call(lambda: self._runner.encode([sequence], "mean", False))
        return sequence.hidden_states()

    def sequence(
        self,
        token_ids: Sequence[int] | np.ndarray,
        types: np.ndarray | None = None,
        *,
        collect_hidden: bool = False,
    ) -> _core.Sequence:
        """A text as the core takes it. types: its token types, int32 [n_tokens]."""
        ids = np.asarray(token_ids, np.int32)
        if self.rereading is None:
            return _core.Sequence(ids, token_type_ids=types, collect_hidden=collect_hidden)
        return _core.Sequence(self.rereading.shifted(ids), source=ids, collect_hidden=collect_hidden)

    def _checked(self, token_ids: Sequence[int] | np.ndarray, name: str, limit: int) -> np.ndarray:
        ids = checked_ids(token_ids, self._n_vocab, name)
        if len(ids) > limit:
            raise PromptTooLongError(f"{name} has {len(ids)} tokens; the limit is {limit}{CUTTING_HELPS}")
        return ids

    def _batches(self, texts: list[np.ndarray]) -> Iterator[list[int]]:
        """Indices of texts, longest first, so that a batch is full and the last ones are short."""
        batch: list[int] = []
        n_tokens = 0
        for i in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
            n = len(texts[i])
            if batch and (n_tokens + n > self._max_batch_tokens or len(batch) == self._max_seqs):
                yield batch
                batch, n_tokens = [], 0
            batch.append(i)
            n_tokens += n
        if batch:
            yield batch

    def _run(
        self, run: Callable[[_core.Runner, list[int]], list[np.ndarray]], batch: list[int], n_tokens: int
    ) -> list[np.ndarray]:
        self.counters.batches += 1
        self.counters.texts += len(batch)
        self.counters.tokens += n_tokens
        start = time.perf_counter()
        rows = run(self._runner, batch)
        self._s_per_token = (time.perf_counter() - start) / n_tokens
        return rows


def _weighted_mean(
    runner: _core.Runner,
    sequences: list[_core.Sequence],
    lengths: Sequence[int],
    *,
    normalize: bool,
    n_skipped: int,
) -> np.ndarray:
    """Means weighted by the token's place in the whole text, where the core counts from the first token that
    it pools: that one's mean and the plain one, each by its share of the weights."""
    n = np.array([length - min(n_skipped, length - 1) for length in lengths], np.float64)[:, None]
    n_before = np.array(lengths, np.float64)[:, None] - n
    rises, plain = n * (n + 1) / 2, n_before * n
    share = (rises / (rises + plain)).astype(np.float32)
    weighted, mean = (runner.encode(sequences, kind, False, n_skipped) for kind in ("weighted_mean", "mean"))
    vectors = share * weighted + (1 - share) * mean
    return _core.ops.l2_normalize(vectors) if normalize else vectors


def poolings_of(defaults: dict[str, Any], pooling: object) -> list[Pooling]:
    """The poolings of one call; None stands for the model's own."""
    named = str(defaults["pooling"]) if pooling is None else one_of("pooling", pooling, POOLINGS)
    return cast(list[Pooling], named.split(" + "))


def in_precision(vectors: np.ndarray, precision: object, ranges: object) -> np.ndarray:
    """Vectors float32 [n, d] with fewer bits, as sentence-transformers' quantize_embeddings makes them.

    precision  "int8" and "uint8": 256 steps of each dimension between its least and largest number, which
               `ranges` float [2, d] gives, so that a vector does not depend on its neighbours; "binary" and
               "ubinary": whether each number is above 0, 8 to a byte, [n, ceil(d / 8)] int8 or uint8
    """
    precision = one_of("precision", precision, PRECISIONS)
    if ranges is not None and precision not in ("int8", "uint8"):
        invalid("ranges", f"are for precision int8 and uint8, not {precision}")
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        signed: np.ndarray = (bits.astype(np.int16) - 128).astype(np.int8)
        return signed if precision == "binary" else bits
    try:
        limits = np.asarray(() if ranges is None else ranges, np.float32)
    except (TypeError, ValueError):  # no numbers, or rows of several lengths
        limits = np.empty(0, np.float32)
    if limits.shape != (2, vectors.shape[1]) or not np.isfinite(limits).all():
        raise InvalidParameterError(
            f"{precision} needs ranges [2, {vectors.shape[1]}]: each dimension's least and largest number in "
            "a sample, such as numpy.stack([sample.min(0), sample.max(0)])",
            param="ranges",
        )
    steps = (limits[1] - limits[0]) / np.float32(255)
    steps = np.where(steps == 0, np.float32(1), steps)
    codes: np.ndarray = np.clip(np.floor((vectors - limits[0]) / steps), 0, 255)
    return codes.astype(np.uint8) if precision == "uint8" else (codes - 128).astype(np.int8)


def checked_texts(texts: object, name: str = "texts") -> list[str]:
    """A list of at least one str, from one str or a list or tuple of them."""
    items = [texts] if isinstance(texts, str) else texts
    if not isinstance(items, list | tuple):
        invalid(name, f"must be a str or a list of str, not {described(texts)}")
    if not items:
        invalid(name, "is empty", code="empty_prompt")
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise InvalidParameterError(f"{name}: entry {i} is {described(item)}, not a str", param=name)
    return list(items)


def checked_vectors(vectors: np.ndarray, d_model: int, name: str) -> np.ndarray:
    """Finite floats [d_model] or [n, d_model]; InvalidParameterError for anything else."""
    if vectors.ndim not in (1, 2) or not np.issubdtype(vectors.dtype, np.floating):
        invalid(name, "must be texts or a float array [n, d_model]")
    if vectors.shape[-1] != d_model:
        invalid(name, f"has vectors of {vectors.shape[-1]} numbers, the model's have {d_model}")
    if not np.isfinite(vectors).all():
        invalid(name, "holds numbers that are not finite")
    return vectors


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of the angle between each row of a and each of b, float32 [n_a, n_b]; 0 where a vector is
    zero.
    """
    similar: np.ndarray = _unit(a) @ _unit(b).T
    return similar.astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    wide = np.divide(wide, largest, out=np.zeros_like(wide), where=largest > 0)  # squares stay in range
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    return unit


def shortened(vectors: np.ndarray, width: int, *, normalize: bool) -> np.ndarray:
    """The first `width` numbers of each, made of length 1 again with `normalize`."""
    short = np.ascontiguousarray(vectors[:, :width])
    return _core.ops.l2_normalize(short) if normalize else short


def prompt_of(known: Mapping[str, Any], name: object, own: object = None) -> str:
    """The words that stand before a text; "" for none.

    known   prompts by name, and default_prompt_name, which counts if name is None
    own     words that are none of these
    raises  InvalidParameterError that lists the names, and for a name beside words
    """
    if own is not None:
        if not isinstance(own, str) or name is not None:
            wrong = (
                "not stand beside prompt_name" if isinstance(own, str) else f"be a str, not {described(own)}"
            )
            invalid("prompt", f"must {wrong}")
        return own
    prompts: Mapping[str, str] = known.get("prompts") or {}
    name = known.get("default_prompt_name") if name is None else name
    if name is None:
        return ""
    if not isinstance(name, str) or name not in prompts:
        shown = ", ".join(prompts) or "none"
        raise InvalidParameterError(f"prompt_name: the model's prompts are: {shown}", param="prompt_name")
    return prompts[name]


def ranking(scores: np.ndarray, documents: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The top_k documents by falling score, the earlier one first among equals."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [{"index": int(i), "score": float(scores[i]), "text": documents[i]} for i in order]
