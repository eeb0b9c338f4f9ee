"""The engine of encoders: texts as token ids, in batches by length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast, get_args

import numpy as np

from tuili import _core
from tuili.embedding.rereading import Rereading
from tuili.errors import CUTTING_HELPS, NumericError, PromptTooLongError
from tuili.generation.token_ids import checked_ids
from tuili.generation.turns import TurnWorker

Progress = Callable[[int, int], None]  # (done, in all)
Pooling = Literal["mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean"]
POOLINGS = get_args(Pooling)

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
        ids = [self._checked(text, f"text {i}", self.max_len, CUTTING_HELPS) for i, text in enumerate(texts)]
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

    def expect_work(self) -> None:
        """Wakes the threads that the next batch needs, before its texts are tokenized."""
        self._runner.expect_work()

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

    def _checked(
        self, token_ids: Sequence[int] | np.ndarray, name: str, limit: int, helps: str = ""
    ) -> np.ndarray:
        ids = checked_ids(token_ids, self._n_vocab, name)
        if len(ids) > limit:
            raise PromptTooLongError(f"{name} has {len(ids)} tokens; the limit is {limit}{helps}")
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
