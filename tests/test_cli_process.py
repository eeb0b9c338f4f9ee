"""The command line as a process of its own: Ctrl-C, streams that are closed or full, and their encodings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patience import least

MODELS = Path(__file__).parent / "models"
TRANSLATE = ("translate", MODELS / "marian-numbers", "1005", "--tgt-lang", "cmn")
SMALL = ("--kv-cache-bytes", 1 << 20, "--threads", 1)


@pytest.fixture(scope="module")
def llama(llama_path):
    return str(llama_path)


def start(*arguments, program=("-m", "tuili"), stderr=subprocess.PIPE, **env):
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
    )


def test_ctrl_c_ends_a_command_quickly(llama):
    def seconds():
        # Standard input stays open, so that the conversation waits for its first line.
        with start("chat", llama, *SMALL) as process:
            assert process.stderr.readline()
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and b"Traceback" not in err
        return time.monotonic() - begin

    assert least(seconds, 2.0) < 2.0


# The command, which says with a dot that it begins to import its modules.
TELLING = """
import os, sys

class Telling:
    def find_spec(self, name, path=None, target=None):
        if name == "tuili.cli.main":
            os.write(1, b".")

sys.meta_path.insert(0, Telling())
from tuili.__main__ import run
run()
"""


@pytest.mark.parametrize("seconds", [0, 0.05, 0.1, 0.15, 0.2])
def test_ctrl_c_is_heard_while_modules_and_models_are_loaded(llama, seconds):
    arguments = ("generate", llama, "the river", "--max-tokens", 400, *SMALL)
    with start(*arguments, program=("-c", TELLING)) as process:
        assert process.stdout.read(1) == b"."
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode in (130, 0) and err.strip() == b"", "0 if it is done by then"


def test_a_closed_pipe_is_no_crash(llama):
    with start("models") as process:
        process.stdout.close()
        err = process.stderr.read()
    assert b"Traceback" not in err


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_missing_and_full_streams_are_no_crash(llama, closing):
    command = (
        f'exec "{sys.executable}" -m tuili chat "$0" --kv-cache-bytes 1048576 hi --max-tokens 3 {closing}'
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["sh", "-c", command, llama], env=path, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == (1 if "full" in closing else 0) and b"Traceback" not in done.stderr


def test_json_keeps_characters_that_the_output_cannot_show(llama):
    arguments = ("generate", llama, "河", "--max-tokens", 1, "--json", *SMALL)
    with start(*arguments, PYTHONIOENCODING="ascii") as process:
        out, _ = process.communicate(timeout=60)
    assert json.loads(out)["prompt"] == "河"


@pytest.mark.parametrize("encoding, text", [("gb18030", "一千零五"), ("ascii", "????"), ("cp1252", "????")])
def test_characters_that_the_output_lacks_are_replaced_and_said(encoding, text):
    with start(*TRANSLATE, PYTHONIOENCODING=encoding) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out.decode(encoding) == f"{text}\n"
    assert err.count(f"standard output is {encoding.upper()}".encode()) == ("?" in text)


def test_what_is_said_of_the_output_costs_none_of_it():
    with open("/dev/full", "w") as full, start(*TRANSLATE, stderr=full, PYTHONIOENCODING="ascii") as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and out == b"????\n"


def test_a_name_of_a_file_that_is_no_text_is_not_said_of_the_output(tmp_path):
    name = tmp_path / os.fsdecode(b"caf\xe9")
    name.symlink_to(MODELS / "sentiment")
    with start("info", name, PYTHONIOENCODING="utf-8") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and b"caf?" in out and err == b""


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        ("utf-8", b"the \xff river", "the \ufffd river"),
        ("utf-8", "河".encode("gb18030"), "\ufffd\ufffd"),
        ("gb18030", "河 ".encode("gb18030") + b"\xff", "河 \ufffd"),
        ("utf-8", "河\ufffd".encode(), None),
        ("gb18030", "河".encode("gb18030"), None),
        ("utf-16", "河".encode("utf-16") + b"\xff", "河\ufffd"),
    ],
)
def test_input_that_is_not_text_is_replaced_and_said(llama, encoding, data, text):
    """None: it is text, of which nothing is said."""
    arguments = ("generate", llama, "-", "--max-tokens", 1, "--json", *SMALL)
    with start(*arguments, PYTHONIOENCODING=f"{encoding}:strict") as process:
        out, err = process.communicate(data, timeout=60)
    assert json.loads(out.decode(encoding))["prompt"] == (text or data.decode(encoding))
    err = err.decode(encoding)
    assert err.count("\n") == (text is not None) == (encoding.upper() in err)
