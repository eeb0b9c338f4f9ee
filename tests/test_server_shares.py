"""What a tenant may use of the HTTP server at a time, and what is told before it costs anything.

Catalogue rows SRV-12, SRV-13.
"""

from __future__ import annotations

import asyncio
import functools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tuili
from patience import comes_true
from tiny_server import KEY, OTHER_KEY, hold_up, running
from tuili.generation.request import Request
from tuili.server import guard, lengths, replies, shares
from tuili.server.access import ANYBODY, Tenant
from tuili.server.app import LONG_BODY_BYTES
from tuili.server.metrics import Metrics
from tuili.server.replies import Refused, large_to_json, to_json
from tuili.server.settings import Settings
from tuili.server.shares import Place, Shares

BEARER, OTHER_BEARER = f"Bearer {KEY}", f"Bearer {OTHER_KEY}"
MINE, THEIRS = Tenant("key-1", "1"), Tenant("key-2", "2")
SHORT = {"prompt": "the", "max_tokens": 1}


# --- sequences


def test_a_share_counts_the_continuations_of_each_prompt(llm):
    with running(llm, api_keys=(KEY,), max_requests_per_key=4) as server:
        for prompts, n, status in ((["the"] * 2, 2, 200), (["the"] * 5, 1, 400), ("the", 5, 400)):
            answer = server.ask(
                "/v1/completions", {"prompt": prompts, "max_tokens": 1, "n": n}, Authorization=BEARER
            )
            assert answer.status == status
        assert answer.json()["error"]["param"] == "n"
        chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "n": 5}
        assert server.ask("/v1/chat/completions", chat, Authorization=BEARER).status == 400


def test_a_wide_request_leaves_no_room_for_another_of_its_key():
    whole = Shares(Settings(api_keys=(KEY, OTHER_KEY), max_requests=10, max_requests_per_key=6))
    wide, other, theirs = Place(whole, MINE), Place(whole, MINE), Place(whole, THEIRS)
    wide.enter()
    wide.widen(5)
    other.enter()
    with pytest.raises(Refused) as refused:
        other.widen(2)
    assert refused.value.status == 429
    theirs.enter()
    with pytest.raises(Refused):  # ten for all of them
        theirs.widen(5)
    wide.leave()
    theirs.widen(5)
    other.widen(5)


def test_what_a_request_took_comes_back_when_it_leaves_early():
    whole = Shares(Settings(api_keys=(KEY,), max_requests_per_key=4))
    place = Place(whole, MINE)
    place.enter()
    place.leave()
    with pytest.raises(tuili.RequestCancelled):  # a thread that was still reading its fields
        place.widen(4)
    place.leave()
    for _ in range(3):
        again = Place(whole, MINE)
        again.enter()
        again.widen(4)
        again.leave()


# --- bodies


def test_bodies_count_until_they_are_handed_on(llm, monkeypatch):
    """16 of the largest, and not as many as may be under way."""
    go, text = threading.Event(), None

    def waiting(*arguments):
        go.wait(60)
        return text(*arguments)

    body = json.dumps(SHORT).encode()
    body += b" " * (1000 - len(body))
    with running(llm, max_body_bytes=1000) as server:
        text = server.app.texts.text
        monkeypatch.setattr(server.app.texts, "text", waiting)
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(server.ask("/v1/completions", body)))
            for _ in range(shares.BUFFERED_BODIES)
        ]
        for thread in threads:
            thread.start()
        buffered = server.app._guard._shares._bytes
        assert comes_true(lambda: buffered[ANYBODY] >= 16_000)
        assert server.ask("/v1/completions", body).status == 429
        go.set()
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 16
        assert server.ask("/v1/completions", body).status == 200
        assert buffered[ANYBODY] == 0


