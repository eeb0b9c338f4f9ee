"""Vectors of texts: batches by length, similarity, ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np

from tuili import _core
from tuili.errors import InvalidParameterError, PromptTooLongError
from tuili.generation.checks import boolean, described
from tuili.generation.token_ids import checked_ids
from tuili.generation.worker import Worker

Pooling = Literal["mean", "cls", "last"]
POOLINGS = ("mean", "cls", "last")


@dataclass(slots=True)
class EncoderCounters:
    """What `stats()` shows."""

    texts: int = 0
    tokens: int = 0
    batches: int = 0


class Encoder:
    """An encoder with its runner. Batches run one at a time on the worker's thread; callers take turns
    between them.

    max_len        longest text to embed, in tokens, which may be less than
    max_positions  the longest the model takes
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
    ) -> None:
        self._runner = runner
        self._n_vocab, self.max_len, self._max_positions = n_vocab, max_len, max_positions
        self._max_batch_tokens, self._max_seqs = max_batch_tokens, max_seqs
        self.worker = Worker()
        self.counters = EncoderCounters()

    def embed(
        self,
        texts: Sequence[Sequence[int]],
        pooling: Pooling,
        normalize: bool,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Vectors float32 [n_texts, d_model], in the order given.

        texts     token ids
        progress  called with (texts done, texts in all) after each batch
        raises    PromptTooLongError, TokenIdError, InvalidParameterError
        """
        ids = [self._checked(text, f"text {i}", self.max_len) for i, text in enumerate(texts)]
        results: list[tuple[list[int], np.ndarray]] = []
        for batch in self._batches(ids):
            sequences = [_core.Sequence(ids[i]) for i in batch]
            rows = self.worker.call(partial(self._run, sequences, pooling, normalize))
            results.append((batch, rows))
            if progress is not None:
                progress(sum(len(done) for done, _ in results), len(ids))
        vectors = np.empty((len(ids), results[0][1].shape[1]), dtype=np.float32)
        for batch, rows in results:
            vectors[batch] = rows
        return vectors

    def hidden_states(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """After the embedding and each layer, float32 [n_layers + 1, n_tokens, d_model]."""
        sequence = _core.Sequence(
            self._checked(token_ids, "token_ids", self._max_positions), collect_hidden=True
        )
        self.worker.call(lambda: self._run([sequence], "mean", False))
        return sequence.hidden_states()

    def _checked(self, token_ids: Sequence[int] | np.ndarray, name: str, limit: int) -> np.ndarray:
        ids = checked_ids(token_ids, self._n_vocab, name)
        if len(ids) > limit:
            raise PromptTooLongError(
                f"{name} has {len(ids)} tokens; the limit is {limit}; truncation=True cuts it"
            )
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

    def _run(self, sequences: list[_core.Sequence], pooling: Pooling, normalize: bool) -> np.ndarray:
        self.counters.batches += 1
        self.counters.texts += len(sequences)
        self.counters.tokens += sum(sequence.n_tokens for sequence in sequences)
        return self._runner.encode(sequences, pooling, normalize)


def settings(defaults: dict[str, Any], pooling: object, normalize: object) -> tuple[Pooling, bool]:
    """pooling and normalize of one call; None stands for the model's own."""
    if pooling is not None and (not isinstance(pooling, str) or pooling not in POOLINGS):
        raise InvalidParameterError(f"pooling must be one of {', '.join(POOLINGS)}", param="pooling")
    chosen = cast(Pooling, defaults["pooling"] if pooling is None else pooling)
    return chosen, bool(defaults["normalize"]) if normalize is None else boolean("normalize", normalize)


def checked_texts(texts: object, name: str = "texts") -> list[str]:
    """A list of at least one str, from one str or a list or tuple of them."""
    items = [texts] if isinstance(texts, str) else texts
    if not isinstance(items, list | tuple):
        raise InvalidParameterError(
            f"{name} must be a str or a list of str, not {described(texts)}", param=name
        )
    if not items:
        raise InvalidParameterError(f"{name} is empty", param=name, code="empty_prompt")
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise InvalidParameterError(f"{name}: entry {i} is {described(item)}, not a str", param=name)
    return list(items)


def checked_vectors(vectors: np.ndarray, d_model: int, name: str) -> np.ndarray:
    """Finite floats [d_model] or [n, d_model]; InvalidParameterError for anything else."""
    if vectors.ndim not in (1, 2) or not np.issubdtype(vectors.dtype, np.floating):
        raise InvalidParameterError(f"{name} must be texts or a float array [n, d_model]", param=name)
    if vectors.shape[-1] != d_model:
        raise InvalidParameterError(
            f"{name} has vectors of {vectors.shape[-1]} numbers, the model's have {d_model}", param=name
        )
    if not np.isfinite(vectors).all():
        raise InvalidParameterError(f"{name} holds numbers that are not finite", param=name)
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


def ranking(scores: np.ndarray, documents: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The top_k documents by falling score, the earlier one first among equals."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [{"index": int(i), "score": float(scores[i]), "text": documents[i]} for i in order]
