"""Traces of the CUDA emulator: planted bugs are named, kernels have no race and keep their budget."""

from __future__ import annotations

import pytest

from test_cuda_emulation import Build, assert_passes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("cuda_traced"))


def test_a_trace_names_every_planted_bug(traced: Build) -> None:
    assert_passes(traced.run("planted_test"), at_least=4)


def test_no_kernel_has_a_race(traced: Build) -> None:
    assert_passes(traced.run("traced_kernels_test"), at_least=12)
