"""Which table of kernels runs: the best one, the one asked for, or an error that names the choice."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tuili import _core, errors
from tuili._core import ops

_PROBE = "from tuili import _core; print(_core.build_info()['isa'])"


def default_isa(**environment: str) -> subprocess.CompletedProcess[str]:
    """What a fresh process chooses under these environment variables."""
    return subprocess.run(
        [sys.executable, "-c", _PROBE],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_generic_always_runs_and_is_the_last_choice(isas):
    assert isas[-1] == "generic"
    assert len(set(isas)) == len(isas)


def test_the_best_table_is_the_default(isas):
    assert default_isa(TUILI_CPU_ISA="").stdout.strip() == isas[0]


def test_the_environment_chooses_the_table(isa):
    assert default_isa(TUILI_CPU_ISA=isa).stdout.strip() == isa


def test_an_unknown_table_in_the_environment_is_an_error():
    done = default_isa(TUILI_CPU_ISA="sse9")
    assert done.returncode == 1 and "InvalidParameterError" in done.stderr and "sse9" in done.stderr


def test_an_unknown_table_as_an_argument_is_an_error():
    with pytest.raises(errors.InvalidParameterError, match="sse9"):
        ops.add(np.ones(3, np.float32), np.ones(3, np.float32), isa="sse9")


def test_the_import_chooses_nothing():
    """A wrong variable must not make `import tuili` fail: the error belongs to the first use."""
    done = subprocess.run(
        [sys.executable, "-c", "import tuili"], env=os.environ | {"TUILI_CPU_ISA": "sse9"}, check=False
    )
    assert done.returncode == 0


def test_build_info_names_the_build():
    info = _core.build_info()
    assert info["cuda"] in ("none", "cuda", "emulated")
    assert "generic" in info["isas"]
