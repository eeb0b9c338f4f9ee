"""The form that an output may be asked to have: a JSON schema, a regular expression, a choice of texts or a
grammar. What can be told without compiling it is checked here (catalogue rows REQ-10, REQ-11).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn
from urllib.parse import quote, unquote

from tuili.checks import invalid
from tuili.errors import GrammarError, ModelFormatError
from tuili.generation import quantifiers
from tuili.loading.files import parse_json

MAX_SCHEMA_BYTES = 256 << 10
MAX_SCHEMA_NESTING = 64  # of objects and arrays: a schema in a property of a schema is two deeper
MAX_CONTAINERS = 5000  # objects and arrays
MAX_PROPERTIES = 1000  # of all objects of a schema: the library's time grows with their square
MAX_TEXT_BYTES = 64 << 10  # of a regular expression, a grammar, and all choices together
MAX_BRACKETS = 64  # nested in a regular expression or a grammar
MAX_CHOICES = 1024
LARGEST_EXACT_INTEGER = 2**53  # the library keeps numbers as float64

MAX_REFERENCE_DEPTH = 2000  # objects and arrays, of all that references lead to together
MAX_QUANTIFIERS = 400  # of all expressions together: see quantifiers.py
MAX_EXPRESSIONS = 128  # patterns and formats of a schema: half a millisecond each
MAX_BOUNDED = 400  # numbers with bounds, each of which becomes an expression
MAX_DEFINITIONS = 256  # colons of a grammar, which bound how deep its rules and terminals use one another;
# those of a schema in it do not count, of several they do

# Regular expressions that a text has to match all at once: the library's time grows exponentially with their
# number, and no fuel counts it.
MAX_INTERSECTED = 6
MAX_MULTIPLE = 10_000  # the library's automaton has a state for each remainder
MAX_PATTERN_PROPERTIES = 32  # the library compares each with each

# Written as json.dumps does: one way only, so that no text goes on with white space without end.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_NAMED = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}  # name -> schema
_VALUES = {"const", "enum", "default", "examples"}  # which are no schemas
_IN_FRAGMENTS = "!$&'()*+,;=:@/?~%"  # beside letters, digits and "-._" (RFC 3986)
_COMBINED = {"allOf", "anyOf", "oneOf", "$ref"}
_EXPRESSIONS = {"pattern", "format"}
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}

Container = dict[Any, Any] | Sequence[Any]
Kind = Literal["json_schema", "regex", "choice", "grammar"]


@dataclass(frozen=True, slots=True)
class Form:
    """One of the four, as text; of a choice, the JSON list of its texts."""

    kind: Kind
    text: str


def refuse(name: str, problem: str, *, code: str | None = None) -> NoReturn:
    """Raise GrammarError that names the parameter."""
    raise GrammarError(f"{name}: {problem}", code=code, param=name)


def json_schema(name: str, value: object) -> str:
    """The JSON text of a schema given as a dict, a bool or JSON text.

    raises  InvalidParameterError for anything else; GrammarError for text that is not JSON, a schema beyond
            the limits above, one that nothing satisfies, and numbers that float64 cannot hold
    """
    if isinstance(value, str):
        text = _bounded(name, value, MAX_SCHEMA_BYTES)
        try:
            schema = parse_json(text.encode(), name, MAX_SCHEMA_NESTING)
        except ModelFormatError as error:
            raise GrammarError(str(error), code=error.code, param=name) from None
        _check_schema(name, schema)
    elif isinstance(value, dict | bool):
        _check_schema(name, value)
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):
            refuse(name, "holds something that JSON cannot express")
        schema, text = value, _bounded(name, text, MAX_SCHEMA_BYTES)
    else:
        _wrong_type(name, "a dict or JSON text", value)
    if schema is True:
        return "{}"
    if schema is False:
        refuse(name, "nothing satisfies the schema false")
    if not isinstance(schema, dict):
        refuse(name, "a schema is an object, true or false")
    spelled = _with_uris(schema)
    if spelled == schema:
        return text
    return _bounded(name, json.dumps(spelled, ensure_ascii=False), MAX_SCHEMA_BYTES)


def regex(name: str, value: object) -> str:
    """A regular expression that the whole output matches.

    raises  InvalidParameterError if it is no str; GrammarError beyond the limits above
    """
    text = _text(name, value)
    _check_brackets(name, text)
    _check_quantifiers(name, quantifiers.in_regex(text))
    return text


def grammar(name: str, value: object) -> str:
    """A grammar in Lark's notation. Raises as `regex`."""
    text = _text(name, value)
    own, schemas = quantifiers.without_schemas(text)
    _check_brackets(name, own)
    if (own if len(schemas) == 1 else text).count(":") > MAX_DEFINITIONS:
        refuse(name, f"more than {MAX_DEFINITIONS} colons", code="grammar_size")
    if own.count("&") > MAX_INTERSECTED:
        refuse(name, f"more than {MAX_INTERSECTED} times &", code="grammar_size")
    if "::" in own:  # they may unfold without end
        refuse(name, 'rules with parameters are not supported; write the text "::" as ":" ":"')
    _check_quantifiers(name, quantifiers.in_grammar(own))
    for schema in schemas:
        _check_schema(name, schema)
    return text


