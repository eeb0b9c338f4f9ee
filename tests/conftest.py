"""What every test shares: instruction sets as a parameter, hypothesis' settings, options."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    import tuili
    from tiny_server import Running
    from tuili.generation.grammar import Grammars

# A shell starts what it runs in the background deaf to Ctrl-C, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tables of a build for x86-64. One that this CPU cannot run is a visible skip, not a missing test; "avxvnni",
# whose differences to "avx2" are a few lines, is tested where it runs, and by test_emulated_isas.py.
X86_ISAS = ("generic", "avx2", "avx512")

hypothesis.settings.register_profile(
    "tuili", deadline=None, derandomize=True, print_blob=True, max_examples=60, database=None
)
hypothesis.settings.load_profile("tuili")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--build-folder", type=Path, help="CMake build folder whose ISA objects test_structure.py inspects"
    )
    parser.addoption(
        "--regenerate-goldens", action="store_true", help="write tests/goldens/*.json instead of comparing"
    )


def pytest_collection_finish() -> None:
    """All tests there are stay: the collector would take a third of a second to walk over them, each time."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`isa`: a table; `place`: the keywords that make an op run on it, or on the device of such a build."""
    if not {"isa", "place"} & set(metafunc.fixturenames):
        return
    from tuili import _core  # here, so that tests of pure Python run without the core

    runnable = _core.available_isas()
    names = [*X86_ISAS, *(isa for isa in runnable if isa not in X86_ISAS)]
    skip = [pytest.mark.skip(reason="this CPU or build cannot run this table")]
    marks = {isa: [] if isa in runnable else skip for isa in names}
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", [pytest.param(isa, marks=marks[isa]) for isa in names])
    if "place" in metafunc.fixturenames:
        places = [pytest.param({"isa": isa}, marks=marks[isa], id=isa) for isa in names]
        if _core.build_info()["cuda"] != "none":
            places.append(pytest.param({"device": "cuda"}, id="cuda"))
        metafunc.parametrize("place", places)


@pytest.fixture(scope="session")
def isas() -> list[str]:
    """The tables that run here, best first."""
    from tuili import _core

    return list(_core.available_isas())


@pytest.fixture(scope="module")
def llama_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny decoder."""
    from tiny_files import write_hf_folder
    from tiny_models import tiny_llama

    return write_hf_folder(tiny_llama(), tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def bert_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder."""
    from tiny_files import write_hf_folder
    from tiny_models import tiny_bert

    return write_hf_folder(tiny_bert(), tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def llm(llama_path: Path) -> Iterator[tuili.LLM]:
    import tuili
    from tiny_files import SIZES

    with tuili.LLM(llama_path, **SIZES) as llm:
        yield llm


@pytest.fixture(scope="module")
def embedder(bert_path: Path) -> Iterator[tuili.LLM]:
    import tuili

    with tuili.LLM(bert_path, num_threads=1) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    """Compiles for all engines of a file's tests, whose vocabulary is one. None of them closes it."""
    from tiny_grammars import make_grammars

    shared = make_grammars(start_thread=False)
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def vector_server(embedder: tuili.LLM) -> Iterator[Running]:
    """A server of `embedder`."""
    from tiny_server import running

    with running(embedder, served_model_name="minilm") as server:
        yield server
