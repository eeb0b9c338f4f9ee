"""The whole corpus, and how one case is tried."""

from __future__ import annotations

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


class Cost(NamedTuple):
    seconds: float  # of this thread's processor time, to plan the model
    n_bytes: int  # of its files


def attempt(case: Case, folder: Path) -> tuple[BaseException | None, Cost]:
    """Write the case, plan it, and return the error (None if there was none) and what it took."""
    path = case.write(folder)
    n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    start = time.thread_time()
    try:
        plan_model(path, **case.options)  # type: ignore[arg-type]
    except Exception as error:
        return error, Cost(time.thread_time() - start, n_bytes)
    return None, Cost(time.thread_time() - start, n_bytes)


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


def try_all() -> tuple[list[str], dict[str, Cost]]:
    """The differences of the whole corpus, and what each case took."""
    differences, costs = [], {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            error, costs[str(case)] = attempt(case, Path(folder))
        if wrong := difference(case, error):
            differences.append(wrong)
    return differences, costs
