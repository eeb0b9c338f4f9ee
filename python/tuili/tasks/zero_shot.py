"""Zero-shot classification: which labels a text entails, by a model of entailment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tuili.checks import boolean, described, invalid
from tuili.tasks.encoding import Room, checked_str, room
from tuili.tasks.pipeline import Pipeline, many, marked, refuse
from tuili.tasks.scores import best, softmax

TASK = "zero-shot-classification"


class Task(Pipeline):
    """`pipe(sequences, candidate_labels, hypothesis_template="This example is {}.", multi_label=False)`.

    candidate_labels  a list, or one str with commas between them
    multi_label       score each label by itself, entailment against contradiction
    truncation        cut a sequence that is too long; the hypothesis stays whole
    returns           a dict of "sequence", "labels" and "scores", best first; a list of them for a list
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "candidate_labels": None,
        "hypothesis_template": "This example is {}.",
        "multi_label": False,
        "truncation": False,
    }

    def prepare(self) -> None:
        self.tasks = self.model.task_model(TASK)
        head = self.tasks.head(TASK, "sequence")
        if head.entailment is None or len(head.labels) < 2:
            refuse(TASK, self.model)
        self._entailment = head.entailment

    def settings(self, chosen: dict[str, Any]) -> tuple[str, bool, Room]:
        """The template, multi_label, and the room."""
        if chosen["candidate_labels"] is not None:
            _labels(chosen["candidate_labels"])
        template, cut = chosen["hypothesis_template"], chosen["truncation"]
        if not isinstance(template, str) or "{}" not in template:
            given = "a str without" if isinstance(template, str) else described(template)
            invalid("hypothesis_template", f"must be a str with {{}} where the label goes, not {given}")
        space = room({"truncation": "only_first" if cut is True else cut}, self.tasks.max_len)
        return template, boolean("multi_label", chosen["multi_label"]), space

    def answer(self, sequences: Any, candidate_labels: Any = None, **options: Any) -> Any:
        if candidate_labels is not None:
            options["candidate_labels"] = candidate_labels
        template, alone, space = self.settings(chosen := self.options(options))
        texts = [checked_str(text, "sequences") for text in many(sequences, "sequences")]
        labels = _labels(chosen["candidate_labels"])
        # str.format would look up attributes.
        hypotheses = [template.replace("{}", label) for label in labels]
        alone = alone or len(labels) == 1
        inputs = self.tasks.encode_each([(text, pair, space) for text in texts for pair in hypotheses])
        rows = np.concatenate(self.tasks.answers(inputs)) if inputs else np.empty((0, 2), np.float32)
        results = []
        for i, text in enumerate(texts):
            here = slice(i * len(labels), (i + 1) * len(labels))
            scores = self._scores(rows[here], alone=alone)
            order = [len(labels) - 1 - j for j in best(scores[::-1], len(labels))]  # of equal ones the last
            result = {
                "sequence": text,
                "labels": [labels[j] for j in order],
                "scores": [float(scores[j]) for j in order],
            }
            results += marked([result], truncated=any(one.truncated for one in inputs[here]))
        return results[0] if isinstance(sequences, str) else results

    def _scores(self, logits: np.ndarray, *, alone: bool) -> np.ndarray:
        """The score of each label, from logits [n_labels, n_outputs]."""
        if not alone:
            return softmax(logits[:, self._entailment])
        contradiction = -1 if self._entailment == 0 else 0
        return softmax(logits[:, [contradiction, self._entailment]])[:, 1]


def _labels(given: object) -> list[str]:
    parts = [label.strip() for label in given.split(",")] if isinstance(given, str) else given
    labels = list(parts) if isinstance(parts, list | tuple) else []
    if not all(isinstance(label, str) for label in labels) or not any(labels):
        invalid("candidate_labels", f"must be one or more labels, not {described(given)}")
    return [label for label in labels if label]
