"""Where the three built-in models are: given on the command line, or pulled as tuili pulls them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

BUILT_IN = {"smollm2": "smollm2-135m-instruct", "gemma3": "gemma3-270m", "minilm": "all-minilm-l6-v2"}


def add_arguments(parser: argparse.ArgumentParser, models: Sequence[str]) -> None:
    """Options `--<model> PATH` for `models`, and `--only MODEL` to leave the others out."""
    for model in models:
        parser.add_argument(f"--{model}", type=Path, metavar="PATH", help=f"default: {BUILT_IN[model]}")
    if len(models) > 1:
        parser.add_argument("--only", choices=models, help="compare this model alone")


def chosen(arguments: argparse.Namespace, models: Sequence[str]) -> dict[str, Path]:
    """The models that the options of `add_arguments` ask for, with their paths; pulls what has no path."""
    selected = [model for model in models if getattr(arguments, "only", None) in (None, model)]
    return {model: getattr(arguments, model) or _pulled(BUILT_IN[model]) for model in selected}


def _pulled(name: str) -> Path:
    from tuili.loading import store

    return Path(store.pull(name))