def test_a_body_is_not_kept_while_its_answer_is_made(llm):
    with running(llm) as server, server.connect() as connection:
        body = json.dumps({"prompt": "the", "max_tokens": 400, "ignore_eos": True, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        assert connection.recv(1).startswith(b"H")
        assert server.app._guard._shares._bytes[ANYBODY] == 0


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_a_body_is_not_kept_for_a_client_who_has_left(llm, monkeypatch, path):
    """Although its turn on the thread for long bodies is still to come."""
    come, forgotten, go = threading.Event(), threading.Event(), threading.Event()

    class Body(bytes):
        def __del__(self):
            forgotten.set()

    async def receive_body(*arguments):
        body = Body(await receive(*arguments))
        come.set()
        return body

    receive = guard._receive_body
    monkeypatch.setattr(guard, "_receive_body", receive_body)
    body = json.dumps(SHORT).encode() + b" " * LONG_BODY_BYTES
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with running(llm) as server:
        server.app._long_threads.submit(go.wait, 60)
        with server.connect() as connection:
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            assert come.wait(30)
            assert not forgotten.is_set()
        assert forgotten.wait(30)
        go.set()


def test_one_key_has_half_of_what_bodies_may_take():
    whole = Shares(Settings(api_keys=(KEY, OTHER_KEY), max_body_bytes=100))
    mine, theirs = Place(whole, MINE), Place(whole, THEIRS)
    mine.buffer(800)
    with pytest.raises(Refused):
        mine.buffer(1)
    theirs.buffer(800)
    mine.leave()
    mine.buffer(1)


# --- tokens a minute


def test_a_key_that_has_used_its_tokens_waits_and_the_others_do_not(llm):
    with running(llm, api_keys=(KEY, OTHER_KEY), max_tokens_per_minute=30) as server:
        body, begun = {"prompt": "the river", "max_tokens": 400, "ignore_eos": True}, time.monotonic()
        answer = server.ask("/v1/completions", body, Authorization=BEARER)
        assert answer.status == 200
        wait_s = 2 * (answer.json()["usage"]["total_tokens"] - 29)  # a token in 2 s
        refused = server.ask("/v1/completions", SHORT, Authorization=BEARER)
        assert (refused.status, refused.code) == (429, "token_rate")
        assert 0 <= wait_s - int(refused.headers["retry-after"]) <= time.monotonic() - begun
        assert server.ask("/v1/completions", SHORT, Authorization=OTHER_BEARER).status == 200
        assert server.ask("/v1/models", Authorization=BEARER).status == 200


def test_a_stream_that_is_left_is_paid_for(llm):
    with running(llm, api_keys=(KEY,), max_tokens_per_minute=2) as server, server.connect() as connection:
        body = json.dumps(
            {"prompt": "the river", "max_tokens": 450, "ignore_eos": True, "stream": True}
        ).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: {BEARER}\r\nContent-Type: application/json\r\n\r\n"
        connection.sendall(head.encode() + body)
        data = b""
        while b"data:" not in data:  # on a busy machine the first event may hold every token
            part = connection.recv(1 << 16)
            assert part
            data += part
        connection.close()
        free = {"prompt": "the", "max_tokens": -1}
        ask = functools.partial(server.ask, "/v1/completions", free, Authorization=BEARER)
        assert comes_true(lambda: ask().status != 400) and ask().code == "token_rate"


def test_the_rate_is_of_keys():
    whole = Shares(Settings(api_keys=(KEY,), max_tokens_per_minute=1))
    whole.use_tokens(ANYBODY, 99)
    whole.check_rate(ANYBODY)


def test_debt_is_paid_at_the_rate():
    rate = shares._Rate(60)
    assert rate.wait_s(5.0) == 0
    rate.use(90, 5.0)
    assert rate.wait_s(5.0) == pytest.approx(31)
    assert rate.wait_s(30.0) == pytest.approx(6)
    assert rate.wait_s(36.0) == 0
    rate.use(1, 500.0)
    assert rate._left == 59, "it saves up a minute's and no more"


# --- time


def test_vectors_obey_the_time_limit(embedder, monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    def slow(body, keep_on):
        begun.set()
        try:
            while True:
                time.sleep(0.01)
                keep_on(1, 2)
        finally:
            ended.set()

    with running(embedder, request_timeout_s=0.1) as server:
        for path, name in (("/v1/embeddings", "embed"), ("/v1/rerank", "rerank")):
            begun.clear()
            ended.clear()
            monkeypatch.setattr(server.app.vectors, name, slow)
            while not begun.is_set():  # the time may be over before it begins
                answer = server.ask(path, {"input": "a"})
                assert (answer.status, answer.code) == (408, "deadline")
            assert ended.wait(30), "and the work ends"


@pytest.mark.parametrize(
    "path, reader, work", [("/v1/embeddings", "vectors", "embed"), ("/tokenize", "texts", "tokenize")]
)
def test_what_has_no_answer_when_the_server_ends_is_told_so(embedder, monkeypatch, path, reader, work):
    """Whatever a thread is at: none of it waits for that, or hears of a fault of ours (500)."""
    begun, go = threading.Event(), threading.Event()
    with running(embedder) as server, ThreadPoolExecutor(1) as client:
        stands_still = lambda *_: begun.set() or go.wait(60)  # noqa: E731
        monkeypatch.setattr(getattr(server.app, reader), work, stands_still)
        asked = client.submit(server.ask, path, {"input": "a", "prompt": "a"})
        assert begun.wait(30)
        server.loop.call_soon_threadsafe(server.app.abort_all)
        answer = asked.result(30)
        go.set()
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "closing", "1")


@pytest.mark.parametrize("body_is_here", [False, True])
def test_an_end_that_comes_with_the_answer_leaves_a_whole_one(body_is_here):
    """An endpoint that is about to answer does not begin what is then cut off; the task is as before."""

    async def exchange() -> tuple[list[tuple[int | None, bool]], int]:
        begun, go, sent = asyncio.Event(), asyncio.Event(), []

        async def router(scope, receive, send):
            begun.set()
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.sleep(0.05)
            await send({"type": "http.response.body", "body": b"{}"})

        async def receive():
            if body_is_here and not begun.is_set():
                return {"type": "http.request", "body": b"{}"}
            begun.set()
            return await asyncio.Future()

        async def send(message):
            sent.append((message.get("status"), message.get("more_body", False)))

        guarded = guard.Guard(router, {"/tokenize": ("POST",)}, Settings(port=0), Metrics())
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"2")]
        scope = {"type": "http", "method": "POST", "path": "/tokenize", "raw_path": b"/tokenize"}
        scope |= {"headers": headers, "client": ("127.0.0.1", 1)}
        task = asyncio.ensure_future(guarded(scope, receive, send))
        await asyncio.wait_for(begun.wait(), 30)
        await asyncio.sleep(0)
        go.set()
        guarded.end()
        await task
        return sent, task.cancelling()

    assert asyncio.run(exchange()) == ([(503, False), (None, False)], 0)


