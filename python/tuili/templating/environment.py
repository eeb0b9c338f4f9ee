"""The sandbox: jinja's immutable one, reduced to what is named here and metered."""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import meta
from jinja2.ext import LoopControlExtension
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.tests import TESTS
from jinja2.utils import Cycler, Joiner, Namespace, missing

from tuili.loading.files import shown
from tuili.templating import filters, source
from tuili.templating.marked_text import MarkedText, join, marked, spans_of
from tuili.templating.meter import METER, as_text, concat, join_with, refuse

MAX_CALL_DEPTH = 48
MAX_INTEGER_BITS = 4096

# Names that a template may print although nothing was given for them; transformers prints nothing there.
_OPTIONAL_NAMES = frozenset({
    "tools", "documents", "bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token",
    "mask_token", "system_message", "date_string", "builtin_tools", "custom_tools",
})  # fmt: skip

_STR_METHODS = frozenset({
    "capitalize", "casefold", "center", "count", "endswith", "expandtabs", "find", "format", "index",
    "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle",
    "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace",
    "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith",
    "strip", "swapcase", "title", "upper", "zfill",
})  # fmt: skip
_ATTRIBUTES: tuple[tuple[type, frozenset[str]], ...] = (
    (str, _STR_METHODS),
    (dict, frozenset({"items", "keys", "values", "get", "copy"})),
    (list, frozenset({"index", "count", "copy"})),
    (tuple, frozenset({"index", "count"})),
    (LoopContext, frozenset({
        "index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem",
        "depth", "depth0", "cycle", "changed",
    })),
    (Cycler, frozenset({"current", "next", "reset"})),
)  # fmt: skip


class _Undefined(Undefined):
    """A missing attribute prints as nothing, as in transformers; a name that nobody defined is a mistake."""

    __slots__ = ()

    def __init__(self, hint: str | None = None, obj: Any = missing, name: Any = None, **more: Any) -> None:
        # Errors name what is missing; a name that a user wrote must not get into a log.
        super().__init__(hint, obj, "…" if isinstance(name, MarkedText) else name, **more)

    def __str__(self) -> str:
        if self._undefined_obj is missing and self._undefined_name not in _OPTIONAL_NAMES:
            refuse(f"{shown(str(self._undefined_name))} is not defined", "template_undefined")
        return ""


class _Namespace(Namespace):
    """jinja's, without names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            refuse(f"a namespace cannot hold {shown(name)}", "template_security")
        super().__setitem__(name, value)


class _Format:
    """`text.format`, with jinja's sandbox around the fields."""

    def __init__(self, environment: Sandbox, text: str) -> None:
        self._environment, self._text = environment, text

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        meter = METER.get()
        has_marks = meter.weigh((self._text, args, kwargs))
        n_chars = len(self._text)
        for _, _, spec, _ in string.Formatter().parse(self._text):
            if spec and "{" in spec:
                refuse("a format takes its width from an argument", "template_size")
            n_chars += sum(int(number[:9]) for number in re.findall(r"\d+", spec or ""))
        meter.allow(n_chars)
        result = SandboxedFormatter(self._environment).vformat(self._text, args, kwargs)
        meter.allow(len(result))
        return MarkedText(result) if has_marks else result


def _raise_exception(message: Any = "") -> None:
    """The template's own refusal. What a user wrote is left out: errors may be logged."""
    text = as_text(message)
    for begin, end in reversed(spans_of(text)):
        text = str.__str__(text[:begin]) + "…" + str.__str__(text[end:])
    refuse(f"it refuses this conversation: {shown(text, 200)}", "template_raised")


def _strftime_now(format: str) -> str:
    if not isinstance(format, str) or len(format) > 256 or re.search(r"%[-_0^#]?\d", format):
        refuse("strftime_now needs a short format without widths", "template_error")
    return (METER.get().now or datetime.now()).strftime(format)


def _range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > filters.MAX_COUNT:
        refuse(f"range: more than {filters.MAX_COUNT} numbers", "template_size")
    return numbers


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


_GLOBALS: dict[str, Any] = {
    "range": _range, "dict": _dict, "namespace": _Namespace, "cycler": Cycler, "joiner": Joiner,
    "raise_exception": _raise_exception, "strftime_now": _strftime_now,
}  # fmt: skip


