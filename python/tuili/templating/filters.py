"""The filters that chat templates have: jinja's own behind a meter, `tojson` as transformers defines it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import Context
from jinja2.utils import pass_context
from markupsafe import escape

from tuili.templating.marked_text import MarkedText
from tuili.templating.meter import METER, Meter, as_text, concat, join_with, refuse

MAX_COUNT = 100_000  # of range() and of integers given to filters
MAX_INDENT = 16

# Filters that hand on what they are given, and those that make new text of it. jinja's others do not exist
# here.
_SELECTING = (
    "abs", "batch", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items",
    "last", "length", "list", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select",
    "selectattr", "slice", "sort", "sum", "unique", "wordcount",
)  # fmt: skip
_WRITING = ("capitalize", "center", "format", "indent", "lower", "replace", "title", "truncate", "upper")
# Of the selecting ones, those that compare or read all of their input; the others only pass its items on.
_READING = frozenset(
    {"dictsort", "groupby", "max", "min", "sort", "sum", "unique", "wordcount", "int", "float"}
)

# Filters of our own, which the compiler puts in; their names cannot be written in a template.
TICK, WEIGHED, JOINED = " tick", " weighed", " joined"


@pass_context
def _tick(context: Context, weight: int) -> bool:
    """Spends `weight`: stands at the beginning of each loop turn and macro."""
    METER.get().spend(weight)
    return True


@pass_context
def _weighed(context: Context, value: Any) -> Any:
    """Stands around what is compared or hashed."""
    METER.get().weigh(value)
    return value


@pass_context
def _joined(context: Context, values: list[Any]) -> str:
    """The operator `~`."""
    return concat(map(as_text, values))


@pass_context
def _join(context: Context, value: Any, d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(context.environment, attribute), value)
    METER.get().spend(4)
    return join_with(as_text(d), map(as_text, value))


@pass_context
def _trim(context: Context, value: Any, chars: str | None = None) -> str:
    text = as_text(value)
    METER.get().allow(len(text))
    return text.strip(chars)


@pass_context
def _string(context: Context, value: Any) -> str:
    return as_text(value)


@pass_context
def _escape(context: Context, value: Any) -> str:
    has_marks = METER.get().weigh(value)
    text = str.__str__(escape(as_text(value)))
    METER.get().allow(len(text))
    return MarkedText(text) if has_marks else text


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """transformers' filter: json.dumps without jinja's escaping of HTML."""
    meter = METER.get()
    has_marks = meter.weigh((value, separators))
    if (indent if isinstance(indent, int) else len(indent or "")) > MAX_INDENT:
        refuse(f"tojson: indent is more than {MAX_INDENT}", "template_size")
    text = json.dumps(
        value,
        ensure_ascii=bool(ensure_ascii),
        indent=indent,
        separators=separators,
        sort_keys=bool(sort_keys),
    )
    meter.allow(len(text))
    return MarkedText(text) if has_marks else text


def padding_of_percent(template: str) -> int:
    """An upper bound of the padding that `template % …` adds."""
    total = 0
    for width, precision in re.findall(r"%(?:\([^)]*\))?[-+ #0]*(\d+|\*)?(?:\.(\d+|\*))?", template):
        if "*" in (width, precision):
            refuse("a format takes its width from an argument", "template_size")
        total += int(width[:9] or 0) + int(precision[:9] or 0)
    return total


def check_growth(meter: Meter, name: str, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse the filter or str method `name` if its result would be too long."""
    given = (*args, *kwargs.values())
    size = max((arg for arg in given if isinstance(arg, int)), default=80)
    if name in ("center", "ljust", "rjust", "zfill"):
        meter.allow(max(size, len(text)))
    elif name == "indent":
        width = max([size, *(len(arg) for arg in given if isinstance(arg, str))])
        meter.allow(len(text) + (text.count("\n") + 1) * width)
    elif name == "expandtabs":
        meter.allow(len(text) + text.count("\t") * size)
    elif name == "replace":
        if kwargs or len(args) < 2:
            refuse("replace needs the old and the new text", "template_error")
        meter.allow(len(text) + text.count(as_text(args[0])) * len(as_text(args[1])))
    elif name == "format":
        meter.allow(len(text) + padding_of_percent(text))


def _passed(function: Callable[..., Any], context: Context) -> tuple[Any, ...]:
    """What jinja passes to one of its own filters in front of the value."""
    kind = getattr(function, "jinja_pass_arg", None)
    if kind is None:
        return ()
    if kind.name == "context":
        return (context,)
    return (context.eval_ctx if kind.name == "eval_context" else context.environment,)


def _writing_filter(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = FILTERS[name]

    @pass_context
    def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> str:
        meter = METER.get()
        has_marks = meter.weigh((value, args, kwargs))
        text = as_text(value)
        check_growth(meter, name, text, args, kwargs)
        result = str.__str__(function(*_passed(function, context), text, *args, **kwargs))
        meter.allow(len(result))
        return MarkedText(result) if has_marks else result

    return run


def _selecting_filter(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = FILTERS[name]

    @pass_context
    def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.spend(4 + (len(value) if hasattr(value, "__len__") else 0))
        if name in _READING:
            value = value if hasattr(value, "__len__") or not hasattr(value, "__iter__") else list(value)
            meter.weigh((value, args, kwargs))
        if any(isinstance(arg, int) and abs(arg) > MAX_COUNT for arg in (*args, *kwargs.values())):
            refuse(f"{name}: an argument is beyond {MAX_COUNT}", "template_size")
        return function(*_passed(function, context), value, *args, **kwargs)

    return run


def all_filters() -> dict[str, Callable[..., Any]]:
    """Every filter by its name. All take the context, so that none is run while constants are compiled."""
    return {
        **{name: _selecting_filter(name) for name in _SELECTING},
        **{name: _writing_filter(name) for name in _WRITING},
        **dict.fromkeys(("e", "escape"), _escape),
        **dict.fromkeys(("string", "safe"), _string),
        "join": _join,
        "trim": _trim,
        "tojson": _tojson,
        TICK: _tick,
        WEIGHED: _weighed,
        JOINED: _joined,
    }
