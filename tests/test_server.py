"""The HTTP server as clients use it: every endpoint, with the official `openai` client where it has one.

Catalogue rows SRV-04, SRV-15 … SRV-17, SRV-19.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
import types
from typing import Literal

import openai
import pydantic
import pytest
import tokenizers
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params
from tokenizers import decoders, models

import tuili
from patience import comes_true
from tiny_files import SIZES, write_hf_folder
from tiny_models import tiny_bert, tiny_llama
from tiny_server import running
from tuili.chat.messages import ROLES
from tuili.generation.outputs import Chunk, TokenLogprob
from tuili.loading.tokenizers.tokenizer import from_huggingface
from tuili.server.app import model_name
from tuili.server.formats import TextFormat
from tuili.server.settings import Settings
from tuili.tokenization.tokenizer import Detokenizer, Tokenizer

CHAT = [{"role": "user", "content": "the river"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def server(llm):
    with running(llm) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


# --- chat


def test_a_chat_has_the_bits_of_the_same_call_in_process(llm, client):
    fields = {"max_tokens": 12, "temperature": 0.8, "seed": 7, "logprobs": True, "top_logprobs": 3, "n": 2}
    answer = client.chat.completions.create(model="llama", messages=CHAT, **fields).model_dump()
    own = llm.create_chat_completion(messages=CHAT, **fields)
    for theirs, ours in zip(answer["choices"], own["choices"], strict=True):
        assert theirs["message"]["content"] == ours["message"]["content"]
        assert theirs["finish_reason"] == ours["finish_reason"]
        assert theirs["logprobs"]["content"] == ours["logprobs"]["content"], "log-probabilities to the bit"
    assert answer["usage"]["completion_tokens"] == own["usage"]["completion_tokens"]
    assert answer["choices"][0]["logprobs"]["content"] != answer["choices"][1]["logprobs"]["content"]


def test_a_stream_is_the_answer_in_pieces(client):
    fields = {"messages": CHAT, "max_tokens": 20, "temperature": 0.9, "seed": 3, "logprobs": True, "n": 2}
    whole = client.chat.completions.create(model="llama", **fields)
    texts, tokens, reasons, usage = ["", ""], [[], []], [None, None], None
    options = {"include_usage": True}
    for chunk in client.chat.completions.create(model="llama", stream=True, stream_options=options, **fields):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            tokens[choice.index] += choice.logprobs.content if choice.logprobs else []
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert tokens == [choice.logprobs.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices] and usage == whole.usage


def test_stop_ends_a_text_before_it(client):
    fields = {"messages": CHAT, "max_tokens": 30}
    text = client.chat.completions.create(model="llama", **fields).choices[0].message.content
    stop = text[5:8]
    cut = client.chat.completions.create(model="llama", stop=[stop], **fields).choices[0]
    assert cut.finish_reason == "stop" and cut.message.content == text[: text.index(stop)]


def test_a_response_format_is_kept(client):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}
    answer = client.chat.completions.create(
        model="llama", messages=CHAT, response_format=form, max_tokens=40, temperature=1, seed=1
    )
    assert json.loads(answer.choices[0].message.content)["n"] in (1, 22)


class Answer(pydantic.BaseModel):
    n: Literal[1, 22]


def test_the_client_reads_what_its_model_says(client):
    fields = {
        "model": "llama",
        "messages": CHAT,
        "response_format": Answer,
        "max_tokens": 200,
        "temperature": 1,
    }
    parsed = client.chat.completions.parse(**fields, seed=1).choices[0].message.parsed
    assert isinstance(parsed, Answer)
    with client.chat.completions.stream(**fields, seed=1) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed


def test_the_client_reads_a_call_of_its_model(client):
    tool = openai.pydantic_function_tool(Answer)
    answer = client.chat.completions.parse(
        model="llama",
        messages=CHAT,
        tools=[tool],
        tool_choice="required",
        max_tokens=250,
        temperature=1,
        seed=1,
    )
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, Answer)


def test_strict_functions_may_be_offered_to_a_free_answer(client):
    tool = openai.pydantic_function_tool(Answer)
    fields = {"model": "llama", "messages": CHAT, "max_tokens": 30, "temperature": 1, "seed": 2}
    answer = client.chat.completions.create(**fields, tools=[tool]).choices[0].message
    assert answer.content and not answer.tool_calls, "a model of random weights calls nothing"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**fields, tools=[tool], extra_body={"regex": "a"})
    assert caught.value.param == "regex"
    plain = {"type": "function", "function": {"name": "f"}}
    assert client.chat.completions.create(**fields, tools=[plain], parallel_tool_calls=False).choices


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_required_tool_is_called(client, choice):
    fields = {"messages": CHAT, "tools": [WEATHER], "tool_choice": choice, "max_tokens": 80}
    answer = client.chat.completions.create(model="llama", **fields).choices[0]
    call = answer.message.tool_calls[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    follow_up = [
        *CHAT,
        {"role": "assistant", "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "20 degrees"},
    ]
    assert client.chat.completions.create(model="llama", messages=follow_up, max_tokens=3).choices


def test_a_streamed_call_is_the_whole_one(client):
    fields = {"messages": CHAT, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 80}
    whole = client.chat.completions.create(model="llama", **fields).choices[0].message.tool_calls[0]
    with client.chat.completions.stream(model="llama", **fields) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls[0].function.arguments == whole.function.arguments
    assert message.tool_calls[0].function.name == whole.function.name and not message.content


# --- completions, tokens


def test_completions_take_every_kind_of_prompt(llm, client):
    ids = llm.tokenizer.encode("the sea")
    own = llm.generate("the sea", max_tokens=6, logprobs=2).outputs[0]
    for prompt, n in (("the sea", 1), (["the sea", "the sea"], 2), (ids, 1), ([ids, ids], 2)):
        choices = client.completions.create(model="llama", prompt=prompt, max_tokens=6, logprobs=2).choices
        assert [choice.text for choice in choices] == [own.text] * n
        assert [choice.index for choice in choices] == list(range(n))
        assert choices[0].logprobs.token_logprobs == [entry.logprob for entry in own.logprobs]
        assert all(len(top) == 2 for top in choices[0].logprobs.top_logprobs)


def test_offsets_of_tokens_count_the_characters_of_the_text():
    """A character of several tokens is one, special tokens are not shown, and a text that follows none begins
    without the space of its first token.
    """
    tokens = [*(f"<0x{byte:02X}>" for byte in range(256)), "<s>", "▁ab", "文", "▁c"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    backend.add_special_tokens(["<s>"])
    tokenizer = Tokenizer(from_huggingface(backend.to_str().encode()))
    ids = [256, 257, *"中".encode(), 258, 256, *"𠮷".encode(), 259]
    offsets = [0, 0, 2, 2, 2, 3, 4, 4, 4, 4, 4, 5]
    assert tokenizer.decode(ids) == "ab中文𠮷 c"
    entries = [TokenLogprob(i, -1.0, [(i, -1.0)]) for i in ids]
    for step, before in itertools.product((1, 2, 12), ([256], [257])):
        handle = types.SimpleNamespace(decoder=lambda before=before: Detokenizer(tokenizer, after=before))
        shape, found, shown = TextFormat("m", tokenizer, tuili.SamplingParams(), [handle]), [], []
        for at in range(0, len(entries), step):
            (event,) = shape.pieces(0, Chunk(0, "", [], entries[at : at + step], None, None))
            found += event["choices"][0]["logprobs"]["text_offset"]
            shown += event["choices"][0]["logprobs"]["tokens"]
        after_text = [at + 1 if i > 1 else at for i, at in enumerate(offsets)]
        assert found == (offsets if before == [256] else after_text)
        assert shown[1:3] == [" ab", "bytes:\\xe4"]


def test_streams_of_several_prompts_say_whose_they_are(client):
    prompts = ["the sea", "a river", "of the"]
    fields = {"prompt": prompts, "max_tokens": 9, "n": 2, "seed": 5, "temperature": 1.0}
    whole = client.completions.create(model="llama", **fields)
    texts = [""] * 6
    for chunk in client.completions.create(model="llama", stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices] and len(set(texts)) > 1


def test_a_model_of_the_other_kind_says_so(server, vector_server):
    texts, documents = {"input": "a"}, {"query": "a", "documents": ["b"]}
    for path, body in (
        ("/v1/embeddings", texts),
        ("/v1/embeddings", texts | {"dimensions": 8}),
        ("/v1/embeddings", texts | {"prompt_name": "query"}),
        ("/v1/rerank", documents),
    ):
        assert (server.ask(path, body).status, server.ask(path, body).code) == (400, "wrong_kind")
    for path, body in (("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", {"messages": CHAT})):
        assert vector_server.ask(path, body).code == "wrong_kind"


def test_tokens_there_and_back(llm, server):
    text = "the 河 river"
    tokens = server.ask("/tokenize", {"prompt": text}).json()
    assert tokens["tokens"] == llm.tokenizer.encode(text) and tokens["count"] == len(tokens["tokens"])
    plain = server.ask("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert server.ask("/detokenize", {"tokens": plain}).json() == {"prompt": text}
    chat = server.ask("/tokenize", {"messages": CHAT}).json()["tokens"]
    assert llm.tokenizer.decode(chat, skip_special=False).startswith("<|user|>the river")


def test_models_are_listed(llm, client):
    assert [model.id for model in client.models.list()] == ["llama"] == [model_name(llm)]
    card = client.models.retrieve("llama")
    assert (card.owned_by, card.root, card.parent) == ("tuili", "llama", None)
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_a_name_with_a_slash_is_served_however_it_is_written(llm):
    name = "org/model:v1.0"
    with running(llm, served_model_name=name) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
            assert client.models.retrieve(name).id == name
            assert client.completions.create(model=name, prompt="a", max_tokens=1).model == name
        for path, status in (
            ("org/model:v1.0", 200),
            ("org%2fmodel%3av1.0", 200),
            ("org", 404),
            ("org/model", 404),
            ("a/b/c", 404),
        ):
            assert server.ask(f"/v1/models/{path}").status == status


def test_a_name_in_chinese_is_served(llm, monkeypatch):
    name = "通义-हिन्दी-\u00e9-7B"
    monkeypatch.setattr(llm, "name", "/models/通义 हिन्दी e\u0301 7B.gguf")  # as macOS stores é
    with running(llm) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        assert [model.id for model in client.models.list()] == [name]
        assert client.models.retrieve(name).id == name
        assert client.completions.create(model=name, prompt="a", max_tokens=1).model == name
        for path, status in (("%E9%80%9A", 404), ("%e9%80", 400), ("%C2%A0", 400), ("%E2%80%AE", 400)):
            assert server.ask(f"/v1/models/{path}").status == status
    assert Settings(served_model_name="通义/千问").served_model_name == "通义/千问"
    with pytest.raises(tuili.InvalidParameterError):
        Settings(served_model_name="a\u202eb")  # what follows would be shown backwards


def test_fields_that_clients_send_of_their_own(client):
    fields = {
        "user": "张三 <a@b.example>",
        "safety_identifier": "a/b+c=",
        "prompt_cache_key": "k",
        "verbosity": "medium",
    }
    assert client.chat.completions.create(model="llama", messages=CHAT, max_tokens=1, **fields).choices
    assistant = client.chat.completions.create(model="llama", messages=CHAT, max_tokens=1).choices[0].message
    for turn in (assistant, assistant.model_dump()):
        assert client.chat.completions.create(
            model="llama", messages=[*CHAT, turn, *CHAT], max_tokens=1
        ).choices


def test_a_deadline_is_not_tried_again(server):
    """The official client does so on 408, unless it is told."""
    asked = []
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=3) as client:
        client._client.event_hooks = {"request": [asked.append]}
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(model="llama", prompt="a", extra_body={"deadline_s": 0})
    assert caught.value.status_code == 408 and len(asked) == 1


# --- what is refused

BAD_CHAT = [
    ({}, "invalid_parameter", "messages"),
    ({"messages": []}, "invalid_parameter", "messages"),
    ({"messages": CHAT, "max_token": 3}, "unknown_parameter", "max_token"),
    ({"messages": CHAT, "max_token": None}, "unknown_parameter", "max_token"),
    (
        {"messages": CHAT, "structured_outputs": {"choice": ["a"], "jsn": None}},
        "unknown_parameter",
        "structured_outputs.jsn",
    ),
    ({"messages": CHAT, "n": 9}, "invalid_parameter", "n"),
    ({"messages": CHAT, "max_tokens": 0}, "invalid_parameter", "max_tokens"),
    ({"messages": CHAT, "temperature": -1}, "invalid_parameter", "temperature"),
    ({"messages": CHAT, "logprobs": 3}, "invalid_parameter", "logprobs"),
    ({"messages": CHAT, "top_logprobs": 3}, "invalid_parameter", "top_logprobs"),
    ({"messages": CHAT, "stop": ["a"] * 17}, "invalid_parameter", "stop"),
    ({"messages": CHAT, "stream": "yes"}, "invalid_parameter", "stream"),
    ({"messages": CHAT, "cache_salt": "x"}, "unknown_parameter", "cache_salt"),
    ({"messages": CHAT, "priority": 1}, "unknown_parameter", "priority"),
    ({"messages": CHAT, "chat_template": "x"}, "unknown_parameter", "chat_template"),
    ({"messages": CHAT, "logit_bias": {"99999": 1}}, "token_id", "logit_bias"),
    ({"messages": CHAT, "logit_bias": {"a": 1}}, "invalid_parameter", "logit_bias"),
    ({"messages": CHAT, "logit_bias": {"1": "a"}}, "invalid_parameter", "logit_bias[1]"),
    ({"messages": CHAT, "user": "a\nb"}, "invalid_parameter", "user"),
    ({"messages": CHAT, "user": "a\u202eb"}, "invalid_parameter", "user"),
    ({"messages": CHAT, "web_search_options": {}}, "not_supported_yet", "web_search_options"),
    ({"messages": CHAT, "verbosity": "low"}, "not_supported_yet", "verbosity"),
    ({"messages": CHAT, "tools": [{"type": "function"}]}, "invalid_parameter", "tools[0]"),
    ({"messages": CHAT, "tools": 0}, "invalid_parameter", "tools"),
    ({"messages": CHAT, "tool_choice": "required"}, "invalid_parameter", "tool_choice"),
    ({"messages": CHAT, "response_format": {"type": "xml"}}, "invalid_parameter", "response_format"),
    ({"messages": CHAT, "regex": "("}, "grammar", "regex"),
    ({"messages": CHAT, "regex": "(" * 100}, "grammar_depth", "regex"),
    ({"messages": CHAT, "grammar": 'start: "'}, "grammar", "grammar"),
    ({"messages": CHAT, "structured_outputs": {"json": "{"}}, "json", "json_schema"),
    ({"messages": CHAT, "moderation": {}}, "not_supported_yet", "moderation"),
    ({"messages": CHAT, "service_tier": "priority"}, "not_supported_yet", "service_tier"),
    ({"messages": [{"role": "boss", "content": "x"}]}, "invalid_parameter", "messages[0].role"),
    ({"messages": [{"role": "user", "content": "a " * 600}]}, "prompt_too_long", None),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}
            ]
        },
        "invalid_parameter",
        "messages[0].content[0].type",
    ),
]


def test_null_is_the_default_of_every_field_that_openais_clients_know(server):
    for path, known, fields in (
        ("/v1/chat/completions", chat_params.CompletionCreateParamsBase, {"messages": CHAT}),
        ("/v1/completions", text_params.CompletionCreateParamsBase, {"prompt": "the river"}),
    ):
        nulls = dict.fromkeys(known.__annotations__)
        assert server.ask(path, nulls | {"max_tokens": 1} | fields).status == 200


def test_a_token_that_there_is_not_is_said_with_its_field(server):
    for path, field in (("/v1/completions", "prompt"), ("/detokenize", "tokens")):
        got = server.ask(path, {field: [99999]})
        assert (got.status, got.code, got.json()["error"]["param"]) == (400, "token_id", field)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields, code, param", BAD_CHAT, ids=[str(i) for i in range(len(BAD_CHAT))])
def test_a_bad_request_is_400_in_openais_shape(server, fields, code, param, stream):
    answer = server.ask("/v1/chat/completions", {"stream": stream, **fields})
    error = answer.json()["error"]
    assert (answer.status, answer.code, error["type"]) == (400, code, "invalid_request_error")
    assert error["param"] == param


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"echo": "yes"}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"messages": CHAT}, "messages"),
        ({"prompt": ["a", {"b": 1}]}, "prompt"),
        ({"prompt": []}, "prompt"),
    ],
)
def test_a_completion_that_cannot_be_is_400(server, fields, param):
    answer = server.ask("/v1/completions", {"prompt": "a", "max_tokens": 1, **fields})
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "fields", [{"stream_options": {}}, {"stream": True, "stream_options": {"usage": True}}]
)
def test_options_of_a_stream_are_checked(server, fields):
    answer = server.ask("/v1/chat/completions", {"messages": CHAT, **fields})
    assert answer.status == 400 and answer.json()["error"]["param"].startswith("stream_options")


def test_a_model_that_is_not_served_is_404(client, server):
    for name in ("gpt-4", "../../etc/passwd", "x" * 10_000, ""):
        answer = server.ask("/v1/chat/completions", {"model": name, "messages": CHAT})
        assert (answer.status, answer.code) == (404, "model_not_found") and len(answer.body) < 300
        assert answer.json()["error"]["message"].endswith(" here; this is llama")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=CHAT)


@pytest.mark.parametrize("field", ["description", "parameters"])
def test_tools_that_cannot_fit_are_not_tokenized(server, monkeypatch, field):
    long = "x" * 1_000_000
    function = {"name": "f", field: long if field == "description" else {long: {}}}
    fields = {"messages": CHAT, "tools": [{"type": "function", "function": function}]}
    monkeypatch.setattr(server.app.llm, "render_chat", None)
    assert server.ask("/v1/chat/completions", fields).code == "prompt_too_long"


@pytest.mark.parametrize("make, code", [(tiny_llama, "unhealthy"), (tiny_bert, "engine_closed")])
def test_a_server_whose_engine_is_closed_is_not_ready(tmp_path, make, code):
    with running(tuili.LLM(write_hf_folder(make(), tmp_path / "model"), num_threads=1)) as server:
        assert server.ask("/ready").status == 200
        server.app.llm.close()
        for path in ("/health", "/ready"):
            assert (server.ask(path).status, server.ask(path).code) == (503, code)


def test_a_full_server_is_429_with_retry_after(llama_path):
    with tuili.LLM(llama_path, max_num_seqs=1, max_queue=0, **SIZES) as llm, running(llm) as server:
        waiting = llm.submit("the", max_tokens=400, ignore_eos=True, logits_processors=[_slow])  # for 40 s
        answer = server.ask("/v1/completions", {"prompt": "the", "max_tokens": 2})
        waiting.abort()
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "queue_full", "1")
        assert not re.search(r"\d", answer.json()["error"]["message"]), "how full it is, is not told"


def _slow(token_ids, logits):
    time.sleep(0.1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_that_has_passed_is_408(server, stream):
    def misses():
        return int(re.search(r"deadline_misses_total (\d+)", server.ask("/metrics").body.decode())[1])

    before = misses()
    answer = server.ask("/v1/completions", {"prompt": "the", "deadline_s": 0, "stream": stream})
    assert answer.status == 408 and answer.code in ("deadline", "deadline_unreachable")
    assert misses() == before + 1


def test_events_hold_any_text_on_one_line():
    from tuili.server.replies import to_json

    text = "a\nb\r\n\x85\u2028\u2029 data: x\x00\ud800 河"
    line = to_json({"text": text})
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line)["text"] == text.replace("\ud800", "?")


def test_metrics_count_under_fixed_names(server):
    server.ask("/v1/chat/completions", {"messages": CHAT, "max_tokens": 4, "stream": True})
    server.ask("/v1/" + "x" * 100)
    text = server.ask("/metrics").body.decode()
    samples = dict(re.findall(r"^(\S+(?:\{.*\})?) (\S+)$", text, re.MULTILINE))
    assert all(name.startswith("tuili:") and float(value) >= 0 for name, value in samples.items())
    for name in (
        "time_to_first_token_seconds_count",
        "inter_token_latency_seconds_sum",
        "e2e_request_latency_seconds_count",
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "deadline_misses_total",
    ):
        assert f"tuili:{name}" in samples, name
    assert int(samples["tuili:time_to_first_token_seconds_count"]) >= 1
    routes = set(re.findall(r'route="([^"]*)"', text))
    assert "other" in routes and routes <= {*server.app.methods, "other"}


def test_a_request_is_a_span_where_opentelemetry_is(server, monkeypatch):
    spans = []

    class Span(dict):
        def set_attributes(self, values):
            self.update(values)

    class Tracer:
        @contextlib.contextmanager
        def start_as_current_span(self, name):
            spans.append((name, Span()))
            yield spans[-1][1]

    monkeypatch.setattr("tuili.server.tracing.trace", types.SimpleNamespace(get_tracer=lambda name: Tracer()))
    server.ask("/v1/completions", {"prompt": "the river", "max_tokens": 3, "ignore_eos": True})
    name, span = spans[0]
    assert comes_true(lambda: span), "it ends after the answer"
    assert name == "POST /v1/completions" and span["http.response.status_code"] == 200
    assert span["gen_ai.usage.output_tokens"] == 3 and "river" not in str(span)


def test_the_openapi_document_has_every_route(server):
    document = server.ask("/openapi.json").json()
    pages = {"/", "/page.css", "/page.js"}
    assert {path.replace("{model}", "{name}") for path in document["paths"]} == set(
        server.app.methods
    ) - pages


def test_the_openapi_document_has_every_role_that_messages_may_have(server):
    assert str(list(ROLES)) in str(server.ask("/openapi.json").json())


# --- health


def test_a_server_whose_engine_hangs_says_so(llm, server, vector_server, monkeypatch):
    """As a kernel that does not end: catalogue row CAN-11."""
    assert [server.ask(path).status for path in ("/health", "/ready")] == [200, 200]
    assert vector_server.ask("/health").status == 200
    monkeypatch.setattr(llm._engine._watchdog, "since", -1e9)
    for path in ("/health", "/ready"):
        answer = server.ask(path)
        assert (answer.status, answer.code) == (503, "unhealthy")
    monkeypatch.undo()
    assert server.ask("/health").status == 200
