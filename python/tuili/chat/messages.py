"""The messages and tools of a conversation, checked and copied in the form that templates expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from tuili.checks import described, invalid, is_text, measured
from tuili.errors import InvalidParameterError, ModelFormatError
from tuili.loading.files import parse_json, shown
from tuili.tokenization.tokenizer import clean_text

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_MESSAGES = 10_000
MAX_DEPTH = 32
MAX_VALUES = 1_000_000  # in all messages and tools together


def bad(where: str, problem: str) -> NoReturn:
    """Raise InvalidParameterError that names a place in messages, tools or variables."""
    raise InvalidParameterError(f"{where}: {problem}", param=where)


def validate_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A copy of `messages` in the form that templates expect.

    Each message has a role of ROLES and content: a string, or a list of {"type": "text", "text": …} parts,
    which are joined by line breaks; an assistant's content may be missing if there are tool calls. Arguments
    of tool calls that are JSON text become objects. Further keys are handed to the template as they are; all
    text is cleaned of lone surrogates.

    raises  InvalidParameterError naming messages[i].…
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        invalid("messages", f"must be a list of messages, not {described(messages)}")
    if not 1 <= len(messages) <= MAX_MESSAGES:
        bad("messages", f"{len(messages)} messages; the limits are 1 and {MAX_MESSAGES}")
    budget = Budget()
    return [_message(message, f"messages[{i}]", budget) for i, message in enumerate(messages)]


@dataclass
class Budget:
    """How many values were copied so far."""

    n_values: int = 0

    def plain(self, value: Any, where: str, depth: int = 0) -> Any:
        """A copy of a JSON value, bounded in depth and number."""
        self.n_values += 1
        if depth > MAX_DEPTH:
            bad(where, f"nested more than {MAX_DEPTH} deep")
        if self.n_values > MAX_VALUES:
            bad(where, f"more than {MAX_VALUES} values altogether")
        if isinstance(value, str):
            return clean_text(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) for key in value):
                bad(where, "a key is not a string")
            return {
                clean_text(key): self.plain(item, f"{where}.{shown(key)}" if depth < 2 else where, depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [
                self.plain(item, f"{where}[{i}]" if depth < 2 else where, depth + 1)
                for i, item in enumerate(value)
            ]
        bad(where, f"{type(value).__name__} is not a JSON value")


def _message(message: Any, where: str, budget: Budget) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        invalid(where, f"must be an object with role and content, not {described(message)}")
    if not all(isinstance(key, str) for key in message):
        bad(where, "a key is not a string")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        invalid(f"{where}.role", f"must be one of {', '.join(ROLES)}, not {shown(role)}")
    checked = {
        key: budget.plain(value, f"{where}.{shown(key)}")
        for key, value in message.items()
        if key not in ("content", "tool_calls")
    }
    calls = message.get("tool_calls")
    if calls is not None:
        checked["tool_calls"] = _tool_calls(calls, f"{where}.tool_calls", budget)
    content = message.get("content")
    if content is None and not (role == "assistant" and calls):
        bad(f"{where}.content", "missing")
    if "content" in message:
        checked["content"] = None if content is None else _content(content, f"{where}.content")
    return checked


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return clean_text(content)
    if not isinstance(content, (list, tuple)) or not content:
        invalid(where, f"must be text or a list of parts, not {described(content)}")
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, Mapping) or not is_text(part.get("type"), "text"):
            bad(f"{where}[{i}].type", 'only parts of type "text" are supported')
        if not isinstance(part.get("text"), str):
            invalid(f"{where}[{i}].text", f"must be a string, not {described(part.get('text'))}")
        texts.append(clean_text(part["text"]))
    return "\n".join(texts)


def _tool_calls(calls: Any, where: str, budget: Budget) -> list[dict[str, Any]]:
    if not isinstance(calls, (list, tuple)) or not calls:
        invalid(where, f"must be a list of one tool call or more, not {measured(calls)}")
    checked = []
    for i, call in enumerate(calls):
        here = f"{where}[{i}]"
        if not isinstance(call, Mapping) or not is_text(call.get("type", "function"), "function"):
            found = "another" if isinstance(call, Mapping) else described(call)
            invalid(here, f'must be an object of type "function", not {found}')
        function = call.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            found = "no name" if isinstance(function, Mapping) else described(function)
            invalid(f"{here}.function", f"must be an object with name and arguments, not {found}")
        plain = budget.plain(call, here)
        arguments = plain["function"].get("arguments", {})
        plain["function"]["arguments"] = _arguments(arguments, f"{here}.function.arguments")
        checked.append(plain)
    return checked


def _arguments(arguments: Any, where: str) -> dict[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments.encode(), where, MAX_DEPTH)
        except ModelFormatError:
            bad(where, "not valid JSON")
    if not isinstance(arguments, dict):
        invalid(where, f"must be an object, not {described(arguments)}")
    return arguments


def validate_tools(tools: Any) -> list[Any]:
    """A copy of tools. raises  InvalidParameterError naming tools[i]"""
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        invalid("tools", f"must be a list of JSON schemas, not {described(tools)}")
    budget = Budget()
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            invalid(f"tools[{i}]", f"must be an object, not {described(tool)}")
    return [budget.plain(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