def choice(name: str, value: object) -> tuple[str, ...]:
    """The texts of which the output is one.

    raises  InvalidParameterError unless it is a list of distinct texts; GrammarError beyond the limits above
    """
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        _wrong_type(name, "a list of strings", value)
    if not value or "" in value or len(set(value)) < len(value):
        found = "none" if not value else "an empty one" if "" in value else "one twice"
        invalid(name, f"must hold distinct texts that are not empty, not {found}")
    if len(value) > MAX_CHOICES:
        refuse(name, f"{len(value)} texts; the limit is {MAX_CHOICES}")
    _bounded(name, "".join(value), MAX_TEXT_BYTES)
    return tuple(value)


def form_of(params: Any) -> Form | None:
    """What SamplingParams ask for.

    raises  InvalidParameterError if it is more than one
    """
    given = [kind for kind in Kind.__args__ if getattr(params, kind) is not None]  # type: ignore[attr-defined]
    if len(given) > 1:
        invalid(given[1], f"cannot be given next to {given[0]}")
    if not given:
        return None
    value = getattr(params, given[0])
    return Form(given[0], value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _wrong_type(name: str, wanted: str, value: object) -> NoReturn:
    invalid(name, f"must be {wanted}, not a {type(value).__name__}")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        _wrong_type(name, "a str", value)
    return _bounded(name, value, MAX_TEXT_BYTES)


def _bounded(name: str, text: str, most: int) -> str:
    if len(text) <= most:
        try:
            n_bytes = len(text.encode())
        except UnicodeEncodeError:
            refuse(name, "holds half a surrogate pair, which is not text")
        if n_bytes <= most:
            return text
    refuse(name, f"is longer than {most} bytes", code="grammar_size")


def _check_brackets(name: str, text: str) -> None:
    depth = deepest = 0
    for bracket in re.findall(r"[()\[\]{}]", re.sub(r"\\.", "", text)):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_BRACKETS:
        refuse(name, f"brackets are nested deeper than {MAX_BRACKETS}", code="grammar_depth")


def _check_quantifiers(name: str, n: int) -> None:
    if n > MAX_QUANTIFIERS:
        refuse(name, f"more than {MAX_QUANTIFIERS} parts may be left out or repeated", code="grammar_size")


def _check_schema(name: str, schema: object) -> None:
    """Size, nesting, properties, numbers and references of what may be any object; before it is written as
    text, which takes long where it is large.
    """
    n_properties = n_bytes = 0
    levels = [_containers([schema])]
    while levels[-1]:
        if len(levels) > MAX_SCHEMA_NESTING:
            refuse(name, f"is nested deeper than {MAX_SCHEMA_NESTING}", code="grammar_depth")
        inner: list[Container] = []
        for item in levels[-1]:
            parts = [*item.keys(), *item.values()] if isinstance(item, dict) else item
            n_bytes += len(parts)  # at least, with a comma or colon each
            if n_bytes <= MAX_SCHEMA_BYTES:
                n_bytes += sum(len(part) for part in parts if isinstance(part, str))
            if n_bytes > MAX_SCHEMA_BYTES:
                refuse(name, f"is longer than {MAX_SCHEMA_BYTES} bytes", code="grammar_size")
            inner += _containers(parts)
            if len(inner) + sum(map(len, levels)) > MAX_CONTAINERS:
                refuse(name, f"more than {MAX_CONTAINERS} objects and arrays", code="grammar_size")
            if isinstance(item, dict):
                properties = item.get("properties")
                n_properties += len(properties) if isinstance(properties, dict) else 0
            if n_properties > MAX_PROPERTIES:
                refuse(name, f"more than {MAX_PROPERTIES} properties", code="grammar_size")
        levels.append(inner)
    objects = [item for level in levels for item in level if isinstance(item, dict)]
    for item in objects:
        _check_exactness(name, item)
    _check_expressions(name, objects)
    _check_references(name, schema, objects, _heights(levels))


def _check_expressions(name: str, objects: list[dict[Any, Any]]) -> None:
    """How many regular expressions a text may have to match at once, generously; a multiple is one, too."""
    costly = {*_EXPRESSIONS, "multipleOf"}
    combined = any("allOf" in item or (_COMBINED & item.keys() and costly & item.keys()) for item in objects)
    expressions = [item for item in objects for key in _EXPRESSIONS if isinstance(item.get(key), str)]
    if combined and len(expressions) > MAX_INTERSECTED:
        problem = f"more than {MAX_INTERSECTED} patterns and formats in a schema that combines them"
        refuse(name, problem, code="grammar_size")
    if len(expressions) > MAX_EXPRESSIONS:
        refuse(name, f"more than {MAX_EXPRESSIONS} patterns and formats", code="grammar_size")
    if sum(not _BOUNDS.isdisjoint(item) for item in objects) > MAX_BOUNDED:
        refuse(name, f"more than {MAX_BOUNDED} numbers with bounds", code="grammar_size")
    digits = {_digits(item.get("multipleOf")) for item in objects}
    if (math.prod(digits) if combined else sum(digits)) > MAX_MULTIPLE:
        refuse(name, f"multipleOf has to count to more than {MAX_MULTIPLE}", code="grammar_size")
    maps = [item["patternProperties"] for item in objects if isinstance(item.get("patternProperties"), dict)]
    if sum(map(len, maps)) > MAX_PATTERN_PROPERTIES:
        refuse(name, f"more than {MAX_PATTERN_PROPERTIES} patternProperties", code="grammar_size")
    patterns = [item["pattern"] for item in objects if isinstance(item.get("pattern"), str)]
    patterns += [pattern for keys in maps for pattern in keys if isinstance(pattern, str)]
    _check_quantifiers(name, sum(map(quantifiers.in_regex, patterns)))


def _digits(multiple: object) -> int:
    """A number without its decimal point: what a remainder is counted to. 1 for what is no such number."""
    if isinstance(multiple, bool) or not isinstance(multiple, int | float) or not math.isfinite(multiple):
        return 1
    return int(re.sub(r"\D", "", repr(multiple).split("e")[0])) or 1


def _heights(levels: list[list[Container]]) -> dict[int, int]:
    """How many objects and arrays are nested in each, with itself, by its id()."""
    heights: dict[int, int] = {}
    for level in reversed(levels):
        for item in level:
            inner = _containers(item.values() if isinstance(item, dict) else item)
            heights[id(item)] = 1 + max((heights[id(part)] for part in inner), default=0)
    return heights


def _check_references(
    name: str, schema: object, objects: list[dict[Any, Any]], heights: dict[int, int]
) -> None:
    """The library follows references by recursion, on a way each of them once: how deep that may lead."""
    references = {item["$ref"] for item in objects if isinstance(item.get("$ref"), str)}
    if references and any("$id" in item for item in objects if item is not schema):
        refuse(name, "$id inside a schema that has references is not supported")
    depth = sum(heights.get(id(_target(name, schema, reference)), 0) for reference in references)
    if depth > MAX_REFERENCE_DEPTH:
        refuse(name, f"references lead deeper than {MAX_REFERENCE_DEPTH}", code="grammar_depth")


def _target(name: str, schema: object, reference: str) -> object:
    """What a reference such as "#/$defs/node" means (RFC 6901)."""
    if reference != "#" and not reference.startswith("#/"):
        refuse(name, "a reference must be to a place in the schema itself, such as #/$defs/node")
    found: Any = schema
    for part in unquote(reference).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(key)] if isinstance(found, list | tuple) else found[key]
        except (LookupError, TypeError, ValueError):
            refuse(name, "a reference leads nowhere")
    return found