def _metered_test(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any) -> Any:
        meter = METER.get(None)
        if meter is not None:
            meter.weigh(args)
        return function(*args)

    return run


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all chat templates; `compile_template` makes the only one."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(concat)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=_Undefined,
            finalize=as_text,
            optimized=False,  # constants are folded where nothing is metered
            extensions=[source.Generation, LoopControlExtension],
        )
        self.filters = filters.all_filters()
        comparing = ("==", "!=", "<", "<=", ">", ">=", "eq", "equalto", "ne", "lt", "le", "gt", "ge", "in")
        self.tests = {
            name: _metered_test(cast(Callable[..., Any], test))
            if name in (*comparing, "lessthan", "greaterthan")
            else test
            for name, test in TESTS.items()
        }
        self.globals = dict(_GLOBALS)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may see this attribute."""
        if isinstance(obj, _Namespace):
            return not attr.startswith("_")
        return any(isinstance(obj, kind) and attr in names for kind, names in _ATTRIBUTES)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """An attribute that exists but is not for templates."""
        refuse(f"{shown(attribute)} of a {_kind(obj)} is out of bounds", "template_security")

    def wrap_str_format(self, value: Any) -> _Format | None:
        """`text.format` and `text.format_map` where an attribute is looked up."""
        text = getattr(value, "__self__", None)
        if not isinstance(text, str) or value.__name__ != "format":
            return None
        return _Format(self, text)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`."""
        if not isinstance(argument, (str, int, slice)):
            METER.get().weigh(argument)
        return super().getitem(obj, argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """`obj(*args)` for the functions, macros and methods that exist for templates, and no others."""
        meter = METER.get()
        if meter.depth >= MAX_CALL_DEPTH:
            refuse(f"more than {MAX_CALL_DEPTH} calls within each other", "template_depth")
        meter.spend(8)
        meter.depth += 1
        try:
            if isinstance(__obj, (Macro, LoopContext)):
                return __context.call(__obj, *args, **kwargs)
            for scope in ("_loop_vars", "_block_vars"):  # for functions that take the context; none here do
                kwargs.pop(scope, None)
            return __self._call_other(__obj, args, kwargs)
        finally:
            meter.depth -= 1

    def _call_other(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        owner = getattr(function, "__self__", None)
        name = getattr(function, "__name__", "")
        if isinstance(function, (Joiner, Undefined)) or function in (_Namespace, Cycler, Joiner):
            return function(*args, **kwargs)  # what is undefined says so
        meter = METER.get()
        if isinstance(function, _Format) or any(function is known for known in _GLOBALS.values()):
            meter.weigh((args, kwargs))
            return function(*args, **kwargs)
        if not any(isinstance(owner, kind) and name in names for kind, names in _ATTRIBUTES):
            refuse(f"a {_kind(function)} cannot be called", "template_security")
        has_marks = meter.weigh((args, kwargs))
        if isinstance(owner, str):
            return self._call_str(owner, name, args, kwargs, has_marks=has_marks)
        if name in ("index", "count"):
            meter.weigh(owner)
        elif isinstance(owner, (dict, list)):
            meter.spend(len(owner))
        return function(*args, **kwargs)

    def _call_str(
        self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, has_marks: bool
    ) -> Any:
        meter = METER.get()
        meter.allow(len(text))
        if name == "join" and len(args) == 1:
            return join_with(text, args[0])
        filters.check_growth(meter, name, text, args, kwargs)
        result = getattr(text, name)(*args, **kwargs)
        if isinstance(result, list):
            meter.spend(len(result))
        if isinstance(result, MarkedText) or not (has_marks or spans_of(text)):
            return result
        return marked(result)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`left operator right`, measured first."""
        meter = METER.get()
        if isinstance(left, str) and operator == "%":
            has_marks = meter.weigh((left, right))
            meter.allow(len(left) + filters.padding_of_percent(left))
            text = str.__str__(left) % right
            meter.allow(len(text))
            return MarkedText(text) if has_marks else text
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            meter.allow(len(left) + len(right))
            return join((left, right)) if spans_of(left) or spans_of(right) else left + right
        if operator == "*" and isinstance(left, int) and isinstance(right, (str, list, tuple)):
            left, right = right, left
        if isinstance(left, (str, list, tuple)):
            return _of_sequence(operator, left, right)
        return self._of_numbers(operator, left, right)

    def _of_numbers(self, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (right if operator == "**" else 1) + right.bit_length()
            if bits > MAX_INTEGER_BITS:
                refuse(f"an integer of more than {MAX_INTEGER_BITS} bits", "template_size")
        return self.binop_table[operator](left, right)


def _of_sequence(operator: str, left: Any, right: Any) -> Any:
    """Repetition of a text or list, concatenation of lists."""
    meter = METER.get()
    if operator == "*" and isinstance(right, int):
        n_items = len(left) * max(right, 0)
        meter.allow(n_items if isinstance(left, str) else 8 * n_items)
        text = left * right
        return marked(text) if isinstance(left, str) and spans_of(left) else text
    if operator == "+" and isinstance(right, type(left)):
        meter.allow(8 * (len(left) + len(right)))
        return left + right
    return refuse(f"{_kind(left)} {operator} {_kind(right)} is not defined", "template_error")


def _kind(value: object) -> str:
    return "str" if isinstance(value, str) else type(value).__name__.lstrip("_").lower()


@functools.cache
def _sandbox() -> Sandbox:
    return Sandbox()


@functools.lru_cache(maxsize=16)
def compile_template(text: str) -> jinja2.Template:
    """The template of this source, compiled once.

    raises  TemplateError; jinja2.TemplateSyntaxError and what Python's own compiler raises for nesting
    """
    sandbox = _sandbox()
    return sandbox.from_string(source.parse(sandbox, text))


@functools.lru_cache(maxsize=16)
def variables_of(text: str) -> frozenset[str]:
    """The names that a template of this source takes from outside.

    raises  as `compile_template`
    """
    sandbox = _sandbox()
    return frozenset(meta.find_undeclared_variables(source.parse(sandbox, text)) - sandbox.globals.keys())
