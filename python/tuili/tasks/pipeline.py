"""`tuili.pipeline(task, model)`: the task names, parameters and results that transformers 4 documents.

A result has one key more, "truncated": True, where its input was longer than the model takes and truncation
allowed to cut it.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tuili.errors import InvalidParameterError
from tuili.generation.checks import MAX_INT, described, integer
from tuili.generation.params import unknown_name
from tuili.tasks.head import cannot

if TYPE_CHECKING:
    from tuili.llm import LLM
    from tuili.loading.files import StrPath

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
_DIRECTED = re.compile("translation_.+_to_.+")
TASKS = (*_PLACES, "translation_xx_to_yy", *_ALIASES)


class Pipeline(ABC):
    """A task with a model, to be called with one input or a list of them.

    model    the LLM, which `pipeline` loads if it is given a path or a name; `close()` closes it
    OPTIONS  the parameters of a call and their defaults, which may be set when the pipeline is made, too. All
             pipelines take transformers' batch_size, which changes nothing: the engine makes full batches
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, task: str, model: LLM, **defaults: Any) -> None:
        self.task, self.model = task, model
        self._defaults = self._given(defaults)
        self.prepare()

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        if (size := options.pop("batch_size", None)) is not None:
            integer("batch_size", size, 1, MAX_INT)
        return self._known(options)

    def _known(self, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if name not in self.OPTIONS:
                unknown_name(name, self.OPTIONS)
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

    @abstractmethod
    def prepare(self) -> None:
        """raises  ModelUnsupportedError (task) for a model that cannot do the task"""

    @abstractmethod
    def __call__(self, *args: Any, **options: Any) -> Any:
        """See the task's own description."""

    def close(self) -> None:
        """Close the model."""
        self.model.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<tuili.pipeline {self.task}, {self.model!r}>"


def pipeline(task: str, model: LLM | StrPath, **options: Any) -> Pipeline:
    """A pipeline as transformers has it: "text-classification" (or "sentiment-analysis"),
    "token-classification" ("ner"), "question-answering", "fill-mask", "zero-shot-classification",
    "feature-extraction", "text-generation", "text2text-generation", "translation" ("translation_xx_to_yy"),
    "summarization".

    model    an LLM, or what LLM takes
    options  defaults of the task's own parameters
    raises   InvalidParameterError for an unknown task or option, ModelUnsupportedError (task) for a model
             that cannot do it, and what LLM raises
    """
    from tuili.llm import LLM

    if not isinstance(task, str):
        raise InvalidParameterError(f"task must be a str, not {described(task)}", param="task")
    name = _ALIASES.get(task, task)
    place = _PLACES.get("translation" if _DIRECTED.fullmatch(task) else name)
    if place is None:
        raise InvalidParameterError(
            f"task {task[:64]!r} is unknown; it must be one of {', '.join(TASKS)}", param="task"
        )
    found: type[Pipeline] = importlib.import_module(f"tuili.tasks.{place}").Task
    if isinstance(model, LLM):
        return found(name, model, **options)
    loaded = LLM(model)
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
        raise InvalidParameterError(
            f"{name} must be a text or a list of texts, not {described(inputs)}", param=name
        )
    return list(inputs)


def marked(results: Sequence[dict[str, Any]], truncated: bool) -> list[dict[str, Any]]:
    """`results`, which say so if their input was cut."""
    return [result | {"truncated": True} if truncated else result for result in results]


def refuse(task: str, model: LLM) -> None:
    """Raise the error that names what the model can do instead."""
    raise cannot(task, model.config["architecture"], model.config["tasks"])
