"""The HTTP server against whoever does not mean well: framing, bodies, slowness, leavers, floods, logs.

Catalogue rows SRV-01 … SRV-03, SRV-05 … SRV-07, SRV-12 … SRV-14, PRIV-01, PRIV-02, PRIV-08.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import logging
import re
import socket
import threading
import time

import pytest

from patience import comes_true, least
from tiny_server import KEY, OTHER_KEY, hold_up, read_answer, running

CANARY = "wombat-7f3a"
BEARER = f"Bearer {KEY}"
SHORT_S = 0.1  # a limit that a test waits for
LONG_S = 600.0  # one that none reaches, however long the machine does something else
SLOW_TOKEN_S = 0.1
LONG = {"prompt": "the", "max_tokens": 400, "ignore_eos": True}  # takes longer than `settles` waits
SMALL = {"max_connections": 8, "max_body_bytes": 100_000}


@pytest.fixture(scope="module")
def server(llm):
    """With two keys."""
    with running(llm, api_keys=(KEY, OTHER_KEY), max_requests_per_key=3) as server:
        yield server


@pytest.fixture(scope="module")
def hasty(llm):
    """Without keys, and with little patience: it may close before a slow test has said anything."""
    with running(
        llm, header_timeout_s=SHORT_S, body_timeout_s=SHORT_S, keep_alive_s=SHORT_S, **SMALL
    ) as server:
        yield server


@pytest.fixture(scope="module")
def hasty_after_heads(llm):
    """Without keys, and with little patience once it has a request's head."""
    with running(
        llm, header_timeout_s=LONG_S, body_timeout_s=SHORT_S, keep_alive_s=SHORT_S, **SMALL
    ) as server:
        yield server


@pytest.fixture(scope="module")
def patient(llm):
    """Without keys, and with time for whoever comes late: no connection ends within a test for being idle."""
    with running(llm, header_timeout_s=LONG_S, body_timeout_s=LONG_S, **SMALL) as server:
        yield server


def slowly(token_ids, logits):
    time.sleep(SLOW_TOKEN_S)


def n_places(server):
    """Sequences that have a place in the server, whether or not the engine knows of them yet."""
    return server.app._guard._shares._sequences.total()


def settles(server):
    """Whether nothing is under way any more, in the server or in the engine."""

    def is_idle():
        stats = server.stats()
        return n_places(server) + stats["running"] + stats["waiting"] == 0

    return comes_true(is_idle)


