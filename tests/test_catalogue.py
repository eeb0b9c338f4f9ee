"""The catalogue of hostile inputs and faults: every id has tests that exist, or a reason why not."""

from __future__ import annotations

import ast
import functools
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hostile.corpus import CASES

TESTS = Path(__file__).resolve().parent
CATALOGUE: dict[str, dict[str, Any]] = tomllib.loads((TESTS / "catalogue.toml").read_text(encoding="utf-8"))

# Rows of each section that applies to what exists: safetensors, GGUF, settings, tokenizers, chat templates,
# files, builds, the engine and its host. A section is added here when its part of the engine is.
SECTIONS = {"ST": 20, "GG": 28, "CF": 12, "TK": 15, "CT": 12, "FS": 14, "BLD": 6}
SECTIONS |= {"KV": 16, "NUM": 9, "REQ": 19, "CAN": 11, "MEM": 7, "PY": 22, "PRIV": 9, "SRV": 20, "RAY": 7}
IDS = [f"{section}-{number:02}" for section, n in SECTIONS.items() for number in range(1, n + 1)]

HOSTILE = "test_loading_hostile.py::test_a_hostile_file_gives_its_error"


@functools.cache
def functions(file: str) -> frozenset[str]:
    """The test functions of a file in tests/."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_every_id_is_listed_and_no_other() -> None:
    listed = [name for name in CATALOGUE if name.split("-")[0] in SECTIONS]
    assert sorted(listed) == sorted(IDS)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_row_has_tests_that_exist_or_says_why_not(name: str) -> None:
    row = CATALOGUE[name]
    assert row.keys() in ({"tests"}, {"not_yet"}), f"{name} needs either tests or not_yet"
    if "not_yet" in row:
        assert len(row["not_yet"]) > 20, f"{name} needs a reason"
        return
    assert row["tests"], f"{name} lists no test"
    for entry in row["tests"]:
        file, _, function = entry.partition("::")
        assert (TESTS / file).is_file(), f"{name}: there is no tests/{file}"
        assert not function or function in functions(file), f"{name}: tests/{file} has no {function}"
        if entry == HOSTILE:
            assert any(case.row == name for case in CASES), f"{name}: the hostile corpus has no such row"


def test_every_row_of_the_hostile_corpus_is_in_the_catalogue() -> None:
    for row in {case.row for case in CASES}:
        assert HOSTILE in CATALOGUE[row].get("tests", ()), f"{row} has hostile files but does not list them"
