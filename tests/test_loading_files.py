"""Opening and reading files that misbehave, JSON read strictly, and the memory that a plan may count on."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile.cases import folder, gguf, gguf_file
from interrupts import at_each_function
from tiny_files import write_hf_folder
from tiny_models import tiny_llama
from tuili.errors import ModelFormatError, ModelIOError, ModelLimitError
from tuili.loading import files, memory
from tuili.loading.files import json_nesting, open_regular, parse_json, read_file, shown
from tuili.loading.model_source import open_source
from tuili.loading.safetensors_file import open_folder


def test_read_file_returns_every_byte(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "a").write_bytes(content)
    assert read_file(tmp_path / "a", len(content)) == content
    with pytest.raises(ModelLimitError) as error:
        read_file(tmp_path / "a", len(content) - 1)
    assert error.value.code == "file_too_large"


def test_ctrl_c_at_any_function_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """A signal is heard where a function of Python's begins, also before the end of a `with` has begun."""
    (tmp_path / "a").write_bytes(b"a")
    before = os.listdir("/proc/self/fd")

    def opened() -> None:
        with open_regular(tmp_path / "a"):
            pass

    for n_calls in at_each_function(opened):
        assert os.listdir("/proc/self/fd") == before, f"after {n_calls} functions"
    assert n_calls > 5, "the trace saw nothing"


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(200))
    (tmp_path / "a").write_bytes(content)
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: whole(fd, [views[0][:7]], offset))
    assert read_file(tmp_path / "a", 200) == content


def test_signals_do_not_end_a_read(tmp_path: Path) -> None:
    """Python repeats interrupted system calls; a timer of 1 kHz runs while a file is read again and again."""
    content = os.urandom(1 << 20)
    (tmp_path / "a").write_bytes(content)
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        assert all(read_file(tmp_path / "a", 1 << 20) == content for _ in range(50))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("errno", [5, 116])
def test_a_read_error_is_typed_and_keeps_errno(
    errno: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"abc")

    def fail(*_: Any) -> int:
        raise OSError(errno, os.strerror(errno))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(ModelIOError) as error:
        read_file(tmp_path / "a", 10)
    assert (error.value.code, error.value.errno) == ("read_failed", errno)


