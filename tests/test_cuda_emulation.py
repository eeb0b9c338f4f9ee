"""The CUDA kernels through ops/ on the emulator of tests/cuda_emulation, its own tests, and planted bugs."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cpp_tests import assert_passes, results_of
from cuda_emulation.rebuilt import KERNELS, finished_build, rebuild

SOURCE = Path(__file__).parent / "cuda_emulation"
ROOFLINE = Path(__file__).parent.parent / "tools" / "roofline.py"


class Build:
    """A build folder of tests/cuda_emulation; skips the test where there cannot be one."""

    def __init__(self, folder: Path, **options: object) -> None:
        if platform.machine() != "x86_64":
            pytest.skip("the emulator switches fibers on x86-64 only")
        if shutil.which("cmake") is None:
            pytest.skip("needs cmake")
        self.folder = folder
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        self._cmake("-S", SOURCE, "-B", folder, *definitions)

    def build(self, test: str) -> None:
        self._cmake("--build", self.folder, "--target", test, "--parallel", "2")

    def run(self, test: str, *arguments: str | Path) -> dict[str, str]:
        """Builds and runs one test program."""
        self.build(test)
        return results_of(self.folder / test, *arguments)

    def _cmake(self, *arguments: str | Path) -> None:
        done = subprocess.run(["cmake", *arguments], capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("cuda_emulation"))


@pytest.mark.slow
def test_the_emulator_catches_every_planted_bug(release: Build) -> None:
    assert_passes(release.run("emulator_test"), at_least=20)


@pytest.mark.slow
def test_the_kernels_are_right_and_ignore_their_batch(release: Build) -> None:
    assert_passes(release.run("kernels_test"), at_least=50)


@pytest.mark.slow
def test_a_build_without_cuda_says_so(release: Build) -> None:
    assert_passes(release.run("absent_test"), at_least=3)


def test_skinny_gemms_and_decoding_are_predicted_to_be_bound_by_memory() -> None:
    """From the counts and the machine code of the budgets."""
    done = subprocess.run([sys.executable, ROOFLINE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_a_file_that_orders_no_memory_leaves_nothing_to_take_out() -> None:
    for name, status in (("tile_copy", 0), ("no_such_file", 2)):
        command = [sys.executable, SOURCE / "mutate.py", "--only", name]
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == status


def test_code_for_a_gpu_without_bf16_is_refused_when_it_is_configured(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    command = [
        "cmake",
        "-S",
        SOURCE,
        "-B",
        tmp_path,
        "-DTUILI_CUDA=ON",
        "-DCMAKE_CUDA_ARCHITECTURES=80;75-real",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "75-real: tuili needs 80 or above" in done.stderr


@pytest.mark.slow
def test_steps_are_recorded_as_far_as_there_is_room(release: Build) -> None:
    assert_passes(release.run("graphs_test"), at_least=5)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(
        tmp_path_factory.mktemp("cuda_sanitized"), TUILI_SANITIZE="address,undefined,float-cast-overflow"
    )


@pytest.mark.slow
@pytest.mark.parametrize("program", ["emulator_test", "kernels_test"])
def test_nothing_is_read_or_written_out_of_bounds(program: str, sanitized: Build) -> None:
    assert_passes(sanitized.run(program), at_least=12)


PLANTED = {  # file, what stands there, what is planted instead
    "no barrier between the warps of a norm": (
        "rows.cuh",
        "    __syncthreads();\n    return shared.sums",
        "    return shared.sums",
    ),
    "a lane's sum for that of all": ("rows.cuh", "return sum_of_lanes(sum);", "return sum;"),
    "no barrier between tiles": ("gemm.cuh", "    __syncthreads();", ""),
    "a wait for too few copies": ("gemm.cuh", "cp_async_wait<kStages - 2>", "cp_async_wait<kStages - 1>"),
    "the next tile lands in the one that is read": (
        "gemm.cuh",
        "start(shared.stages[now])",
        "start(shared.stages[next])",
    ),
    "eight numbers too many at the end of k": ("tile_copy.cuh", "column < k_left ?", "column < k_left + 8 ?"),
    "values are read before they arrive": (
        "attention.cuh",
        "shared, at);\n  ptx::cp_async_wait<Shape::kSlots - 2>();\n",
        "shared, at);\n",
    ),
    "maxima are read before they are written": (
        "attention_state.cuh",
        "__syncthreads();  // the maxima",
        "// the maxima",
    ),
    "a split goes on from the one before": ("attention.cuh", "at, 0);\n    state.clear();", "at, 0);"),
    "one tile too few at the end of the keys": (
        "attention_loads.cuh",
        "first_key < tile.end)",
        "first_key + kKeyTile < tile.end)",
    ),
    "places are taken before all pairs are counted": (
        "routing.cuh",
        "  __syncthreads();\n  int place",
        "  int place",
    ),
    "choices are read before they are made": (
        "routing.cuh",
        "  __syncwarp();  // the choices are there\n",
        "",
    ),
    "weights are summed before they are there": (
        "routing.cuh",
        "  __syncwarp();  // all weights",
        "  // all",
    ),
    "a tile of the expert before": ("gemm_experts.cuh", "through > tile", "through >= tile"),
    "half of a step's k twice": ("gemm.cuh", "b[of][half + 1]}", "b[of][half]}"),
    "a tile of the product before": ("together.cuh", "tile >= before", "tile > before"),
    "lanes of a mean in another order": (
        "rows.cuh",
        "__fadd_rn(lanes[0], lanes[2]), __fadd_rn(lanes[1], lanes[3])",
        "__fadd_rn(lanes[0], lanes[1]), __fadd_rn(lanes[2], lanes[3])",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_a_bug_planted_in_a_kernel_is_caught(bug: str, release: Build, tmp_path: Path) -> None:
    name, right, wrong = PLANTED[bug]
    source = (KERNELS / name).read_text(encoding="utf-8")
    assert right in source, f"{name} has changed: plant the bug again"
    release.build("kernels_test")
    built = finished_build(release.folder, "tuili_EMULATED", "kernels_test", "tuili_EMULATED")
    program = rebuild(built, KERNELS / name, source.replace(right, wrong), tmp_path)
    assert any(results_of(program, "--stop").values()), "the tests pass with the bug in place"
