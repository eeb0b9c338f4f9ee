"""Traces of the CUDA kernels on the emulator, and what nvcc makes of them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cpp_tests import assert_passes
from test_cuda_emulation import SOURCE, Build

pytestmark = pytest.mark.slow

TOOLS = SOURCE.parent.parent / "tools"


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("cuda_traced"))


def output_of(*command: str | Path) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_a_trace_names_every_planted_bug(traced: Build) -> None:
    assert_passes(traced.run("planted_test"), at_least=4)


@pytest.fixture(scope="module")
def run(traced: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """One run of the kernels' tests, which takes half a minute: its results, and its counts."""
    counts = tmp_path_factory.mktemp("cuda_counts") / "counts.jsonl"
    return traced.run("traced_kernels_test", "--counts", counts), counts


def test_no_kernel_has_a_race(run: tuple[dict[str, str], Path]) -> None:
    assert_passes(run[0], at_least=50)


def test_conflicts_and_sectors_are_within_their_budget(
    traced: Build, run: tuple[dict[str, str], Path]
) -> None:
    told = output_of(SOURCE / "traffic.py", "--build-folder", traced.folder, "--counts", run[1])
    assert "within the budget" in told


def test_a_statement_that_orders_memory_is_missed_when_it_is_gone(
    traced: Build, run: tuple[dict[str, str], Path]
) -> None:
    """Each barrier, wait and commit, taken out alone; mutation_survivors.json explains those that may go."""
    print(output_of(SOURCE / "mutate.py", "--build-folder", traced.folder, "--counts", run[1]))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_machine_code_is_within_its_budget() -> None:
    if importlib.util.find_spec("nvidia") is None and shutil.which("nvdisasm") is None:
        pytest.skip("needs nvdisasm: pip install nvidia-cuda-nvdisasm")
    assert "kernels within the budget" in output_of(TOOLS / "sass_check.py")
