"""ONNX Runtime with BERT and a head: its fused float32 graph, and dynamic int8 of that graph, from text to
answer, with as little around it as there can be: padded batches of texts sorted by length, and answers as
pipelines give them (of masked words the five likeliest ids).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import onnxruntime_session
from .heads import LABELS, MASK, head_of, inputs_of
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
        read = [pair or text for text, pair in texts]
        encoded = list(zip(self._tokenizer.encode_batch(given), read, strict=True))
        encoded.sort(key=lambda one: len(one[0].ids))
        n_answers = sum(len(list(self._read(encoded[i : i + BATCH]))) for i in range(0, len(encoded), BATCH))
        assert n_answers == n_texts
        return n_texts / (time.perf_counter() - start)

    def _read(self, encoded: list[tuple[Any, str]]) -> Iterator[Any]:
        """An answer a text."""
        ids, mask = padded([one.ids for one, _ in encoded])
        types = padded([one.type_ids for one, _ in encoded])[0]
        feed = dict(zip(INPUTS, (ids, mask, types), strict=True))
        rows = self._session.run(None, {name: x for name, x in feed.items() if name in self._names})
        for i, (one, text) in enumerate(encoded):
            n = len(one.ids)
            if self._head == "spans":
                yield _answer(text, one, rows[0][i, :n], rows[1][i, :n])
            elif self._head == "words":
                scores = _softmax(rows[0][i, one.ids.index(self._mask_id)])
                yield np.argpartition(-scores, BEST)[:BEST]
            elif self._head == "tokens":
                yield _entities(text, one, _softmax(rows[0][i, :n]))
            else:
                scores = _softmax(rows[0][i])
                yield {"label": LABELS[scores.argmax()], "score": float(scores.max())}


def _softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _entities(text: str, one: Any, scores: np.ndarray) -> list[dict[str, Any]]:
    """Neighbours of one label together, unless the later begins an entity; without those of O."""
    found: list[dict[str, Any]] = []
    before, first, last, sums = "O", 0, 0, 0.0
    labels, best = scores.argmax(axis=1).tolist(), scores.max(axis=1).tolist()
    offsets = one.offsets

    def end() -> None:
        if before != "O":
            start, stop = offsets[first][0], offsets[last][1]
            word, score = text[start:stop], sums / (last + 1 - first)
            found.append({"entity_group": before, "score": score, "word": word, "start": start, "end": stop})

    for i, (label_id, special) in enumerate(zip(labels, one.special_tokens_mask, strict=True)):
        label = LABELS[label_id]
        name = label[2:] or label
        if special or name != before or label.startswith("B-"):
            end()
            before, first, sums = "O" if special else name, i, 0.0
        last, sums = i, sums + best[i]
    end()
    return found


def _answer(text: str, one: Any, begin: np.ndarray, end: np.ndarray) -> dict[str, Any]:
    allowed = np.array(one.sequence_ids) == 1
    begin, end = (_softmax(np.where(allowed, x, -1e4)) for x in (begin, end))
    spans = np.tril(np.triu(np.outer(begin, end)), LONGEST_ANSWER - 1)
    first, last = np.unravel_index(spans.argmax(), spans.shape)
    start, stop = one.offsets[first][0], one.offsets[last][1]
    return {"score": float(spans[first, last]), "start": start, "end": stop, "answer": text[start:stop]}
