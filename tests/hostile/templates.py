"""Hostile chat templates (rows CT-01 to CT-06) with the error code of each, and hostile messages (CT-07)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_DOUBLE_40_TIMES = "{% for i in range(40) %}{% set ns.x = %s %}{% endfor %}"


@dataclass(frozen=True)
class Case:
    """A template and the code of the TemplateError that it must end in."""

    row: str
    name: str
    template: str
    code: str

    def __str__(self) -> str:
        return f"{self.row}:{self.name}"


# Ways out of a sandbox that were published: attributes, subscripts, filters, formats, jinja's own objects.
_ESCAPES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "subscript": "{{ ''['__class__'] }}",
    "escaped name": r"{{ ''['\x5f\x5fclass\x5f\x5f'] }}",
    "of a dict": "{{ {}.__class__ }}",
    "of a list": "{{ [].__class__.__base__ }}",
    "of None": "{{ none.__class__ }}",
    "of an integer": "{{ (1).__class__ }}",
    "of the messages": "{{ messages.__class__ }}",
    "of a message": "{{ messages[0].__class__ }}",
    "of its content": "{{ messages[0].content.__class__ }}",
    "marks of the content": "{{ messages[0].content._spans }}",
    "cycler": "{{ cycler.__init__.__globals__ }}",
    "cycler's os": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "a cycler": "{{ cycler('a').__class__ }}",
    "joiner": "{{ joiner.__init__.__globals__ }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "a namespace": "{{ namespace().__class__ }}",
    "set in a namespace": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "self": "{{ self._TemplateReference__context }}",
    "a macro's function": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "a macro's call": "{% macro m() %}{% endmacro %}{{ m.__call__ }}",
    "a loop": "{% for i in [1] %}{{ loop._iterable }}{% endfor %}",
    "a function's globals": "{{ raise_exception.__globals__ }}",
    "range": "{{ range.__code__ }}",
    "a generator's frame": "{{ ((1, 2) | map('int')).gi_frame.f_globals }}",
    "format": "{{ '{0.__class__}'.format(1) }}",
    "format of content": "{{ '{0.__class__.__mro__}'.format(messages[0].content) }}",
    "format with index": "{{ '{0[__class__]}'.format('') }}",
    "format_map": "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "map of an attribute": "{{ [''] | map(attribute='__class__') | list }}",
    "sort by an attribute": "{{ [''] | sort(attribute='__class__') }}",
    "groupby": "{{ [''] | groupby('__class__') }}",
    "selectattr": "{{ [''] | selectattr('__class__') | list }}",
    "sum of an attribute": "{{ [''] | sum('__class__') }}",
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update({'a': 1}) }}",
    "to_bytes": "{{ (5).to_bytes(10**9, 'big') }}",
    "encode": "{{ 'x'.encode('utf-32') }}",
    "translate": "{{ 'x'.translate({120: 'y'}) }}",
    "calling text": "{{ 'x'() }}",
    "calling a message": "{{ messages[0]() }}",
}
_ABSENT = {
    "attr": ("{{ '' | attr('__class__') }}", "template_syntax"),
    "random": ("{{ messages | random }}", "template_syntax"),
    "pprint": ("{{ messages | pprint }}", "template_syntax"),
    "lipsum": ("{{ lipsum.__globals__.os }}", "template_error"),
    "request": ("{{ request.application.__globals__ }}", "template_error"),
    "config": ("{{ config.items() }}", "template_error"),
    "joined letters": ("{{ ''['__cla' ~ 'ss__'] }}", "template_security"),
    "attribute of undefined": ("{{ nope.__class__ }}", "template_security"),
    "autoescape": ("{% autoescape true %}x{% endautoescape %}", "template_forbidden"),
    "block": ("{% block a %}{% endblock %}", "template_forbidden"),
}
_FILES = {
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as y %}",
    "from": "{% from '/etc/passwd' import y %}",
    "extends": "{% extends 'x' %}",
}


def _nested(start: str, body: str, end: str, n: int) -> str:
    return start * n + body + end * n


def _work() -> Iterator[Case]:
    """CT-03: time."""
    loop = "{% for a in range(100000) %}"
    yield Case("CT-03", "four loops", _nested(loop, "", "{% endfor %}", 4), "template_fuel")
    ifs = "{% for a in range(100000) if a > 100000 %}{% endfor %}"
    yield Case("CT-03", "loops whose condition is never true", ifs * 60, "template_fuel")
    macro = "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}"
    yield Case("CT-03", "a macro that calls itself twice", macro, "template_depth")
    recursive = "{% for x in [messages] recursive %}{{ loop([messages]) }}{% endfor %}"
    yield Case("CT-03", "a recursive loop", recursive, "template_depth")
    big = "{% set b = 'ab' * 1000000 %}" + loop
    yield Case("CT-03", "searches", big + "{% if 'aaac' in b %}{% endif %}{% endfor %}", "template_fuel")
    yield Case("CT-03", "upper case", big + "{% set c = b | upper %}{% endfor %}", "template_fuel")
    yield Case("CT-03", "methods", big + "{% set c = b.upper() %}{% endfor %}", "template_fuel")
    yield Case(
        "CT-03", "map", "{{ (['ab' * 1000000] * 100000) | map('upper') | list | length }}", "template_fuel"
    )
    yield Case("CT-03", "range", "{{ range(10**9) | list }}", "template_size")
    for kind, pair in (("list", "[ns.x, ns.x]"), ("tuple", "(ns.x, ns.x)")):
        start = "{% set ns = namespace(x=(1,)) %}" + _DOUBLE_40_TIMES.replace("%s", pair)
        for name, use in {
            "printed": "{{ ns.x }}", "compared": "{{ ns.x == [ns.x] }}", "as JSON": "{{ ns.x | tojson }}",
            "searched": "{{ 1 in [ns.x] }}", "joined": "{{ [ns.x] | join }}",
            "in a text": "{{ '%s' % (ns.x,) }}",
            "a subscript": "{{ {}[ns.x] }}", "a key": "{{ {ns.x: 1} }}",
            "sorted": "{{ [ns.x, ns.x] | sort }}",
            "a test": "{{ ns.x is eq ns.x }}", "looked up": "{{ {}.get(ns.x) }}",
            "indexed": "{{ [ns.x].index(1) }}",
        }.items():  # fmt: skip
            yield Case("CT-03", f"a {kind} of 2^40 items {name}", start + use, "template_fuel")


def _size() -> Iterator[Case]:
    """CT-04: memory."""
    for name, expression in {
        "repeated text": "'x' * 10**9", "repeated from the left": "10**9 * 'x'",
        "repeated list": "[1] * 10**9",
        "percent": "'%1000000000d' % 1", "percent with *": "'%*d' % (10**9, 1)",
        "precision": "'%.1000000000f' % 1",
        "center": "'x' | center(10**9)", "ljust": "'x'.ljust(10**9)", "zfill": "'x'.zfill(10**9)",
        "expandtabs": "'\\t'.expandtabs(10**9)", "indent": "'x\\ny' | indent(10**9)",
        "indent by text": "('x\\n' * 9999) | indent('y' * 9999)", "tojson": "messages | tojson(indent=10**9)",
        "replace": "('x' * 100000).replace('x', 'y' * 100000)",
        "replace filter": "('x' * 9999) | replace('', 'y' * 9999)",
        "join": "('x' * 100000).join(['a'] * 100000)", "join filter": "(['a'] * 99999) | join('x' * 9999)",
        "format": "'{:1000000000}'.format(1)", "format of format": "'{:{}}'.format(1, 10**9)",
        "format filter": "'%1000000000d' | format(1)", "power": "10 ** 1000 ** 2",
        "product": "(10**999) * (10**999)",
        "batch": "[1] | batch(10**9, 'x') | list", "slice": "[1] | slice(10**9) | list",
    }.items():  # fmt: skip
        yield Case("CT-04", name, "{{ " + expression + " }}", "template_size")
    start = "{% set ns = namespace(x='x' * 1000) %}" + _DOUBLE_40_TIMES
    for doubled in ("ns.x ~ ns.x", "ns.x + ns.x", "ns.x * 2"):
        yield Case("CT-04", f"doubled by {doubled}", start.replace("%s", doubled), "template_size")
    yield Case(
        "CT-04", "printed a lot", "{% for i in range(99) %}{{ 'x' * 100000 }}{% endfor %}", "template_size"
    )
    deep = "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}"
    deep += "{{ ns.x | tojson }}"
    yield Case("CT-04", "a list 9999 deep", deep, "template_depth")


def _source() -> Iterator[Case]:
    """CT-05: the source itself."""
    n = 10_000
    yield Case("CT-05", "50 MB", "x" * (50 << 20), "template_size")
    yield Case(
        "CT-05", "10^5 branches", "{% if 0 %}" + "{% elif 0 %}" * 100_000 + "{% endif %}", "template_size"
    )
    yield Case("CT-05", "20000 outputs", "{{ 1 }}" * 20_000, "template_size")
    macro = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    yield Case("CT-05", "a macro that calls itself", macro, "template_depth")
    for name, template in {
        "parentheses": "{{ " + _nested("(", "1", ")", n) + " }}",
        "lists": "{{ " + _nested("[", "1", "]", n) + " }}",
        "ifs": _nested("{% if 1 %}", "", "{% endif %}", n),
        "loops": _nested("{% for i in [1] %}", "", "{% endfor %}", 99),
        "set blocks": _nested("{% set a %}", "", "{% endset %}", n), "not": "{{ " + "not " * n + "1 }}",
        "signs": "{{ " + "-" * n + "1 }}", "else": "{{ " + "1 if 0 else " * n + "1 }}",
        "sum": "{{ " + "1+" * n + "1 }}",
        "attributes": "{{ messages" + ".a" * 999 + " }}", "filters": "{{ 1" + " | int" * 999 + " }}",
        "calls": "{{ x" + "()" * 999 + " }}", "subscripts": "{{ x" + "[0]" * 999 + " }}",
        "products": "{{ " + "1*" * 999 + "1 }}",
    }.items():  # fmt: skip
        yield Case("CT-05", name, template, "template_depth")


def _mistakes() -> Iterator[Case]:
    """CT-06: errors."""
    for name, template, code in (
        ("empty if", "{% if %}", "template_syntax"),
        ("open tag", "{{ messages", "template_syntax"),
        ("unknown tag", "{% nope %}", "template_syntax"),
        ("unknown filter", "{{ 1 | nope }}", "template_syntax"),
        ("unknown test", "{{ 1 is nope }}", "template_syntax"),
        ("undefined variable", "{{ nope }}", "template_undefined"),
        ("attribute of undefined", "{{ nope.x }}", "template_error"),
        ("call of undefined", "{{ nope() }}", "template_error"),
        ("division by zero", "{{ 1 / 0 }}", "template_error"),
        ("types", "{{ 'x' + 1 }}", "template_error"),
        ("replace by name", "{{ 'x' | replace(old='x', new='y') }}", "template_error"),
        ("huge integer", "{{ " + "9" * 5000 + " }}", "template_error"),
        ("21 loops", _nested("{% for i in [1] %}", "", "{% endfor %}", 21), "template_error"),
        ("raise_exception", "{{ raise_exception('no') }}", "template_raised"),
        ("strftime_now with a width", "{{ strftime_now('%999999d') }}", "template_error"),
    ):
        yield Case("CT-06", name, template, code)


CASES = [
    *(Case("CT-01", name, template, "template_security") for name, template in _ESCAPES.items()),
    *(Case("CT-01", f"absent {name}", template, code) for name, (template, code) in _ABSENT.items()),
    *(Case("CT-02", name, template, "template_forbidden") for name, template in _FILES.items()),
    *_work(),
    *_size(),
    *_source(),
    *_mistakes(),
]


def _deep(n: int) -> Any:
    value: Any = "x"
    for _ in range(n):
        value = {"a": value}
    return value


def _call(**function: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


_USER = {"role": "user", "content": "hi"}

# name -> (messages, the parameter that the error names)
MESSAGES: dict[str, tuple[Any, str]] = {
    "no list": ("hi", "messages"),
    "one message": (_USER, "messages"),
    "none": (None, "messages"),
    "a generator": (iter([_USER]), "messages"),
    "empty": ([], "messages"),
    "100000 messages": ([_USER] * 100_000, "messages"),
    "a string": ([_USER, "hi"], "messages[1]"),
    "no role": ([{"content": "hi"}], "messages[0].role"),
    "role None": ([{"role": None, "content": "hi"}], "messages[0].role"),
    "role empty": ([{"role": "", "content": "hi"}], "messages[0].role"),
    "role unknown": ([{"role": "root", "content": "hi"}], "messages[0].role"),
    "role is a list": ([{"role": ["user"], "content": "hi"}], "messages[0].role"),
    "no content": ([_USER, {"role": "user"}], "messages[1].content"),
    "content None": ([{"role": "user", "content": None}], "messages[0].content"),
    "content is a number": ([{"role": "user", "content": 5}], "messages[0].content"),
    "content is an object": ([{"role": "user", "content": {"text": "hi"}}], "messages[0].content"),
    "no parts": ([{"role": "user", "content": []}], "messages[0].content"),
    "a part that is text": ([{"role": "user", "content": ["hi"]}], "messages[0].content[0].type"),
    "a picture": ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
    "a part without text": ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    "deep key": ([_USER | {"x": _deep(10_000)}], "messages[0].x.a.a"),
    "an object of a class": ([_USER | {"x": object()}], "messages[0].x"),
    "a key that is a number": ([_USER | {"x": {1: 2}}], "messages[0].x"),
    "tool calls: no list": ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls"),
    "tool calls: empty": ([{"role": "assistant", "tool_calls": []}], "messages[0].tool_calls"),
    "tool call: text": ([{"role": "assistant", "tool_calls": ["x"]}], "messages[0].tool_calls[0]"),
    "tool call: no name": ([_call(arguments={})], "messages[0].tool_calls[0].function"),
    "arguments: a list": ([_call(name="f", arguments=[])], "messages[0].tool_calls[0].function.arguments"),
    "arguments: no JSON": ([_call(name="f", arguments="{")], "messages[0].tool_calls[0].function.arguments"),
}
