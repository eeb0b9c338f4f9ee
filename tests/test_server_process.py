"""`tuili serve` as a process: what it is told, how it starts, and how it ends.

Catalogue rows SRV-18, SRV-20, PRIV-01, PRIV-07, PRIV-09.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from patience import comes_true
from tuili.cli.main import main
from tuili.llm import LLM
from tuili.loading.tokenizers.tokenizer import LazyBackends
from tuili.tokenization.tokenizer import Tokenizer

CANARY = "wombat-7f3a"
KEY = "sk-test-0123456789"

# Its tokens take 100 ms each, so that there is something to drain.
SLOW_SERVER = """
import dataclasses, sys, time
from tuili.cli.main import main
from tuili.llm import LLM

def slowly(token_ids, logits):
    time.sleep(0.1)

submit = LLM.submit
slow = {"logits_processors": (slowly,)}
LLM.submit = lambda self, ids, params, **more: submit(self, ids, dataclasses.replace(params, **slow), **more)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def model(llama_path):
    return str(llama_path)


class Process:
    """`tuili serve` with these arguments, once it listens."""

    def __init__(self, *arguments: str, files: int = 1024) -> None:
        command = [
            sys.executable,
            "-c",
            SLOW_SERVER,
            "serve",
            *arguments,
            "--port",
            "0",
            "--max-model-len",
            "512",
        ]
        sizes = ["--threads", "1", "--kv-cache-bytes", "1048576"]
        shell = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
        self.process = subprocess.Popen([*shell, *command, *sizes], stderr=subprocess.PIPE, text=True)
        self.started = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)$", self.started.strip())):
            line = self.process.stderr.readline()
            assert line, self.started
            self.started += line
        self.port = int(found[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def ask(self, path, body=None, *, timeout=20, **headers):
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
        return urllib.request.urlopen(request, timeout=timeout)

    def is_closed(self):
        """Whether it answers no more."""
        try:
            self.ask("/ready").close()
        except OSError:
            return True
        return False

    def is_healthy(self):
        try:
            with self.ask("/health") as answer:
                return answer.status == 200
        except OSError:
            return False

    def end(self, within_s=60):
        """(exit code, what was logged)"""
        _, log = self.process.communicate(timeout=within_s)
        return self.process.returncode, log


LONG = {"prompt": "the", "max_tokens": 8, "ignore_eos": True, "stream": True}
LONGER = {**LONG, "max_tokens": 480}


def test_a_server_that_is_told_to_end_finishes_what_it_began(model):
    with Process(model) as server, server.ask("/v1/completions", LONG) as stream:
        stream.readline()
        server.process.send_signal(signal.SIGTERM)
        assert comes_true(server.is_closed)
        events = stream.read().decode()
        assert server.end()[0] == 0
    assert '"finish_reason":"length"' in events and events.endswith("data: [DONE]\n\n")


@pytest.mark.slow
def test_what_does_not_end_in_time_is_ended(model):
    with Process(model, "--drain-s", "0.2") as server, server.ask("/v1/completions", LONGER) as stream:
        stream.readline()
        server.process.send_signal(signal.SIGTERM)
        events = stream.read().decode()
        assert server.end()[0] == 0
    assert '"finish_reason":"error"' in events and events.endswith("data: [DONE]\n\n")


def test_who_has_not_sent_all_when_it_ends_is_told_at_once(model):
    """Neither waited for, nor told that a fault of ours (500) ended it."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with Process(model, "--drain-s", "3600") as server, socket.socket() as client:
        client.settimeout(60)
        client.connect(("127.0.0.1", server.port))
        client.sendall(head + b'Content-Length: 100\r\n\r\n{"prompt":')
        server.ask("/health").close()  # by now it has read what was sent before
        server.process.send_signal(signal.SIGTERM)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
        code, log = server.end()
    assert answer.startswith(b"HTTP/1.1 503 ") and b'"code":"closing"' in answer
    assert code == 0 and '"status": 503' in log and "Traceback" not in log


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(model):
    with Process(model) as server, server.ask("/v1/completions", LONGER) as stream:
        stream.readline()
        server.process.send_signal(signal.SIGINT)
        assert comes_true(server.is_closed)
        server.process.send_signal(signal.SIGINT)
        assert '"finish_reason":"error"' in stream.read().decode()
        assert server.end()[0] == 0


def test_a_file_says_what_the_command_line_does_not(model, tmp_path):
    (tmp_path / "keys").write_text(f"{KEY}\n# ours\n\n", "utf-8-sig")  # with the mark that Notepad writes
    config = tmp_path / "server.toml"
    config.write_text(
        f'model = "{model}"\napi_key_file = "keys"\n[model_options]\nmax_num_seqs = 2\n'
        '[server]\nserved_model_name = "from-file"\npage = true\n',
        "utf-8-sig",
    )
    with Process("--config", str(config), "--no-page", "--served-model-name", "by-hand") as server:
        check_configured(server)


def check_configured(server):
    headers = {"Authorization": f"Bearer {KEY}"}
    with server.ask("/v1/models", **headers) as answer:
        assert json.load(answer)["data"][0]["id"] == "by-hand"
    for path, status in (("/", 404), ("/v1/models", 401)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            server.ask(path, **(headers if status == 404 else {}))
        assert caught.value.code == status
        caught.value.close()
    with server.ask("/v1/completions", {"prompt": CANARY, "max_tokens": 2}, **headers) as answer:
        assert answer.status == 200
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    assert re.search(r"Max core file size +0 ", limits), "a core dump would hold prompts"
    server.process.send_signal(signal.SIGTERM)
    code, log = server.end()
    assert code == 0 and '"status": 200' in log
    assert CANARY not in log and KEY not in log
    assert all(json.loads(line)["event"] == "request" for line in log.splitlines())


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of one's own needs root")
@pytest.mark.slow
def test_it_runs_where_there_is_no_network(model):
    """In a network namespace with nothing but its own loopback."""
    code = (
        "import subprocess, sys; subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True); "
        "from tuili.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["unshare", "-n", sys.executable, "-c", code, "generate", model, "a", "--max-tokens", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unshare" in done.stderr or "No such file" in done.stderr:
        pytest.skip("namespaces or `ip` are not to be had here")
    assert done.returncode == 0, done.stderr


def test_it_goes_on_when_there_were_more_clients_than_files(model):
    with Process(model, files=100) as server:
        connections = [socket.create_connection(("127.0.0.1", server.port), 60) for _ in range(150)]
        with contextlib.suppress(ConnectionResetError):
            connections[-1].recv(1)  # until it is refused, as those before it were
        for connection in connections:
            connection.close()
        assert comes_true(server.is_healthy)
        server.process.send_signal(signal.SIGTERM)
        code, log = server.end()
    assert code == 0 and "Traceback" not in log and "at most 20 connections" in server.started


def test_what_keeps_it_from_starting_is_one_line(model, tmp_path, capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = [
            (["--port", port], "cannot listen on 127.0.0.1"),
            (["--host", "192.0.2.1"], "--api-key-file"),
            (["--host", "192.0.2.1", "--anonymous"], "cannot listen on 192.0.2.1"),
            (["--port", "99999"], "port must be in"),
            (["--api-key-file", str(tmp_path / "missing")], "missing"),
            (["--config", str(tmp_path / "missing.toml")], "missing.toml"),
        ]
        before = signal.getsignal(signal.SIGTERM)
        try:
            for arguments, text in cases:
                assert main(["serve", model, *arguments]) == 1
                error = capfd.readouterr().err
                assert text in error and error.count("\n") == 1
            assert main(["serve"]) == 1 and "MODEL" in capfd.readouterr().err
            (tmp_path / "config").write_text('api_key_file = "keys"\n[server]\napi_keys = 3\n')
            (tmp_path / "keys").write_text(KEY)
            assert main(["serve", model, "--config", str(tmp_path / "config")]) == 1
            assert "api_keys must be a list" in capfd.readouterr().err
        finally:
            signal.signal(signal.SIGTERM, before)


def test_the_tokenizer_is_read_before_the_first_request(bert_path):
    """Also of a model without a chat template: reading 262,000 tokens keeps the GIL for a second."""
    from tuili.server import process

    read = []
    with LLM(bert_path, num_threads=1) as llm:
        loaded = llm.tokenizer.loaded
        backends = LazyBackends(lambda: read.append(True) or loaded.backends.get())
        llm.tokenizer = Tokenizer(replace(loaded, backends=backends))
        try:
            process._prepare(llm)
        finally:
            gc.unfreeze()
    assert read


def test_without_the_extra_it_says_what_to_install(model, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main(["serve", model]) == 1
    assert "pip install 'tuili[server]'" in capfd.readouterr().err


def test_the_examples_are_configurations():
    from tuili.server.settings import Settings, read_config

    examples = Path(__file__).parent.parent / "examples"
    if not examples.exists():
        pytest.skip("the examples are not beside the tests")
    assert Settings(**read_config(examples / "server.toml")["server"]).host == "127.0.0.1"
    unit = (examples / "tuili.service").read_text()
    assert "\nLimitCORE=0\n" in unit and "\nMemorySwapMax=0\n" in unit
