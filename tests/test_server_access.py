"""Who may use the HTTP server, and by which name and path; and what its settings refuse.

Catalogue rows SRV-07 … SRV-11.
"""

from __future__ import annotations

import base64
import socket

import pytest

from tiny_server import KEY, OTHER_KEY, running
from tuili import InvalidParameterError, TuiliError
from tuili.server.access import OPEN_PATHS
from tuili.server.settings import Settings, read_config

BEARER = f"Bearer {KEY}"


@pytest.fixture(scope="module")
def server(llm):
    with running(llm, api_keys=(KEY, OTHER_KEY)) as server:
        yield server


# --- who may come in

CREDENTIALS = {
    "none": {},
    "empty": {"Authorization": ""},
    "empty token": {"Authorization": "Bearer "},
    "no scheme": {"Authorization": KEY},
    "wrong scheme": {"Authorization": f"Digest {KEY}"},
    "wrong key": {"Authorization": "Bearer sk-test-0000000000"},
    "beginning of a key": {"Authorization": f"Bearer {KEY[:-1]}"},
    "more than a key": {"Authorization": f"Bearer {KEY}x"},
    "two words": {"Authorization": f"Bearer {KEY} {KEY}"},
    "other letters": {"Authorization": f"Bearer {KEY.upper()}"},
    "not ASCII": {"Authorization": "Bearer sk-tést-\xff"},
    "long": {"Authorization": "Bearer " + "x" * 40_000},
    "two headers": {"Authorization": BEARER, "authorization": BEARER},
    "bad base64": {"Authorization": "Basic ???"},
    "basic without a key": {"Authorization": "Basic " + base64.b64encode(b"user:").decode()},
}


def routes(server):
    """Every path of the server with a method that it takes."""
    return [(path.replace("{name}", "llama"), methods[0]) for path, methods in server.app.methods.items()]


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_every_route_is_denied_without_a_key(server, credential):
    for path, method in [*routes(server), ("/nowhere", "GET"), ("/docs", "GET"), ("/v1/load", "POST")]:
        body = {"messages": [], "prompt": "a"} if method == "POST" else None
        answer = server.ask(path, body, method=method, **CREDENTIALS[credential])
        if path in OPEN_PATHS:
            assert answer.status == 200
        else:
            assert (answer.status, answer.code) == (401, "invalid_api_key"), path
            assert "www-authenticate" in answer.headers


def test_a_key_opens_every_route(server):
    basic = "Basic " + base64.b64encode(b"anybody:" + KEY.encode()).decode()
    for path, method in routes(server):
        for authorization in (BEARER, f"bearer {OTHER_KEY}", basic):
            answer = server.ask(path, {} if method == "POST" else None, Authorization=authorization)
            assert answer.status in (200, 400), path


TRICKS = [
    "//health", "/health/", "/./health", "/v1/../health", "/health/../v1/models", "/%68ealth", "/health%2f",
    "/v1/%2e%2e/health", "/HEALTH", "/health;x", "/health\\..\\v1/models", "/health%00",
    "/health%0d%0aX:%20y",
    "/ready//", "*", "http://localhost/health/x", "health", "/v1//models", "/v1/models/",
    "/v1/models/%6clama", "/v1/models/..", "/metrics/..;/health", "/é", "/v1/models/..%2f..%2fhealth",
    "/v1/models/..%2F..%2Fhealth", "/v1/models/%2F", "/v1/models/a%2F", "/v1/models/a%252Fb",
    "/v1/models%2Fllama", "/v1%2Fmodels", "/v1/models/a%2F..%2Fb",
]  # fmt: skip


@pytest.mark.parametrize("path", TRICKS)
def test_a_path_that_is_written_oddly_opens_nothing(server, path):
    for headers in ({}, {"Authorization": BEARER}):
        answer = server.ask(path, **headers)
        assert answer.status in (400, 401, 404), path
        assert answer.code in ("invalid_path", "invalid_http", "invalid_api_key", "not_found")