# --- framing

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
ONCE = GET + b"Connection: close\r\n\r\n"
FRAMES = {
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "garbage": b"GARBAGE\r\n\r\n",
    "long request line": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "many headers": GET + b"".join(b"x%d: y\r\n" % i for i in range(20_000)) + b"\r\n",
    "long header": GET + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
    "NUL in a header": GET + b"x: a\x00b\r\n\r\n",
    "CR in a header": GET + b"x: a\rb\r\n\r\n",
    "space before the colon": GET + b"x : y\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "length of 2^64": HEAD + b"Content-Length: 18446744073709551616\r\n\r\n",
    "length of many digits": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "unknown encoding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    "chunk of 2^63": CHUNKED + b"8000000000000000\r\n{",
    "chunk size of letters": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "long chunk extension": CHUNKED + b"2;" + b"e" * 200_000 + b"\r\n{}\r\n0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "body in tiny chunks": CHUNKED + b"1\r\n \r\n" * 2000 + b"0\r\n\r\n",
    "trailers": CHUNKED + b"2\r\n{}\r\n0\r\nX: y\r\n\r\n",
}


@pytest.mark.parametrize("frame", FRAMES)
def test_bytes_that_are_no_request_get_a_4xx_or_a_close(hasty, frame):
    answer = hasty.send(FRAMES[frame])
    assert answer is None or 400 <= answer.status < 500
    if answer is not None:
        assert answer.code
    assert comes_true(lambda: (answer := hasty.send(ONCE)) and answer.status == 200)


def test_an_old_client_and_an_upgrade_are_answered(patient):
    assert patient.send(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n").status == 200
    websocket = b"Connection: upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    assert patient.send(GET + websocket).status == 200


def test_requests_on_end_are_answered_in_order(patient):
    last = ONCE.replace(b"/health", b"/ready")
    with patient.connect() as connection:
        connection.sendall(GET + b"\r\n" + last)
        data = b""
        while part := connection.recv(1 << 16):
            data += part
    assert data.count(b"HTTP/1.1 200") == 2 and data.index(b'"ok"') < data.index(b'"ready"')


# --- bodies

DEEP = b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BODIES = {
    "empty": b"", "null": b"null", "list": b"[]", "text": b'"x"', "number": b"3", "cut": b'{"prompt": "a',
    "nested": DEEP[:90_000], "key twice": b'{"prompt": "a", "prompt": "b"}',
    "NaN": b'{"prompt": "a", "temperature": NaN}', "Infinity": b'{"prompt": "a", "temperature": Infinity}',
    "1e400": b'{"prompt": "a", "temperature": 1e400}',
    "2^64": b'{"prompt": "a", "seed": 18446744073709551616}',
    "long integer": b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}", "not UTF-8": b'{"prompt": "\xff"}',
    "mark": b'\xef\xbb\xbf{"prompt": "a"}', "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "gzip": gzip.compress(b'{"prompt": "a"}'), "trailing": b'{"prompt": "a"} x',
    "comment": b'{"prompt": 1 /* */}',
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_no_object_of_json_is_400(patient, body):
    answer = patient.ask("/v1/completions", BODIES[body])
    assert answer.status == 400 and answer.code


def test_half_a_surrogate_pair_is_text_like_any_other(patient):
    answer = patient.ask("/v1/completions", b'{"prompt": "a\\ud83d", "max_tokens": 1}')
    assert answer.status in (200, 400)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "multipart/form-data; boundary=x"},
        {"Content_Type": ""},
        {"Content_Type": "application/json; charset=utf-16"},
        {"Content_Type": "application/jsonp"},
        {"content_type": "text/plain"},  # beside application/json
        {"Content_Encoding": "gzip"},
        {"Content_Encoding": "br"},
    ],
)
def test_only_plain_json_is_taken(patient, headers):
    assert patient.ask("/v1/completions", {"prompt": "a"}, **headers).status == 400


@pytest.mark.parametrize("written", ["application/json;charset=UTF-8", 'Application/JSON ; charset="utf-8"'])
def test_json_may_say_that_it_is_utf8(patient, written):
    assert (
        patient.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}, Content_Type=written).status == 200
    )


def test_a_body_that_is_too_large_is_413(patient):
    assert patient.ask("/v1/completions", b" " * 100_001).code == "body_size"
    part = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    answer = patient.send(CHUNKED + part * 11 + b"0\r\n\r\n")
    assert (answer.status, answer.code) == (413, "body_size"), "counted, whatever was declared"
    assert patient.send(HEAD + b"Content-Length: 999999\r\n\r\n{").status == 413
    assert patient.ask("/v1/completions", b'{"prompt": [' + b"1," * 40_000 + b"1]}").status == 400


def test_a_body_in_tiny_chunks_is_refused_before_it_costs_much(patient):
    """Each chunk is work on the event loop, before anybody asks for a key."""
    body = b'{"prompt": "a", "max_tokens": 1}' + b" " * 8000
    for size, status in ((1, 400), (40, 200), (400, 200)):
        chunks = b"".join(
            b"%x\r\n%s\r\n" % (len(part), part)
            for part in (body[i : i + size] for i in range(0, len(body), size))
        )
        assert patient.send(CHUNKED + chunks + b"0\r\n\r\n").status == status


