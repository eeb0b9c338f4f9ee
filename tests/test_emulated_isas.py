"""Tables of instruction sets that this machine may lack, emulated, beside the generic one: bit for bit."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from cpp_tests import assert_passes, results_of

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "tests" / "emulated_isas"
KERNELS = REPOSITORY / "csrc" / "kernels" / "cpu"
FEWEST_CASES = 150

pytestmark = pytest.mark.slow


def needs(reason: str, *found: object) -> None:
    if not all(found):
        pytest.skip(f"needs {reason}")


@pytest.fixture(scope="module")
def x86(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("x86")


@pytest.fixture(scope="module")
def neon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder, of which the second test compiles the tables again."""
    return tmp_path_factory.mktemp("neon")


def simde() -> list[str]:
    needs("cmake", shutil.which("cmake"))
    needs("an x86-64 machine", platform.machine() == "x86_64")
    headers = [Path(root) / "simde" / "x86" / "avx512.h" for root in ("/usr/include", "/usr/local/include")]
    needs("SIMDe (Debian: libsimde-dev)", any(path.exists() for path in headers))
    return []


def aarch64() -> list[str]:
    needs("cmake", shutil.which("cmake"))
    compiler = shutil.which("aarch64-linux-gnu-g++")
    needs("aarch64-linux-gnu-g++ (Debian: g++-aarch64-linux-gnu)", compiler)
    needs("qemu-aarch64 (Debian: qemu-user)", shutil.which("qemu-aarch64"))
    return [
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    ]


def compare(folder: Path, table: str, options: list[str], runner: list[str]) -> dict[str, str]:
    """Builds all comparisons and runs that of a table: case -> "" or why it differs."""
    for command in (["cmake", "-S", SOURCE, "-B", folder, *options], ["cmake", "--build", folder, "-j2"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return results_of(*runner, folder / f"compare_{table}")


@pytest.mark.parametrize("table", ["avx512", "avxvnni"])
def test_a_table_equals_generic_under_simde(table: str, x86: Path) -> None:
    assert_passes(compare(x86, table, simde(), []), FEWEST_CASES)


def test_neon_equals_generic_under_qemu(neon: Path) -> None:
    options = [*aarch64(), "-DTUILI_OVERLAY="]
    assert_passes(compare(neon, "neon", options, ["qemu-aarch64", "-cpu", "max"]), FEWEST_CASES)


def test_a_wrong_table_is_found(neon: Path, tmp_path: Path) -> None:
    """The comparison can fail: a fused step taken apart in the vocabulary of NEON."""
    options = aarch64()
    folder = tmp_path / "overlay" / "kernels" / "cpu"
    folder.mkdir(parents=True)
    text = (KERNELS / "simd_neon.h").read_text(encoding="utf-8")
    right = "vfmaq_f32("
    assert right in text, "simd_neon.h has changed: plant the bug again"
    planted = "#define PLANTED(c, a, b) vaddq_f32(c, vmulq_f32(a, b))\n"
    text = text.replace("namespace tuili", f"{planted}namespace tuili", 1).replace(right, "PLANTED(")
    (folder / "simd_neon.h").write_text(text, encoding="utf-8")
    options += [f"-DTUILI_OVERLAY={tmp_path / 'overlay'}"]
    results = compare(neon, "neon", options, ["qemu-aarch64", "-cpu", "max"])
    assert any(results.values()) and "the whole program" not in results
