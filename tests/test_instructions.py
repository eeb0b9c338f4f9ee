"""The guard of bench/instructions.py: what is over a budget, what is new, what another compiler means."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "bench" / "instructions.py"


@pytest.fixture
def instructions(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("instructions", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BUDGET", tmp_path / "budget.json")
    return module


def test_two_percent_more_fails_and_less_is_told(instructions):
    budget = {"a": 100_000, "b": 100_000, "c": 100_000}
    over, notices = instructions.compare({"a": 102_100, "b": 101_900, "c": 90_000, "d": 5}, budget)
    assert [line.split(":")[0] for line in over] == ["a"] and "+2.1 %" in over[0]
    assert [line.split(":")[0] for line in notices] == ["c", "d"]


def test_a_budget_is_per_compiler_and_a_filter_keeps_the_others(instructions):
    instructions.update("GNU 1", {"a": 1, "b": 2}, "")
    instructions.update("GNU 2", {"a": 3}, "")
    instructions.update("GNU 1", {"a": 5}, "a")
    assert json.loads(instructions.BUDGET.read_text()) == {"GNU 1": {"a": 5, "b": 2}, "GNU 2": {"a": 3}}
    instructions.update("GNU 1", {"a": 7}, "")
    assert json.loads(instructions.BUDGET.read_text())["GNU 1"] == {"a": 7}


def test_without_a_budget_nothing_fails_silently(instructions, monkeypatch, capsys):
    monkeypatch.setattr(instructions.shutil, "which", lambda tool: "/bin/true")
    monkeypatch.setattr(instructions, "build", lambda folder: folder)
    monkeypatch.setattr(instructions, "count", lambda program, isa, part: {f"{isa}/a": 1})
    monkeypatch.setattr(instructions, "compiler", lambda folder: "Other 1")
    assert instructions.main([]) == 0
    assert "NOTICE: 2 cases counted, 0 compared: no budget for Other 1" in capsys.readouterr().out
    assert instructions.main(["--update"]) == 0 and instructions.main([]) == 0
    monkeypatch.setattr(instructions, "count", lambda program, isa, part: {f"{isa}/a": 100})
    assert instructions.main([]) == 1
