"""ONNX Runtime with BERT and a head: its fused float32 graph, and dynamic int8 of that graph, from text to
answer, with as little around it as there can be: padded batches of texts sorted by length.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import onnxruntime_session
from .heads import MASK, head_of, inputs_of
from .inputs import padded
from .onnxruntime_session import INPUTS
from .onnxruntime_session import version as version

CLASSES = {
    "sequence": ("BertForSequenceClassification", ["logits"]),
    "tokens": ("BertForTokenClassification", ["logits"]),
    "spans": ("BertForQuestionAnswering", ["start_logits", "end_logits"]),
    "words": ("BertForMaskedLM", ["logits"]),
}
BATCH = 8  # texts of similar length: little padding, and rows enough for its products
LONGEST_ANSWER, BEST = 15, 5  # of pipelines


def convert(source: Path, target: Path, variant: str) -> None:
    import torch
    import transformers

    name, outputs = CLASSES[head_of(variant)]
    bert = getattr(transformers, name).from_pretrained(
        source, attn_implementation="eager", dtype=torch.float32
    )
    onnxruntime_session.write(bert.eval(), outputs, target, variant)
    shutil.copy(source / "tokenizer.json", target)


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Any:
    return Head(onnxruntime_session.session_of(model, threads), head_of(variant), model)


class Head:
    def __init__(self, session: Any, head: str, model: Path) -> None:
        import tokenizers

        self._session, self._head, self._tokenizer_json = session, head, model / "tokenizer.json"
        self._tokenizer = tokenizers.Tokenizer.from_file(str(self._tokenizer_json))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._mask_id = self._tokenizer.token_to_id(MASK)
        self._names = {one.name for one in session.get_inputs()}

    def answers(self, n_texts: int, shortest: int, longest: int, seed: int) -> float:
        """Texts per second of one call."""
        texts = inputs_of(self._head, self._tokenizer_json, n_texts, shortest, longest, seed)
        start = time.perf_counter()
        if self._head == "words":
            given: list[Any] = [f"{MASK} {text}" for text, _ in texts]
        else:
            given = [text if pair is None else (text, pair) for text, pair in texts]
        encoded = self._tokenizer.encode_batch(given)
        encoded.sort(key=lambda one: len(one.ids))
        n_answers = sum(len(list(self._read(encoded[i : i + BATCH]))) for i in range(0, len(encoded), BATCH))
        assert n_answers == n_texts
        return n_texts / (time.perf_counter() - start)

    def _read(self, encoded: list[Any]) -> Iterator[Any]:
        """An answer a text."""
        ids, mask = padded([one.ids for one in encoded])
        types = padded([one.type_ids for one in encoded])[0]
        feed = dict(zip(INPUTS, (ids, mask, types), strict=True))
        rows = self._session.run(None, {name: x for name, x in feed.items() if name in self._names})
        for i, one in enumerate(encoded):
            n = len(one.ids)
            if self._head == "spans":
                yield _best_span(rows[0][i, :n], rows[1][i, :n], np.array(one.sequence_ids) == 1)
            elif self._head == "words":
                scores = _softmax(rows[0][i, one.ids.index(self._mask_id)])
                yield np.argpartition(-scores, BEST)[:BEST]
            else:
                yield _softmax(rows[0][i] if self._head == "sequence" else rows[0][i, :n])


def _softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _best_span(begin: np.ndarray, end: np.ndarray, allowed: np.ndarray) -> tuple[int, int]:
    begin, end = (_softmax(np.where(allowed, x, -1e4)) for x in (begin, end))
    spans = np.tril(np.triu(np.outer(begin, end)), LONGEST_ANSWER - 1)
    return np.unravel_index(spans.argmax(), spans.shape)  # type: ignore[return-value]
