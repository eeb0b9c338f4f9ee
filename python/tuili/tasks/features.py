"""Feature extraction: the last hidden states of every token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tuili import _core
from tuili.checks import boolean
from tuili.tasks.encoding import Room, checked_str, room, together
from tuili.tasks.pipeline import Pipeline, many

TASK = "feature-extraction"


class Task(Pipeline):
    """`pipe(inputs, return_tensors=False, tokenize_kwargs=None)`.

    tokenize_kwargs  truncation, max_length and padding, which changes nothing

    returns  per text a nested list [1][n_tokens][d_model]; with return_tensors a float32 array of that shape
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "return_tensors": False,
        "truncation": None,
        "tokenize_kwargs": None,
    }

    def prepare(self) -> None:
        self.tasks = self.model.task_model(TASK)

    def settings(self, chosen: dict[str, Any]) -> tuple[Room, bool]:
        """The room, and return_tensors."""
        space = room(together(chosen, "tokenize_kwargs"), self.tasks.max_len)
        return space, boolean("return_tensors", chosen["return_tensors"])

    def answer(self, inputs: Any, **options: Any) -> Any:
        space, as_arrays = self.settings(self.options(options))
        texts = [checked_str(text, "inputs") for text in many(inputs)]
        encoded = self.tasks.encode_each([(text, None, space) for text in texts])

        def run(runner: _core.Runner, batch: list[int]) -> list[np.ndarray]:
            sequences = [self.tasks.sequence(encoded[i], collect_hidden=True) for i in batch]
            runner.encode(sequences, "mean", False)
            return [one.hidden_states()[-1] for one in sequences]

        arrays = [states[None] for states in self.tasks.encoder.each([one.ids for one in encoded], run)]
        results: list[Any] = arrays if as_arrays else [states.tolist() for states in arrays]
        return results[0] if isinstance(inputs, str) else results
