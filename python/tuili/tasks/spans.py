"""Extractive question answering: the part of a document that answers, read in windows if it is long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from tuili.checks import boolean, described, integer, invalid
from tuili.errors import CUTTING_HELPS, InvalidParameterError, PromptTooLongError
from tuili.loading.tokenizers.calls import call
from tuili.tasks.encoding import Encoded, checked_str, joined, room
from tuili.tasks.pipeline import Pipeline
from tuili.tasks.scores import best, softmax
from tuili.tokenization.tokenizer import clean_text, encoding_of

TASK = "question-answering"
_HIDDEN = -10000.0  # the logit of what cannot be an answer


@dataclass(frozen=True)
class Window:
    """A part of a document behind the question.

    read   the tokens whose logits count: those of the part, and [CLS], which stands for no answer
    words  the word that each token of the part is of, or None
    """

    encoded: Encoded
    read: list[int]
    words: list[int | None]

    def place(self, first: int, last: int, *, aligned: bool) -> tuple[int, int]:
        """[begin, end) of tokens of the document, or of what the part holds of the words that they are of."""
        n_before, words = self.encoded.texts.index(1), self.words
        first_word, last_word = words[first - n_before], words[last - n_before]
        if aligned and first_word is not None and last_word is not None:
            first = n_before + words.index(first_word)
            last = n_before + len(words) - 1 - words[::-1].index(last_word)
        return self.encoded.offsets[first][0], self.encoded.offsets[last][1]


class Task(Pipeline):
    """`pipe(question=…, context=…, top_k=1, doc_stride=128, max_answer_len=15, max_seq_len=384,
    max_question_len=64, handle_impossible_answer=False, align_to_words=True)`.

    question, context  a text and the document to search, or as many of both in lists; or one dict of both,
                       or several
    max_seq_len        tokens of a window, question included; windows share doc_stride tokens
    truncation         cut questions of more than max_question_len tokens; padding changes nothing
    returns            a dict of "score", "start", "end" and "answer", a list of them if top_k > 1 finds
                       several; a list of either for a list of questions, even of one. A document without
                       words has the answer "" of score 0
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "top_k": 1,
        "doc_stride": None,
        "max_answer_len": 15,
        "max_seq_len": None,
        "max_question_len": 64,
        "handle_impossible_answer": False,
        "align_to_words": True,
        "truncation": False,
        "padding": None,
    }

    def prepare(self) -> None:
        self.tasks = self.model.task_model(TASK)
        self.tasks.head(TASK, "spans")

    def settings(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """`chosen`, checked, with the window of this model where none is named."""
        room({"padding": chosen["padding"]}, self.tasks.max_len)
        most, length, stride = self.tasks.max_len, chosen["max_seq_len"], chosen["doc_stride"]
        length = min(384, most) if length is None else integer("max_seq_len", length, 1, most)
        stride = min(length // 2, 128) if stride is None else integer("doc_stride", stride, 0, length)
        limits = {"top_k": 1 << 31, "max_answer_len": 1 << 16, "max_question_len": 1 << 31}
        flags = ("truncation", "align_to_words", "handle_impossible_answer")
        return {
            "max_seq_len": length,
            "doc_stride": stride,
            **{name: integer(name, chosen[name], 1, limit) for name, limit in limits.items()},
            **{name: boolean(name, chosen[name]) for name in flags},
        }

    def answer(self, *inputs: Any, question: Any = None, context: Any = None, **options: Any) -> Any:
        chosen = self.settings(self.options(options))
        pairs, alone = _pairs(inputs, question, context)
        read = partial(self._windows, chosen)
        windows = self.tasks.tokenizer.each(read, pairs)
        flat = [window.encoded for one in windows for window in one]
        rows = [window.read for one in windows for window in one]
        answers = iter(self.tasks.answers(flat, rows))
        results = []
        for (_, document), one in zip(pairs, windows, strict=True):
            found = self._answers(document, [(window, next(answers)) for window in one], chosen)
            if any(window.encoded.truncated for window in one):
                found = [answer | {"truncated": True} for answer in found]
            results.append(found[0] if len(found) == 1 else found)
        return results[0] if alone else results

    def _windows(self, chosen: Mapping[str, Any], question: str, document: str) -> list[Window]:
        loaded = self.tasks.tokenizer.loaded
        backend, side = loaded.backend, loaded.cut_side
        length, stride = chosen["max_seq_len"], chosen["doc_stride"]
        asked = encoding_of(backend, question)
        most = chosen["max_question_len"]
        cut = len(asked.ids) > most
        if cut and not chosen["truncation"]:
            raise PromptTooLongError(
                f"the question has {len(asked.ids)} tokens; max_question_len is {most}{CUTTING_HELPS}"
            )
        call(asked.truncate, most, direction=side)
        n_left = length - call(backend.num_special_tokens_to_add, True) - len(asked.ids)
        parts = encoding_of(backend, document)
        is_long = len(parts.ids) > n_left
        if is_long and n_left <= stride:
            invalid(
                "max_seq_len",
                f"{length} leaves {n_left} tokens beside the question, no more than doc_stride {stride}",
            )
        cls_id = loaded.cls_id
        if is_long:
            call(parts.truncate, n_left, stride, side)
        windows = []
        for part in (parts, *parts.overflowing):
            encoded = joined(self.tasks.tokenizer, [asked, part], truncated=cut)
            read = [
                i
                for i, (one, text) in enumerate(zip(encoded.ids, encoded.texts, strict=True))
                if text == 1 or one == cls_id
            ]
            windows.append(Window(encoded, read, part.word_ids))
        return windows

    def _answers(
        self, document: str, windows: list[tuple[Window, np.ndarray]], chosen: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        top_k, longest, aligned = (chosen[name] for name in ("top_k", "max_answer_len", "align_to_words"))
        n_spans = 2 * top_k + 10 if aligned else top_k  # several spans of tokens may be the same words
        no_answer = 1_000_000.0
        by_text: dict[str, dict[str, Any]] = {}
        for window, rows in windows:
            texts = window.encoded.texts
            logits = np.full((len(texts), 2), _HIDDEN, np.float32)
            logits[window.read] = rows
            starts, ends = softmax(logits.T)
            no_answer = min(no_answer, float(starts[0] * ends[0]))
            elsewhere = [text != 1 for text in texts]
            starts[elsewhere] = ends[elsewhere] = 0.0  # also of a question that holds the CLS token
            for score, first, last in _best_spans(starts, ends, n_spans, longest):
                if texts[first] == texts[last] == 1:
                    _add(by_text, document, score, *window.place(first, last, aligned=aligned))
        found = list(by_text.values())
        if chosen["handle_impossible_answer"]:
            found.append({"score": no_answer, "start": 0, "end": 0, "answer": ""})
        if not found:  # white space alone
            found.append({"score": 0.0, "start": 0, "end": 0, "answer": ""})
        return sorted(found, key=lambda answer: -float(answer["score"]))[:top_k]


def _add(found: dict[str, dict[str, Any]], document: str, score: float, start: int, end: int) -> None:
    """An answer that was found; one that reads the same adds its score to the first."""
    answer = document[start:end]
    first = found.setdefault(answer.lower(), {"score": 0.0, "start": start, "end": end, "answer": answer})
    first["score"] += score


def _best_spans(
    starts: np.ndarray, ends: np.ndarray, n: int, longest: int
) -> Iterator[tuple[float, int, int]]:
    """(score, first token, last token) of the n likeliest spans of up to `longest` tokens, best first."""
    n_tokens, longest = len(starts), min(longest, len(starts))
    padded = np.concatenate([ends, np.zeros(longest - 1)])
    ends_from = np.ndarray((n_tokens, longest), padded.dtype, padded, 0, padded.strides * 2)
    products = starts[:, None] * ends_from  # [first, n more]
    for flat in best(products.ravel(), n):
        first, more = divmod(flat, longest)
        if first + more < n_tokens:
            yield float(products[first, more]), first, first + more


def _pairs(inputs: tuple[Any, ...], question: Any, context: Any) -> tuple[list[tuple[str, str]], bool]:
    """(question, document) of each, and whether they came alone."""
    if len(inputs) == 2 and all(isinstance(one, str) for one in inputs) and question is context is None:
        return [_pair(*inputs)], True
    if len(inputs) > 1 and all(isinstance(one, Mapping) for one in inputs):
        inputs = (list(inputs),)
    if len(inputs) == 1 and question is None and context is None:
        given = inputs[0]
        items = [given] if isinstance(given, Mapping) else given
        if not isinstance(items, list | tuple) or not all(isinstance(item, Mapping) for item in items):
            raise _wrong(given)
        if not all({"question", "context"} == set(item) for item in items):
            raise _wrong(given)
        return [_pair(item["question"], item["context"]) for item in items], isinstance(given, Mapping)
    if inputs or question is None or context is None:
        raise _wrong(inputs[0] if inputs else context if question is None else question)
    if isinstance(question, str) and isinstance(context, str):
        return [_pair(question, context)], True
    questions = [question] if isinstance(question, str) else question
    if not isinstance(questions, list | tuple):
        raise _wrong(question)
    contexts = [context] * len(questions) if isinstance(context, str) else context
    if not isinstance(contexts, list | tuple) or len(contexts) != len(questions):
        raise InvalidParameterError(
            f"{len(questions)} questions need as many contexts, or one", param="context"
        )
    return [_pair(*pair) for pair in zip(questions, contexts, strict=True)], False


def _pair(question: object, document: object) -> tuple[str, str]:
    texts = clean_text(checked_str(question, "question")), clean_text(checked_str(document, "context"))
    for name, text in zip(("question", "context"), texts, strict=True):
        if not text:
            invalid(name, "is empty", code="empty_prompt")
    return texts


def _wrong(given: object) -> InvalidParameterError:
    found = "a text alone" if isinstance(given, str) else described(given)
    return InvalidParameterError(
        f"a question needs question=… and context=…, or dicts of both, not {found}", param="question"
    )
