"""Tools of a chat completion: what the prompt says of them, and which answers are calls."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tuili import GrammarError, InvalidParameterError
from tuili.chat import completions, tool_calls
from tuili.chat.tool_calls import Call, CallReader, Tools, in_words, tools_of


def function(name, **more):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}, **more}}


TOOLS = tools_of({"tools": [function("add"), function("look_up")]})
CALL = '{"name": "add", "arguments": {"a": 1}}'
ADD = Call("add", '{"a": 1}')

ANSWERS = [
    ("plain text", "plain text", []),
    ("a < b <tool", "a < b <tool", []),
    ("", "", []),
    (f"<tool_call>\n{CALL}\n</tool_call>", "", [ADD]),
    (f"Let me see. <tool_call>{CALL}</tool_call>", "Let me see. ", [ADD]),
    (f"<tool_call>[{CALL}, {CALL}]</tool_call>", "", [ADD, ADD]),  # SmolLM2's form
    (f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "", [ADD, ADD]),
    (f"<tool_call>{CALL}", "", [ADD]),  # the closing tag was a stop string, or is cut
    ('{"name": "add", "parameters": {"a": 1}}', "", [ADD]),  # Llama's form
    ('{"name": "other", "parameters": {}}', '{"name": "other", "parameters": {}}', []),
    ('{"result": 3}', '{"result": 3}', []),
    ("<tool_call>no JSON</tool_call>", "<tool_call>no JSON</tool_call>", []),
    (f"<tool_call>{CALL}</tool_call> and so on", f"<tool_call>{CALL}</tool_call> and so on", []),
    ('<tool_call>{"name": "add", "arguments": 3}</tool_call>',) * 2 + ([],),
    ("[" * 100, "[" * 100, []),
]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("answer, text, calls", ANSWERS, ids=[str(i) for i in range(len(ANSWERS))])
def test_an_answer_is_parted_alike_however_it_comes(answer, text, calls, size):
    reader = CallReader(TOOLS)
    shown = "".join(reader.push(answer[i : i + size]) for i in range(0, len(answer), size))
    rest, found = reader.finish()
    assert (shown + rest, found) == (text, calls)


def test_without_tools_nothing_is_a_call():
    for tools in (Tools(), tools_of({"tools": [function("add")], "tool_choice": "none"})):
        reader = CallReader(tools)
        assert reader.push(CALL) + reader.finish()[0] == CALL


def test_text_is_shown_as_soon_as_it_cannot_be_a_call():
    reader = CallReader(TOOLS)
    assert [reader.push(piece) for piece in ("so ", "<tool", "box>", " x<")] == ["so ", "", "<toolbox>", " x"]


BAD = [
    {"tools": "x"},
    {"tools": ["x"]},
    {"tools": [{"type": "function", "function": "x"}]},
    {"tools": [function(3)]},
    {"tools": [function("a b")]},
    {"tools": [function("a"), function("a")]},
    {"tools": [{"type": "retrieval"}]},
    {"tools": [function("a", extra=1)]},
    {"tools": [function("a", description=1)]},
    {"tools": [function("a") | {"type": np.array(["function", "x"])}]},
    {"tools": [{"type": "function", "function": {"name": "a", 10**5000: 1}}]},
    {"tools": [function("a", parameters={"type": "object", b"a": 1})]},
    {"tools": [function("a", parameters={"type": object()})]},
    {"tools": [function("a", parameters={"minimum": 10**5000})]},
    {"tools": [function("a")], "tool_choice": {"type": np.arange(2), "function": {"name": "a"}}},
    {"tools": [function("a")] * 129},
    {"tools": [function("a")], "tool_choice": "any"},
    {"tools": [function("a")], "tool_choice": np.array(["auto", "none"])},
    {"tools": [function("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}},
    {"tools": [function("a")], "parallel_tool_calls": "no"},
    {"tool_choice": "required"},
]


@pytest.mark.parametrize("fields", BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_cannot_be_done_is_refused(fields):
    with pytest.raises(InvalidParameterError):
        tools_of(fields)


def test_a_forced_call_has_a_schema():
    fields = {"tools": [function("a"), function("b")]}
    assert tools_of(fields).schema() is None
    assert len(tools_of({**fields, "tool_choice": "required"}).schema()["anyOf"]) == 2
    named = {"type": "function", "function": {"name": "b"}}
    assert tools_of({**fields, "tool_choice": named}).schema()["properties"]["name"] == {"const": "b"}


STRICT = {
    "type": "object",
    "properties": {"n": {"enum": [1, 22]}},
    "required": ["n"],
    "additionalProperties": False,
}


def called(name, arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


F, G = called("f", {"n": 22}), called("g", {"x": [1]})


@pytest.mark.parametrize(
    "answer, takes",
    [
        ("plain text", True),
        ("", True),
        ("a < b <tool> <tool_call", True),
        (F, True),
        (f"Let me see. {F}", True),
        (G, True),
        (f"{F}\n{G}", "several"),
        (json.dumps({"name": "f", "arguments": {"n": 1}}), True),
        (json.dumps({"name": "f", "arguments": {"n": 2}}), False),
        (called("f", {"n": 3}), False),
        (called("h", {}), False),
        ("so: <tool_call>no", False),
        (f"{F} and so on", False),
        ('{"a": 1}', False),
        (' \x1c[{"name": "f", "arguments": {}}]', False),
    ],
)
@pytest.mark.parametrize("several", [True, False])
def test_a_free_answer_calls_strict_functions_as_they_ask(answer, takes, several):
    library = pytest.importorskip("llguidance", reason="llguidance is not installed: tuili[structured]")
    tools = tools_of(
        {
            "tools": [function("f", parameters=STRICT, strict=True), function("g")],
            "parallel_tool_calls": several,
        }
    )
    matcher = library.LLMatcher(
        byte_vocabulary(library), library.LLMatcher.grammar_from_lark(tools.grammar())
    )
    whole = matcher.consume_tokens(list(answer.encode())) and matcher.is_accepting()
    assert whole == (several if takes == "several" else takes), matcher.get_error()
    if whole and "name" in answer:
        reader = CallReader(tools)
        reader.push(answer)
        assert reader.finish()[1], "and what it takes is read as calls"


def byte_vocabulary(library):
    class Bytes:
        is_tokenizer_wrapper, bos_token_id, eos_token_id = True, None, 256

        def __init__(self):
            self.tokens = [*(bytes([i]) for i in range(256)), b"</s>"]
            self.special_token_ids = [256]

        def __call__(self, text):
            return list(text if isinstance(text, bytes) else text.encode())

    return library.LLTokenizer(Bytes(), n_vocab=257, eos_token=[256], slices=[])


def test_what_is_free_has_no_grammar():
    fields = {"tools": [function("f", strict=True)]}
    assert tools_of({**fields, "tool_choice": "none"}).grammar() is None
    assert tools_of({**fields, "tool_choice": "required"}).grammar() is None
    assert tools_of({"tools": [function("f")], "parallel_tool_calls": True}).grammar() is None
    assert tools_of({"tool_choice": "auto", "parallel_tool_calls": False}).grammar() is None


NESTED = {
    "type": "object",
    "properties": {"at": {"$ref": "#/$defs/point"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["at"],
    "additionalProperties": False,
    "$defs": {"point": STRICT},
}


@pytest.mark.parametrize("n", [1, 2], ids=["alone", "beside another"])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_parameters_may_refer_to_parts_of_themselves(choice, n):
    """As pydantic writes models in models."""
    library = pytest.importorskip("llguidance", reason="llguidance is not installed: tuili[structured]")
    offered = [function("g"), function("f", parameters=NESTED, strict=True)][-n:]
    params = completions.chat_request({"tools": offered, "tool_choice": choice}).params
    grammar = params.grammar or library.LLMatcher.grammar_from_json_schema(params.json_schema)
    for x, takes in ((22, True), (3, False)):
        arguments = {"at": {"n": 1}, "next": {"at": {"n": x}, "next": None}}
        answer = json.dumps({"name": "f", "arguments": arguments})
        answer = answer if choice == "required" else f"<tool_call>\n{answer}\n</tool_call>"
        matcher = library.LLMatcher(byte_vocabulary(library), grammar)
        whole = matcher.consume_tokens(list(answer.encode())) and matcher.is_accepting()
        assert whole == takes, (answer, matcher.get_error())


def test_many_strict_functions_may_be_offered():
    """Names, types and descriptions: each has a colon, which in rules would be a definition's."""
    said = {"type": "string", "description": "A::B && C, " * 4}
    wide = {"type": "object", "properties": {f"p{i}": said for i in range(6)}, "additionalProperties": False}
    offered = [function(f"f{i}", parameters=wide, strict=True) for i in range(20)]
    assert completions.chat_request({"tools": offered}).params.grammar
    wrong = function("f", parameters={"$ref": "#/$defs/a"}, strict=True)
    with pytest.raises(GrammarError, match=r"tools\.f\.parameters"):
        completions.chat_request({"tools": [*offered, wrong]})


