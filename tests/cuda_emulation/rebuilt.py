"""Test programs of a finished build with one file of kernels changed; only what reads it is compiled."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent.parent / "csrc" / "kernels" / "cuda"


@dataclass(frozen=True)
class Built:
    """How the kernels of a build are compiled, and what its test program is linked with."""

    folder: Path
    commands: dict[str, list[str]]  # of each .cu, by its name
    objects: list[Path]
    archive: Path


def finished_build(folder: Path, kernels: str, program: str, library: str) -> Built:
    """kernels, program, library: the CMake targets that hold the kernels, the tests and all else."""
    entries = json.loads((folder / "compile_commands.json").read_text(encoding="utf-8"))
    lines = [(Path(entry["file"]).name, shlex.split(entry["command"])) for entry in entries]
    outputs = [(name, command, command[command.index("-o") + 1]) for name, command in lines]
    return Built(
        folder,
        {
            name: command
            for name, command, out in outputs
            if f"/{kernels}.dir/" in out and name.endswith(".cu")
        },
        [folder / out for _, _, out in outputs if f"/{program}.dir/" in out],
        folder / f"lib{library}.a",
    )


def includers(path: Path) -> list[str]:
    """Names of the .cu files that read `path`, through other headers or not."""
    reading, frontier = {path.name}, {path.name}
    files = {p.name: p.read_text(encoding="utf-8") for p in KERNELS.glob("*.cu*")}
    while frontier:
        frontier = {
            name
            for name, text in files.items()
            if name not in reading and any(f'"kernels/cuda/{seen}"' in text for seen in frontier)
        }
        reading |= frontier
    return sorted(name for name in reading if name.endswith(".cu"))


def rebuild(built: Built, path: Path, text: str, folder: Path) -> Path:
    """The test program with `text` in place of the file of kernels `path`; its objects go into `folder`."""
    overlay = folder / "kernels" / "cuda"
    overlay.mkdir(parents=True)
    (overlay / path.name).write_text(text, encoding="utf-8")
    objects = []
    for name in includers(path):
        command = list(built.commands[name])
        out, source = command.index("-o") + 1, command.index("-c") + 1
        command[out] = str(folder / f"{name}.o")
        if path.name == name:
            command[source] = str(overlay / name)
        if "-MF" in command:
            command[command.index("-MF") + 1] = str(folder / f"{name}.d")
        command[1:1] = ["-I", str(folder)]  # in front of the originals
        # A bug need not be fast, and may leave a variable without use: its tests are to find it, no warning.
        subprocess.run([*command, "-O1", "-w"], check=True, cwd=built.folder)
        objects.append(folder / f"{name}.o")
    program = folder / "rebuilt"
    # The archive holds the originals, too; what is defined already is not taken from it.
    link = ["c++", "-o", program, *built.objects, *objects, built.archive, "-ldl"]
    subprocess.run(link, check=True)
    return program
