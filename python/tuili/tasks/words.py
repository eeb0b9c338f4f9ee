"""Masked words: what a model would put in place of the mask token."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tuili.checks import described, integer, invalid
from tuili.errors import InvalidParameterError
from tuili.loading.files import shown
from tuili.loading.tokenizers.calls import call
from tuili.tasks.answers import clean
from tuili.tasks.encoding import Encoded, Room, checked_str, room, together
from tuili.tasks.pipeline import Pipeline, many, marked, refuse
from tuili.tasks.scores import best, softmax
from tuili.tokenization.tokenizer import clean_text

TASK = "fill-mask"

log = logging.getLogger("tuili")


class Task(Pipeline):
    """`pipe(inputs, top_k=5, targets=None, tokenizer_kwargs=None)`.

    inputs            a text with at least one mask token (`pipe.tokenizer.mask_token`), or a list of them
    targets           the only words to choose from; one of several tokens is its first, with a warning
    tokenizer_kwargs  truncation, max_length and padding, which changes nothing
    returns           per text top_k dicts of "score", "token", "token_str" and "sequence"; a list of such
                      lists where it has several masks. A list of one text gives what the text gives
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "top_k": 5,
        "targets": None,
        "truncation": None,
        "tokenizer_kwargs": None,
    }

    def prepare(self) -> None:
        self.tasks = self.model.task_model(TASK)
        self.tasks.head(TASK, "words")
        loaded = self.tasks.tokenizer.loaded
        if loaded.mask_id is None:
            refuse(TASK, self.model)
        self._mask_id, self._pad_id = loaded.mask_id, loaded.pad_id
        self.mask_token = self.tasks.tokenizer.mask_token

    def settings(self, chosen: dict[str, Any]) -> tuple[list[int] | None, int, Room]:
        """The targets' ids, top_k, and the room."""
        top_k = integer("top_k", chosen["top_k"], 1, 1 << 31)
        space = room(together(chosen, "tokenizer_kwargs"), self.tasks.max_len)
        return self._targets(chosen["targets"]), top_k, space

    def answer(self, inputs: Any, **options: Any) -> Any:
        targets, top_k, space = self.settings(self.options(options))
        texts = [checked_str(text, "inputs") for text in many(inputs)]
        encoded = self.tasks.encode_each([(text, None, space) for text in texts])
        masks = [[i for i, token in enumerate(one.ids) if token == self._mask_id] for one in encoded]
        for i, found in enumerate(masks):
            if not found:
                raise InvalidParameterError(
                    f"inputs: text {i} has no mask token ({self.mask_token})", param="inputs", code="no_mask"
                )
        answers = self.tasks.answers(encoded, masks)
        results = [
            self._filled(one, at, rows, targets, top_k)
            for one, at, rows in zip(encoded, masks, answers, strict=True)
        ]
        return results[0] if len(results) == 1 else results

    def elements(self, inputs: list[Any], *args: Any, **options: Any) -> list[Any]:
        found = self.answer(inputs, *args, **options)
        return [found] if len(inputs) == 1 else list(found)

    def _filled(
        self, one: Encoded, masks: list[int], rows: np.ndarray, targets: list[int] | None, top_k: int
    ) -> list[Any]:
        per_mask = []
        for at, row in zip(masks, rows, strict=True):
            scores = softmax(row)
            ids = (
                best(scores, top_k) if targets is None else [targets[i] for i in best(scores[targets], top_k)]
            )
            entries = [self._entry(one, at, token, scores[token], only=len(masks) == 1) for token in ids]
            per_mask.append(marked(entries, truncated=one.truncated))
        return per_mask[0] if len(per_mask) == 1 else per_mask

    def _entry(self, one: Encoded, at: int, token: int, score: float, *, only: bool) -> dict[str, Any]:
        tokenizer = self.tasks.tokenizer
        filled = [token if i == at else other for i, other in enumerate(one.ids)]
        filled = [word for word in filled if word != self._pad_id]  # also where it is what the model fills in

        def decode(ids: list[int], *, skip_special: bool) -> str:
            """The text; DeBERTa's models have more rows than tokens, which are of no text."""
            known = [i for i in ids if i < tokenizer.loaded.n_vocab]
            text = tokenizer.decode(known, skip_special=skip_special)
            return clean(text) if tokenizer.loaded.tidies else text

        return {
            "score": float(score),
            "token": token,
            "token_str": decode([token], skip_special=False),
            "sequence": decode(filled, skip_special=only),
        }

    def _targets(self, given: object) -> list[int] | None:
        """The targets' ids, each once. A word that is no token counts as the first of its pieces, as in
        transformers; where that is another word a warning says so.
        """
        if given is None:
            return None
        words = [given] if isinstance(given, str) else given
        if not isinstance(words, list | tuple) or not words:
            invalid("targets", f"must be a str or a list of them, not {described(given)}")
        ids: list[int] = []
        loaded = self.tasks.tokenizer.loaded
        for word in words:
            word = clean_text(checked_str(word, "targets"))
            token_id = call(loaded.backend.token_to_id, word)
            if token_id is None:
                pieces = self.tasks.tokenizer.encode(word, add_special=False)
                if len(pieces) != 1 or pieces[0] == loaded.unk_id:
                    instead = f"counts as {shown(loaded.text_of(pieces[0]))}" if pieces else "is left out"
                    log.warning("targets: %s is not one token of the vocabulary and %s", shown(word), instead)
                token_id = pieces[0] if pieces else None
            ids += [] if token_id is None else [int(token_id)]
        if not ids:
            raise InvalidParameterError(
                "targets: none of them has a token", param="targets", code="not_a_token"
            )
        return list(dict.fromkeys(ids))
