"""tuili: an inference engine for language models that you embed. `tuili.LLM` is the door.

Importing this loads nothing heavy: no thread, no socket, no tokenizer. Public names are looked up on first
use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tuili import errors
from tuili.errors import (
    DeadlineExceeded,
    EngineClosedError,
    EngineDeadError,
    EngineForkedError,
    EngineOutOfMemoryError,
    GrammarError,
    InvalidParameterError,
    KVCacheExhaustedError,
    ModelFormatError,
    ModelIOError,
    ModelLimitError,
    ModelPathError,
    ModelUnsupportedError,
    NumericError,
    PromptTooLongError,
    QueueFullError,
    RequestCancelled,
    TemplateError,
    TokenIdError,
    TokenizerError,
    TuiliError,
)

if TYPE_CHECKING:
    from tuili.embedding.word_vectors import WordVectors
    from tuili.generation.outputs import Chunk, CompletionOutput, RequestOutput, TokenLogprob
    from tuili.generation.params import SamplingParams
    from tuili.generation.request import Handle
    from tuili.llm import LLM
    from tuili.tasks.pipeline import pipeline

__version__ = "0.1.0"

_PLACES = {
    "LLM": "tuili.llm",
    "pipeline": "tuili.tasks.pipeline",
    "SamplingParams": "tuili.generation.params",
    "Chunk": "tuili.generation.outputs",
    "CompletionOutput": "tuili.generation.outputs",
    "Handle": "tuili.generation.request",
    "RequestOutput": "tuili.generation.outputs",
    "TokenLogprob": "tuili.generation.outputs",
    "WordVectors": "tuili.embedding.word_vectors",
}

__all__ = [
    "LLM",
    "Chunk",
    "CompletionOutput",
    "DeadlineExceeded",
    "EngineClosedError",
    "EngineDeadError",
    "EngineForkedError",
    "EngineOutOfMemoryError",
    "GrammarError",
    "Handle",
    "InvalidParameterError",
    "KVCacheExhaustedError",
    "ModelFormatError",
    "ModelIOError",
    "ModelLimitError",
    "ModelPathError",
    "ModelUnsupportedError",
    "NumericError",
    "PromptTooLongError",
    "QueueFullError",
    "RequestCancelled",
    "RequestOutput",
    "SamplingParams",
    "TemplateError",
    "TokenIdError",
    "TokenLogprob",
    "TokenizerError",
    "TuiliError",
    "WordVectors",
    "__version__",
    "errors",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'tuili' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
