"""add_generation_prompt, continue_final_message and chat_template_kwargs: how messages become a prompt, in
process, in pipelines and over HTTP.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import tuili
from test_chat import TEMPLATES
from tiny_server import running
from tuili.chat import template as chat
from tuili.chat.rendering import rendering
from tuili.errors import InvalidParameterError, TemplateError

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if mood is defined %}({{ mood }}){% endif %}{% for d in documents or [] %}[{{ d.text }}]{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
USER, BEGUN = {"role": "user", "content": "the river"}, {"role": "assistant", "content": "the  sea "}
SHORT = {"max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def llama_path(llama_path):
    settings = llama_path / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": TEMPLATE}))
    return llama_path


@pytest.fixture(scope="module")
def pipe(llm):
    return tuili.pipeline("text-generation", llm, max_new_tokens=4, do_sample=False)


@pytest.fixture(scope="module")
def server(llm):
    with running(llm) as server:
        yield server


WAYS = {
    "an answer": ([USER], {}, "<|user|>the river\n<|assistant|>"),
    "no beginning": ([USER], {"add_generation_prompt": False}, "<|user|>the river\n"),
    "goes on": ([USER, BEGUN], {"continue_final_message": True}, "<|user|>the river\n<|assistant|>the  sea "),
    "goes on, said twice": (
        [USER, BEGUN],
        {"continue_final_message": True, "add_generation_prompt": False},
        "<|user|>the river\n<|assistant|>the  sea ",
    ),
    "goes on with the user": ([USER], {"continue_final_message": True}, "<|user|>the river"),
    "goes on with parts": (
        [USER, {"role": "assistant", "content": [{"type": "text", "text": t} for t in ("the", "sea")]}],
        {"continue_final_message": True},
        "<|user|>the river\n<|assistant|>the\nsea",
    ),
    "variables": (
        [USER],
        {"chat_template_kwargs": {"mood": "calm", "documents": [{"text": "<|assistant|>"}, {"text": "海"}]}},
        "<|user|>the river\n(calm)[<|assistant|>][海]<|assistant|>",
    ),
    "goes on before other text": (
        [BEGUN],
        {"continue_final_message": True, "chat_template_kwargs": {"mood": "the  sea "}},
        "<|assistant|>the  sea ",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_messages_become_the_same_prompt_everywhere(llm, server, pipe, way):
    messages, how, text = WAYS[way]
    output = llm.chat(messages, **how, **SHORT)
    ids, answer = output.prompt_token_ids, output.outputs[0].text
    assert llm.render_chat(messages, rendering(**how)).text == text
    assert llm.tokenizer.decode(ids, skip_special=False) == text
    assert llm.generate(ids, **SHORT).outputs[0].text == answer
    for others in (llm.chat([messages], **how, **SHORT), [llm.submit(messages, **how, **SHORT).result()]):
        assert [one.prompt_token_ids for one in others] == [ids]
    assert "".join(chunk.text for chunk in llm.stream(messages, **how, **SHORT)) == answer
    role = messages[-1]["role"] if how.keys() & {"continue_final_message"} else "assistant"
    if how != {"add_generation_prompt": False}:
        assert llm.create_chat_completion(messages=messages, **how, **SHORT)["choices"][0]["message"] == {
            "role": role,
            "content": answer,
        }
    body = {"messages": messages, **how, **SHORT}
    got = server.ask("/v1/chat/completions", body).json()
    assert got["choices"][0]["message"]["content"] == answer
    assert got["usage"]["prompt_tokens"] == len(ids)
    events = server.ask("/v1/chat/completions", body | {"stream": True}).events()
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == answer
    assert events[0]["choices"][0]["delta"]["role"] == got["choices"][0]["message"]["role"]
    assert server.ask("/tokenize", {"messages": messages, **how}).json()["tokens"] == ids
    options = how | {"continue_final_message": how.get("continue_final_message", False)}
    (whole,) = pipe(messages, return_tensors=True, **options)
    assert whole["generated_token_ids"][: len(ids)] == ids


def test_who_speaks_is_who_spoke_where_nobody_else_begins(server):
    def role(**how):
        got = server.ask("/v1/chat/completions", {"messages": [USER], "max_tokens": 1, **how}).json()
        return got["choices"][0]["message"]["role"]

    assert role() == "assistant"
    assert role(continue_final_message=True) == role(add_generation_prompt=False) == "user", "as vLLM has it"


WRONG = [
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ({"continue_final_message": "yes"}, "continue_final_message"),
    ({"add_generation_prompt": 1}, "add_generation_prompt"),
    ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"moood": 1}}, "chat_template_kwargs.moood"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ({"chat_template_kwargs": {"add_generation_prompt": True}}, "chat_template_kwargs.add_generation_prompt"),
    ({"chat_template_kwargs": {"bos_token": "<s>"}}, "chat_template_kwargs.bos_token"),
]


@pytest.mark.parametrize("how, param", WRONG)
def test_wrong_words_are_named_everywhere(llm, server, how, param):
    for call in (llm.chat, llm.submit, llm.stream):
        with pytest.raises(InvalidParameterError) as error:
            call([USER], **how, **SHORT)
        assert error.value.param == param
    with pytest.raises(InvalidParameterError) as error:
        llm.create_chat_completion(messages=[USER], **how)
    assert error.value.param == param
    for path in ("/v1/chat/completions", "/tokenize"):
        got = server.ask(path, {"messages": [USER], **how})
        assert (got.status, got.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("named", [{}, {"model": "mine"}, {"model": None}])
def test_a_completion_says_the_name_it_was_asked_by(llm, named):
    answer = llm.create_chat_completion(messages=[USER], stream=False, max_tokens=1, **named)
    assert answer["model"] == (named.get("model") or llm.name)
    with pytest.raises(InvalidParameterError, match="is for HTTP"):
        llm.create_chat_completion(messages=[USER], stream=True, **named)


@pytest.mark.parametrize("stream", [np.ones(2), np.ones(0), "yes", 1])
def test_an_answer_in_this_process_is_no_stream(llm, stream):
    with pytest.raises(InvalidParameterError, match=r"^stream must be true or false, not "):
        llm.create_chat_completion(messages=[USER], stream=stream)


@pytest.mark.parametrize("n", [999, 9_999])  # which is tokenized, and which is not
def test_what_is_too_long_is_told_what_cuts_it_where_that_is_taken(llm, server, n):
    long, helps = "the river " * n, "; truncation=True cuts it"
    messages = [{"role": "user", "content": long}]
    fields = {"messages": messages, "truncate_prompt_tokens": -1}
    for call, words in (
        (lambda **how: llm.generate(long, **how, **SHORT), helps),
        (lambda **how: llm.generate([1] * n, **how, **SHORT), helps),
        (lambda **how: llm.chat(messages, **how, **SHORT), helps),
        (lambda **how: llm.submit(messages, **how, **SHORT).result(), helps),
        (lambda **how: llm.beam_search(long, max_tokens=1, **how), helps),
        (lambda **how: tuili.pipeline("text-generation", llm)(long, **how, **SHORT), helps),
        (
            lambda **how: llm.create_chat_completion(**(fields if how else {"messages": messages}), **SHORT),
            "; truncate_prompt_tokens=-1 cuts it",
        ),
        (lambda **how: how or llm.save_prefix(long), ""),
        (lambda **how: how or llm.save_prefix(messages), ""),
    ):
        with pytest.raises(tuili.PromptTooLongError) as error:
            call()
        assert error.value.code == "prompt_too_long"
        assert str(error.value).endswith(words) and str(error.value).count("cuts") == bool(words)
        call(truncation=True)
    got = server.ask("/v1/chat/completions", {"messages": messages})
    assert got.status == 400 and "truncation" not in got.json()["error"]["message"]


def test_an_unknown_variable_is_told_with_those_that_are_known(llm):
    with pytest.raises(InvalidParameterError, match="which knows documents, mood"):
        llm.chat([USER], chat_template_kwargs={"enable_thinking": False})
    for value in (object(), b"x", {1: 2}):
        with pytest.raises(InvalidParameterError) as error:
            llm.chat([USER], chat_template_kwargs={"mood": value})
        assert error.value.param.startswith("chat_template_kwargs")


def test_a_variable_that_is_none_is_given(llm):
    ids = llm.chat([USER], chat_template_kwargs={"mood": None}, **SHORT).prompt_token_ids
    assert "(None)" in llm.tokenizer.decode(ids), "as in transformers"


TOOL = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "tide", "arguments": '{"at": 3}'}}


@pytest.mark.parametrize(
    "messages",
    [[USER], [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "low"}]],
)
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_tools_become_the_same_prompt_everywhere(llm, server, pipe, messages, tools):
    ids = llm.chat(messages, tools=tools, **SHORT).prompt_token_ids
    text = llm.tokenizer.decode(ids, skip_special=False)
    assert ("<tools>" in text) == bool(tools) and ("<tool_response>" in text) == (len(messages) > 1)
    assert llm.submit(messages, tools=tools, **SHORT).result().prompt_token_ids == ids
    assert server.ask("/tokenize", {"messages": messages, "tools": tools}).json()["tokens"] == ids
    fields = {"messages": messages, "tools": tools, "max_tokens": 1}
    for got in (
        llm.create_chat_completion(**fields),
        server.ask("/v1/chat/completions", fields).json(),
    ):
        assert got["usage"]["prompt_tokens"] == len(ids)
    if tools:
        (whole,) = pipe(messages, tools=tools, return_tensors=True)
        assert whole["generated_token_ids"][: len(ids)] == ids


def test_wrong_tools_are_named(llm, pipe):
    for call in (llm.chat, llm.submit, pipe):
        for wrong in ("tide", [{}], [TOOL, TOOL]):
            with pytest.raises(InvalidParameterError) as error:
                call([USER], tools=wrong)
            assert error.value.param.startswith("tools")
    for call in (llm.submit, pipe):
        with pytest.raises(InvalidParameterError, match="tools"):
            call("the river", tools=[TOOL])


def test_words_of_chats_are_none_of_texts(llm, server):
    for prompt in ("the river", [1, 2]):
        with pytest.raises(InvalidParameterError, match="for messages") as error:
            llm.submit(prompt, continue_final_message=True, **SHORT)
        assert error.value.param == "continue_final_message"
        with pytest.raises(InvalidParameterError):
            llm.generate(prompt, continue_final_message=True, **SHORT)
    for name, value in (("continue_final_message", True), ("chat_template_kwargs", {"mood": 1})):
        for path in ("/v1/completions", "/tokenize"):
            got = server.ask(path, {"prompt": "the river", name: value})
            assert (got.status, got.json()["error"]["param"]) == (400, name)
    assert server.ask("/tokenize", {"messages": [USER], "add_special_tokens": False}).status == 200
    assert server.ask("/tokenize", {"messages": [USER], "add_special_tokens": True}).status == 400


def test_a_pipeline_writes_into_the_message_that_it_goes_on_with(pipe):
    parts = [{"type": "text", "text": "the"}, {"type": "text", "text": "sea"}]
    (got,) = pipe([USER, {"role": "assistant", "content": parts}])
    assert got["generated_text"][-1]["content"][:1] == parts[:1]
    assert got["generated_text"][-1]["content"][1]["text"].startswith("sea")
    (new,) = pipe([USER, BEGUN], add_generation_prompt=True)
    assert len(new["generated_text"]) == 3 and new["generated_text"][1] == BEGUN
    for name in ("chat_template_kwargs", "tokenizer_encode_kwargs"):
        one = pipe([USER], return_tensors=True, **{name: {"mood": "calm"}})
        assert "(calm)" in pipe.model.tokenizer.decode(one[0]["generated_token_ids"])
    both = {"chat_template_kwargs": {}, "tokenizer_encode_kwargs": {}}
    for options, param in (
        (both, "tokenizer_encode_kwargs"),
        ({"tokenizer_encode_kwargs": {"padding": True}}, "chat_template_kwargs.padding"),
    ):
        with pytest.raises(InvalidParameterError) as error:
            pipe([USER], **options)
        assert error.value.param == param
    for name in both:
        with pytest.raises(InvalidParameterError) as error:
            pipe("the river", **{name: {"mood": "calm"}})
        assert error.value.param == name


# --- where a message ends in what a template makes of it


@pytest.mark.parametrize("content", ["<", "e", "_", "im", "<|im_end|>", ""])
def test_a_message_ends_where_the_template_puts_its_end(content):
    messages = [USER, {"role": "assistant", "content": content}]
    prompt = chat.render(
        TEMPLATES["chatml"], messages, add_generation_prompt=False, continue_final_message=True
    )
    assert prompt.text.endswith(f"<|im_start|>assistant\n{content}")
    assert "".join(part for part, is_users in prompt.parts() if is_users) == "the river" + content


def test_spaces_that_a_template_takes_away_stay_away():
    def text(template, content):
        messages = [USER, {"role": "assistant", "content": content}]
        return chat.render(
            template, messages, add_generation_prompt=False, continue_final_message=True
        ).text.removeprefix("the river,")

    kept = "{% for m in messages %}{{ m.content }},{% endfor %}"
    stripped = kept.replace("m.content", "m.content | trim")
    assert [text(kept, content) for content in (" a \n", "a", " ")] == [" a \n", "a", " "]
    assert [text(stripped, content) for content in (" a \n", "a", " ")] == ["a", "a", ""]


@pytest.mark.parametrize(
    "template",
    [
        "x",
        "{{ messages[0].content }}",
        "{{ 'the sea' }}.",
        "{{ messages[-1].content | upper }}",
        "{{ messages[-1].content[:3] }}",
        "{{ messages[-1].content }}{{ messages[-1].content }}",
        "{{ messages[-1].content | length }}{{ messages[-1].content }}",
    ],
)
def test_a_template_that_does_not_show_the_message_is_refused(template):
    messages = [USER, {"role": "assistant", "content": "the sea"}]
    with pytest.raises(TemplateError) as error:
        chat.render(template, messages, continue_final_message=True)
    assert error.value.code == "template_continue"


def test_what_a_template_shows_behind_the_last_message_is_no_users_text_of_the_prompt():
    messages = [USER, {"role": "assistant", "content": "the sea"}]
    shown = chat.render(
        "{{ messages[1].content }} {{ messages[0].content }}", messages, continue_final_message=True
    )
    assert list(shown.parts()) == [("the sea", True)]


@pytest.mark.parametrize("content", [None, "", "I look."])
def test_calls_of_tools_are_no_text_to_go_on_with(llm, content):
    messages = [USER, {"role": "assistant", "content": content, "tool_calls": [CALL]}]
    for call in (
        lambda: llm.chat(messages, continue_final_message=True),
        lambda: chat.render(TEMPLATES["qwen3"], messages, continue_final_message=True),
    ):
        with pytest.raises(InvalidParameterError) as error:
            call()
        assert error.value.param == "messages[1].tool_calls"
    with pytest.raises(InvalidParameterError) as error:
        llm.chat([USER, {"role": "tool", "content": "low"}], continue_final_message=True)
    assert error.value.param == "messages[1].content"
