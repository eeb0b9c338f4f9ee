"""`tuili.pipeline(task, model)`: the task names, parameters and results that transformers 4 documents.

A result has one key more, "truncated": True, where its input was longer than the model takes and truncation
allowed to cut it.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from tuili.checks import MAX_INT, described, integer, invalid, only_known
from tuili.errors import InvalidParameterError, PromptTooLongError
from tuili.tasks.head import cannot

if TYPE_CHECKING:
    from tuili.llm import LLM
    from tuili.loading.files import StrPath
    from tuili.tokenization.tokenizer import Tokenizer

# Task -> where its pipeline is.
_PLACES = {
    "text-classification": "classification",
    "token-classification": "tokens",
    "question-answering": "spans",
    "fill-mask": "words",
    "zero-shot-classification": "zero_shot",
    "feature-extraction": "features",
    "text-generation": "generation",
    "text2text-generation": "text2text",
    "translation": "text2text",
    "summarization": "text2text",
}
_ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}
DIRECTED = re.compile("translation_(.+)_to_(.+)")
_AHEAD = 32  # inputs of an iterable
TASKS = (*_PLACES, "translation_xx_to_yy", *_ALIASES)


class Pipeline(ABC):
    """A task with a model, to be called with one input or a list of them; or with another iterable, such as a
    generator or a data set, which is read as the results are taken: an iterator of one for each.

    model    the LLM, which `pipeline` loads if it is given a path or a name; `close()` closes it
    OPTIONS  the parameters of a call and their defaults, which may be set when the pipeline is made, too. All
             pipelines take transformers' batch_size, how many inputs of an iterable are read ahead (32), and
             num_workers. Neither changes a result: the engine makes full batches
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, task: str, model: LLM, **defaults: Any) -> None:
        self.task, self.model = task, model
        n_ahead = defaults.get("batch_size")  # which `_given` takes out
        self._defaults = self._given(defaults)
        self._n_ahead = _AHEAD if n_ahead is None else n_ahead
        self.prepare()
        self.settings(self.options({}))

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            if (value := options.pop(name, None)) is not None:
                integer(name, value, least, MAX_INT)
        return self._known(options)

    def _known(self, options: dict[str, Any]) -> dict[str, Any]:
        only_known(options, self.OPTIONS)
        return options

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Every option of a call: as given, or as the pipeline was made, or the default. None counts as not
        given, but for an option whose default is `...`.
        """
        return {**self.OPTIONS, **self._defaults, **self._given(given)}

    def _given(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in self._checked(options).items()
            if value is not None or self.OPTIONS.get(name) is ...
        }

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.model.tokenizer

    @abstractmethod
    def prepare(self) -> None:
        """raises  ModelUnsupportedError (task) for a model that cannot do the task"""

    @abstractmethod
    def settings(self, chosen: dict[str, Any]) -> Any:
        """What all options of a call come to. `chosen` may be changed; a new pipeline's are checked so, too.

        raises  InvalidParameterError for a value that cannot be
        """

    def __call__(self, *args: Any, **options: Any) -> Any:
        """See the task's own description."""
        stream = _stream(args[0]) if args else None
        if stream is None:
            return self.answer(*args, **options)
        self.settings(self.options(dict(options)))
        n_ahead = options.get("batch_size") or self._n_ahead
        return self._each(stream, n_ahead, *args[1:], **options)

    def _each(self, inputs: Iterator[Any], n_ahead: int, *args: Any, **options: Any) -> Iterator[Any]:
        failure: Exception | None = None
        while failure is None:
            some: list[Any] = []
            try:
                for one in itertools.islice(inputs, n_ahead):
                    some.append(one)
            except Exception as error:
                failure = error  # once those before it are answered
            if some:
                yield from self._answered(some, *args, **options)
            elif failure is None:
                return
        raise failure

    def _answered(self, some: list[Any], *args: Any, **options: Any) -> Iterable[Any]:
        """The results of so many inputs; if one is wrong, of those before it, and then its error."""
        try:
            return self.elements(some, *args, **options)
        except (InvalidParameterError, PromptTooLongError):
            if len(some) == 1:
                raise
        return itertools.chain.from_iterable(self.elements([one], *args, **options) for one in some)

    @abstractmethod
    def answer(self, *args: Any, **options: Any) -> Any:
        """The result of one input or of a list."""

    def elements(self, inputs: list[Any], *args: Any, **options: Any) -> list[Any]:
        """The results of an iterable's inputs, one for each."""
        return list(self.answer(inputs, *args, **options))

    def close(self) -> None:
        """Close the model."""
        self.model.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<tuili.pipeline {self.task}, {self.model!r}>"


