"""The errors that tuili raises.

Every one is a `TuiliError`, carries a stable machine-readable `code`, and is also the builtin exception that
a Python user would catch. Messages name the file, field or parameter and the limit; never a prompt, a pointer
or another file's content.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class TuiliError(Exception):
    """Base of all errors that tuili raises; `code` is stable across versions, the message is not. `param`
    names the argument that is wrong, where it is one.
    """

    code: str = "error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code


class ModelFormatError(TuiliError, ValueError):
    """A model file contradicts its own format or its configuration."""

    code = "model_format"


class ModelLimitError(TuiliError, ValueError):
    """A model file exceeds a documented limit, or the model does not fit into memory."""

    code = "model_limit"


class ModelUnsupportedError(TuiliError, ValueError):
    """A model file is well formed but uses something that tuili does not implement."""

    code = "model_unsupported"


class ModelPathError(TuiliError, ValueError):
    """A path or file name that is refused: not a regular file, a shard name with a separator, outside."""

    code = "model_path"


class ModelIOError(TuiliError, OSError):
    """The operating system could not open or read a model file; `errno` is set when there is one."""

    code = "model_io"

    def __init__(self, message: str, *, code: str | None = None, errno: int | None = None) -> None:
        super().__init__(message, code=code)
        self.errno = errno

    def __reduce__(self) -> tuple[object, ...]:
        """An OSError keeps its errno beside `__dict__`, where pickle does not look."""
        return type(self), self.args, {**self.__dict__, "errno": self.errno}


class TokenizerError(TuiliError, ValueError):
    """A tokenizer file or vocabulary is malformed."""

    code = "tokenizer"


class TemplateError(TuiliError, ValueError):
    """A chat template is missing, malformed, unsafe, or ran out of its budget."""

    code = "template"


class InvalidParameterError(TuiliError, ValueError):
    """An argument is out of range, of the wrong type, or unknown; `param` names it."""

    code = "invalid_parameter"


CUTTING_HELPS = "; truncation=True cuts it"  # the end of messages: the command line and HTTP have their own
LONGER_HELPS = "; LLM(max_model_len=…) takes longer ones, with LongRoPE's long factors"


class PromptTooLongError(TuiliError, ValueError):
    """The prompt has more tokens than the model or the configured `max_model_len` takes."""

    code = "prompt_too_long"


@contextlib.contextmanager
def cutting_helps(helps: str = CUTTING_HELPS) -> Iterator[None]:
    """The end of what a PromptTooLongError from here says."""
    try:
        yield
    except PromptTooLongError as error:
        error.args = (str(error).removesuffix(CUTTING_HELPS) + helps,)
        raise


class TokenIdError(TuiliError, ValueError):
    """A token id is not an integer in [0, n_vocab)."""

    code = "token_id"


class GrammarError(TuiliError, ValueError):
    """A schema, regular expression or grammar is malformed, too large, or cannot be satisfied."""

    code = "grammar"


class QueueFullError(TuiliError):
    """The engine's queue is full; try again later."""

    code = "queue_full"


class KVCacheExhaustedError(TuiliError):
    """The cache has too few blocks for the request, or none left for a prefix."""

    code = "kv_cache_exhausted"


class EngineOutOfMemoryError(TuiliError, MemoryError):
    """An allocation failed; the engine stays usable."""

    code = "out_of_memory"


NO_TOKEN_ALLOWED = "no_token_allowed"  # a code of errors that a request's own parameters make


class NumericError(TuiliError, ArithmeticError):
    """The model's logits, keys or values for this request are not numbers."""

    code = "numeric"


class RequestCancelled(TuiliError):
    """The request was aborted before it finished."""

    code = "cancelled"


class DeadlineExceeded(TuiliError, TimeoutError):
    """The deadline passed before the first token. Code "deadline_unreachable": it could not be met, and
    nothing was computed.
    """

    code = "deadline"


class EngineClosedError(TuiliError):
    """The engine has been closed."""

    code = "engine_closed"


class EngineForkedError(TuiliError):
    """The engine was created in another process; it cannot be used after fork()."""

    code = "engine_forked"


class EngineDeadError(TuiliError):
    """The device failed in a way that only a restart of the process mends."""

    code = "engine_dead"
