"""The body of a POST as its fields, and the model that they are for."""

from __future__ import annotations

from typing import Any

from tuili.checks import described, invalid
from tuili.errors import ModelFormatError, ModelLimitError
from tuili.llm import LLM
from tuili.loading.files import parse_json, shown
from tuili.server.lengths import Lengths
from tuili.server.replies import Refused

MAX_DEPTH = 64
# The JSON library reads so much in some milliseconds, and lets nobody else run.
MAX_CONTAINERS = 20_000
MAX_KEYS = 20_000
MAX_COMMAS = 200_000
MAX_BACKSLASHES = 400_000
MAX_COUNTED = 65_536  # tokens of a text of /tokenize, which may be longer than the context
CUT = "truncate_prompt_tokens"

Fields = dict[str, Any]


class Served:
    """A model under the name that clients know it by."""

    def __init__(self, llm: LLM, name: str) -> None:
        self.llm, self.name = llm, name
        max_tokens = int(llm.config["max_model_len"])
        self._lengths = Lengths(llm.tokenizer, max_tokens)
        self.countable = Lengths(llm.tokenizer, max(max_tokens, MAX_COUNTED))

    def fields(self, body: bytes) -> Fields:
        """The body's fields, with a model that is this one.

        raises  Refused, InvalidParameterError
        """
        fields = read_fields(body)
        model = fields.get("model")
        if model is not None:
            if not isinstance(model, str):
                invalid("model", f"must be a string, not {described(model)}")
            self.check_model(model)
        fields["model"] = self.name
        return fields

    def check_model(self, name: str) -> None:
        """Raise Refused 404 for a model that is not served."""
        if name != self.name:
            raise Refused(
                404,
                f"there is no model '{shown(name)}' here; this is {self.name}",
                code="model_not_found",
                param="model",
            )

    def lengths(self, most: object) -> Lengths:
        """What a text may have, of which so much is read; None: all of it."""
        return self._lengths if most is None else self.countable


def read_fields(body: bytes) -> Fields:
    """The object that a body is.

    raises  Refused
    """
    for mark, name, most in ((b",", "commas", MAX_COMMAS), (b"\\", "backslashes", MAX_BACKSLASHES)):
        if body.count(mark) > most:
            raise Refused(413, f"the body has more than {most} {name}", code="json_size")
    try:
        value = parse_json(body, "body", MAX_DEPTH, MAX_CONTAINERS, MAX_KEYS)
    except ModelLimitError as error:
        raise Refused(413, str(error), code=error.code) from None
    except ModelFormatError as error:
        raise Refused(400, _without_keys(error), code=error.code) from None
    if not isinstance(value, dict):
        raise Refused(400, "the body is not a JSON object", code="json")
    return value


def _without_keys(error: ModelFormatError) -> str:
    """Names of keys may be what a user wrote."""
    return "body: a key appears twice" if error.code == "json_duplicate_key" else str(error)


def required(fields: Fields, name: str) -> Any:
    """A field, which leaves the others. raises  InvalidParameterError if it is missing"""
    if fields.get(name) is None:
        invalid(name, "is missing")
    return fields.pop(name)