def _stream(inputs: Any) -> Iterator[Any] | None:
    """Inputs to be read one by one; None for a text, dict or list, which are answered at once."""
    if isinstance(inputs, str | bytes | bytearray | Mapping | list | tuple):
        return None
    try:
        each: Iterator[Any] = iter(inputs)
    except TypeError:
        return None
    return each


def _load_options(model_kwargs: Mapping[str, Any] | None, **words: object) -> dict[str, Any]:
    """What LLM takes for transformers' words: a GPU by its number, -1 for the CPU, and torch's types."""
    from tuili.llm import LLM

    options = dict(model_kwargs or {})
    for name, value in words.items():
        if value is not None and name in options:
            invalid(name, "is given next to model_kwargs")
        options |= {} if value is None else {name: value}
    if "torch_dtype" in options:
        if "dtype" in options:
            invalid("torch_dtype", "is given next to dtype")
        options["dtype"] = options.pop("torch_dtype")
    known = inspect.signature(LLM).parameters.keys() - {"model"}
    only_known(options, known)
    if "dtype" in options:
        options["dtype"] = str(options["dtype"]).removeprefix("torch.")
    if "device" in options:
        device = options["device"]
        numbered = type(device) is int
        options["device"] = str(device) if not numbered else "cpu" if device == -1 else f"cuda:{device}"
    return options


def pipeline(
    task: str,
    model: LLM | StrPath,
    *,
    device: object = None,
    dtype: object = None,
    torch_dtype: object = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Pipeline:
    """A pipeline as transformers has it: "text-classification" (or "sentiment-analysis"),
    "token-classification" ("ner"), "question-answering", "fill-mask", "zero-shot-classification",
    "feature-extraction", "text-generation", "text2text-generation", "translation" ("translation_xx_to_yy"),
    "summarization".

    model         an LLM, or what LLM takes
    device        for a model that is loaded here: "cpu", "cuda", "cuda:1", or a GPU's number, -1 for the CPU
    dtype         of its float weights, as LLM has it, or torch's type; torch_dtype is its older name
    model_kwargs  more of LLM's parameters, or the same instead
    options       defaults of the task's own parameters
    raises        InvalidParameterError for an unknown task or option, ModelUnsupportedError (task) for a
                  model that cannot do it, and what LLM raises
    """
    from tuili.llm import LLM

    if not isinstance(task, str):
        invalid("task", f"must be a str, not {described(task)}")
    name = _ALIASES.get(task, task)
    place = _PLACES.get("translation" if DIRECTED.fullmatch(task) else name)
    if place is None:
        invalid("task", f"must be one of {', '.join(TASKS)}, not {task[:64]!r}")
    if model_kwargs is not None and not isinstance(model_kwargs, Mapping):
        invalid("model_kwargs", f"must be a dict, not {described(model_kwargs)}")
    loading = _load_options(model_kwargs, device=device, dtype=dtype, torch_dtype=torch_dtype)
    found: type[Pipeline] = importlib.import_module(f"tuili.tasks.{place}").Task
    if isinstance(model, LLM):
        for param in loading:
            raise InvalidParameterError(f"{param}: the model is loaded already", param=param)
        return found(name, model, **options)
    loaded = LLM(model, **loading)
    try:
        return found(name, loaded, **options)
    except BaseException:
        loaded.close()
        raise


def many(inputs: object, name: str = "inputs") -> list[Any]:
    """The inputs of a list or tuple, which may be empty; a dict or str is one."""
    if isinstance(inputs, str | Mapping):
        return [inputs]
    if not isinstance(inputs, list | tuple):
        invalid(name, f"must be a text or a list of texts, not {described(inputs)}")
    return list(inputs)


def marked(results: Sequence[dict[str, Any]], *, truncated: bool) -> list[dict[str, Any]]:
    """`results`, which say so if their input was cut."""
    return [result | {"truncated": True} if truncated else result for result in results]


def refuse(task: str, model: LLM) -> NoReturn:
    """Raise the error that names what the model can do instead."""
    raise cannot(task, model.config["architecture"], model.config["tasks"])