HOSTS = [
    "evil.example", "127.0.0.1.evil.example", "a?b", "a/b", "localhost/x", "localhost#", "user@localhost",
    "localhost:1:2", "localhost:x", "10.0.0.1", "[::2]", "localhost localhost", "\xffhost",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_is_not_this_server_is_refused_on_every_route(server, host):
    for path, method in routes(server):
        body = {} if method == "POST" else None
        answer = server.ask(path, body, host=host, Authorization=BEARER)
        assert (answer.status, answer.code) in ((400, "invalid_host"), (400, "invalid_http")), path


@pytest.mark.parametrize("lines", ["", "Host:\r\n", "Host: localhost\r\nHost: localhost\r\n"])
def test_a_request_has_one_host(server, lines):
    answer = server.send(f"GET /health HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
    assert answer.status == 400


def test_names_of_this_server_are_accepted(llm, server):
    for host in ("localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:8000", "localhost."):
        assert server.ask("/health", host=host).status == 200, host
    with running(llm, allowed_hosts=["Models.example.", "10.1.2.3"]) as named:
        for host in ("models.example", "models.example:8443", "MODELS.example.", "10.1.2.3:80"):
            assert named.ask("/v1/models", host=host).status == 200
        assert named.ask("/v1/models", host="other.example").status == 400


def test_a_server_of_the_newer_protocol_is_named_in_brackets(llm):
    try:
        with (
            running(llm, host="::1") as server,
            socket.create_connection(("::1", server.port), 5) as connection,
        ):
            connection.sendall(f"GET /health HTTP/1.1\r\nHost: [::1]:{server.port}\r\n\r\n".encode())
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
    except TuiliError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_a_page_of_another_site_is_refused(server):
    body = {"prompt": "a", "max_tokens": 1}
    for origin in ("http://evil.example", "null", "http://127.0.0.1", "http://localhost:1"):
        answer = server.ask("/v1/completions", body, Authorization=BEARER, Origin=origin)
        assert (answer.status, answer.code) == (403, "invalid_origin")
    answer = server.ask("/v1/completions", body, Authorization=BEARER, Origin=server.url)
    assert answer.status == 200 and "access-control-allow-origin" not in answer.headers
    assert server.ask("/v1/completions", body, Authorization=BEARER, Content_Type="text/plain").status == 400


def test_no_route_controls_the_server(server):
    for path in ("/load", "/v1/load", "/reset_prefix_cache", "/sleep", "/shutdown", "/start_profile", "/rpc"):
        assert server.ask(path, {}, Authorization=BEARER).status == 404


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "GETX", "get"])
def test_other_methods_are_405(server, method):
    for path in ("/v1/models", "/health"):
        answer = server.ask(path, method=method, Authorization=BEARER)
        assert (answer.status, answer.code) == (405, "method") and answer.headers["allow"] == "GET, HEAD"
    assert server.ask("/v1/completions", Authorization=BEARER).headers["allow"] == "POST"


def test_head_has_no_body(server):
    answer = server.ask("/health", method="HEAD")
    assert answer.status == 200 and answer.body == b""


# --- settings


@pytest.mark.parametrize(
    "options, param",
    [
        ({"host": "0.0.0.0"}, "host"),
        ({"host": "a b"}, "host"),
        ({"port": 70_000}, "port"),
        ({"api_keys": ["short"]}, "api_keys"),
        ({"api_keys": [KEY, KEY]}, "api_keys"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"drain_s": float("nan")}, "drain_s"),
        ({"allowed_hosts": "x"}, "allowed_hosts"),
        ({"allowed_hosts": ["models.example:8443"]}, "allowed_hosts"),
        ({"allowed_hosts": ["*"]}, "allowed_hosts"),
        ({"api_keys": [KEY], "max_tokens_per_minute": 0}, "max_tokens_per_minute"),
        ({"max_tokens_per_minute": 1}, "max_tokens_per_minute"),
        ({"page": 1}, "page"),
        ({"served_model_name": "a\nb"}, "served_model_name"),
    ],
)
def test_settings_are_checked(options, param):
    with pytest.raises(InvalidParameterError) as caught:
        Settings(**options)
    assert caught.value.param == param


def test_a_network_needs_keys_or_a_word():
    assert Settings(host="0.0.0.0", api_keys=[KEY]).allows("10.1.2.3")
    assert not Settings(host="0.0.0.0", anonymous=True).allows("evil.example")
    assert Settings(host="::1").allows("[::1]")


@pytest.mark.parametrize(
    "text",
    [
        "model = 3",
        "modle = 'a'",
        "[server]\nprot = 1",
        "server = 1",
        "x = [",
        "\xff",
        "[server.host]",
        "[model_options]\nmodel = 'x'",
        "[model_options]\nprogress = 1",
        "[model_options]\nmax_num_seq = 1",
    ],
)
def test_a_configuration_with_an_error_is_refused(tmp_path, text):
    path = tmp_path / "server.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidParameterError):
        Settings(**read_config(path).get("server", {}))


@pytest.mark.parametrize(
    "text, hint",
    [
        ("[server]\nprot = 1", "server.prot; did you mean server.port?"),
        ("[model_options]\nn_ctx = 1", "model_options.n_ctx; did you mean model_options.max_model_len?"),
        ("[model_options]\nzzz = 1", "model_options.zzz"),
    ],
)
def test_an_unknown_setting_names_the_nearest_of_its_table_if_it_is_near(tmp_path, text, hint):
    path = tmp_path / "server.toml"
    path.write_text(text)
    with pytest.raises(InvalidParameterError) as error:
        read_config(path)
    assert str(error.value) == f"unknown parameter {hint}"
