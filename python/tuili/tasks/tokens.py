"""Token classification: a label for each token, or for the words and entities that tokens make up."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tuili.errors import InvalidParameterError
from tuili.generation.checks import boolean, described, integer
from tuili.loading.tokenizer import call
from tuili.tasks.encoding import Encoded, checked_str, joined, too_long
from tuili.tasks.pipeline import Pipeline, many, marked
from tuili.tasks.scores import softmax
from tuili.tokenization import clean_text, encoding_of

if TYPE_CHECKING:
    from tokenizers import Encoding

TASK = "token-classification"
STRATEGIES = ("none", "simple", "first", "average", "max")

Entity = dict[str, Any]


class Part(NamedTuple):
    """A token or a word of the text, labelled. at: the index of the token, or of the word's first"""

    label: str
    score: float
    word: str
    start: int
    end: int
    at: int


class Task(Pipeline):
    """`pipe(inputs, aggregation_strategy="none", ignore_labels=["O"], stride=None)`.

    aggregation_strategy  "none": every token; "simple": neighbours of one label as an entity; "first",
                          "average", "max": the same of words, labelled by their first token, the mean of all,
                          or the surest. Older names: grouped_entities ("simple"), with ignore_subwords
                          ("first")
    stride                read a long text in windows that share so many tokens; needs a strategy
    is_split_into_words   an input is a list of words; places are those in the text that they make up with
                          `delimiter` (a space) between them
    returns               dicts of "entity", "score", "index", "word", "start", "end"; of entities
                          "entity_group" in place of "entity", and no "index". A list of lists for a list
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "aggregation_strategy": None,
        "grouped_entities": False,
        "ignore_subwords": False,
        "ignore_labels": ["O"],
        "stride": None,
        "is_split_into_words": False,
        "delimiter": " ",
        "truncation": False,
    }

    def prepare(self) -> None:
        self.tasks = self.model.task_model(TASK)
        self.labels = self.tasks.head(TASK, "tokens").labels
        self._tags = {label: _tag(label) for label in self.labels}
        backend = self.tasks.tokenizer.loaded.backend
        self._decoder = backend.decoder
        self._has_word_pieces = bool(getattr(backend.model, "continuing_subword_prefix", None))

    def answer(self, inputs: Any, **options: Any) -> Any:
        chosen = self.options(options)
        strategy = chosen["aggregation_strategy"] = _strategy(chosen)
        ignored = chosen["ignore_labels"]
        if not isinstance(ignored, list | tuple) or not all(isinstance(label, str) for label in ignored):
            raise InvalidParameterError("ignore_labels must be a list of str", param="ignore_labels")
        split = boolean("is_split_into_words", chosen["is_split_into_words"])
        sentences = [_words(words) for words in _lists(inputs)] if split else many(inputs)
        delimiter = clean_text(checked_str(chosen["delimiter"], "delimiter"))
        texts = [
            clean_text(delimiter.join(one) if split else checked_str(one, "inputs")) for one in sentences
        ]
        encoded = [
            self._encoding_of_words(one, len(delimiter)) if split else (self._encoding(text), None)
            for one, text in zip(sentences, texts, strict=True)
        ]
        windows = [self._windows(encoding, starts, chosen) for encoding, starts in encoded]
        flat = [window for one in windows for window in one]
        answers = iter(self.tasks.answers(flat)) if flat else iter(())
        results = []
        for text, one in zip(texts, windows, strict=True):
            found: list[Entity] = []
            for window in one:
                found += self._entities(text, window, softmax(next(answers)), strategy, ignored)
            if len(one) > 1:
                found = _without_overlaps(found)
            results.append(marked(found, any(window.truncated for window in one)))
        return results[0] if isinstance(inputs, str) else results

    def elements(self, inputs: list[Any], *args: Any, **options: Any) -> list[Any]:
        split = self.options(dict(options))["is_split_into_words"] is True
        for one in inputs:
            if split and not isinstance(one, list | tuple):  # all of them would be the words of one text
                raise InvalidParameterError(
                    f"inputs must be lists of words, not {described(one)}", param="inputs"
                )
        return list(self.answer(inputs, *args, **options))

    def _encoding(self, text: str) -> Encoding:
        return encoding_of(self.tasks.tokenizer.loaded.backend, text)

    def _encoding_of_words(self, words: list[str], n_between: int) -> tuple[Encoding, list[int]]:
        """The words' tokens, whose offsets begin anew with each word; and where each begins in the text."""
        backend = self.tasks.tokenizer.loaded.backend
        if getattr(backend.pre_tokenizer, "add_prefix_space", None) is False:
            raise InvalidParameterError(
                "is_split_into_words: this tokenizer puts no space before a word (add_prefix_space is false)",
                param="is_split_into_words",
            )
        (encoding,) = call(backend.encode_batch, [words], is_pretokenized=True, add_special_tokens=False)
        ends = itertools.accumulate(len(word) + n_between for word in words)
        return encoding, [0, *ends]

    def _windows(
        self, encoding: Encoding, starts: list[int] | None, chosen: Mapping[str, Any]
    ) -> list[Encoded]:
        """A text in as few inputs as it takes: one, unless a stride allows more."""
        backend = self.tasks.tokenizer.loaded.backend
        room = self.tasks.max_len - call(backend.num_special_tokens_to_add, False)
        truncation = boolean("truncation", chosen["truncation"])
        stride = chosen["stride"]
        if stride is not None:
            stride = integer("stride", stride, 0, room - 1)
            if chosen["aggregation_strategy"] == "none":
                raise InvalidParameterError("stride needs an aggregation_strategy", param="stride")
        n_tokens, parts, cut = len(encoding.ids), [encoding], False
        if n_tokens > room:
            if stride is None and not truncation:
                raise too_long(n_tokens + self.tasks.max_len - room, self.tasks.max_len)
            call(encoding.truncate, room, stride or 0)
            cut, parts = stride is None, [encoding] if stride is None else [encoding, *encoding.overflowing]
        windows = [joined(self.tasks.tokenizer, [part], cut) for part in parts]
        if starts is None:
            return windows
        return [_moved(window, part, starts) for window, part in zip(windows, parts, strict=True)]

    def _entities(
        self, text: str, window: Encoded, scores: np.ndarray, strategy: str, ignored: Container[str]
    ) -> list[Entity]:
        parts = self._parts(text, window, scores)
        if strategy == "none":
            return [
                {
                    "entity": part.label,
                    "score": part.score,
                    "index": part.at,
                    "word": part.word,
                    "start": part.start,
                    "end": part.end,
                }
                for part in parts
                if part.label not in ignored
            ]
        if strategy != "simple":
            words: list[list[Part]] = []
            for part in parts:
                if words and self._continues(part, text, window):
                    words[-1].append(part)
                else:
                    words.append([part])
            parts = [self._word(word, scores, strategy) for word in words]
        return self._groups(parts, ignored)

    def _parts(self, text: str, window: Encoded, scores: np.ndarray) -> list[Part]:
        """The text's own tokens."""
        loaded, labels = self.tasks.tokenizer.loaded, self.labels
        token, unknown = loaded.text_of, loaded.unk_id
        best, surest = scores.argmax(axis=1).tolist(), scores.max(axis=1).tolist()
        return [
            Part(
                labels[best[i]],
                surest[i],
                text[start:end] if token_id == unknown else token(token_id) or "",
                start,
                end,
                i,
            )
            for i, (token_id, (start, end), number) in enumerate(
                zip(window.ids, window.offsets, window.texts, strict=True)
            )
            if number is not None
        ]

    def _continues(self, part: Part, text: str, window: Encoded) -> bool:
        """Whether a token continues the word before it: certain for word pieces alone; others do if no space
        stands before them."""
        loaded = self.tasks.tokenizer.loaded
        if window.ids[part.at] == loaded.unk_id:
            return False
        if self._has_word_pieces:
            return len(part.word) != part.end - part.start
        return part.start > 0 and " " not in text[part.start - 1 : part.start + 1]

    def _word(self, parts: list[Part], scores: np.ndarray, strategy: str) -> Part:
        own = scores[[part.at for part in parts]]
        if strategy == "average":
            chosen = np.mean(own, axis=0)
        else:
            chosen = own[0] if strategy == "first" else own[own.max(axis=1).argmax()]
        best = int(chosen.argmax())
        word = self._text([part.word for part in parts])
        first = parts[0]
        return Part(self.labels[best], float(chosen[best]), word, first.start, parts[-1].end, first.at)

    def _groups(self, parts: Sequence[Part], ignored: Container[str]) -> list[Entity]:
        """Neighbours of one label together, unless the later begins an entity."""
        groups: list[list[Part]] = []
        before = None
        for part in parts:
            begins, tag = self._tags[part.label]
            if tag == before and not begins:
                groups[-1].append(part)
            else:
                groups.append([part])
            before = tag
        named = [(group[0].label.split("-", 1)[-1], group) for group in groups]
        return [
            {
                "entity_group": name,
                "score": sum(part.score for part in group) / len(group),
                "word": self._text([part.word for part in group]),
                "start": group[0].start,
                "end": group[-1].end,
            }
            for name, group in named
            if name not in ignored
        ]

    def _text(self, tokens: list[str]) -> str:
        return " ".join(tokens) if self._decoder is None else call(self._decoder.decode, tokens)


