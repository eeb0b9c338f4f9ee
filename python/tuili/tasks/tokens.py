"""Token classification: a label for each token, or for the words and entities that tokens make up."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tuili.checks import boolean, described, integer, invalid, one_of
from tuili.errors import CUTTING_HELPS, InvalidParameterError
from tuili.loading.tokenizers.calls import call
from tuili.tasks.encoding import Encoded, checked_str, joined, too_long
from tuili.tasks.pipeline import Pipeline, many, marked
from tuili.tasks.scores import softmax
from tuili.tokenization.tokenizer import clean_text, encoding_of

if TYPE_CHECKING:
    from tokenizers import Encoding

TASK = "token-classification"
STRATEGIES = ("none", "simple", "first", "average", "max")

Entity = dict[str, Any]


class Parts(NamedTuple):
    """Tokens or words of a text, in columns. indices: of the tokens, or of the words' first"""

    labels: Sequence[str]
    scores: Sequence[float]
    words: Sequence[str]
    starts: Sequence[int]
    ends: Sequence[int]
    indices: Sequence[int]


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
        from tokenizers import decoders  # here: what asks for no texts needs no tokenizer

        self.tasks = self.model.task_model(TASK)
        self.labels = self.tasks.head(TASK, "tokens").labels
        self._tags = {label: _tag(label) for label in self.labels}
        self._names = {label: label.split("-", 1)[-1] for label in self.labels}
        backend = self.tasks.tokenizer.loaded.backend
        added = call(backend.get_added_tokens_decoder)
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._decoder = decoder = backend.decoder
        self._joins_word_pieces = isinstance(decoder, decoders.WordPiece) and decoder.prefix == "##"
        self._has_word_pieces = bool(getattr(backend.model, "continuing_subword_prefix", None))

    def settings(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """`chosen`, checked, with the strategy that older flags name."""
        strategy = _strategy(chosen)
        ignored, stride = chosen["ignore_labels"], chosen["stride"]
        if not isinstance(ignored, list | tuple) or not all(isinstance(label, str) for label in ignored):
            invalid("ignore_labels", f"must be a list of str, not {described(ignored)}")
        if stride is not None:
            stride = integer("stride", stride, 0, self._room() - 1)
        flags = {name: boolean(name, chosen[name]) for name in ("is_split_into_words", "truncation")}
        delimiter = clean_text(checked_str(chosen["delimiter"], "delimiter"))
        found = {"aggregation_strategy": strategy, "stride": stride, "delimiter": delimiter, **flags}
        return {**chosen, **found}

    def _room(self) -> int:
        """Tokens of a text that one input holds."""
        special = call(self.tasks.tokenizer.loaded.backend.num_special_tokens_to_add, False)
        return self.tasks.max_len - int(special)

    def answer(self, inputs: Any, **options: Any) -> Any:
        chosen = self.settings(self.options(options))
        strategy, ignored = chosen["aggregation_strategy"], chosen["ignore_labels"]
        split, delimiter = chosen["is_split_into_words"], chosen["delimiter"]
        if chosen["stride"] is not None and strategy == "none":
            invalid("stride", "needs an aggregation_strategy")
        sentences = [_words(words) for words in _lists(inputs)] if split else many(inputs)
        texts = [
            clean_text(delimiter.join(one) if split else checked_str(one, "inputs")) for one in sentences
        ]

        def read(text: str, words: list[str] | None) -> list[Encoded]:
            if words is None:
                return self._windows(self._encoding(text, chosen), None, chosen)
            return self._windows(*self._encoding_of_words(words, len(delimiter)), chosen)

        given = sentences if split else [None] * len(texts)
        windows = self.tasks.tokenizer.each(read, list(zip(texts, given, strict=True)))
        flat = [window for one in windows for window in one]
        answers = iter(self.tasks.answers(flat))
        results = []
        for text, one in zip(texts, windows, strict=True):
            found: list[Entity] = []
            for window in one:
                found += self._entities(text, window, softmax(next(answers)), strategy, ignored)
            if len(one) > 1:
                found = _without_overlaps(found)
            results.append(marked(found, truncated=any(window.truncated for window in one)))
        return results[0] if isinstance(inputs, str) else results

    def elements(self, inputs: list[Any], *args: Any, **options: Any) -> list[Any]:
        split = self.options(dict(options))["is_split_into_words"]
        for one in inputs:
            if split and not isinstance(one, list | tuple):  # all of them would be the words of one text
                invalid("inputs", f"must be lists of words, not {described(one)}")
        return list(self.answer(inputs, *args, **options))

    def _encoding(self, text: str, chosen: Mapping[str, Any]) -> Encoding:
        if chosen["stride"] is None and chosen["truncation"] is False:
            self.tasks.tokenizer.check_fits(text, self.tasks.max_len, CUTTING_HELPS)
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
        room, stride = self._room(), chosen["stride"]
        n_tokens, parts, cut = len(encoding.ids), [encoding], False
        if n_tokens > room:
            if stride is None and not chosen["truncation"]:
                raise too_long(n_tokens + self.tasks.max_len - room, self.tasks.max_len)
            call(encoding.truncate, room, stride or 0, self.tasks.tokenizer.loaded.cut_side)
            cut, parts = stride is None, [encoding] if stride is None else [encoding, *encoding.overflowing]
        windows = [joined(self.tasks.tokenizer, [part], truncated=cut) for part in parts]
        if starts is None:
            return windows
        return [_moved(window, part, starts) for window, part in zip(windows, parts, strict=True)]

    def _entities(
        self, text: str, window: Encoded, scores: np.ndarray, strategy: str, ignored: Container[str]
    ) -> list[Entity]:
        parts = self._parts(text, window, scores)
        if strategy == "none":
            return [
                {"entity": label, "score": score, "index": i, "word": word, "start": start, "end": end}
                for label, score, word, start, end, i in zip(*parts, strict=True)
                if label not in ignored
            ]
        if strategy != "simple":
            parts = self._words(parts, text, window, scores, strategy)
        return self._groups(parts, ignored)

    def _parts(self, text: str, window: Encoded, scores: np.ndarray) -> Parts:
        """The text's own tokens."""
        added, unknown = self._added, self.tasks.tokenizer.loaded.unk_id
        n = window.texts.count(0)
        first = window.texts.index(0) if n else 0
        own = slice(first, first + n)
        places = window.offsets[own]
        words = [
            text[start:end] if token_id == unknown else added.get(token_id, token)
            for token_id, token, (start, end) in zip(window.ids[own], window.tokens[own], places, strict=True)
        ]
        return Parts(
            [self.labels[i] for i in scores[own].argmax(axis=1).tolist()],
            scores[own].max(axis=1).tolist(),
            words,
            [start for start, _ in places],
            [end for _, end in places],
            range(first, first + n),
        )

    def _words(self, parts: Parts, text: str, window: Encoded, scores: np.ndarray, strategy: str) -> Parts:
        """The words that the tokens make up, labelled by the strategy."""
        if not parts.words:
            return parts
        unknown = self.tasks.tokenizer.loaded.unk_id
        firsts = [
            i
            for i, (word, start, end) in enumerate(zip(parts.words, parts.starts, parts.ends, strict=True))
            if i == 0
            or window.ids[parts.indices[i]] == unknown
            or not self._continues(word, start, end, text)
        ]
        ends = [*firsts[1:], len(parts.words)]
        own = scores[parts.indices[0] : parts.indices[-1] + 1]
        if strategy == "average":
            chosen = np.add.reduceat(own, firsts) / np.subtract(ends, firsts)[:, None]
        elif strategy == "first":
            chosen = own[firsts]
        else:
            surest = parts.scores.__getitem__
            chosen = own[[max(range(*word), key=surest) for word in zip(firsts, ends, strict=True)]]
        return Parts(
            [self.labels[i] for i in chosen.argmax(axis=1).tolist()],
            chosen.max(axis=1).tolist(),
            [self._text(parts.words[first:end]) for first, end in zip(firsts, ends, strict=True)],
            [parts.starts[first] for first in firsts],
            [parts.ends[end - 1] for end in ends],
            [parts.indices[first] for first in firsts],
        )

    def _continues(self, word: str, start: int, end: int, text: str) -> bool:
        """Whether a token continues the word before it: certain for word pieces alone; others do if no space
        stands before them."""
        if self._has_word_pieces:
            return len(word) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]

    def _groups(self, parts: Parts, ignored: Container[str]) -> list[Entity]:
        """Neighbours of one label together, unless the later begins an entity."""
        firsts = []
        before = None
        for i, label in enumerate(parts.labels):
            begins, tag = self._tags[label]
            if begins or tag != before:
                firsts.append(i)
            before = tag
        entities = []
        for first, end in itertools.pairwise([*firsts, len(parts.labels)]):
            name = self._names[parts.labels[first]]
            if name not in ignored:
                entities.append(
                    {
                        "entity_group": name,
                        "score": sum(parts.scores[first:end]) / (end - first),
                        "word": self._text(parts.words[first:end]),
                        "start": parts.starts[first],
                        "end": parts.ends[end - 1],
                    }
                )
        return entities

    def _text(self, tokens: Sequence[str]) -> str:
        if self._joins_word_pieces and "".join(tokens).isalnum():
            return " ".join(tokens)  # as the decoder would have it, which joins pieces and moves punctuation
        return " ".join(tokens) if self._decoder is None else call(self._decoder.decode, tokens)


def _strategy(chosen: Mapping[str, Any]) -> str:
    """The aggregation_strategy, or what the older flags say."""
    grouped, whole = (boolean(name, chosen[name]) for name in ("grouped_entities", "ignore_subwords"))
    strategy = chosen["aggregation_strategy"]
    if strategy is None:
        return "none" if not grouped else "first" if whole else "simple"
    return one_of("aggregation_strategy", strategy, STRATEGIES)


def _lists(inputs: object) -> list[Any]:
    """Lists of words, of which one may come alone."""
    if not isinstance(inputs, list | tuple):
        invalid("inputs", f"must be a list of words or several, not {described(inputs)}")
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
    """Keep, of entities that windows share, the longest, or of equally long ones the surest."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: int(entity["start"])):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif _weight(entity) > _weight(kept[-1]):
            kept[-1] = entity
    return kept


def _weight(entity: Entity) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]
