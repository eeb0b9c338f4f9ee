"""Tools of a chat completion: how a prompt names them, how an answer is made to call one, and how calls are
read from it.

A template that knows tools gets them. For one that does not, as SmolLM2's and Gemma's, they are named in the
system message, and calls and their results are written in <tool_call> and <tool_response>, the way Qwen and
SmolLM2 learned them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuili.chat.messages import validate_messages
from tuili.checks import boolean, described, invalid, is_text, measured, only_known
from tuili.errors import ModelFormatError
from tuili.generation.spelling import n_overlapping
from tuili.generation.structure import JSON_STYLE, json_schema
from tuili.loading.files import parse_json

MAX_TOOLS = 128
OPEN, CLOSE = "<tool_call>", "</tool_call>"

_INSTRUCTIONS = """You may call these functions to answer the user:
<tools>
{tools}
</tools>
To call one, answer with its name and arguments as JSON, within <tool_call></tool_call>:
<tool_call>
{{"name": "<function>", "arguments": {{}}}}
</tool_call>"""


# What CallReader reads: text, or calls after some, or Llama's form, where the whole answer is the call; hence
# text does not begin with a bracket.
_ANSWER = r"""start: before gap call gap close {more} | call | rest
before[lazy]: /[\s\x1c-\x1f]*([^\s\x1c-\x1f\{{\[](?s:.*))?<tool_call>/
between[lazy]: /[ \n]{{0,2}}<tool_call>/
close: "</tool_call>"
gap: /[ \n]{{0,2}}/
call: %json {call}
rest: REST
REST: /(?s:.*)/ & ~/(?s:.*)<tool_call>(?s:.*)/ & ~/[\s\x1c-\x1f]*[\{{\[](?s:.*)/
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the answer calls; arguments: JSON text of an object."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tools:
    """The functions of a request. choice: "none", "auto", "required", or the name of one of them."""

    definitions: tuple[dict[str, Any], ...] = ()
    choice: str = "none"
    forced: bool = False  # whether the answer must be a call
    single: bool = False  # whether it may hold one call and no more

    @property
    def offered(self) -> bool:
        return bool(self.definitions) and self.choice != "none"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tool["function"]["name"] for tool in self.definitions)

    def schema(self) -> dict[str, Any] | None:
        """What an answer that must call a function has to satisfy; None if it need not.

        raises  GrammarError for parameters that are no schema
        """
        if not self.forced:
            return None
        functions = [tool["function"] for tool in self.definitions]
        if self.choice != "required":
            functions = [function for function in functions if function["name"] == self.choice]
        return _call_of(functions)

    def grammar(self) -> str | None:
        """What keeps an answer that may call to what was asked: the arguments of `strict` functions to their
        schemas, the calls to one. None if nothing was. Raises as `schema`.
        """
        functions = [tool["function"] for tool in self.definitions]
        if self.choice != "auto" or not (self.single or any(each.get("strict") for each in functions)):
            return None
        strict = [each if each.get("strict") else {"name": each["name"]} for each in functions]
        call = json.dumps({"x-guidance": JSON_STYLE, **_call_of(strict)}, ensure_ascii=False)
        return _ANSWER.format(more="" if self.single else "(between gap call gap close)*", call=call)


def _call_of(functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of a call of one of them."""
    if len(functions) == 1:
        return _form(functions[0], "#")
    return {"anyOf": [_form(function, f"#/anyOf/{i}") for i, function in enumerate(functions)]}


def _form(function: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The schema of a call, which will stand at `place`."""
    parameters = function.get("parameters") or {"type": "object"}
    checked = json.loads(json_schema(f"tools.{function['name']}.parameters", parameters))
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            "arguments": _moved(checked, f"{place}/properties/arguments"),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references lead to places in itself, where it is not the whole any more."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(item, place) for key, item in schema.items()}
    if isinstance(schema.get("$ref"), str):
        moved["$ref"] = place + schema["$ref"].removeprefix("#")
    return moved


def tools_of(fields: Mapping[str, Any]) -> Tools:
    """What tools, tool_choice and parallel_tool_calls ask for.

    raises  InvalidParameterError
    """
    given = fields.get("tools")
    given = [] if given is None else given
    if not isinstance(given, list) or len(given) > MAX_TOOLS:
        invalid("tools", f"must be a list of at most {MAX_TOOLS} functions, not {measured(given)}")
    definitions = tuple(_definition(tool, f"tools[{i}]") for i, tool in enumerate(given))
    names = [tool["function"]["name"] for tool in definitions]
    if len(set(names)) != len(names):
        invalid("tools", "two functions have one name")
    choice = _choice(fields.get("tool_choice"), names)
    forced = choice not in ("none", "auto")
    parallel = fields.get("parallel_tool_calls")
    if parallel is not None:
        parallel = boolean("parallel_tool_calls", parallel)
    return Tools(definitions, choice, forced, parallel is False)


def _definition(tool: Any, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not is_text(tool.get("type"), "function") or len(tool) != 2:
        found = "another object" if isinstance(tool, Mapping) else described(tool)
        form = '{"type": "function", "function": {"name": …, "parameters": …}}'
        invalid(where, f"must be {form}, not {found}")
    only_known(function, ("name", "description", "parameters", "strict"), f"{where}.function.")
    name = function.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        found = "others" if isinstance(name, str) else described(name)
        invalid(f"{where}.function.name", f"must be 1 to 64 letters, digits, _ or -, not {found}")
    kinds = (
        ("description", str, "a string"),
        ("parameters", dict, "an object"),
        ("strict", bool, "true or false"),
    )
    for key, kind, named in kinds:
        if function.get(key) is not None and not isinstance(function[key], kind):
            invalid(f"{where}.function.{key}", f"must be {named}, not {described(function[key])}")
    try:
        json.dumps(function.get("parameters"))
    except (TypeError, ValueError, RecursionError):
        invalid(f"{where}.function.parameters", "must be JSON")
    return {"type": "function", "function": dict(function)}


def _choice(choice: Any, names: Sequence[str]) -> str:
    if choice is None:
        return "auto" if names else "none"
    if isinstance(choice, str) and choice in ("none", "auto", "required"):
        if choice == "required" and not names:
            invalid("tool_choice", "needs tools")
        return choice if names else "none"
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    is_one = isinstance(choice, Mapping) and is_text(choice.get("type"), "function")
    if not is_one or not isinstance(name, str):
        found = described(choice) if not isinstance(choice, str | Mapping) else "another"
        invalid("tool_choice", f'must be "none", "auto", "required" or a function, not {found}')
    if name not in names:
        invalid("tool_choice", "names a function that is not among tools")
    return name


# --- the prompt ---------------------------------------------------------------------------------------------


def in_words(messages: Any, tools: Tools, *, goes_on: bool = False) -> list[dict[str, Any]]:
    """The messages for a template that knows no tools: definitions, calls and results as text.

    goes_on  whether an answer is to go on with the last one
    raises   InvalidParameterError
    """
    checked = validate_messages(messages)
    written = [_in_words(message) for message in checked]
    if goes_on and written[-1] is not checked[-1]:
        what = "tool_calls" if checked[-1].get("tool_calls") else "content"
        invalid(
            f"messages[{len(checked) - 1}].{what}", "ends in words around it: no answer can go on with it"
        )
    if not tools.offered:
        return written
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools.definitions)
    instructions = _INSTRUCTIONS.format(tools=listed)
    if written and written[0]["role"] in ("system", "developer"):
        first = written[0]
        return [{**first, "content": f"{first.get('content') or ''}\n\n{instructions}"}, *written[1:]]
    return [{"role": "system", "content": instructions}, *written]


def _in_words(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if not message.get("tool_calls"):
        return message
    calls = [
        f"{OPEN}\n{json.dumps(_plain(call['function']), ensure_ascii=False)}\n{CLOSE}"
        for call in message["tool_calls"]
    ]
    content = "\n".join([*filter(None, [message.get("content")]), *calls])
    return {"role": message["role"], "content": content}


def _plain(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": function["name"], "arguments": function["arguments"]}


# --- the answer ---------------------------------------------------------------------------------------------


class CallReader:
    """Parts one answer, as it comes, into text to show and calls. What looks like a call and is none stays
    text.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._held = ""
        self._holds = tools.forced  # whether all that follows is kept until the end
        self._begun = False

    def push(self, text: str) -> str:
        """What of the answer so far, with this added, is certainly to be shown."""
        if not self._tools.offered:
            return text
        self._held += text
        if self._holds:
            return ""
        if not self._begun and self._held.strip():
            self._begun = True
            if self._held.lstrip()[0] in "{[":  # Llama's form: the whole answer is the call
                self._holds = True
                return ""
        at = self._held.find(OPEN)
        if at >= 0:
            self._holds = True
        else:
            at = len(self._held) - n_overlapping(self._held, OPEN)
        if not self._begun:
            return ""
        shown, self._held = self._held[:at], self._held[at:]
        return shown

    def finish(self) -> tuple[str, list[Call]]:
        """The rest of the text, and the calls."""
        held, self._held = self._held, ""
        if not self._tools.offered:
            return held, []
        if OPEN not in held:
            calls = self._calls(held)
            return (held, []) if calls is None else ("", calls)
        before, *blocks = held.split(OPEN)
        found: list[Call] = []
        for block in blocks:
            inside, _, after = block.partition(CLOSE)
            calls = self._calls(inside)
            if calls is None or after.strip():
                return held, []
            found += calls
        return before.rstrip(), found

    def _calls(self, text: str) -> list[Call] | None:
        """The calls of a JSON text; None if it is no call, or one of an unknown function."""
        try:
            value = parse_json(text.strip().encode("utf-8", "replace"), "call", 32)
        except ModelFormatError:
            return None
        found = []
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, dict) or item.get("name") not in self._tools.names:
                return None
            arguments = item.get("arguments", item.get("parameters", {}))
            if not isinstance(arguments, dict):
                return None
            found.append(Call(item["name"], json.dumps(arguments, ensure_ascii=False)))
        return found or None