def test_whoever_still_sends_hears_why_it_is_refused(server):
    with server.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 6000000\r\n\r\n" + b" " * 6_000_000)
        assert read_answer(connection).code == "invalid_api_key"


def test_an_answer_that_has_no_place_any_more_is_no_failure(server, caplog):
    answer = server.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}")
    assert answer.code == "invalid_http"
    assert server.ask("/health").status == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_too_many_values_are_refused_before_they_are_read(llm):
    with running(llm) as server:
        body = b'{"prompt": [' + b"1," * 300_000 + b"1]}"
        assert (server.ask("/v1/completions", body).status, server.ask("/v1/completions", body).code) == (
            413,
            "json_size",
        )


# --- time and connections


DEFAULTS_S = 4.0  # the limits that nobody sets are longer


def seconds_to_its_end(server, start, answered=False):
    """How long a connection stays on which nothing follows `start`, or the answer to it."""

    def seconds():
        with server.connect() as connection:
            connection.sendall(start)
            assert not answered or read_answer(connection).status == 200
            begin = time.monotonic()
            with contextlib.suppress(ConnectionError):  # it had ended before all was said
                assert connection.recv(1) == b""
            return time.monotonic() - begin

    return least(seconds, DEFAULTS_S)


@pytest.mark.parametrize("start", [b"", b"GET /hea", GET])
def test_a_head_that_does_not_come_ends_the_connection(hasty, start):
    assert seconds_to_its_end(hasty, start) < DEFAULTS_S


def test_a_byte_at_a_time_does_not_extend_the_limit(hasty):
    with hasty.connect() as connection, pytest.raises(OSError):
        for _ in range(500):  # 10 s
            connection.sendall(b"G")
            time.sleep(0.02)


def test_a_body_that_does_not_come_is_408(hasty_after_heads):
    answer = hasty_after_heads.send(HEAD + b"Content-Length: 10\r\n\r\n{")
    assert (answer.status, answer.code) == (408, "body_timeout")


@pytest.mark.parametrize(
    "start", [GET + b"Content-Length: 99999\r\n\r\n", HEAD[:-2] + b"x\r\nContent-Length: 9999\r\n\r\n"]
)
def test_a_body_that_nobody_wants_does_not_keep_the_connection(hasty_after_heads, start):
    with hasty_after_heads.connect() as connection:
        connection.sendall(start)
        assert read_answer(connection).headers["connection"] == "close"
        with pytest.raises(OSError):
            for _ in range(1000):  # 10 s
                connection.sendall(b" ")
                time.sleep(0.01)


def test_an_idle_connection_is_closed(hasty_after_heads):
    assert seconds_to_its_end(hasty_after_heads, GET + b"\r\n", answered=True) < DEFAULTS_S


def test_there_are_only_so_many_connections(patient):
    others = [patient.connect() for _ in range(8)]
    try:
        with patient.connect() as one_more, contextlib.suppress(ConnectionResetError):
            assert one_more.recv(1) == b""
    finally:
        for connection in others:
            connection.close()
    assert comes_true(lambda: (answer := patient.send(ONCE)) and answer.status == 200)


# --- leavers


@pytest.fixture
def long_requests(monkeypatch, llm):
    """Requests over HTTP take 100 ms a token: none ends by itself before a test gives up on it."""
    submit = llm.submit
    monkeypatch.setattr(llm, "submit", lambda ids, params: submit(ids, _with(params, slowly)))


