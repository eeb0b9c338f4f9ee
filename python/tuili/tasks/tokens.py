"""Token classification: a label for each token, or for the words and entities that tokens make up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tuili.errors import InvalidParameterError
from tuili.generation.checks import boolean, described, integer
from tuili.loading.tokenizer import call
from tuili.tasks.encoding import Encoded, checked_str, joined, too_long
from tuili.tasks.pipeline import Pipeline, many, marked
from tuili.tasks.scores import softmax
from tuili.tokenization import clean_text, encoding_of

TASK = "token-classification"
STRATEGIES = ("none", "simple", "first", "average", "max")

Entity = dict[str, Any]


@dataclass
class Piece:
    """A token of the text, as aggregation sees it. scores: float64 [n_labels]"""

    word: str
    scores: np.ndarray
    start: int
    end: int
    index: int
    continues: bool  # the word of the piece before it


class Task(Pipeline):
    """`pipe(inputs, aggregation_strategy="none", ignore_labels=["O"], stride=None)`.

    aggregation_strategy  "none": every token; "simple": neighbours of one label as an entity; "first",
                          "average", "max": the same of words, labelled by their first token, the mean of all,
                          or the surest
    stride                read a long text in windows that share so many tokens; needs a strategy
    returns               dicts of "entity", "score", "index", "word", "start", "end"; of entities
                          "entity_group" in place of "entity", and no "index". A list of lists for a list
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "aggregation_strategy": "none",
        "ignore_labels": ["O"],
        "stride": None,
        "truncation": False,
    }

    def prepare(self) -> None:
        self.tasks = self.model.task_model(TASK)
        self.labels = self.tasks.head(TASK, "tokens").labels

    def __call__(self, inputs: Any, **options: Any) -> Any:
        chosen = self.options(options)
        strategy = chosen["aggregation_strategy"]
        if strategy not in STRATEGIES:
            raise InvalidParameterError(
                f"aggregation_strategy must be one of {', '.join(STRATEGIES)}, not {described(strategy)}",
                param="aggregation_strategy",
            )
        ignored = chosen["ignore_labels"]
        if not isinstance(ignored, list | tuple) or not all(isinstance(label, str) for label in ignored):
            raise InvalidParameterError("ignore_labels must be a list of str", param="ignore_labels")
        texts = [clean_text(checked_str(text, "inputs")) for text in many(inputs)]
        windows = [self._windows(text, chosen) for text in texts]
        flat = [window for one in windows for window in one]
        answers = iter(self.tasks.answers(flat)) if flat else iter(())
        results = []
        for text, one in zip(texts, windows, strict=True):
            found: list[Entity] = []
            for window in one:
                entities = self._entities(text, window, softmax(next(answers)), strategy)
                found += [entity for entity in entities if _label(entity) not in ignored]
            if len(one) > 1:
                found = _without_overlaps(found)
            results.append(marked(found, any(window.truncated for window in one)))
        return results[0] if isinstance(inputs, str) else results

    def _windows(self, text: str, chosen: Mapping[str, Any]) -> list[Encoded]:
        """The text in as few inputs as it takes: one, unless a stride allows more."""
        backend = self.tasks.tokenizer.loaded.backend
        encoding = encoding_of(backend, text)
        room = self.tasks.max_len - call(backend.num_special_tokens_to_add, False)
        truncation = boolean("truncation", chosen["truncation"])
        stride = chosen["stride"]
        if stride is not None:
            stride = integer("stride", stride, 0, room - 1)
            if chosen["aggregation_strategy"] == "none":
                raise InvalidParameterError("stride needs an aggregation_strategy", param="stride")
        n_tokens = len(encoding.ids)
        if n_tokens <= room:
            return [joined(self.tasks.tokenizer, [encoding], False)]
        if stride is None and not truncation:
            raise too_long(n_tokens + self.tasks.max_len - room, self.tasks.max_len)
        call(encoding.truncate, room, stride or 0)
        parts = [encoding, *encoding.overflowing] if stride is not None else [encoding]
        return [joined(self.tasks.tokenizer, [part], stride is None) for part in parts]

    def _entities(self, text: str, window: Encoded, scores: np.ndarray, strategy: str) -> list[Entity]:
        pieces = list(self._pieces(text, window, scores))
        if strategy in ("none", "simple"):
            entities = [self._token(piece) for piece in pieces]
            return entities if strategy == "none" else self._groups(entities)
        words: list[list[Piece]] = []
        for piece in pieces:
            if piece.continues and words:
                words[-1].append(piece)
            else:
                words.append([piece])
        return self._groups([self._word(word, strategy) for word in words])

    def _pieces(self, text: str, window: Encoded, scores: np.ndarray) -> Iterator[Piece]:
        """The text's own tokens. Whether one continues a word is certain for word pieces alone; for others it
        does if no space stands before it."""
        loaded = self.tasks.tokenizer.loaded
        word_pieces = bool(getattr(loaded.backend.model, "continuing_subword_prefix", None))
        for i, (token_id, (start, end)) in enumerate(zip(window.ids, window.offsets, strict=True)):
            if window.texts[i] is None:
                continue
            word, spelt = loaded.token(token_id) or "", text[start:end]
            if word_pieces:
                continues = len(word) != len(spelt)
            else:
                continues = start > 0 and " " not in text[start - 1 : start + 1]
            if token_id == loaded.unk_id:
                word, continues = spelt, False
            yield Piece(word, scores[i], start, end, i, continues)

    def _token(self, piece: Piece) -> Entity:
        best = int(piece.scores.argmax())
        return {
            "entity": self.labels[best],
            "score": float(piece.scores[best]),
            "index": piece.index,
            "word": piece.word,
            "start": piece.start,
            "end": piece.end,
        }

    def _word(self, pieces: list[Piece], strategy: str) -> Entity:
        if strategy == "first":
            scores = pieces[0].scores
        elif strategy == "max":
            scores = max((piece.scores for piece in pieces), key=lambda scores: float(scores.max()))
        else:
            scores = np.mean([piece.scores for piece in pieces], axis=0)
        best = int(scores.argmax())
        return {
            "entity": self.labels[best],
            "score": float(scores[best]),
            "word": self._text([piece.word for piece in pieces]),
            "start": pieces[0].start,
            "end": pieces[-1].end,
        }

    def _groups(self, entities: Sequence[Entity]) -> list[Entity]:
        """Neighbours of one label together, unless the later begins an entity."""
        groups: list[list[Entity]] = []
        for entity in entities:
            begins, tag = _tag(entity["entity"])
            if groups and tag == _tag(groups[-1][-1]["entity"])[1] and not begins:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": float(np.mean([entity["score"] for entity in group])),
                "word": self._text([entity["word"] for entity in group]),
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]

    def _text(self, tokens: list[str]) -> str:
        decoder = self.tasks.tokenizer.loaded.backend.decoder
        return " ".join(tokens) if decoder is None else call(decoder.decode, tokens)


def _tag(label: str) -> tuple[bool, str]:
    """(begins an entity, what it is) of a label such as B-PER; one without B- or I- goes on."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _label(entity: Entity) -> str:
    return str(entity.get("entity", entity.get("entity_group")))


def _without_overlaps(entities: list[Entity]) -> list[Entity]:
    """Of entities that windows share the longest, or of equally long ones the surest."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: int(entity["start"])):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif _weight(entity) > _weight(kept[-1]):
            kept[-1] = entity
    return kept


def _weight(entity: Entity) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]
