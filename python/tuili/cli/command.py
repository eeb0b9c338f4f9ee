"""What the commands of `tuili` share: the options of a model, JSON, lines and a bar on standard error."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tuili.__main__ import importing

if TYPE_CHECKING:
    from tuili.llm import LLM

EXIT_USAGE = 2  # argparse's own
BAR_AFTER_S = 0.5
BAR_PARTS = 30


class _Help(argparse.HelpFormatter):
    """The first lines without every option: they are listed below, and would hide what is wrong."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        options = argparse.Action([], "", nargs="*", metavar="OPTION")
        super().add_usage(usage, [options, *(a for a in actions if not a.option_strings)], [], prefix)


def add_command(
    commands: Any,
    name: str,
    run: Any,
    text: str,
    *,
    model: bool = False,
    needs_model: bool = True,
    prints_json: bool = True,
) -> argparse.ArgumentParser:
    """A command among the subparsers `commands`, which `run` answers: options -> exit code, None for 0.

    model        it takes MODEL, which may be left out unless it needs_model, and the options of `open_model`
    prints_json  it takes --json
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=_Help
    )
    parser.set_defaults(command=run, parser=parser)
    if prints_json:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
    if not model:
        return parser
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs=None if needs_model else "?",
        help="a folder, a .gguf file, or a name from `tuili models`",
    )
    group = parser.add_argument_group("model")
    group.add_argument("--device", metavar="cpu|cuda|cuda:N", help="default cpu")
    group.add_argument("--threads", type=int, dest="num_threads", metavar="N", help="default: one per CPU")
    how = "of quantized weights; float32: exactly, and slower"
    group.add_argument("--compute", choices=("auto", "int8", "float32"), help=how)
    kinds = ("auto", "float32", "bfloat16", "float16")
    group.add_argument("--dtype", choices=kinds, help="of float weights; auto: exactly as stored")
    group.add_argument("--quantization", choices=("int8", "int4"), help="of float weights, while loading")
    group.add_argument("--kv-cache-dtype", choices=(*kinds, "int8"), help="of keys and values")
    how = "for keys and values; default: a quarter of the free memory"
    group.add_argument("--kv-cache-bytes", type=int, metavar="BYTES", help=how)
    group.add_argument("--max-model-len", type=int, metavar="N", help="most tokens of a text")
    add_cache_dir(group)
    return parser


def add_cache_dir(parser: argparse._ActionsContainer) -> None:
    where = "of pulled models and packed weights; default ~/.cache/tuili"
    parser.add_argument("--cache-dir", metavar="FOLDER", help=where)


MODEL_OPTIONS = (
    "device",
    "num_threads",
    "compute",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "kv_cache_bytes",
    "max_model_len",
    "cache_dir",
)


def given_options(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The options that the command line gave."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def open_model(options: argparse.Namespace, **more: Any) -> LLM:
    """The model of the command, by its options. raises: as LLM"""
    with importing():
        from tuili.llm import LLM

    return LLM(options.model, **given_options(options, MODEL_OPTIONS), **more, progress=bar("loading"))


def print_json(value: Any) -> None:
    """Print JSON on one line; characters that the output's encoding lacks are escaped, never lost."""
    everything = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not everything, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: bytes on the command line that were no text
        text = json.dumps(value, default=str)
    print(text)


def complain(line: str) -> None:
    """A line on standard error, if there is one."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)


def wrong_usage(problem: str) -> int:
    """Say what is wrong; returns the exit code."""
    complain(f"tuili {problem}")
    return EXIT_USAGE


def one_line(text: str) -> str:
    """`text` without what would begin another line or move the cursor."""
    return "".join(c if c.isprintable() else " " for c in text)


def bar(what: str) -> Callable[[int, int], None] | None:
    """Progress of work that may be long, drawn on a terminal once it has been."""
    if not shows_progress():
        return None
    begin, drawn = time.monotonic(), -1

    def show(done: int, total: int) -> None:
        nonlocal drawn
        parts = BAR_PARTS * done // total
        if time.monotonic() - begin > BAR_AFTER_S and parts != drawn:
            drawn = parts
            progress(done, total, what)

    return show


def shows_progress() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def progress(done: int, total: int, what: str) -> None:
    """A bar on one line of the terminal, however narrow, gone when all is done."""
    room = min(60, _columns() - 1)  # in the last column some terminals begin a new line
    width = max(0, min(BAR_PARTS, room - len(f"[] {what}")))
    filled = width * done // total
    line = f"[{'#' * filled}{'.' * (width - filled)}] {what}"[:room]
    print(f"\r{line:<{room}}" if done < total else f"\r{'':<{room}}\r", end="", file=sys.stderr, flush=True)


def _columns() -> int:
    """Columns of the terminal that standard error is."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (AttributeError, OSError, ValueError):
        return 80
