"""JSON schemas: 50 that describe something, and 20 that are hostile, each with what it is."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string", "minLength": 1, "maxLength": 24}
INTEGER: Schema = {"type": "integer"}
PERCENT: Schema = {"type": "number", "minimum": 0, "maximum": 100}
DATE: Schema = {"type": "string", "pattern": r"^20[0-2][0-9]-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$"}
ZIP: Schema = {"type": "string", "pattern": "^[0-9]{5}$"}


def record(optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object of these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def some(items: Schema, least: int = 1, most: int = 4) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


ADDRESS = record(street=STRING, city=STRING, zip=ZIP)
AGE: Schema = {"type": "integer", "minimum": 0, "maximum": 120}
PERSON = record(name=STRING, age=AGE)
POINT = record(x=PERCENT, y=PERCENT)
AT_POINT: Schema = {"$ref": "#/$defs/point"}
TREE = record(("children",), name=STRING, children=some({"$ref": "#/$defs/node"}, 0, 2))

GOOD: dict[str, Schema] = {
    "a person": PERSON,
    "a person with an address": record(person=PERSON, address=ADDRESS),
    "a person who may have an address": record(("address",), person=PERSON, address=ADDRESS),
    "a list of people": some(PERSON),
    "a list of names": some(STRING, 2, 5),
    "three numbers": some({"type": "number"}, 3, 3),
    "a list that may be empty": some(INTEGER, 0, 3),
    "a table of numbers": some(some({"type": "integer", "minimum": -9, "maximum": 9}, 2, 3), 2, 3),
    "a colour": one_of("red", "green", "blue"),
    "a value of several types": one_of("none", 0, None, True, 2.5),
    "yes or no": {"type": "boolean"},
    "nothing": {"type": "null"},
    "an integer between 1 and 6": {"type": "integer", "minimum": 1, "maximum": 6},
    "a temperature": record(celsius={"type": "number", "minimum": -89.2, "maximum": 56.7}),
    "a probability": record(p={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    "a multiple of 5": {"type": "integer", "minimum": 0, "maximum": 1000, "multipleOf": 5},
    "a date": DATE,
    "an event": record(title=STRING, date=DATE, guests=some(PERSON, 0, 2)),
    "an identifier": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "a telephone number": {"type": "string", "pattern": r"^\+[1-9][0-9]{6,12}$"},
    "a date as a format": {"type": "string", "format": "date"},
    "a time as a format": {"type": "string", "format": "time"},
    "a short text": {"type": "string", "minLength": 3, "maxLength": 12},
    "an e-mail address": {"type": "string", "pattern": r"^[a-z]{2,10}@[a-z]{2,10}\.(com|org|cn)$"},
    "a constant": record(kind={"const": "cat"}, name=STRING),
    "a text or a number": {"anyOf": [STRING, INTEGER]},
    "a value that may be null": record(name=STRING, nickname={"type": ["string", "null"], "maxLength": 12}),
    "a shape": {
        "oneOf": [
            record(kind={"const": "circle"}, radius=PERCENT),
            record(kind={"const": "square"}, side=PERCENT),
        ]
    },
    "one of two types": {"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 99}]},
    "a list of shapes": some({"anyOf": [record(circle=POINT), record(line=some(POINT, 2, 2))]}, 1, 3),
    "two references": {"$defs": {"point": POINT}, **record(start=AT_POINT, end=AT_POINT)},
    "a tree": {"$defs": {"node": record(("leaf",), name=STRING, leaf={"type": "boolean"})}, **TREE},
    "a list that contains itself": {
        "$defs": {"list": record(("rest",), head=INTEGER, rest={"$ref": "#/$defs/list"})},
        "$ref": "#/$defs/list",
    },
    "all of two": {
        "allOf": [
            {"type": "object", "properties": {"name": STRING}, "required": ["name"]},
            {"type": "object", "properties": {"price": PERCENT}, "required": ["price"]},
        ],
        "properties": {"name": True, "price": True},
        "additionalProperties": False,
    },
    "a tuple": {
        "type": "array",
        "prefixItems": [STRING, INTEGER, {"type": "boolean"}],
        "items": False,
        "minItems": 3,
    },
    "a map of prices": {
        "type": "object",
        "properties": {"apple": PERCENT},
        "required": ["apple"],
        "additionalProperties": PERCENT,
        "maxProperties": 3,
    },
    "all optional": record(("a", "b", "c"), a=INTEGER, b={"type": "boolean"}, c=STRING),
    "an answer with reasons": record(answer=one_of("yes", "no", "maybe"), reasons=some(STRING, 1, 3)),
    "a recipe": record(
        name=STRING,
        minutes={"type": "integer", "minimum": 1, "maximum": 240},
        ingredients=some(record(name=STRING, grams={"type": "integer", "minimum": 1, "maximum": 2000})),
    ),
    "a weather report": record(
        place=STRING, sky=one_of("sunny", "cloudy", "rain"), days=some(record(date=DATE, high=PERCENT), 2, 2)
    ),
    "a function call": record(
        name=one_of("search", "open"), arguments=record(("limit",), query=STRING, limit=INTEGER)
    ),
    "a deep object": record(a=record(b=record(c=record(d=record(e=record(f=INTEGER)))))),
    "quotes and backslashes": one_of('say "hi"', "a\\b", "line\nbreak", "tab\tstop"),
    "城市": record(城市=one_of("北京", "上海", "广州"), 人口={"type": "integer", "minimum": 1}),
    "一个人": record(姓名={"type": "string", "minLength": 1, "maxLength": 8}, 年龄=AGE),
    "一本书": record(("作者",), 书名=one_of("红楼梦", "西游记"), 作者=one_of("曹雪芹", "吴承恩")),
    "天气": record(天气=one_of("晴", "多云", "雨"), 温度={"type": "integer", "minimum": -40, "maximum": 50}),
    "汉字": {"type": "string", "pattern": "^[一-龥]{2,4}$"},
    "emoji": record(mood=one_of("😀", "😢", "👍🏽"), reason=STRING),
    "a title and a description": {"title": "Order", "description": "one", **record(id=ZIP, total=PERCENT)},
}  # fmt: skip


def nested(depth: int, kind: str = "items") -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(depth):
        schema = {kind: schema}
    return schema


def _doubling(kind: str) -> Schema:
    two = {f"d{i}": {kind: [{"$ref": f"#/$defs/d{i - 1}"}] * 2} for i in range(1, 40)}
    return {"$defs": two | {"d0": STRING}, "$ref": "#/$defs/d39"}


_CHAIN = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(10_000)} | {"d10000": {}}
_CIRCLE = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
_LEFT_OUT = "".join(f"[^{c}]?" for c in "abcdefghijklmnopqrstuvwxyz" * 40)
_WIDE = [{"anyOf": [{"properties": {f"k{i}{j}": STRING}} for j in range(4)]} for i in range(8)]

HOSTILE: dict[str, Any] = {
    "10 MB": {"description": "x" * 10_000_000},
    "10 MB of text": '{"description": "' + "x" * 10_000_000 + '"}',
    "depth 10^5": nested(100_000),
    "depth 10^5 in text": '{"items":' * 100_000 + "true" + "}" * 100_000,
    "a reference to itself": {"$ref": "#"},
    "references in a circle": {"$defs": _CIRCLE, "$ref": "#/$defs/a"},
    "an object that needs itself": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "a remote reference": {"$ref": "https://example.com/schema.json"},
    "a file as reference": {"$ref": "file:///etc/passwd"},
    "10^4 references": {"$defs": _CHAIN, "$ref": "#/$defs/d0"},
    "enum of 10^6": {"enum": list(range(1_000_000))},
    "10^5 properties": {"type": "object", "properties": {f"p{i}": {} for i in range(100_000)}},
    "a multiple of 0": {"type": "integer", "multipleOf": 0},
    "types that contradict": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "bounds that contradict": {"type": "integer", "minimum": 5, "maximum": 3},
    "a bound beyond 2^53": {"type": "integer", "minimum": 2**53 + 1},
    "false": False,
    "4^8 alternatives": {"allOf": _WIDE},
    "a keyword that is not implemented": {"type": "array", "items": True, "uniqueItems": True},
    "a pattern that does not end": {"type": "string", "pattern": "(" * 5000},
    "1,040 parts left out of a pattern": {"type": "string", "pattern": _LEFT_OUT},
    "1,040 parts left out of a name": {"type": "object", "patternProperties": {_LEFT_OUT: {}}},
    "60 patterns at once": {"allOf": [{"type": "string", "pattern": f"a.*{i}.*b"} for i in range(60)]},
    "40 patterns of names": {"type": "object", "patternProperties": {f"a{i}$": {} for i in range(40)}},
    "a pattern that looks around": {"type": "string", "pattern": "(?=a)b"},
    "a pattern that looks back": {"type": "string", "pattern": "(a)\\1"},
    "900 formats": {"type": "object", "properties": {f"p{i}": {"format": "uri"} for i in range(900)}},
    "1,200 bounds": {"anyOf": [{"type": "number", "minimum": 1.01 * i} for i in range(1200)]},
    "multiples that all hold": {"allOf": [{"multipleOf": 997}, {"multipleOf": 0.991}]},
    "2^40 ways to one": _doubling("oneOf"),
    "20^8 texts": {"allOf": [{"anyOf": [{"const": f"{i}{j}"} for j in range(20)]} for i in range(8)]},
    "10^7 ranges": {"allOf": [{"anyOf": [{"type": "integer", "minimum": j} for j in range(10)]}] * 7},
    "800 objects at once": {"allOf": [record((), **{f"a{i}": STRING}) for i in range(800)]},
    "what it is not": {"not": {"type": "string"}},
    "a condition": {"if": {"required": ["a"]}, "then": {"required": ["b"]}},
    "names that depend": {"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}},
    "one that holds something": {"type": "array", "contains": {"const": 1}},
    "a reference that another base changes": {"items": {"$id": "x", "$ref": "#"}},
    "a schema that relaxes itself": {"x-guidance": {"lenient": True}, "not": {}},
    "a key twice": '{"type": "object", "type": "array"}',
}  # fmt: skip
