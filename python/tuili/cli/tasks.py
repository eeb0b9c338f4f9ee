"""`tuili translate`, `tuili summarize` and `tuili classify`: pipelines on the command line."""

from __future__ import annotations

import argparse
from typing import Any

from tuili.cli import sampling, standard_input
from tuili.cli.command import add_command, open_model, print_json

# What a namespace may hold for the pipeline, by its names.
_OPTIONS = ("src_lang", "tgt_lang", "top_k", *sampling.OF_TASKS)


def add_commands(commands: Any) -> None:
    """Add them to the subparsers of `tuili`."""
    translate = _command(commands, "translate", "translation", "translate texts")
    translate.add_argument("--src-lang", metavar="CODE", help="the texts' language, as the model writes it")
    translate.add_argument("--tgt-lang", metavar="CODE", help="the language to translate into")
    summarize = _command(commands, "summarize", "summarization", "summarize texts")
    classify = _command(commands, "classify", "text-classification", "print the labels of texts")
    classify.add_argument("--top-k", type=int, default=1, metavar="N", help="the N likeliest labels")
    for parser in (translate, summarize):
        sampling.add_of_tasks(parser.add_argument_group("generation"))


def _command(commands: Any, name: str, task: str, text: str) -> argparse.ArgumentParser:
    parser = add_command(commands, name, _run, text, model=True)
    whole = "is one" if task == "summarization" else "gives one a line"
    whole += "; blank ones stay" * (task == "translation")
    parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help=f"texts; without any, standard input {whole}"
    )
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long")
    parser.set_defaults(task=task)
    return parser


def _run(options: argparse.Namespace) -> int:
    from tuili.tasks.pipeline import pipeline

    texts = options.texts or _standard_input(options.task)
    given = {name: value for name in _OPTIONS if (value := getattr(options, name, None)) is not None}
    with open_model(options) as llm:
        results = pipeline(options.task, llm)(texts, truncation=options.truncate, **given)
    if options.json:
        print_json({"model": options.model, "task": options.task, "results": results})
        return 0
    for result in results:
        print(_line(result))
    return 0


def _standard_input(task: str) -> list[str]:
    return [standard_input.read()] if task == "summarization" else standard_input.lines()


def _line(result: Any) -> str:
    """The text, or the labels with their scores."""
    if isinstance(result, list):
        return "  ".join(f"{one['label']} {one['score']:.4f}" for one in result)
    return str(next(text for key, text in result.items() if key.endswith("_text")))