def _with(params, processor):
    return dataclasses.replace(params, logits_processors=(processor,))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_a_client_that_leaves_ends_its_request(server, long_requests, stream, how):
    body = json.dumps({**LONG, "stream": stream}).encode()
    connection = server.connect()
    connection.sendall(
        HEAD + f"Authorization: {BEARER}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    assert comes_true(lambda: server.stats()["running"])
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    if how == "half-close":
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.close()
    assert settles(server), "before its 400 tokens can have been made"
    connection.close()


def test_a_client_that_leaves_while_it_waits_is_forgotten(server, long_requests):
    bodies = [
        json.dumps(LONG).encode(),
        b'{"prompt": "the", "regex": "a{300,400}"}',
    ]
    connections = []
    for body in bodies:
        connection = server.connect()
        head = f"Authorization: {BEARER}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(HEAD + head + body)
        connections.append(connection)
    assert comes_true(lambda: n_places(server) == 2)
    for connection in connections:
        connection.close()
    assert settles(server), "before their tokens can have been made"


def test_a_client_that_does_not_read_is_cut_off(llm):
    with running(llm, send_timeout_s=SHORT_S) as server:
        fields = {
            "prompt": "the",
            "max_tokens": 500,
            "n": 8,
            "temperature": 1,
            "logprobs": 20,
            "stream": True,
        }
        body = json.dumps({**fields, "ignore_eos": True}).encode()
        before, connection = server.stats()["prompt_tokens"], socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert comes_true(lambda: server.stats()["prompt_tokens"] > before) and settles(server)
        assert comes_true(lambda: (answer := server.send(ONCE)) and answer.status == 200)
        connection.close()


# --- floods


def test_a_tenant_has_its_share_and_no_more(server, long_requests):
    data = json.dumps(LONG).encode()
    head = f"Authorization: {BEARER}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    connections = [server.connect() for _ in range(3)]
    for connection in connections:
        connection.sendall(HEAD + head + data)
    assert comes_true(lambda: server.stats()["running"] == 3)
    refused = server.ask("/v1/completions", {**LONG, "max_tokens": 1}, Authorization=BEARER)
    other = server.ask("/v1/completions", {**LONG, "max_tokens": 1}, Authorization=f"Bearer {OTHER_KEY}")
    for connection in connections:
        connection.close()
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "queue_full", "1")
    assert other.status == 200 and settles(server)


def test_a_flood_of_good_requests_is_answered_or_told_to_wait(llm):
    """Each has an answer of its own; none is dropped and none fails."""
    answers = []

    def ask(i):
        body = {"prompt": [i % 250 + 4] * 8, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
        answers.append((i, server.ask("/v1/completions", body)))

    with running(llm, max_requests=20) as server:
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(150)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.status for _, answer in answers} <= {200, 429} and len(answers) == 150
        good = [(i, answer.json()["choices"][0]["text"]) for i, answer in answers if answer.status == 200]
        assert len(good) >= 20 and settles(server)
        for i, text in good[:20]:
            own = llm.generate([i % 250 + 4] * 8, max_tokens=4, temperature=0, ignore_eos=True)
            assert text == own.outputs[0].text
        for _, answer in answers:
            assert answer.status == 200 or answer.headers["retry-after"] == "1"


def test_tenants_do_not_share_the_prefix_cache(server):
    body = {"prompt": "the river of the sea " * 12, "max_tokens": 1}

    def cached(key):
        usage = server.ask("/v1/completions", body, Authorization=f"Bearer {key}").json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    assert cached(KEY) == 0 and cached(KEY) > 0
    assert cached(OTHER_KEY) == 0


LONG_WORK = {
    "text": ({"prompt": "the river, " * 15_000}, 400),
    "tokens": ({"prompt": [1] * 150_000}, 400),
    "digits": ({"prompt": "1234567890" * 200_000}, 400),
    "grammar": ({"prompt": "a", "regex": "(a|b)" * 5000}, 200),
    "answer": ({"prompt": ["a"] * 20, "max_tokens": 150, "logprobs": 20, "ignore_eos": True}, 200),
    "words": ({"prompt": "a", "bad_words": ["x" * 256] * 1000, "n": 8}, 200),
    "short words": ({"prompt": ["a"] * 16, "bad_words": ["river " * 10] * 64, "n": 8}, 200),
    "ids": ({"prompt": "a", "bad_words_ids": [[9] * 64] * 1024, "n": 8}, 200),
    "a cut prompt": ({"prompt": "the river, " * 8_000, "truncate_prompt_tokens": 8}, 200),
    "prompts": ({"prompt": ["the " * 150] * 9, "prompt_logprobs": 20}, 200),
}


