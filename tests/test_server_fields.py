"""Every parameter of a generation that a client may choose does over HTTP what it does in process."""

from __future__ import annotations

from pathlib import Path
from threading import current_thread
from types import SimpleNamespace
from unittest.mock import ANY

import pytest

import tuili
from patience import comes_true
from tiny_server import KEY, running
from tuili.chat import completions
from tuili.generation.outputs import Chunk
from tuili.generation.params import NAMES, SamplingParams
from tuili.server import app, text_requests
from tuili.server.document import document
from tuili.server.formats import TextFormat

MODELS = Path(__file__).parent / "models"
SUM = {"prompt": "999+  1=", "max_tokens": 4}  # whose answer is 1000
ZERO, ONE, SPACE, END = 0, 1, 12, 13  # tokens of the adder, whose digits are their own ids
CHAT = [{"role": "user", "content": "the river"}]


@pytest.fixture(scope="module")
def adder():
    with tuili.LLM(MODELS / "adder", num_threads=1) as llm, running(llm) as server:
        yield server


@pytest.fixture(scope="module")
def translator():
    with tuili.LLM(MODELS / "t5-numbers", num_threads=1) as llm, running(llm) as server:
        yield server


@pytest.fixture(scope="module")
def chatter(llm):
    with running(llm) as server:
        yield server


def answer(server, **fields):
    """What a completion says, with the token that ended it."""
    got = server.ask("/v1/completions", SUM | fields)
    assert got.status == 200, got.body
    return got.json()["choices"][0]["text"]


# --- each field: what it makes of 1000, or of an answer that is given