def _with_uris(schema: Any, *, of_names: bool = False) -> Any:
    """A schema, or a map of names to schemas, with references as URIs are written, which the library wants:
    "#/$defs/节点" is "#/$defs/%E8%8A%82%E7%82%B9".
    """
    if isinstance(schema, list | tuple):
        return [_with_uris(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if of_names:
        return {key: _with_uris(part) for key, part in schema.items()}
    spelled = {
        key: part if key in _VALUES else _with_uris(part, of_names=key in _NAMED)
        for key, part in schema.items()
    }
    reference = schema.get("$ref")
    if isinstance(reference, str):
        whole = re.sub("%(?![0-9A-Fa-f]{2})", "%25", reference[1:])
        spelled["$ref"] = "#" + quote(whole, safe=_IN_FRAGMENTS)
    return spelled


def _containers(items: Iterable[object]) -> list[Container]:
    return [item for item in items if isinstance(item, dict | list | tuple)]


def _check_exactness(name: str, schema: dict[Any, Any]) -> None:
    """What the library takes and does not keep to: large numbers, distinct names, its own relaxations."""
    bounds = [schema[key] for key in _BOUNDS & schema.keys() if isinstance(schema[key], int)]
    values = schema["enum"] if isinstance(schema.get("enum"), list | tuple) else []
    for number in (*bounds, *values, schema.get("const")):
        if isinstance(number, int | float) and abs(number) > LARGEST_EXACT_INTEGER:
            refuse(name, "a number is beyond ±2^53, where float64 is not exact", code="grammar_number")
    least, required = schema.get("minProperties"), schema.get("required")
    n_required = len(required) if isinstance(required, list | tuple) else 0
    if isinstance(least, int | float) and least > max(1, n_required):
        refuse(name, "minProperties beyond the required ones is not supported: a name could come twice")
    if schema.get("x-guidance", JSON_STYLE) != JSON_STYLE:
        refuse(name, "x-guidance is not supported: it relaxes the schema")
