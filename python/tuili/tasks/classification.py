"""Sequence classification: labels of texts or pairs of texts, and a cross-encoder's scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from tuili.checks import boolean, described, integer
from tuili.embedding.encoder import Progress
from tuili.errors import InvalidParameterError
from tuili.loading.heads import Head
from tuili.loading.sentence_maps import ACTIVATIONS
from tuili.tasks.encoding import Encoded, Room, checked_str, room
from tuili.tasks.head import TaskModel
from tuili.tasks.pairs import PairReading
from tuili.tasks.pipeline import Pipeline, many, marked
from tuili.tasks.scores import FUNCTIONS, best, function_named, softmax

TASK = "text-classification"
_ROOM = ("truncation", "max_length", "padding")


def texts_of(item: object, name: str = "texts") -> tuple[str, str | None]:
    """The text or two of an input: a str, a pair of them, or a dict of "text" and "text_pair"."""
    if isinstance(item, str):
        return item, None
    if isinstance(item, list | tuple) and len(item) == 2:
        return checked_str(item[0], name), checked_str(item[1], name)
    if isinstance(item, Mapping) and "text" in item and set(item) <= {"text", "text_pair"}:
        pair = item.get("text_pair")
        pair = "" if pair is None else checked_str(pair, name)
        return checked_str(item["text"], name), pair or None  # an empty one is none in transformers
    raise InvalidParameterError(
        f'{name} must be a str, a pair of them or a dict of "text" and "text_pair", not {described(item)}',
        param=name,
    )


def outputs(
    model: TaskModel,
    items: Sequence[Any],
    space: Room,
    progress: Progress | None = None,
    name: str = "texts",
) -> tuple[list[Encoded], list[np.ndarray]]:
    """The inputs as they were encoded, and what the head says of each: float32 [n_labels]. name: of the items
    in errors.
    """
    inputs = model.encode_each([(*texts_of(item, name), space) for item in items])
    return inputs, [rows[0] for rows in model.answers(inputs, progress=progress)]


def classify(
    model: TaskModel, items: Sequence[Any], truncation: object, progress: Progress | None
) -> list[dict[str, Any]]:
    """`LLM.classify` of a list."""
    head = model.head(TASK, "sequence")
    space = room({"truncation": boolean("truncation", truncation)}, model.max_len)
    inputs, rows = outputs(model, items, space, progress)
    results = []
    for encoded, row in zip(inputs, rows, strict=True):
        scores = FUNCTIONS[head.function](row)
        first = best(scores, 1)[0]
        named = {label: float(score) for label, score in zip(head.labels, scores, strict=True)}
        result = {"label": head.labels[first], "score": float(scores[first]), "scores": named}
        results += marked([result], truncated=encoded.truncated)
    return results


def relevance(
    model: TaskModel,
    query: str,
    documents: Sequence[str],
    space: Room,
    progress: Progress | None,
    reading: PairReading,
) -> np.ndarray:
    """A cross-encoder's score of each document, or the share of each choice, float64 [n_documents]."""
    head = model.head("rank", "sequence", "choices")
    if head.kind == "sequence" and len(head.labels) != 1:
        raise InvalidParameterError(
            f"rank: this cross-encoder has {len(head.labels)} labels, which give no order; use classify",
            param="query",
        )
    if not documents:
        return np.empty(0)
    inputs = model.tokenizer.each(
        partial(reading.encode, model, space), [(query, document) for document in documents]
    )
    rows = [rows[0] for rows in model.answers(inputs, progress=progress)]
    scores = np.concatenate(rows)
    if head.kind == "choices":
        return softmax(scores)
    if head.ranking in FUNCTIONS:
        return FUNCTIONS[head.ranking](scores)
    return ACTIVATIONS[head.ranking](scores[:, None])[:, 0].astype(np.float64)


class Task(Pipeline):
    """`pipe(inputs, top_k=1, function_to_apply=None, truncation=False)`.

    inputs             a text, a dict of "text" and "text_pair", or a list of them
    top_k              so many labels, likeliest first, as a list for each input; None: all. Without it there
                       is one dict per input
    function_to_apply  "softmax", "sigmoid" or "none"; None or "default": as the model's configuration says
    max_length         fewer tokens than the model takes; padding changes nothing
    returns            dicts of "label" and "score", in a list
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "top_k": ...,
        "return_all_scores": False,
        "function_to_apply": None,
        **dict.fromkeys(_ROOM),
    }

    def prepare(self) -> None:
        self.tasks = self.model.task_model(TASK)
        self.head: Head = self.tasks.head(TASK, "sequence")

    def settings(self, chosen: dict[str, Any]) -> tuple[Room, Callable[[np.ndarray], np.ndarray], bool, Any]:
        """The room, the function, return_all_scores, and top_k, of which `...` is none."""
        every = boolean("return_all_scores", chosen["return_all_scores"])
        name, top_k = chosen["function_to_apply"], chosen["top_k"]
        plain = name is None or (isinstance(name, str) and name == "default")
        function = FUNCTIONS[self.head.function] if plain else function_named(name)
        if top_k is not None and top_k is not ...:
            top_k = integer("top_k", top_k, 1, 1 << 31)
        return room({name: chosen[name] for name in _ROOM}, self.tasks.max_len), function, every, top_k

    def answer(self, inputs: Any, **options: Any) -> Any:
        space, function, every, top_k = self.settings(self.options(options))
        items = many(inputs)
        if any(isinstance(item, list) for item in items):
            raise InvalidParameterError(
                'a pair of texts is given as a dict of "text" and "text_pair"', param="inputs"
            )
        encoded, rows = outputs(self.tasks, items, space)
        results: list[Any] = [
            marked(self._labels(function(row), top_k, every=every), truncated=one.truncated)
            for one, row in zip(encoded, rows, strict=True)
        ]
        if top_k is ... and not every:
            results = [labels[0] for labels in results]
        alone = isinstance(inputs, Mapping) or (isinstance(inputs, str) and "top_k" in options)
        return results[0] if alone else results

    def _labels(self, scores: np.ndarray, top_k: Any, *, every: bool) -> list[dict[str, Any]]:
        if top_k is ...:
            in_order = list(range(len(scores))) if every else best(scores, 1)
        else:
            in_order = best(scores, len(scores) if top_k is None else top_k)
        return [{"label": self.head.labels[i], "score": float(scores[i])} for i in in_order]