def test_reading_obeys_the_time_limit_and_what_it_began_ends(llm, monkeypatch):
    go = threading.Event()
    with running(llm, request_timeout_s=0.1) as server:
        text = server.app.texts.text
        monkeypatch.setattr(server.app.texts, "text", lambda *given: go.wait(60) and text(*given))
        answer = server.ask("/v1/completions", {"prompt": "the", "max_tokens": 400, "ignore_eos": True})
        assert (answer.status, answer.code) == (408, "deadline")
        before = server.stats()["prompt_tokens"]
        go.set()
        server.app._text_threads.submit(int).result(10)
        server.app._text_threads.submit(int).result(10)
        assert server.stats()["prompt_tokens"] == before, "nothing was computed for nobody"


# --- what is told early, and what is done beside the event loop


@pytest.mark.parametrize("bounded", [True, False])
def test_a_text_that_cannot_fit_is_not_encoded_to_its_end(llm, monkeypatch, bounded):
    seen, encode = [], type(llm.tokenizer).encode
    if not bounded:  # as of tokenizers of which too little is known
        monkeypatch.setattr(type(llm.tokenizer), "check_fits", lambda *_: None)
    monkeypatch.setattr(
        type(llm.tokenizer),
        "encode",
        lambda self, text, **more: seen.append(len(text)) or encode(self, text, **more),
    )
    monkeypatch.setattr(type(llm.tokenizer), "encode_chat", None)
    text = "the river of the sea " * 5000
    with running(llm) as server:
        for path, fields in (
            ("/v1/completions", {"prompt": text}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
            (
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": "the river of the sea " * 9}] * 600},
            ),
        ):
            answer = server.ask(path, fields)
            assert (answer.status, answer.code) == (400, "prompt_too_long")
    if bounded:
        assert not seen
    else:
        assert 0 < max(seen) < 2 * lengths.PART_CHARS and sum(seen) < len(text)


def test_texts_that_fit_are_never_refused_for_their_length(monkeypatch):
    class Words:
        def encode(self, text, *, add_special):
            return text.split(" ") * 1

        def check_fits(self, text, max_tokens):
            pass

    monkeypatch.setattr(lengths, "SHORT_BYTES", 100)
    monkeypatch.setattr(lengths, "PART_CHARS", 64)
    lengths.Lengths(Words(), 1000).check("word " * 999)
    lengths.Lengths(Words(), 1000).check([{"type": "text", "text": "a"}] * 1000)
    with pytest.raises(tuili.PromptTooLongError):
        lengths.Lengths(Words(), 1000).check("word " * 1999)
    with pytest.raises(tuili.PromptTooLongError):
        lengths.Lengths(Words(), 1000).check(["word " * 30_000, {"a": "word " * 30_000}])


def test_a_conversation_is_as_long_as_its_template_makes_it(llm, monkeypatch):
    """Of many short parts most of what JSON says is in no prompt."""
    monkeypatch.setattr(lengths, "SHORT_BYTES", 100)
    parts = [{"type": "text", "text": "a"}] * 100
    messages = [{"role": "user", "content": parts}]
    with running(llm) as server:
        assert (
            server.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 1}).status,
            server.ask("/tokenize", {"messages": messages}).status,
        ) == (200, 200)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=30,
)


