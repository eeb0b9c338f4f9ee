"""The rules of CONTRIBUTING.md that a machine can check: includes, names, lengths, symbols, banned calls."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuili.loading.registry import GGUF_ARCHITECTURES, HF_ARCHITECTURES

REPOSITORY = Path(__file__).resolve().parent.parent
CSRC = REPOSITORY / "csrc"
PACKAGE = REPOSITORY / "python" / "tuili"
# Each may include itself and those before it.
ORDER = ["base", "kernels", "ops", "model", "runtime", "bindings"]
CPP_SUFFIXES = {".h", ".cc", ".inl", ".cuh", ".cu"}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_KERNEL_LINES = 600, 60, 120
MAX_ARCHITECTURE_LINES = 100
# Of loading/architectures: what many of its files share, and the table of classes' defaults.
SHARED = {"__init__.py", "from_gguf.py", "encoders.py", "seq2seq.py", "class_defaults.py"}


def cpp_files(folder: Path = CSRC) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in CPP_SUFFIXES)


def python_files() -> list[Path]:
    folders = [REPOSITORY / name for name in ("python", "tests", "bench", "examples", "tools")]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def includes(path: Path) -> list[str]:
    """What a file includes, with its brackets or quotes."""
    return re.findall(r'^\s*#\s*include\s*([<"][^>"]+[>"])', path.read_text(encoding="utf-8"), re.MULTILINE)


_NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.DOTALL)


def code(path: Path) -> str:
    """The text without comments, literals and preprocessor lines; all others stay on their line."""
    text = _NOT_CODE.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), path.read_text(encoding="utf-8"))
    return re.sub(
        r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: "\n" * m.group().count("\n"), text, flags=re.MULTILINE
    )


_SCOPE = re.compile(r"\b(namespace|class|struct|union|enum)\b[^()]*$")


def cpp_functions(path: Path) -> Iterator[tuple[str, int]]:
    """(heading, length in lines) of each function body at namespace or class level."""
    text = code(path)
    stack: list[tuple[str, int, str]] = []  # (kind, position, heading)
    begin = 0
    for match in re.finditer(r"[{};]", text):
        at, symbol = match.start(), match.group()
        inside = any(kind == "function" for kind, _, _ in stack)
        if symbol == "{":
            heading = re.sub(r"alignas\([^)]*\)", "", text[begin:at]).strip()
            is_function = not inside and "(" in heading and not _SCOPE.search(heading)
            stack.append(("function" if is_function else "scope", begin, heading))
        elif symbol == "}" and stack:
            kind, start, heading = stack.pop()
            if kind == "function":
                first = start + len(text[start:at]) - len(text[start:at].lstrip())
                yield heading.splitlines()[0], text.count("\n", first, at) + 1
        begin = at + 1


def test_includes_only_point_down():
    for path in cpp_files():
        here = path.relative_to(CSRC).parts[0]
        for name in includes(path):
            layer = name.strip('<">').split("/")[0]
            if name.startswith('"') and layer in ORDER:
                assert ORDER.index(layer) <= ORDER.index(here), f"{path}: {here} may not include {name}"


def test_quoted_includes_exist_and_start_at_csrc():
    for path in cpp_files():
        for name in includes(path):
            if name.startswith('"'):
                assert (CSRC / name.strip('"')).is_file(), f"{path}: {name} is not a path below csrc/"


def assert_included_only_by(places: tuple[str, ...], pattern: str) -> None:
    for path in cpp_files():
        if not path.relative_to(CSRC).as_posix().startswith(places):
            bad = [name for name in includes(path) if re.match(pattern, name)]
            assert not bad, f"{path} includes {bad}; only {', '.join(places)} may"


def test_only_ops_includes_kernels():
    assert_included_only_by(("kernels/", "ops/"), r'"kernels/')


def test_only_bindings_includes_pybind11():
    assert_included_only_by(("bindings/",), r".*(pybind11|Python\.h)")


def test_cuda_headers_stay_with_cuda():
    places = ("kernels/cuda/", "base/device_cuda.cc")
    assert_included_only_by(places, r"<(cuda|cub|cooperative_groups|mma\.h|nv)")


def test_cmake_picks_the_cuda_file_not_the_preprocessor():
    for path in cpp_files():
        bad = re.findall(
            r"^\s*#\s*(?:el)?if.*\bTUILI_CUDA\b.*", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert not bad, f"{path}: {bad}"


def test_the_model_asks_for_no_device():
    for path in cpp_files(CSRC / "model"):
        found = re.search(r"DeviceKind::cuda|[!=]= DeviceKind", code(path))
        assert not found, f"{path}: what differs by device belongs into ops/: {found.group()}"


def kernel_texts() -> list[Path]:
    folder = CSRC / "kernels" / "cpu"
    return sorted([*folder.glob("*.inl"), *folder.glob("simd_*.h")])


def test_kernel_texts_use_no_standard_library():
    """The linker could hand an inline function compiled with -mavx512f to baseline code."""
    assert kernel_texts(), "no kernel texts found: the test looks in the wrong place"
    for path in kernel_texts():
        bad = [name for name in includes(path) if re.match(r"<[a-z_]+>$", name)]
        assert not bad, f"{path} includes {bad}"
        assert "std::" not in code(path), f"{path} uses std::"


def test_kernels_keep_to_their_range():
    """No allocation, thread, exception or environment below ops/."""
    banned = re.compile(r"\b(new|malloc|calloc|realloc|free|throw|getenv|thread_local|pthread_\w+)\b")
    for path in kernel_texts():
        found = banned.findall(code(path))
        assert not found, f"{path}: {sorted(set(found))}"


def cuda_functions() -> Iterator[tuple[bool, str, str]]:
    """(whether it is a kernel, name, body) of each function of the CUDA kernels."""
    heading = re.compile(r"__(global|device)__([^;{}]*)\{")
    for path in sorted((CSRC / "kernels" / "cuda").glob("*.cuh")):
        text = code(path)
        for match in heading.finditer(text):
            name = re.search(r"(\w+)\(", re.sub(r"__launch_bounds__\([^)]*\)", "", match[2]))
            if not name:
                continue
            depth, end = 1, match.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            yield match[1] == "global", name[1], text[match.end() : end]


# Kernels that do not begin by waiting: what they read before that no kernel may have written.
READS_WEIGHTS_FIRST = {"gemm_kernel", "gemm_skinny_kernel", "norm_kernel"}


def test_every_cuda_kernel_waits_for_those_before_it():
    """They are started before those have ended (kernels/cuda/launch.h): first of all, but for a few."""
    functions = list(cuda_functions())
    waiting = {"wait_for_kernels_before", "follow_kernels_before"}
    while more := {
        name
        for _, name, body in functions
        if name not in waiting and waiting & set(re.findall(r"\w+(?=[<(])", body))
    }:
        waiting |= more
    kernels = {name for is_kernel, name, _ in functions if is_kernel}
    assert len(kernels) > 20, "kernels are not found: the test looks in the wrong place"
    assert not kernels - waiting
    begins = re.compile(
        r"\s*(constexpr bool \w+ = [^;]*;\s*)?"
        r"((if constexpr \(\w+\) )?(ptx::)?let_next_kernel_start\([^;]*\);\s*)?"
        r"(ptx::wait_for_kernels_before|follow_kernels_before)\(\);"
    )
    late = {name for is_kernel, name, body in functions if is_kernel and not begins.match(body)}
    assert late == READS_WEIGHTS_FIRST


def test_cuda_kernels_load_nothing_as_a_constant():
    """The compiler may move such loads to before the wait, and what the cache held before it may answer them.
    __restrict__ lets the compiler choose them itself."""
    for path in sorted((CSRC / "kernels" / "cuda").glob("*.cu*")):
        found = re.findall(r"__ldg|__restrict|ld\.global\S*\.nc", path.read_text(encoding="utf-8"))
        assert not found, f"{path}: {found}"


def test_one_thread_pool_and_no_openmp():
    for path in cpp_files():
        assert not re.search(r"#\s*pragma\s+omp|<omp\.h>", path.read_text(encoding="utf-8")), (
            f"{path} uses OpenMP"
        )


def test_headers_do_not_open_namespaces():
    for path in cpp_files():
        if path.suffix in (".h", ".cuh", ".inl"):
            assert "using namespace" not in code(path), path


def test_each_isa_object_exports_its_table_alone(request):
    given = request.config.getoption("--build-folder")
    folders = (
        [given] if given else sorted((REPOSITORY / "build").glob("cp*"))
    )  # pip's, one per Python version
    objects = [path for folder in folders for path in sorted(folder.rglob("isa_*.o"))]
    if not objects or not shutil.which("nm"):
        pytest.skip("no build folder with ISA objects (or no nm); give one with --build-folder")
    for path in objects:
        out = subprocess.run(
            ["nm", "--defined-only", "--extern-only", str(path)], capture_output=True, text=True, check=True
        )
        symbols = [line.split()[-1] for line in out.stdout.splitlines() if line.strip()]
        assert len(symbols) == 1, f"{path.name} exports {len(symbols)} symbols: {symbols[:10]}"


def test_files_are_short():
    files = [*cpp_files(), *cpp_files(REPOSITORY / "tests"), *python_files()]
    lengths = {str(path): path.read_text(encoding="utf-8").count("\n") for path in files}
    assert not {path: n for path, n in lengths.items() if n >= MAX_FILE_LINES}


def test_cpp_functions_are_short():
    n_functions, long = 0, []
    for path in cpp_files():
        kernels = path.relative_to(CSRC).parts[0] == "kernels"
        for heading, n_lines in cpp_functions(path):
            n_functions += 1
            if n_lines >= (MAX_KERNEL_LINES if kernels else MAX_FUNCTION_LINES):
                long.append(f"{path}: {heading}: {n_lines} lines")
    assert not long
    assert n_functions > 100, "the scanner found hardly any function: it is broken"


def test_an_architecture_is_data_and_names_in_short_files():
    files = (PACKAGE / "loading" / "architectures").glob("*.py")
    own = [path for path in files if path.name not in SHARED]
    assert {path.stem for path in own} >= set(HF_ARCHITECTURES.values()) | set(GGUF_ARCHITECTURES.values())
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in own}
    assert {name: n for name, n in lengths.items() if n > MAX_ARCHITECTURE_LINES} == {}


def test_python_functions_are_short():
    long = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if n_lines >= MAX_FUNCTION_LINES:
                    long.append(f"{path}: {node.name}: {n_lines} lines")
    assert not long


_UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "zipimport", "runpy"}


def test_untrusted_bytes_never_become_code():
    """No pickle, no marshal, no eval, no torch.load in the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [(node.module or "").split(".")[0]]
            assert not _UNSAFE_MODULES & set(names), f"{path}:{node.lineno} imports {names}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                bad = {"eval", "exec", "compile", "__import__", "torch.load", "os.system", "tempfile.mktemp"}
                assert called not in bad, f"{path}:{node.lineno} calls {called}"


def test_private_parts_are_used_where_they_are_made():
    """`x._part` stands in a file that makes `_part`: a method, a field, or what `self` gets."""
    for path in sorted(PACKAGE.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        made = {"_exit", "_current_frames", "_is_owned", "_replace"}  # by Python
        made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        made |= {
            n.target.id for n in nodes if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        }
        made |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr) and node.attr not in made:
                owner = ast.unparse(node.value)
                is_own = owner in ("self", "cls")  # a base class's, perhaps
                assert is_own, f"{path}:{node.lineno}: {owner}.{node.attr} is another file's"


def test_errors_about_a_value_have_one_form():
    """NAME must be EXPECTED, not GIVEN."""
    other = re.compile(r'"[^"\n]*(; (it )?must be|[,;:] expected |, found \{)')
    for path in [*cpp_files(), *PACKAGE.rglob("*.py")]:
        found = other.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path}: {found.group()}"


def test_names_say_what_a_file_is():
    banned = re.compile(r"^(utils?|helpers?|manager|misc|common|base_.*)$")
    for path in [*cpp_files(), *sorted(PACKAGE.rglob("*.py"))]:
        assert not banned.match(path.stem), f"{path}: the name says nothing"