@pytest.mark.parametrize("size", [0, 1, 99, 101])
def test_a_file_that_changes_while_open_is_noticed(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    with pytest.raises(ModelIOError) as error, open_regular(path) as file:
        os.truncate(path, size)
        file.pread(100, 0)
        file.check_unchanged()
    assert error.value.code == "file_changed"


def test_a_file_that_is_replaced_between_plan_and_load_is_noticed(tmp_path: Path) -> None:
    source = open_source(folder()(tmp_path))
    (tmp_path / "new").write_bytes((tmp_path / "model.safetensors").read_bytes())
    os.replace(tmp_path / "new", tmp_path / "model.safetensors")
    with pytest.raises(ModelIOError) as error, source.checkpoint:
        source.checkpoint.read("model.norm.weight")
    assert error.value.code == "file_changed"


def test_a_file_that_is_appended_to_during_the_load_is_noticed(tmp_path: Path) -> None:
    source = open_source(gguf(gguf_file())(tmp_path))
    with pytest.raises(ModelIOError) as error, source.checkpoint:
        source.checkpoint.read("output_norm.weight")
        with (tmp_path / "model.gguf").open("ab") as file:
            file.write(b"x")
    assert error.value.code == "file_changed"


def test_a_checkpoint_is_closed_when_loading_fails(tmp_path: Path) -> None:
    source = open_source(gguf(gguf_file())(tmp_path))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(KeyboardInterrupt), source.checkpoint:
        source.checkpoint.read("output_norm.weight")
        raise KeyboardInterrupt
    assert os.listdir("/proc/self/fd") == before


def test_no_descriptors_left_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(ModelIOError) as error:
            read_file(tmp_path / "a", 10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (error.value.code, error.value.errno) == ("open_failed", 24)


# ---- JSON

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def nesting(value: object) -> tuple[int, int, int]:
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    if children is None:
        return 0, 0, 0
    inner = [nesting(child) for child in children]
    n_keys = (len(children) if isinstance(value, dict) else 0) + sum(keys for _, _, keys in inner)
    return 1 + max((depth for depth, _, _ in inner), default=0), 1 + sum(n for _, n, _ in inner), n_keys


@given(VALUES, st.booleans())
def test_json_is_read_as_the_standard_library_reads_it(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert parse_json(text, "x") == value
    assert json_nesting(text) == nesting(value)


def test_a_byte_order_mark_is_no_json() -> None:
    with pytest.raises(ModelFormatError, match=r"^x: begins with a byte order mark \(EF BB BF\)"):
        parse_json(b"\xef\xbb\xbf{}", "x")


@given(st.text(alphabet='[]{}",:\\a0 '))
def test_counting_brackets_never_undercounts_what_is_parsed(text: str) -> None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        with pytest.raises(ModelFormatError):
            parse_json(text.encode(), "x")
        return
    assert json_nesting(text.encode())[0] == nesting(value)[0]


def test_nesting_is_counted_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_DEPTH_BLOCK_BYTES", 3)
    assert json_nesting(b'[[{"a[[": "\\"["}, [[]]], {}]') == (4, 6, 1)


def test_integers_of_thousands_of_digits_are_refused_wherever_they_stand() -> None:
    assert parse_json(b"[1, %s]" % (b"9" * 4000), "x") == [1, int("9" * 4000)]
    assert parse_json(b'["%s", 7]' % (b"1" * 9000), "x") == ["1" * 9000, 7]
    with pytest.raises(ModelFormatError) as error:
        parse_json(b"[1, %s]" % (b"9" * 5000), "x")
    assert error.value.code == "json_number"


@pytest.mark.timing
def test_large_files_take_a_few_times_what_the_library_takes() -> None:
    """Strings with and without escapes, many containers: linear wherever `json` itself is."""
    import gc
    import time

    text = json.dumps({f'k"{i}': [i, "\\"] for i in range(80_000)}).encode()

    def seconds(parse: Callable[[], object]) -> float:
        """Of this thread, without the collector's walks over what other tests have left."""
        best = float("inf")
        gc.disable()
        try:
            for _ in range(3):
                start = time.thread_time()
                parse()
                best = min(best, time.thread_time() - start)
        finally:
            gc.enable()
        return best

    assert seconds(lambda: parse_json(text, "x")) < 5 * seconds(lambda: json.loads(text)) + 0.05


def test_shown_escapes_and_cuts() -> None:
    assert shown("a\nb\x1b[2J\u2028") == "a\\nb\\x1b[2J\\u2028"
    assert shown("x" * 100) == "x" * 64 + "…"
    assert shown([1, "a"]) == "[1, 'a']"
    for value in (object(), [object()], type("Loud", (), {"__repr__": lambda self: 1 / 0})(), 10**5000):
        assert shown(value) == f"a value of type {type(value).__name__}", "a pointer says nothing"


# ---- memory


def fake_system(
    tmp_path: Path, *, available_kib: int, group: str = "/a/b", **limits: tuple[str, int, int]
) -> Any:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {available_kib} kB\n")
    (proc / "self" / "cgroup").write_text(f"0::{group}\n")
    for name, (most, used, cache) in limits.items():
        folder = cgroups / name.replace("_", "/").removeprefix("root").lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nactive_file 0\n")
    return memory.available_memory(str(proc), str(cgroups))


def test_available_memory_is_the_least_of_all_limits(tmp_path: Path) -> None:
    assert fake_system(tmp_path / "1", available_kib=1000) == (1_024_000, "MemAvailable")
    found = fake_system(tmp_path / "2", available_kib=1000, a_b=("max", 5, 0), a=("700000", 400_000, 100_000))
    assert found == (400_000, "the control group's memory.max")
    found = fake_system(tmp_path / "3", available_kib=1000, a_b=("1000", 5000, 0))
    assert found == (0, "the control group's memory.max")


def test_available_memory_knows_the_address_space_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        found = memory.available_memory()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert found is not None
    assert found[1] == "RLIMIT_AS"
    assert np.isclose(found[0], 64 << 20, atol=16 << 20)


def test_without_proc_there_is_no_opinion(tmp_path: Path) -> None:
    assert memory.available_memory(str(tmp_path), str(tmp_path)) is None


def test_an_index_that_is_not_read_is_told(tmp_path: Path) -> None:
    path = write_hf_folder(tiny_llama(), tmp_path / "model")
    assert open_folder(str(path)).warnings == []
    (path / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    (warning,) = open_folder(str(path)).warnings
    assert "model.safetensors.index.json is ignored" in warning