@given(JSON, st.integers(0, 6))
def test_an_answer_in_parts_is_the_answer(value, levels):
    assert b"".join(replies._parts(value, levels)) == to_json(value)


def test_no_part_of_a_large_answer_is_large():
    token = {"token": "a", "logprob": -1.5, "bytes": [97], "top_logprobs": [{"token": "b"}] * 20}
    choices = [{"index": i, "logprobs": {"content": [token] * 300}} for i in range(4)]
    vectors = [{"embedding": [0.123456789] * 4096}] * 20
    shown = {str(i): {"logprob": -1.5, "rank": i, "decoded_token": "a"} for i in range(20)}
    prompts = [{"prompt_logprobs": [None, *[shown] * 300]}] * 4
    large = [{"choices": choices}, {"choices": prompts}, {"data": vectors}, {"tokens": [123456] * 100_000}]
    for value in large:
        parts = list(replies._parts(value, replies.SPLIT_LEVELS))
        assert max(map(len, parts)) < 20_000
        assert large_to_json(value) == to_json(value)


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_of_a_long_answer_is_not_made_on_the_event_loop(llm, monkeypatch, stream):
    threads, output = set(), Request.output
    monkeypatch.setattr(
        Request, "output", lambda self: threads.add(threading.current_thread().name) or output(self)
    )
    with running(llm) as server:
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        answer = server.ask("/v1/completions", {"prompt": "the", "max_tokens": 20, **options})
        assert answer.status == 200
    assert all(name.startswith("tuili-http") for name in threads)


def test_a_head_of_many_lines_is_refused_before_it_is_read(llm):
    with running(llm) as server:
        for n, status in ((200, 200), (300, 431), (12_000, 431)):
            lines = b"a:\r\n" * n
            answer = server.send(
                b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + lines + b"\r\n"
            )
            assert answer.status == status, n
        body = json.dumps(SHORT, indent=1).encode().replace(b"\n", b"\n" * 300)
        assert server.ask("/v1/completions", body).status == 200, "lines of a body are none"


HEAVY = {
    "keys": b"{" + b",".join(b'"%d":1' % i for i in range(199_000)) + b"}",
    "escapes": b'{"prompt": "' + b"\\n" * 2_000_000 + b'"}',
    "lists": b'{"prompt": [' + b"[]," * 99_000 + b"[]]}",
    "long integers": b'{"seed": [' + b",".join([b"9" * 4000] * 1000) + b"]}",
}


@pytest.mark.timing
@pytest.mark.parametrize("body", HEAVY)
def test_json_that_is_heavy_holds_up_nobody(llm, body):
    with running(llm) as server:
        assert not hold_up(server, "/v1/completions", HEAVY[body], 400, 413)