def _strategy(chosen: Mapping[str, Any]) -> str:
    """The aggregation_strategy, or what the older flags say."""
    grouped, whole = (boolean(name, chosen[name]) for name in ("grouped_entities", "ignore_subwords"))
    strategy = chosen["aggregation_strategy"]
    if strategy is None:
        return "none" if not grouped else "first" if whole else "simple"
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise InvalidParameterError(
            f"aggregation_strategy must be one of {', '.join(STRATEGIES)}", param="aggregation_strategy"
        )
    return strategy


def _lists(inputs: object) -> list[Any]:
    """Lists of words, of which one may come alone."""
    if not isinstance(inputs, list | tuple):
        raise InvalidParameterError(
            f"inputs must be a list of words or several, not {described(inputs)}", param="inputs"
        )
    return list(inputs) if all(isinstance(one, list | tuple) for one in inputs) else [inputs]


def _words(words: Sequence[object]) -> list[str]:
    return [clean_text(checked_str(word, "inputs")) for word in words]


def _moved(window: Encoded, part: Encoding, starts: list[int]) -> Encoded:
    """A window of words with its offsets in the text, in which each word begins where `starts` says."""
    begins = iter([0 if word is None else starts[word] for word in part.word_ids])
    shifts = [0 if text is None else next(begins) for text in window.texts]
    moved = [(begin + n, end + n) for (begin, end), n in zip(window.offsets, shifts, strict=True)]
    return replace(window, offsets=moved)


def _tag(label: str) -> tuple[bool, str]:
    """(begins an entity, what it is) of a label such as B-PER; one without B- or I- goes on."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


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
