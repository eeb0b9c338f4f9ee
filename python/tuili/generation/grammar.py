"""Grammars for one model's vocabulary, compiled on a thread of their own, and the place of a text in one.

Parsing and masks are done by the `llguidance` library (the extra tuili[structured]), which is imported on
first use. It is written in Rust, and a panic in it arrives as a BaseException: every call goes through
`guarded`. Its work is bounded by counted fuel and not by the clock, so that a grammar is refused either
always or never.

The first grammar of a model, or `Grammars.prepare`, has the library index the vocabulary, which takes 0.05 s
for 49,000 tokens and 0.5 s for 262,000. It is one call, LLTokenizer, which builds a trie of all tokens and
keeps the GIL (docs/performance.md): it happens once, on this thread, and no other can hide it.

A text is asked for in bytes, and the library works byte by byte; a vocabulary need not have a token for each
byte, nor does a token spell the same at a text's beginning, where many lose a space. `Vocabulary` deals with
both.
"""

from __future__ import annotations

import importlib
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from tuili import library_calls
from tuili.errors import EngineClosedError, GrammarError, InvalidParameterError, TuiliError
from tuili.generation.structure import JSON_STYLE, Form
from tuili.generation.worker import Worker
from tuili.loading.files import shown

P = ParamSpec("P")
R = TypeVar("R")

_FAILED = partial(GrammarError, code="grammar_library_panic")

UNSATISFIABLE = "grammar_unsatisfiable"  # the error's code
MAX_KEPT_BYTES = 64 << 20  # of compiled grammars, the last ones used
# The library does not say what a grammar takes: the heaviest schemas, choices and expressions were measured
# at 0.19 MB and 135 bytes a character; a few characters with many states at 350 MB a second of making them
# (tests/test_grammar_memory.py). States that outputs lead to later are counted by max_lexer_states alone.
GRAMMAR_BYTES, CHARACTER_BYTES, SECOND_BYTES = 256 << 10, 160, 512 << 20
# The library does about 50,000 units of the first, 14,000 of the second and 20,000 of the third in a
# millisecond (its documentation); a lexer's state takes one or two kilobytes.
FUEL = {
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}


# 0xff is in no text, and the library's own mark of special tokens.
BYTES = [bytes([byte]) for byte in range(255)] + [b""]


class Words(Protocol):
    """The bytes of a token, as `Tokenizer` has them, and the ids that stand for no text."""

    @property
    def first_differs(self) -> bool: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    def token_bytes(self, token_id: int, /, *, first: bool = False) -> bytes: ...


