"""The hostile corpus: each file gives its error, fast, in little memory, and leaves nothing behind."""

from __future__ import annotations

import ast
import functools
import math
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

import tuili.loading
from hostile.corpus import CASES, Outcome, attempt, difference, planned, try_all
from patience import slowness

LOADING = Path(tuili.loading.__file__).parent
# The modules that read untrusted files; the tokenizer's have tests of their own.
READING = ["files", "checkpoint", "safetensors_file", "gguf", "config", "sources", "model", "rope", "layout"]
READERS = sorted(
    path
    for path in [*LOADING.glob("*.py"), *(LOADING / "architectures").glob("*.py")]
    if path.stem
    in (
        "files",
        "checkpoint",
        "safetensors_file",
        "gguf",
        "config",
        "sources",
        "model",
        "rope",
        "layout",
        "heads",
        "group_quantized",
        "mxfp4",
        "prequantized",
    )
    or path.parent.name == "architectures"
)

# Functions with a `raise` that no file can reach alone -> the test that reaches it.
NOT_BY_FILE = {
    ("files", "_changed"): "test_loading_files.py",
    ("files", "_check_keys"): "test_server_hardness.py",
    ("files", "read_into"): "test_loading_files.py",
    ("checkpoint", "_file"): "test_loading_files.py",
    ("gguf", "skip_strings"): "test_loading_formats.py",
    ("gguf", "_array"): "test_loading_formats.py",
    ("gguf", "get_str_array"): "test_loading_formats.py",
    ("model", "check_options"): "test_loading_model.py",
    ("model", "_plan_tensors"): "test_sentence_modules.py",
    ("mxfp4", "to_q5_0"): "test_quantized_checkpoints.py",
}


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    names = [str(case) for case in CASES]
    assert len(names) == len(set(names))
    assert sum(case.error is not None for case in CASES) >= 300


@functools.cache
def outcome(i: int) -> Outcome:
    """Of CASES[i], which is tried once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        return attempt(CASES[i], Path(folder))


@pytest.mark.parametrize("i", range(len(CASES)), ids=map(str, CASES))
def test_a_hostile_file_gives_its_error(i: int) -> None:
    error = outcome(i).error
    assert not difference(CASES[i], error)
    if error is not None:
        assert len(str(error)) < 700, "a message quotes too much of the file"
        assert str(error).isprintable(), "a message carries control characters"
        assert " at 0x" not in str(error), "a message holds a pointer"


def test_hostile_files_leave_no_descriptor() -> None:
    assert not [str(case) for i, case in enumerate(CASES) if outcome(i).left_open]


@pytest.mark.timing
def test_hostile_files_are_refused_fast() -> None:
    """Processor time, the best of three: nearly all in 20 ms, each in 50 ms and 100 ms per MiB."""
    best: dict[str, float] = {}
    for attempts in range(3):
        outcomes = try_all() if attempts else {str(case): outcome(i) for i, case in enumerate(CASES)}
        slow = slowness()
        best = {name: min(found.seconds, best.get(name, math.inf)) for name, found in outcomes.items()}
        late = [name for name in best if best[name] > slow * (0.05 + 0.1 * outcomes[name].n_bytes / 2**20)]
        p99_s = sorted(best.values())[len(best) * 99 // 100]
        if p99_s <= 0.020 * slow and not late:
            return
    slowest = sorted((seconds, name) for name, seconds in best.items())[-12:]
    pytest.fail(f"p99 is {p99_s * 1e3:.1f} ms; slower than their sizes allow: {late}; slowest: {slowest}")


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_refusing_takes_little_memory(tmp_path: Path, every: int) -> None:
    """At most 4 × the files + 1 MiB, whatever sizes they claim; JSON, once parsed, is up to 32 × its text.

    every  how many cases there are for each that is tried; of those of the readers of bytes, all are
    """
    for i, case in enumerate(CASES):
        if i % every and not case.row.startswith(("ST", "GG")):
            continue
        outcome(i)  # has imported what it needs
        folder = tmp_path / str(i)
        folder.mkdir()
        path = case.write(folder)
        on_disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        tracemalloc.start()
        try:
            planned(path, case)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        factor = 32 if case.row.startswith(("ST", "CF")) else 4
        assert peak <= factor * on_disk + (1 << 20), f"{case}: {peak} bytes for {on_disk} on disk"


def raises(path: Path) -> Iterator[tuple[str, int]]:
    """(function, line) of each raise statement in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    yield function.name, node.lineno


def test_every_check_of_the_readers_is_tripped_by_some_hostile_file() -> None:
    """Each `raise` is in the trace of some file's error, so that no check can be lost without a failure."""
    reached = set[tuple[str, int]]().union(*(outcome(i).raised for i in range(len(CASES))))
    missing = [
        f"{name}.{function}:{number}"
        for path in READERS
        for name in [path.stem if path.stem != "__init__" else "architectures"]
        for function, number in sorted(set(raises(path)))
        if (str(path), number) not in reached and (name, function) not in NOT_BY_FILE
    ]
    assert not missing, f"no hostile file reaches {missing}"
