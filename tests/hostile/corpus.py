"""The whole corpus, and how one case is tried."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tuili.errors import TuiliError
from tuili.loading.model import plan_model

from . import (
    config_cases,
    encoder_cases,
    family_cases,
    gguf_cases,
    gguf_family_cases,
    path_cases,
    quantized_cases,
    safetensors_cases,
    seq2seq_cases,
)
from .cases import Case

CASES: list[Case] = [
    case
    for module in (
        safetensors_cases,
        quantized_cases,
        gguf_cases,
        gguf_family_cases,
        config_cases,
        family_cases,
        encoder_cases,
        seq2seq_cases,
        path_cases,
    )
    for case in module.CASES
]


class Outcome(NamedTuple):
    error: BaseException | None
    seconds: float  # of this thread's processor time, to plan the model
    n_bytes: int  # of its files
    raised: set[
        tuple[str, int]
    ]  # file and line of every frame that the error, and those before it, went through
    left_open: set[str]  # descriptors


def traced(error: BaseException | None) -> set[tuple[str, int]]:
    """The frames that an error and those that led to it went through, none of which it holds any longer."""
    lines = set()
    while error is not None:
        trace, error.__traceback__ = error.__traceback__, None
        while trace is not None:
            lines.add((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
            trace = trace.tb_next
        error = error.__context__
    return lines


def planned(path: Path | str | bytes, case: Case) -> BaseException | None:
    try:
        plan_model(path, **case.options)  # type: ignore[arg-type]
    except Exception as error:
        return error
    return None


def attempt(case: Case, folder: Path) -> Outcome:
    """Write the case, plan it, and say what came of it."""
    path = case.write(folder)
    n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    before = {*os.listdir("/proc/self/fd")}
    start = time.thread_time()
    error = planned(path, case)
    seconds = time.thread_time() - start
    raised = traced(error)
    return Outcome(error, seconds, n_bytes, raised, {*os.listdir("/proc/self/fd")} - before)


def difference(case: Case, error: BaseException | None) -> str:
    """What is wrong with the outcome of a case; empty if nothing is."""
    wanted = f"{case.error.__name__} {case.code}" if case.error else "no error"
    if error is None:
        return "" if case.error is None else f"{case}: loaded, expected {wanted}"
    if not isinstance(error, TuiliError):
        return f"{case}: {type(error).__name__} {error}, expected {wanted}"
    if type(error) is case.error and error.code == case.code:
        return ""
    return f"{case}: {type(error).__name__} {error.code} ({error}), expected {wanted}"


def try_all() -> dict[str, Outcome]:
    """What came of each case of the whole corpus."""
    outcomes = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            outcomes[str(case)] = attempt(case, Path(folder))
    return outcomes