@pytest.mark.timing
@pytest.mark.parametrize("work", LONG_WORK)
def test_the_event_loop_is_not_held_up(llm, work):
    fields, status = LONG_WORK[work]
    with running(llm) as server:
        assert not hold_up(server, "/v1/completions", {"max_tokens": 1, **fields}, status)


# --- what is told


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_failure_in_the_middle_of_a_stream_is_its_last_event(server, monkeypatch, llm, path):
    begun = threading.Event()

    def fail(token_ids, logits):
        if len(token_ids) > 40:
            begun.wait(60)
            raise RuntimeError(f"{CANARY} at 0x7f3a")

    submit = llm.submit
    monkeypatch.setattr(llm, "submit", lambda ids, params: submit(ids, _with(params, fail)))
    fields = {"messages": [{"role": "user", "content": "a"}]} if "chat" in path else {"prompt": "a"}
    body = json.dumps({**fields, "stream": True, "max_tokens": 300, "ignore_eos": True}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {BEARER}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(1) == b"H", "the answer begins before it fails"
        begun.set()
        answer = read_answer(connection)
    *events, last = answer.events()
    assert events and all(event["choices"] for event in events)
    assert set(last) == {"error"} and set(last["error"]) == {"message", "type", "param", "code"}
    assert CANARY not in json.dumps(last) and "0x" not in json.dumps(last)
    assert settles(server)


def test_prompts_are_in_no_log_and_no_error(server, caplog):
    caplog.set_level(logging.DEBUG)
    requests = [
        {"prompt": CANARY, "max_tokens": 2},
        {"prompt": CANARY, "max_tokens": -1},
        {"prompt": [CANARY, 3]},
        {"prompt": CANARY * 1000},
        {"prompt": "a", "stop": CANARY * 1000},
        {"prompt": "a", "model": 3, "user": f"{CANARY}\r\n"},
    ]
    bodies = [json.dumps(request).encode() for request in requests]
    bodies += [f'{{"{CANARY}": 1, "{CANARY}": 2}}'.encode(), f'{{"prompt": "{CANARY}'.encode()]
    for body in bodies:
        answer = server.ask("/v1/completions", body, Authorization=BEARER)
        assert answer.status == 200 or CANARY.encode() not in answer.body
    logged = [record for record in caplog.records if record.name.startswith("tuili.server")]
    assert logged and CANARY not in caplog.text and KEY not in caplog.text


def test_what_a_client_chooses_cannot_break_the_log(server, caplog):
    caplog.set_level(logging.INFO, "tuili.server")
    server.send(b"GET /x\x1b[31m\xe2\x80\xa8 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    server.ask("/" + "y" * 9000, method="Z" * 999, Authorization=BEARER, X_Request_Id="z" * 999)
    server.ask("/v1/completions", {"prompt": "a", "user": "u" * 300}, Authorization=BEARER)
    lines = [record.getMessage() for record in caplog.records]
    assert lines
    for line in lines:
        assert line.isprintable() and len(line) < 400
        assert not re.search("yyy|zzz|ZZZ|uuu", line)


def test_a_failure_of_ours_is_500_and_tells_nothing(server, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError(f"at 0x7f3a {CANARY} /root/models")

    monkeypatch.setattr(server.app.texts, "text", fail)
    answer = server.ask("/v1/completions", {"prompt": "a"}, Authorization=BEARER)
    assert (answer.status, answer.code) == (500, "internal")
    assert not re.search("0x|wombat|root|Error", answer.json()["error"]["message"])
    assert "RuntimeError" in caplog.text and "fail" in caplog.text, "the log says where it was"
    assert CANARY not in caplog.text
