"""A model's task head at work: encoded inputs in, numbers out; and which tasks a model can do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuili import _core
from tuili.embedding.encoder import Encoder, Progress
from tuili.errors import InvalidParameterError, ModelUnsupportedError, NumericError
from tuili.loading.files import shown
from tuili.loading.heads import AnswerRow, Head
from tuili.tasks.encoding import Encoded, Room, encode
from tuili.tokenization.tokenizer import Tokenizer


class TaskModel:
    """An encoder with a task head, and the tokenizer of both.

    head      what the head is
    tasks     the names of all pipelines that the model can run
    """

    def __init__(
        self, encoder: Encoder, tokenizer: Tokenizer, head: Head | None, spec: _core.ModelSpec, name: str
    ) -> None:
        self.encoder, self.tokenizer, self._head, self.name = encoder, tokenizer, head, name
        self.tasks = ("feature-extraction", *(head.tasks if head is not None else ()))
        self._n_types, self._all_rows = spec.n_token_types, spec.task_head.rows == "all"

    @property
    def max_len(self) -> int:
        """Most tokens of an input."""
        return self.encoder.max_len

    def head(self, task: str, *kinds: str) -> Head:
        """The head, which must be of a kind; ModelUnsupportedError (task) naming what the model can do."""
        if self._head is None or self._head.kind not in kinds:
            raise cannot(task, self.name, self.tasks)
        return self._head

    def encode(self, text: str, pair: str | None = None, room: Room | None = None) -> Encoded:
        """See tasks/encoding.py; without a room, in all that the model takes."""
        room = room or Room(self.max_len, None)
        return encode(self.tokenizer, text, pair, max_len=room.max_len, cut=room.cut)

    def encode_each(self, inputs: Sequence[tuple[str, str | None, Room]]) -> list[Encoded]:
        """`encode` of each."""
        self.encoder.expect_work()
        return self.tokenizer.each(self.encode, inputs)

    def answers(
        self,
        inputs: Sequence[Encoded],
        positions: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
    ) -> list[np.ndarray]:
        """What the head says of each input: float32 [n_rows, n_out], in the order given.

        positions  of each input, the tokens whose rows to compute, for heads that answer for every token;
                   None: all of them. Other heads give one row
        raises     NumericError if an answer is not finite, PromptTooLongError, TokenIdError
        """
        row = None if self._head is None else self._head.row
        if row is not None and row.kind != "mean":
            positions = [[last_row(row, one.ids)] for one in inputs]
        counts = [
            (len(inputs[i].ids) if positions is None else len(positions[i])) if self._all_rows else 1
            for i in range(len(inputs))
        ]

        def run(runner: _core.Runner, batch: list[int]) -> list[np.ndarray]:
            sequences = [self.sequence(inputs[i]) for i in batch]
            wanted = None if positions is None else [list(positions[i]) for i in batch]
            rows = runner.answer(sequences, wanted)
            ends = np.cumsum([counts[i] for i in batch])
            return np.split(rows, ends[:-1])

        answers = self.encoder.each([encoded.ids for encoded in inputs], run, progress)
        if row is not None and row.kind == "mean":
            answers = [_core.ops.mean_rows(rows)[None] for rows in answers]
        if not all(np.isfinite(rows).all() for rows in answers):
            raise NumericError("an answer of the model's head is not finite")
        return answers

    def sequence(self, encoded: Encoded, *, collect_hidden: bool = False) -> _core.Sequence:
        """The input as the core takes it; token types only where the model has several."""
        types = np.array(encoded.types, np.int32) if self._n_types > 1 and any(encoded.types) else None
        return self.encoder.sequence(encoded.ids, types, collect_hidden=collect_hidden)


def last_row(row: AnswerRow, token_ids: Sequence[int]) -> int:
    """Where a text's "end" or "unpadded" row is; InvalidParameterError for one without an end."""
    found = [i for i, one in enumerate(token_ids) if (one in row.ids) == (row.kind == "end")]
    if not found and row.kind == "end":
        raise InvalidParameterError("the text has no token that ends it, whose row the head reads")
    return found[-1] if found else 0


def cannot(task: str, name: str, tasks: Sequence[str]) -> ModelUnsupportedError:
    """The error of a task that a model is not made for."""
    return ModelUnsupportedError(
        f"{shown(task)}: {name} was not made for it; this model can do: {', '.join(tasks)}", code="task"
    )