def test_a_template_without_tools_reads_of_them():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    written = tool_calls.in_words(messages, TOOLS)
    assert [message["role"] for message in written] == ["system", "user", "assistant", "user"]
    assert (
        written[0]["content"].startswith("Be brief.")
        and json.dumps(TOOLS.definitions[0]) in written[0]["content"]
    )
    reader = CallReader(TOOLS)
    reader.push(written[2]["content"])
    assert reader.finish() == ("", [ADD]), "what is written of a call reads as that call"
    assert written[3]["content"] == "<tool_response>\n2\n</tool_response>"
    assert tool_calls.in_words(messages[:2], Tools()) == messages[:2]


def test_chinese_stays_as_it_is_written():
    """Of definitions and calls in a prompt, and of an answer's arguments."""
    tools = tools_of({"tools": [function("f", description="查天气")]})
    call = '{"name": "f", "arguments": {"城": "北京"}}'
    function_called = {"name": "f", "arguments": {"城": "北京"}}
    messages = [
        {"role": "user", "content": "北京"},
        {"role": "assistant", "tool_calls": [{"function": function_called}]},
        {"role": "tool", "content": "晴"},
    ]
    first, _, called, _ = in_words(messages, tools)
    assert "查天气" in first["content"] and call in called["content"]
    reader = CallReader(tools)
    reader.push(f"<tool_call>{call}</tool_call>")
    assert reader.finish()[1][0].arguments == '{"城": "北京"}'
