"""Grammars for one model's vocabulary, compiled on a thread of their own, and the place of a text in one.

Parsing and masks are done by the `llguidance` library (the extra tuili[structured]), which is imported on
first use. It is written in Rust, and a panic in it arrives as a BaseException: every call goes through
`guarded`. Its work is bounded by counted fuel and not by the clock, so that a grammar is refused either
always or never.

The first grammar of a model, or `Grammars.prepare`, has the library index the vocabulary, which takes 0.05 s
for 49,000 tokens and 0.5 s for 262,000. It is one call, LLTokenizer, which builds a trie of all tokens and
keeps the GIL (docs/performance.md): it happens once, on this thread, and no other can hide it.
"""

from __future__ import annotations

import importlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from tuili.errors import EngineClosedError, GrammarError, InvalidParameterError, TuiliError
from tuili.generation.structure import JSON_STYLE, Form
from tuili.generation.worker import Worker
from tuili.loading.files import shown

P = ParamSpec("P")
R = TypeVar("R")

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


class Words(Protocol):
    """The bytes of a token, as `Tokenizer` has them, and the ids that stand for no text."""

    @property
    def special_ids(self) -> frozenset[int]: ...
    def token_bytes(self, token_id: int, /) -> bytes: ...


def guarded(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`function(*args, **kwargs)` of the library, with every failure as a GrammarError."""
    try:
        return function(*args, **kwargs)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except Exception as error:
        raise GrammarError(f"the grammar library refuses: {shown(str(error), 200)}") from None
    except BaseException:  # pyo3_runtime.PanicException
        raise GrammarError("the grammar library failed on this input", code="grammar_library_panic") from None


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
    """One that is compiled: a matcher at the beginning, which nobody may advance, and its mask.

    n_bytes  what they take at most
    worn     whether an output met a limit: the library counts the states of all outputs of a matcher's copies
             together, so that every later one would meet it, too
    """

    matcher: Any
    mask: np.ndarray
    n_bytes: int
    worn: bool = False


class Constraint:
    """The place of one continuation in a grammar.

    mask  uint32 [ceil(n_vocab / 32)]: the tokens that may come next (see Sequence.allow); valid until
          `accept`
    """

    def __init__(self, matcher: Any, mask: np.ndarray, grammar: Grammar) -> None:
        self._matcher, self._grammar = matcher, grammar
        self.mask = mask

    def accept(self, token_id: int) -> bool:
        """Take a token that the mask allows; returns whether the grammar is finished: nothing can follow."""
        guarded(self._matcher.consume_token, token_id)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        try:
            check_matcher(self._matcher)
        except GrammarError as error:
            self._grammar.worn |= error.code != UNSATISFIABLE
            raise

    def ends_with(self, token_id: int) -> bool:
        """What `accept` would return; the place stays."""
        return self._twin().accept(token_id)

    def after(self, token_id: int) -> Constraint:
        """The place after a token that the mask allows. Its mask is empty if no token can follow.

        raises  GrammarError if too much fuel is needed to tell
        """
        twin = self._twin()
        twin.accept(token_id)
        twin.mask = np.zeros_like(self.mask)
        try:
            twin.look_ahead()
        except GrammarError as error:
            if error.code != UNSATISFIABLE:
                raise
            twin.mask[:] = 0
        return twin

    def _twin(self) -> Constraint:
        return Constraint(guarded(self._matcher.deep_copy), self.mask, self._grammar)

    def look_ahead(self) -> None:
        """Make the mask for the next token.

        raises  GrammarError if no token can follow, or too much fuel is needed to tell
        """
        fill(self._matcher, self.mask)
        self._check()


def fill(matcher: Any, mask: np.ndarray) -> None:
    guarded(matcher.unsafe_compute_mask_ptr, mask.ctypes.data, mask.nbytes)


def check_matcher(matcher: Any) -> None:
    if matcher.is_error():
        problem = matcher.get_error()
        if "NoExtension" in problem:
            raise GrammarError("no text satisfies the grammar", code=UNSATISFIABLE)
        raise GrammarError(f"the grammar is refused: {shown(problem, 200)}")


class Vocabulary:
    """What the library asks of a tokenizer. It tokenizes forced text itself, from the tokens' bytes."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, words: Words, n_vocab: int, eos_ids: tuple[int, ...]) -> None:
        self.tokens = [words.token_bytes(token_id) for token_id in range(n_vocab)]
        self.special_token_ids = sorted(words.special_ids | set(eos_ids))
        self.eos_token_id = eos_ids[0]
        # Without slices: they make masks in long strings faster by a tenth of a millisecond, and this slower.
        make = library("grammar").LLTokenizer
        self.backend = guarded(make, self, n_vocab=n_vocab, eos_token=list(eos_ids), slices=[])

    def __call__(self, text: str | bytes) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        return list(self.backend.greedy_tokenize(data.decode("utf-8", "replace")))


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
            raise GrammarError("the model has no end-of-text token, which a grammar needs")

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
            outcome: list[Constraint] | TuiliError = [
                Constraint(guarded(made.matcher.deep_copy), made.mask.copy(), made) for _ in range(message.n)
            ]
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
        """From those kept, or new."""
        kept = self._compiled.get(form)
        if kept is not None and not kept.worn:
            self._compiled.move_to_end(form)
            return kept
        made, backend = library(form.kind), self._index().backend
        start = time.thread_time()
        matcher = guarded(
            made.LLMatcher,
            backend,
            guarded(_source, made.LLMatcher, form),
            log_level=0,
            limits=made.LLParserLimits(**FUEL),
        )
        check_matcher(matcher)
        mask = np.zeros((self._n_vocab + 31) // 32, np.uint32)
        fill(matcher, mask)
        check_matcher(matcher)
        compiled = Grammar(matcher, mask, _bytes_of(form, time.thread_time() - start))
        self._forget(form)
        self._compiled[form] = compiled
        self._kept_bytes += compiled.n_bytes
        while self._kept_bytes > MAX_KEPT_BYTES and len(self._compiled) > 1:
            self._forget(next(iter(self._compiled)))
        return compiled

    def _forget(self, form: Form) -> None:
        if (kept := self._compiled.pop(form, None)) is not None:
            self._kept_bytes -= kept.n_bytes


def _bytes_of(form: Form, seconds: float) -> int:
    """What a compiled grammar takes at most that so much of a processor's time has made."""
    return GRAMMAR_BYTES + CHARACTER_BYTES * len(form.text) + int(SECOND_BYTES * seconds)


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