def guarded(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`function(*args, **kwargs)` of the library, with every failure as a GrammarError."""
    return library_calls.guarded("grammar library", GrammarError, _FAILED, function, *args, **kwargs)


def library(param: str) -> Any:
    """llguidance, or InvalidParameterError that says how to get it."""
    try:
        return importlib.import_module("llguidance")
    except ImportError:
        raise InvalidParameterError(
            f"{param} needs the package llguidance: pip install 'tuili[structured]'",
            param=param,
            code="not_installed",
        ) from None


@dataclass(eq=False, slots=True)
class Grammar:
    """One that is compiled.

    start    its beginning, which nobody may advance
    n_bytes  what it takes at most
    worn     whether an output met a limit: the library counts the states of all outputs of a matcher's copies
             together, so that every later one would meet it, too
    """

    start: Constraint
    n_bytes: int
    worn: bool = False

    def begin(self) -> Constraint:
        """The place of a new output. The start itself does not know of this: what is forgotten is to be freed
        at once, not at the next garbage collection."""
        place = self.start.twin()
        place.grammar = self
        return place


class Constraint:
    """The place of one continuation in a grammar.

    mask     uint32 [ceil(n_vocab / 32)]: the tokens that may come next (see Sequence.allow); valid until
             `accept`
    grammar  where it is to be noted that a limit was met
    """

    def __init__(self, vocabulary: Vocabulary, matcher: Any, opening: Any | None) -> None:
        """matcher, opening: of the same grammar; the second reads tokens as they are at a text's beginning,
        None where that is no difference.
        """
        self._vocabulary, self._matcher, self._opening = vocabulary, matcher, opening
        self._words = np.zeros(vocabulary.n_words, np.uint32)
        self.mask = self._words[: vocabulary.n_own_words]
        self.grammar: Grammar | None = None

    def accept(self, token_id: int) -> bool:
        """Take a token that the mask allows; returns whether the grammar is finished: nothing can follow."""
        if self._opening is None:
            self._take(self._matcher, [token_id])
        elif token_id in self._vocabulary.special_ids:  # no text: the next one is at its beginning, too
            self._take(self._opening, [token_id])
            self._take(self._matcher, [token_id])
        else:
            self._opening = None
            spelt = self._vocabulary.first_spelling(token_id)
            # A grammar can also ask for a token by its number.
            by_text = guarded(self._matcher.validate_tokens, spelt) == len(spelt)
            self._take(self._matcher, spelt if by_text else [token_id])
        return bool(self._matcher.is_stopped())

    def _take(self, matcher: Any, token_ids: list[int]) -> None:
        guarded(matcher.consume_tokens, token_ids)
        self._check(matcher)

    def _check(self, matcher: Any) -> None:
        try:
            check_matcher(matcher)
        except GrammarError as error:
            if self.grammar is not None:
                self.grammar.worn |= error.code != UNSATISFIABLE
            raise

    def ends_with(self, token_id: int) -> bool:
        """What `accept` would return; the place stays."""
        return self.twin().accept(token_id)

    def after(self, token_id: int) -> Constraint:
        """The place after a token that the mask allows. Its mask is empty if no token can follow.

        raises  GrammarError if too much fuel is needed to tell
        """
        twin = self.twin()
        twin.accept(token_id)
        try:
            twin.look_ahead()
        except GrammarError as error:
            if error.code != UNSATISFIABLE:
                raise
            twin.mask[:] = 0
        return twin

    def twin(self) -> Constraint:
        """One that goes on from here by itself."""
        opening = None if self._opening is None else guarded(self._opening.deep_copy)
        twin = Constraint(self._vocabulary, guarded(self._matcher.deep_copy), opening)
        twin._words[:] = self._words
        twin.grammar = self.grammar
        return twin

    def look_ahead(self) -> None:
        """Make the mask for the next token.

        raises  GrammarError if no token can follow, or too much fuel is needed to tell
        """
        self._fill(self._matcher)
        if self._opening is not None:
            as_later = bool(self.mask.any())
            self._fill(self._opening)
            forced = guarded(self._opening.compute_ff_bytes)
            self._vocabulary.complete_first(self.mask, forced, as_later=as_later)
        if not self.mask.any():
            raise unsatisfiable()

    def _fill(self, matcher: Any) -> None:
        guarded(matcher.unsafe_compute_mask_ptr, self._words.ctypes.data, self._words.nbytes)
        self._check(matcher)


def unsatisfiable() -> GrammarError:
    return GrammarError("no text satisfies the grammar", code=UNSATISFIABLE)


def check_matcher(matcher: Any) -> None:
    if matcher.is_error():
        problem = matcher.get_error()
        if "NoExtension" in problem:
            raise unsatisfiable()
        raise GrammarError(f"the grammar is refused: {shown(problem, 200)}")


@dataclass(eq=False)
class LibraryTokenizer:
    """What the library asks of a tokenizer, and keeps. It does not hold the index, which holds the library's
    own object: no garbage collector would see that circle.
    """

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int
    index: weakref.ref[Index]

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __call__(self, text: str | bytes) -> list[int]:
        index = self.index()
        assert index is not None
        return index.tokenize(text.encode() if isinstance(text, str) else text)


class Index:
    """Tokens as the library knows them. It tokenizes forced text itself, from the tokens' bytes."""

    def __init__(self, tokens: list[bytes], special_ids: Iterable[int], eos_ids: tuple[int, ...]) -> None:
        tokenizer = LibraryTokenizer(tokens, sorted(special_ids), eos_ids[0], weakref.ref(self))
        # Without slices: they make masks in long strings faster by a tenth of a millisecond, and this slower.
        make = library("grammar").LLTokenizer
        self.backend = guarded(make, tokenizer, n_vocab=len(tokens), eos_token=list(eos_ids), slices=[])
        tokenizer.tokens = []  # the library has them now

    def tokenize(self, data: bytes) -> list[int]:
        """The longest token first, and so on."""
        return list(self.backend.greedy_tokenize(data.decode("utf-8", "replace")))


class Vocabulary:
    """A model's tokens for the library, and two things that it does not know of.

    Without a token for a byte that must come next, such as the one that 一 and 二 begin with, it finds no
    token at all, or leaves the byte out. So it is told of one for every byte, beyond the model's own, where
    masks have no place for them.

    Where tokens differ at the beginning of a text, it has an index of the tokens as they are there, for the
    first mask alone; what the first token says is taken as tokens that say it later, few of them, because a
    grammar can count them.

    n_words, n_own_words  of a mask as the library fills it, and of those the model's
    """

    def __init__(self, words: Words, n_vocab: int, eos_ids: tuple[int, ...]) -> None:
        self._eos_ids = eos_ids
        self.special_ids = frozenset(i for i in words.special_ids | set(eos_ids) if i < n_vocab)
        self.n_own_words = (n_vocab + 31) // 32
        self.n_words = self.n_own_words + len(BYTES) // 32
        self._tokens = [words.token_bytes(token_id) for token_id in range(n_vocab)]
        self.later = self._index(self._tokens)
        self.first: Index | None = None
        if words.first_differs:
            self._index_first(words)

    def _index(self, tokens: list[bytes]) -> Index:
        """The index of these tokens and, from the next whole word on, of one for each byte that has none."""
        known = {data for i, data in enumerate(tokens) if len(data) == 1 and i not in self.special_ids}
        gap = [b""] * (32 * self.n_own_words - len(tokens))
        spare = [b"" if data in known else data for data in BYTES]
        return Index([*tokens, *gap, *spare], self.special_ids, self._eos_ids)

    def _index_first(self, words: Words) -> None:
        first = list(self._tokens)
        for i, data in enumerate(self._tokens):  # those without a text are gaps, or beyond the tokenizer's
            if data and i not in self.special_ids:
                first[i] = words.token_bytes(i, first=True)
        self.first = self._index(first)
        pairs = enumerate(zip(first, self._tokens, strict=True))
        self._first = {i: now for i, (now, later) in pairs if now != later}
        self._silent = [i for i, data in self._first.items() if not data]
        known: dict[bytes, int] = {}
        same = (i if i in self.special_ids else known.setdefault(data, i) for i, data in enumerate(first))
        self._same = np.fromiter(same, np.int32, len(first))

    def first_spelling(self, token_id: int) -> list[int]:
        """Tokens that say later what this one says at the beginning of a text."""
        data = self._first.get(token_id)
        return [token_id] if data is None else self.later.tokenize(data)

    def complete_first(self, mask: np.ndarray, forced: bytes, *, as_later: bool) -> None:
        """Allow the tokens that the index of first ones leaves out: beside the one that it picks for a text
        that is `forced`, those that say the same; and, if any may come `as_later`, those that say nothing.
        """
        bits = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little")
        own = bits[: len(self._same)]
        allowed = np.flatnonzero(own)
        if len(allowed) == 1:
            data = self._first.get(allowed[0], self._tokens[allowed[0]])
            if data and forced.startswith(data):  # and not one that the grammar asks for by its number
                own[self._same == self._same[allowed[0]]] = 1
        if as_later:
            own[self._silent] = 1
        mask[:] = np.packbits(bits, bitorder="little").view("<u4")


@dataclass(frozen=True, slots=True)
class Compilation:
    """Message: compile `form` and hand a Constraint for each of n continuations, or the error, to `deliver`,
    on the compiling thread, unless nobody wants it any more."""

    form: Form
    n: int
    deliver: Callable[[list[Constraint] | TuiliError], None]
    is_wanted: Callable[[], bool]


class Grammars(Worker):
    """Compiles grammars for a model on one thread, which is started by the first.

    words, n_vocab  the model's tokens; the bytes of all of them are looked up once, at the first grammar
    eos_ids         end a text; allowed where the grammar accepts
    """

    thread_name = "tuili-grammars"
    # The library recurses as deep as rules use one another or references lead (structure.py bounds both), and
    # a stack that overflows ends the process: 8 MB are too few for 3,000 levels.
    stack_bytes = 64 << 20

    def __init__(
        self, words: Words, n_vocab: int, eos_ids: Iterable[int], *, start_thread: bool = True
    ) -> None:
        super().__init__(start_thread=start_thread)
        self._words, self._n_vocab, self._eos_ids = words, n_vocab, tuple(eos_ids)
        self._vocabulary: Vocabulary | None = None
        self._compiled: OrderedDict[Form, Grammar] = OrderedDict()
        self._kept_bytes = 0

    def check(self, kind: str) -> None:
        """For any thread: raise InvalidParameterError without the library, GrammarError without end of
        text."""
        library(kind)
        if not self._eos_ids:
            raise GrammarError("the model has no end-of-text token, which a grammar needs", param=kind)

    def prepare(self) -> None:
        """For any thread: index the vocabulary, and wait until that is done. Raises as `check`."""
        self.check("grammar")
        self.call(self._index)

    def handle(self, message: object) -> None:
        if not isinstance(message, Compilation):
            super().handle(message)
            return
        if not message.is_wanted():
            return
        try:
            made = self._compile(message.form)
            outcome: list[Constraint] | TuiliError = [made.begin() for _ in range(message.n)]
        except TuiliError as error:
            outcome = error
        except BaseException as error:  # the library's panics, too
            outcome = TuiliError("compiling a grammar failed", code="internal")
            outcome.__cause__ = error
        message.deliver(outcome)

    def reject(self, message: object, error: Exception) -> None:
        if isinstance(message, Compilation):
            message.deliver(EngineClosedError("the engine was closed before the grammar was compiled"))
        else:
            super().reject(message, error)

    def _index(self) -> Vocabulary:
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self._words, self._n_vocab, self._eos_ids)
        return self._vocabulary

    def _compile(self, form: Form) -> Grammar:
        """The grammar of a form, from those kept or compiled now."""
        kept = self._compiled.get(form)
        if kept is not None and not kept.worn:
            self._compiled.move_to_end(form)
            return kept
        library(form.kind)
        vocabulary = self._index()
        begun = time.thread_time()
        opening = None if vocabulary.first is None else _matcher(vocabulary.first, form)
        start = Constraint(vocabulary, _matcher(vocabulary.later, form), opening)
        start.look_ahead()
        compiled = Grammar(start, _bytes_of(form, time.thread_time() - begun, 1 if opening is None else 2))
        self._forget(form)
        self._compiled[form] = compiled
        self._kept_bytes += compiled.n_bytes
        while self._kept_bytes > MAX_KEPT_BYTES and len(self._compiled) > 1:
            self._forget(next(iter(self._compiled)))
        return compiled

    def _forget(self, form: Form) -> None:
        if (kept := self._compiled.pop(form, None)) is not None:
            self._kept_bytes -= kept.n_bytes