CHANGED = {
    "allowed_token_ids": ([2, 3], lambda text: set(text) <= {"2", "3"}),
    "bad_words": (["10"], lambda text: "10" not in text),
    "bad_words_ids": ([[ONE, ZERO]], lambda text: "10" not in text),
    "sequence_bias": ([[[ONE, 7], 99], [[7, 7], 99]], lambda text: text == "1777"),
    "suppress_tokens": ([ZERO], lambda text: "0" not in text),
    "begin_suppress_tokens": ([ONE], lambda text: text[0] != "1"),
    "encoder_no_repeat_ngram_size": (1, lambda text: not set(text) & set("91+= ")),
    "encoder_repetition_penalty": (1e-6, lambda text: text != "1000"),
    "exponential_decay_length_penalty": ([1, 1e6], lambda text: len(text) == 2),
    "forced_bos_token_id": (7, lambda text: text[0] == "7"),
    "forced_eos_token_id": ([8, 9], lambda text: text[-1] == "8"),
    "truncate_prompt_tokens": (5, lambda text: text != "1000"),
    "logit_bias": ({"7": 100}, lambda text: text == "7777"),
    "no_repeat_ngram_size": (1, lambda text: len(set(text)) == len(text)),
    "regex": ("[34]+", lambda text: set(text) <= {"3", "4"}),
    "stop_token_ids": ([ZERO], lambda text: text == "1"),
    "stop": ("00", lambda text: text == "1"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_field_does_what_it_does_in_process(adder, name):
    assert answer(adder) == "1000"
    value, holds = CHANGED[name]
    text = answer(adder, **{name: value})
    assert holds(text), text
    own = {int(k): v for k, v in value.items()} if isinstance(value, dict) else value
    assert text == adder.app.llm.generate(SUM["prompt"], max_tokens=4, **{name: own}).outputs[0].text


def test_special_tokens_are_shown_where_that_is_asked_for(adder):
    """And counted, where their texts begin."""
    shown = {"forced_bos_token_id": END, "ignore_eos": True, "logprobs": 0}
    assert "<|endoftext|>" not in answer(adder, **shown)
    got = adder.ask("/v1/completions", SUM | shown | {"skip_special_tokens": False}).json()["choices"][0]
    assert got["text"].startswith("<|endoftext|>")
    assert got["logprobs"]["text_offset"][:2] == [0, len("<|endoftext|>")]


def test_a_prompt_is_cut_from_its_beginning(adder):
    for most, kept in ((8, "999+  1="), (-1, "=999+  1=")):  # -1 leaves room for the answer: 12 of 16
        long = SUM | {"prompt": "123+456=" * 3 + "=999+  1=", "truncate_prompt_tokens": most}
        got = adder.ask("/v1/completions", long).json()
        wanted = kept if most > 0 else long["prompt"][-12:]
        assert got["usage"]["prompt_tokens"] == len(wanted)
        own = adder.app.llm.generate(wanted, max_tokens=4).outputs[0].text
        assert got["choices"][0]["text"] == own
    assert adder.ask("/v1/completions", SUM | {"prompt": "1" * 30}).code == "prompt_too_long"


@pytest.mark.parametrize("cut", [{"truncation": True}, {"truncate_prompt_tokens": 3}])
def test_what_is_cut_off_was_checked(adder, translator, cut):
    for llm in (adder.app.llm, translator.app.llm):
        n = llm.config.get("max_source_len", llm.config["max_model_len"]) + 9
        good = llm.generate([1] * n, max_tokens=2, **cut)
        assert good.truncated and len(good.prompt_token_ids) < n
        for wrong in (10**6, -1, "a", None):
            ids = [1] * n
            ids[0 if llm.kind == "decoder" else -5] = wrong
            with pytest.raises((tuili.TokenIdError, tuili.InvalidParameterError), match="prompt"):
                llm.generate(ids, max_tokens=2, **cut)


def test_a_prompt_that_is_cut_may_be_longer_than_the_context(chatter):
    """And than what is refused by its beginning alone."""
    long = "the river " * 4000
    body = {"prompt": long, "max_tokens": 2}
    assert chatter.ask("/v1/completions", body).code == "prompt_too_long"
    got = chatter.ask("/v1/completions", body | {"truncate_prompt_tokens": 20}).json()
    assert got["usage"]["prompt_tokens"] == 20
    chat = {"messages": [{"role": "user", "content": long}], "max_tokens": 2, "truncate_prompt_tokens": 20}
    assert chatter.ask("/v1/chat/completions", chat).json()["usage"]["prompt_tokens"] == 20
    assert chatter.ask("/v1/chat/completions", chat | {"truncate_prompt_tokens": None}).status == 400
    for wrong in (0, -2, 513, "8", True):
        error = chatter.ask("/v1/completions", body | {"truncate_prompt_tokens": wrong}).json()["error"]
        assert error["param"] == "truncate_prompt_tokens"


# --- beams


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields, own",
    [
        ({"use_beam_search": True}, {"num_beams": 3}),
        ({"num_beams": 3}, {"num_beams": 3}),
        ({"num_beams": 4, "length_penalty": -3.0}, {"num_beams": 4, "length_penalty": -3.0}),
        ({"num_beams": 4, "early_stopping": True}, {"num_beams": 4, "early_stopping": True}),
        ({"num_beams": 4, "renormalize_logits": True}, {"num_beams": 4, "renormalize_logits": True}),
    ],
)
def test_a_beam_search_is_that_of_the_library(adder, fields, own, stream):
    body = SUM | {"prompt": "9+  1=", "n": 3, "stream": stream, "suppress_tokens": [ONE], **fields}
    got = adder.ask("/v1/completions", body)
    texts = ["", "", ""]
    for event in got.events() if stream else [got.json()]:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    wanted = adder.app.llm.generate("9+  1=", max_tokens=4, n=3, suppress_tokens=[ONE], **own).outputs
    assert texts == [one.text for one in wanted] and len(set(texts)) == 3


def test_what_a_beam_search_is_told_counts(adder, monkeypatch):
    submit, asked = adder.app.llm.submit, []
    monkeypatch.setattr(
        adder.app.llm, "submit", lambda ids, params: asked.append(params) or submit(ids, params)
    )
    for fields, wanted in (
        ({"use_beam_search": True, "n": 4}, (4, 4)),
        ({"use_beam_search": True}, (1, 1)),
        ({"use_beam_search": False}, (1, 1)),
        ({"num_beams": 5, "n": 2}, (2, 5)),
    ):
        answer(adder, **fields)
        assert (asked[-1].n, asked[-1].num_beams) == wanted
        if fields.get("use_beam_search"):
            assert asked[-1].temperature == 0, "one beam draws nothing either, whatever the model's files say"
    answer(adder, num_beams=2, length_penalty=2.0, early_stopping="never", renormalize_logits=True)
    assert (asked[-1].length_penalty, asked[-1].early_stopping) == (2.0, "never")
    assert asked[-1].renormalize_logits is True
    for wrong, param in (
        ({"use_beam_search": True, "num_beams": 2}, "use_beam_search"),
        ({"use_beam_search": 1}, "use_beam_search"),
        ({"use_beam_search": True, "n": "2"}, "num_beams"),
        ({"num_beams": 33}, "num_beams"),
        ({"num_beams": 2, "n": 3}, "n"),
        ({"num_beams": 2, "temperature": 0.5}, "temperature"),
        ({"use_beam_search": True, "temperature": 0.5}, "temperature"),
        ({"length_penalty": 2.0, "use_beam_search": False}, "length_penalty"),
    ):
        error = adder.ask("/v1/completions", SUM | wrong).json()["error"]
        assert error["param"] in (param, "n"), error


def test_beams_count_as_a_share_does(adder):
    with running(adder.app.llm, api_keys=(KEY,), max_requests_per_key=4) as server:
        for fields, status in (
            ({"num_beams": 4}, 200),
            ({"num_beams": 5}, 400),
            ({"prompt": ["1=", "2="]}, 400),
        ):
            body = SUM | {"num_beams": 3} | fields
            got = server.ask("/v1/completions", body, Authorization=f"Bearer {KEY}")
            assert got.status == status, got.body
    assert "num_beams" in got.json()["error"]["message"]


# --- forms, by vLLM's names


def test_forms_by_the_names_of_vllm(chatter):
    def ask(form, path="/v1/completions", **more):
        body = {"prompt": "the"} if "chat" not in path else {"messages": CHAT}
        return chatter.ask(path, body | {"max_tokens": 30, "structured_outputs": form} | more)

    for form, texts in (
        ({"json": {"enum": ["a", 7]}}, {'"a"', "7"}),
        ({"json": '{"const": 5}'}, {"5"}),
        ({"regex": "[xy]z", "choice": None}, {"xz", "yz"}),
        ({"choice": ["left", "right"]}, {"left", "right"}),
        ({"grammar": 'start: "yes" | "no"', "json_object": False}, {"yes", "no"}),
    ):
        assert ask(form).json()["choices"][0]["text"] in texts
        chat = ask(form, "/v1/chat/completions").json()["choices"][0]
        assert chat["message"]["content"] in texts
    assert ask({"json_object": True}).json()["choices"][0]["text"].startswith("{")
    tool = {"type": "function", "function": {"name": "f"}}
    for form, more in (
        ({}, {}),
        ("json", {}),
        ({"regex": "a", "choice": ["a"]}, {}),
        ({"regex": "a", "json_object": True}, {}),
        ({"regex": "a"}, {"regex": "b"}),
        ({"json": {}}, {"response_format": {"type": "json_object"}}),
    ):
        error = ask(form, **more).json()["error"]
        assert error["param"] == "structured_outputs", (form, error)
    assert ask({"jsn": {}}).json()["error"]["param"] == "structured_outputs.jsn"
    assert ask({"json_object": 1}).json()["error"]["param"] == "structured_outputs.json_object"
    assert ask({"json": 5}).json()["error"]["param"] == "json_schema"
    for choice in ("auto", "required"):
        tools = {"tools": [tool], "tool_choice": choice}
        got = ask({"json": {}}, "/v1/chat/completions", **tools).json()["error"]
        assert got["param"] == "structured_outputs"
    assert ask({"regex": "ab"}, "/v1/chat/completions", tools=[tool], tool_choice="none").status == 200


# --- the prompt's own


def test_log_probabilities_of_a_prompt_are_the_librarys(adder):
    own = adder.app.llm.generate(SUM["prompt"], prompt_logprobs=2, max_tokens=0).prompt_logprobs
    for fields in ({"max_tokens": 0}, {"n": 2}):
        got = adder.ask("/v1/completions", SUM | {"prompt_logprobs": 2} | fields).json()
        for choice in got["choices"]:
            assert choice["prompt_logprobs"][0] is None and len(choice["prompt_logprobs"]) == len(own) == 8
            for shown, entry in zip(choice["prompt_logprobs"][1:], own[1:], strict=True):
                assert shown[str(entry.token_id)]["logprob"] == entry.logprob
                assert 2 <= len(shown) <= 3
                for rank, (token_id, logprob) in enumerate(entry.top, 1):
                    text = adder.app.llm.tokenizer.token_bytes(token_id).decode()
                    assert shown[str(token_id)] == {"logprob": logprob, "rank": rank, "decoded_token": text}
    assert got["choices"][0]["text"] == "1000"
    assert "prompt_logprobs" not in adder.ask("/v1/completions", SUM).json()["choices"][0]


def test_log_probabilities_of_a_chat_stand_beside_its_choices(chatter):
    fields = {"messages": CHAT, "max_tokens": 2, "prompt_logprobs": 0}
    got = chatter.ask("/v1/chat/completions", fields).json()
    assert got["prompt_logprobs"] == chatter.app.llm.create_chat_completion(**fields)["prompt_logprobs"]
    assert len(got["prompt_logprobs"]) == got["usage"]["prompt_tokens"]
    assert (
        "prompt_logprobs"
        not in chatter.ask("/v1/chat/completions", fields | {"prompt_logprobs": None}).json()
    )


def test_log_probabilities_of_prompts_are_so_many(adder, translator, chatter, monkeypatch):
    monkeypatch.setattr(text_requests, "MAX_PROMPT_LOGPROBS", 2 * 8 * 3)
    fine = SUM | {"prompt": [SUM["prompt"]] * 2, "prompt_logprobs": 2}
    assert adder.ask("/v1/completions", fine).status == 200
    for more in (
        {"n": 2},
        {"prompt": [SUM["prompt"]] * 3},
        {"prompt_logprobs": 3},
        {"prompt_logprobs": 21},
        {"prompt_logprobs": -1},
        {"prompt_logprobs": True},
        {"stream": True},
    ):
        got = adder.ask("/v1/completions", fine | more)
        assert (got.status, got.json()["error"]["param"]) == (400, "prompt_logprobs"), more
    assert comes_true(lambda: adder.stats()["running"] + adder.stats()["waiting"] == 0)
    for server, body in ((translator, SUM | {"prompt_logprobs": 1}), (adder, fine | {"num_beams": 2})):
        assert server.ask("/v1/completions", body).json()["error"]["param"] == "prompt_logprobs"
    chat = {"messages": [{"role": "user", "content": "the " * 60}], "max_tokens": 1, "prompt_logprobs": 0}
    assert chatter.ask("/v1/chat/completions", chat).json()["error"]["param"] == "prompt_logprobs"
    cut = chat | {"truncate_prompt_tokens": 2 * 8 * 3}
    assert len(chatter.ask("/v1/chat/completions", cut).json()["prompt_logprobs"]) == 2 * 8 * 3
    echo = {"prompt": SUM["prompt"], "logprobs": 2, "echo": True, "max_tokens": 1}
    assert adder.ask("/v1/completions", echo).status == 200, "it is written twice"
    got = adder.ask("/v1/completions", echo | {"n": 2})
    assert got.json()["error"]["param"] == "prompt_logprobs"


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"prompt": ["9+  1=", SUM["prompt"]], "n": 2}])
def test_a_prompt_is_echoed_before_its_answer(adder, fields):
    plain = adder.ask("/v1/completions", SUM | {"seed": 3, "logprobs": 2} | fields).json()["choices"]
    texts = fields.get("prompt", [SUM["prompt"]])
    echo = SUM | {"seed": 3, "logprobs": 2, "echo": True} | fields
    got = adder.ask("/v1/completions", echo).json()["choices"]
    for i, (whole, answered) in enumerate(zip(got, plain, strict=True)):
        prompt = texts[i // fields.get("n", 1)]
        assert whole["text"] == prompt + answered["text"]
        own = adder.app.llm.generate(prompt, prompt_logprobs=2, max_tokens=0).prompt_logprobs
        shown, after = whole["logprobs"], answered["logprobs"]
        assert shown["tokens"] == [*prompt, *after["tokens"]], "each of its tokens is a character"
        n_after = len(after["tokens"])
        assert shown["token_logprobs"] == [None, *(one.logprob for one in own[1:]), *after["token_logprobs"]]
        assert shown["top_logprobs"][0] is None and shown["top_logprobs"][-n_after:] == after["top_logprobs"]
        assert list(shown["top_logprobs"][1].values())[::-1] == [p for _, p in own[1].top]
        assert shown["text_offset"] == [
            *range(len(prompt)),
            *(len(prompt) + at for at in after["text_offset"]),
        ]


def test_an_echo_is_of_what_was_read(adder, translator):
    def echoed(**fields):
        return adder.ask("/v1/completions", SUM | {"echo": True} | fields).json()["choices"][0]

    assert echoed()["text"] == "999+  1=1000" and echoed()["logprobs"] is None
    assert echoed(prompt=[9, 9, 9, 10, 12, 12, 1, 11])["text"] == "999+  1=1000"
    assert echoed(prompt="1+2=999+  1=", truncate_prompt_tokens=8)["text"] == "999+  1=1000"
    alone = echoed(max_tokens=0, logprobs=0)
    assert alone["text"] == SUM["prompt"] and len(alone["logprobs"]["tokens"]) == 8
    more = echoed(prompt_logprobs=3, logprobs=1)
    assert len(more["logprobs"]["top_logprobs"][3]) == 3 and len(more["logprobs"]["top_logprobs"][-1]) == 1
    for server, wrong in ((adder, {"echo": 1}), (translator, {}), (translator, {"stream": True})):
        got = server.ask("/v1/completions", SUM | {"echo": True} | wrong)
        assert (got.status, got.json()["error"]["param"]) == (400, "echo")


@pytest.mark.parametrize("logprobs", [0, 2])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2},
        {"prompt": ["9+  1=", SUM["prompt"]], "n": 2},
        {"prompt": [9, 9, 9, 10, 12, 12, 1, 11]},
        {"max_tokens": 0},
        {"truncate_prompt_tokens": 3},
        {"stop": "0", "logprobs": None},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_a_streamed_echo_says_what_the_whole_answer_does(adder, fields, logprobs):
    echo = SUM | {"seed": 3, "logprobs": logprobs, "echo": True} | fields
    options = echo.pop("stream_options", None)
    whole = adder.ask("/v1/completions", echo).json()
    events = adder.ask("/v1/completions", echo | {"stream": True, "stream_options": options}).events()
    if options:
        assert events.pop()["usage"] == whole["usage"] | {
            "prompt_tokens_details": {"cached_tokens": ANY}
        } and all(event["usage"] is None for event in events)
    for choice in whole["choices"]:
        pieces = [one for event in events for one in event["choices"] if one["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert len(pieces[0]["text"]) >= 3, "the prompt comes with the first"
        assert pieces[-1]["finish_reason"] == choice["finish_reason"]
        for name, values in (choice["logprobs"] or {}).items():
            assert [value for piece in pieces for value in (piece["logprobs"] or {}).get(name, ())] == values


def test_a_prompt_is_echoed_once_however_many_pieces_follow():
    output = SimpleNamespace(prompt="ab", prompt_token_ids=[1], truncated=False, prompt_logprobs=None)
    handle = SimpleNamespace(asked=lambda: output)
    form = TextFormat("m", SimpleNamespace(), SamplingParams(n=2), [handle], echo=True)  # type: ignore[arg-type]
    chunks = [Chunk(i, text, [], None, None, None) for i, text in ((0, ""), (0, "c"), (1, "d"), (0, "e"))]
    longs = [(form.is_long(0, chunk), form.pieces(0, chunk)) for chunk in chunks]
    texts = [[piece["choices"][0]["text"] for piece in pieces] for _, pieces in longs]
    assert texts == [["ab"], ["c"], ["abd"], ["e"]]
    assert [is_long for is_long, _ in longs] == [True, False, True, False]


def test_a_long_echo_is_written_beside_the_event_loop(adder, monkeypatch):
    """Its log-probabilities come as one piece, which takes longer to write than the loop may stand still."""
    threads = []
    written = app._written
    monkeypatch.setattr(app, "_written", lambda *a: threads.append(current_thread().name) or written(*a))
    body = SUM | {"prompt": SUM["prompt"] * 2, "echo": True, "logprobs": 1, "stream": True}
    assert adder.ask("/v1/completions", body).status == 200
    assert threads and all(name.startswith("tuili-http-text") for name in threads)


# --- encoder-decoders


def test_an_answer_begins_after_what_is_asked_for(translator):
    llm = translator.app.llm
    own = llm.config["decoder_start_token_id"]
    text = answer(translator, prompt="12", max_tokens=8)
    assert text == answer(translator, prompt="12", max_tokens=8, decoder_start_token_id=own)
    other = answer(translator, prompt="12", max_tokens=8, decoder_start_token_id=7, ignore_eos=True)
    wanted = llm.generate("12", max_tokens=8, decoder_start_token_id=7, ignore_eos=True).outputs[0]
    assert other == wanted.text != text
    logits = llm.logits(llm.tokenizer.encode("12"), decoder_token_ids=[7])
    assert wanted.token_ids[0] == logits[-1].argmax(), "it is the first that the decoder reads"


def test_a_decoder_goes_on_from_its_prompt_alone(adder):
    error = adder.ask("/v1/completions", SUM | {"decoder_start_token_id": 1}).json()["error"]
    assert error["param"] == "decoder_start_token_id"


def test_a_source_is_cut_at_its_end_but_for_what_ends_it(translator):
    llm = translator.app.llm
    ids = llm.tokenizer.encode("12 34 56")
    got = translator.ask("/v1/completions", SUM | {"prompt": "12 34 56", "truncate_prompt_tokens": 3}).json()
    own = llm.generate([*ids[:2], ids[-1]], max_tokens=4)
    assert got["usage"]["prompt_tokens"] == 3 and got["choices"][0]["text"] == own.outputs[0].text
    assert llm.generate("12 34 56", truncate_prompt_tokens=3, max_tokens=4).truncated
    assert not llm.generate("12", truncate_prompt_tokens=30, max_tokens=4).truncated


# --- all of them

# What is not a client's to choose, or what no JSON can say.
NOT_THEIRS = {"priority", "cache_salt", "on_nan", "logits_processors"}


def test_every_parameter_is_a_field_or_is_left_out_on_purpose(adder):
    fields = {"json_schema" if name == "response_format" else name for name in completions.FIELDS}
    assert set(NAMES) - fields == NOT_THEIRS
    for name in NOT_THEIRS:
        got = adder.ask("/v1/completions", SUM | {name: 1})
        assert (got.status, got.json()["error"]["param"]) == (400, name)


def test_the_document_has_every_field():
    paths = document("m", "decoder")["paths"]
    body = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    taken = set(completions.FIELDS) - set(completions._PLAIN) | {"messages", "stream", "stream_options"}
    assert set(body["properties"]) == taken
    assert body["properties"]["max_tokens"]["minimum"] == 0, "beside prompt_logprobs"


WRONG = {
    "allowed_token_ids": [[], [-1], [99], [1.5], {"1": 1}],
    "bad_words": [[""], [1], ["x" * 257]],
    "bad_words_ids": [[[]], [1], [[99]], [["a"]]],
    "sequence_bias": [[[]], [[[], 1]], [[[99], 1]], [[[1], "a"]], {"1": 1}, [[[1], 1e31]]],
    "suppress_tokens": [[99], "1", [True]],
    "begin_suppress_tokens": [[99], 1],
    "encoder_no_repeat_ngram_size": [-1, 1.5, 1025],
    "encoder_repetition_penalty": [0, -1, "1", 1e7],
    "exponential_decay_length_penalty": [[1], 1.1, [1, 0], [1, "a"], [1, 2, 3]],
    "renormalize_logits": [1, "yes"],
    "forced_bos_token_id": [-1, 99, "a"],
    "forced_eos_token_id": [-1, 99, 2**31, [], [2, 99], "2"],
    "skip_special_tokens": [0, "no"],
    "early_stopping": ["soon", 1],
    "length_penalty": [11, "1"],
    "decoder_start_token_id": [-1, "a"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_by_name(adder, name):
    for value in WRONG[name]:
        got = adder.ask("/v1/completions", SUM | {name: value})
        assert got.status == 400 and name in got.json()["error"]["message"], got.body
        chat = adder.ask("/v1/chat/completions", {"messages": CHAT, name: value})
        assert chat.status == 400


@pytest.mark.parametrize("fields", [{}, {"num_beams": 2}, {"stream": True}, {"regex": "[0-9]"}])
def test_what_leaves_no_token_is_the_clients_to_mend(adder, fields):
    got = adder.ask("/v1/completions", SUM | {"allowed_token_ids": [1], "suppress_tokens": [1]} | fields)
    assert (got.status, got.code) == (400, "no_token_allowed")
    assert "suppress_tokens" in got.json()["error"]["message"]


def test_words_are_spelled_for_so_many_prompts(adder, monkeypatch):
    monkeypatch.setattr(text_requests, "MAX_BAD_WORDS", 4)
    fields = {"prompt": ["1+  1="] * 2, "bad_words": ["7", "8"]}
    assert adder.ask("/v1/completions", SUM | fields).status == 200
    got = adder.ask("/v1/completions", SUM | fields | {"bad_words": ["7", "8", "9"]})
    assert (got.status, got.json()["error"]["param"]) == (400, "bad_words")


def test_a_chat_takes_them_as_the_call_in_process_does(chatter):
    fields = {"max_tokens": 6, "num_beams": 3, "n": 2, "allowed_token_ids": [40, 41], "length_penalty": 0.5}
    got = chatter.ask("/v1/chat/completions", {"messages": CHAT, **fields}).json()
    own = chatter.app.llm.create_chat_completion(messages=CHAT, **fields)
    plain = chatter.app.llm.create_chat_completion(messages=CHAT, max_tokens=6)

    def contents(answer):
        return [choice["message"]["content"] for choice in answer["choices"]]

    assert contents(got) == contents(own) and contents(own)[:1] != contents(plain)