def _matcher(index: Index, form: Form) -> Any:
    made = library(form.kind)
    matcher = guarded(
        made.LLMatcher,
        index.backend,
        guarded(_source, made.LLMatcher, form),
        log_level=0,
        limits=made.LLParserLimits(**FUEL),
    )
    check_matcher(matcher)
    return matcher


def _bytes_of(form: Form, seconds: float, n_matchers: int) -> int:
    """What a compiled grammar takes at most that so much of a processor's time has made."""
    return n_matchers * (GRAMMAR_BYTES + CHARACTER_BYTES * len(form.text)) + int(SECOND_BYTES * seconds)


def _source(matcher: Any, form: Form) -> str:
    """The library's own notation."""
    if form.kind == "json_schema":
        return str(matcher.grammar_from_json_schema(form.text, defaults=JSON_STYLE))
    if form.kind == "regex":
        return str(matcher.grammar_from_regex(form.text))
    if form.kind == "grammar":
        return str(matcher.grammar_from_lark(form.text))
    import json

    choices = " | ".join(json.dumps(text, ensure_ascii=False) for text in json.loads(form.text))
    choices = choices.replace("\x7f", "\\u007f")  # the one control character that JSON does not escape
    return str(matcher.grammar_from_lark(f"start: {choices}"))
