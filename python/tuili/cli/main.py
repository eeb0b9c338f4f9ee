"""`tuili` on the command line: generate, chat, translate, summarize, classify, embed, similar, serve, info,
models, pull, cache, doctor, bench.

Exit codes: 0; 1 for a TuiliError, one line on standard error; 2 for wrong usage; 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import difflib
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuili import __version__
from tuili.__main__ import EXIT_INTERRUPTED, importing, run
from tuili.cli import sampling, serve, standard_input, tasks, words
from tuili.cli.command import (
    MODEL_OPTIONS,
    add_cache_dir,
    add_command,
    bar,
    complain,
    given_options,
    one_line,
    open_model,
    print_json,
    progress,
    shows_progress,
    wrong_usage,
)
from tuili.errors import CUTTING_HELPS, TuiliError

if TYPE_CHECKING:
    from tuili.generation.outputs import RequestOutput
    from tuili.llm import LLM

_PATHS = ("model", "name", "file", "cache_dir", "config", "api_key_file", "svg", "html")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        logging.basicConfig(format="tuili: %(message)s", level=logging.WARNING)
        _tolerate_encodings()
        options = _parse(arguments)
        _replace_what_is_no_text(options)
        code: int = options.command(options) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except TuiliError as error:
        ways = {"truncate": "--truncate", "truncate_prompt_tokens": "--truncate-prompt-tokens -1"}
        cuts = [f"; {way} cuts it" for name, way in ways.items() if hasattr(options, name)]
        message = str(error).replace(CUTTING_HELPS, "".join(cuts))
        complain(f"tuili: {one_line(message)}")
        return 1
    except KeyboardInterrupt:
        complain("")
        return EXIT_INTERRUPTED
    except OSError as error:  # of standard input or output: the library's own are TuiliErrors
        if not isinstance(error, BrokenPipeError):  # then the reader has what it wanted
            complain(f"tuili: {one_line(error.strerror or str(error))}")
        _drop_output()
        return 1


def _tolerate_encodings() -> None:
    """A terminal that cannot show Chinese, or input that is not text, must not end the program."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").upper()  # an error's own may be "charmap"
    told = False

    def replace(error: UnicodeError) -> tuple[str | bytes, int]:
        nonlocal told
        if not told:
            told = True
            with contextlib.suppress(OSError):  # of standard error, as a full disk's
                complain(
                    f"tuili: standard output is {encoding}: what that cannot say was replaced by ?; "
                    "PYTHONIOENCODING=utf-8 has it all"
                )
        return codecs.replace_errors(error)

    codecs.register_error("tuili.replace", replace)
    # What UTF-8 cannot say is no text: a byte in the name of a file.
    output = "replace" if encoding.startswith("UTF") else "tuili.replace"
    streams = ((sys.stdin, "surrogateescape"), (sys.stdout, output), (sys.stderr, "replace"))
    for stream, errors in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _drop_output() -> None:
    """Nothing more can be written, also not when the interpreter flushes at its end."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- the commands' arguments --------------------------------------------------------------------------------


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command; leaves with exit code 2 if they are wrong.

    argparse takes texts that may be missing as missing once an option follows MODEL; they are what is left.
    """
    options, left = _parser().parse_known_args(arguments)
    if not left:
        return options
    texts = left[1:] if left[0] == "--" else left
    strange = [text for text in left if text.startswith("-") and text != "-"] if texts is left else []
    unknown = f"unrecognized arguments: {' '.join(left)}"
    if strange or not texts:
        known = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", options.parser.format_help(), re.MULTILINE)
        near = difflib.get_close_matches(strange[0].split("=")[0], known, 1, 0.7) if strange else []
        options.parser.error(unknown + "".join(f"; did you mean {name}?" for name in near))
    if getattr(options, "texts", None) == []:
        options.texts = texts
    elif len(texts) == 1 and getattr(options, "message", "") is None:
        options.message = texts[0]
    else:
        options.parser.error(unknown)
    return options


def _replace_what_is_no_text(options: argparse.Namespace) -> None:
    """Bytes of the command line, as those of standard input. Names of files may hold any."""

    def text(value: Any) -> Any:
        encoding = sys.getfilesystemencoding()
        return (
            standard_input.replaced(value, "the command line", encoding) if isinstance(value, str) else value
        )

    for name, value in vars(options).items():
        if name not in _PATHS:
            setattr(options, name, [text(item) for item in value] if isinstance(value, list) else text(value))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuili", description="Run language models on this computer.")
    parser.add_argument("-V", "--version", action="version", version=f"tuili {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _generation_commands(commands)
    embed = add_command(commands, "embed", _embed, "print the vectors of texts", model=True)
    embed.add_argument(
        "texts", nargs="*", metavar="TEXT", help="texts; without any, the lines of standard input"
    )
    embed.add_argument(
        "--truncate", action="store_true", help="cut texts that are too long instead of failing"
    )
    embed.add_argument("--prompt", metavar="TEXT", help="words that stand before each text")
    embed.add_argument("--prompt-name", metavar="NAME", help="one of the model's own prompts instead")
    embed.add_argument("--dimensions", type=int, metavar="N", help="keep the first N numbers of each vector")
    tasks.add_commands(commands)
    words.add_arguments(
        add_command(commands, "similar", _similar, "print the words nearest to others, by their vectors")
    )
    serve.add_arguments(commands)
    add_command(commands, "info", _info, "print what a model is and how it would be run", model=True)
    models = add_command(commands, "models", _models, "list the models that tuili knows by name")
    add_cache_dir(models)
    pull = add_command(commands, "pull", _pull, "download a model")
    pull.add_argument("name", metavar="NAME", help="from `tuili models`, or ORG/NAME of the Hugging Face hub")
    add_cache_dir(pull)
    cache = add_command(commands, "cache", _cache, "list, verify or clear the weights that are kept packed")
    cache.add_argument("action", choices=("list", "verify", "clear"), nargs="?", default="list")
    add_cache_dir(cache)
    cache.add_argument(
        "--max-bytes", type=int, default=0, metavar="N", help="clear: down to this size (default 0)"
    )
    doctor = add_command(
        commands, "doctor", _doctor, "say what this computer offers, and check the installation"
    )
    add_cache_dir(doctor)
    bench = add_command(commands, "bench", _bench, "measure a model and this computer's limits", model=True)
    bench.add_argument(
        "--repeats", type=int, metavar="N", default=5, help="runs of each measurement (default 5)"
    )
    bench.add_argument(
        "--prompt-tokens", type=int, metavar="N", default=512, help="length of the prefill (default 512)"
    )
    bench.add_argument(
        "--new-tokens", type=int, metavar="N", default=64, help="length of the decode (default 64)"
    )
    bench.add_argument(
        "--depth", type=int, metavar="N", default=1024, help="tokens before the deep decode (default 1024)"
    )
    bench.add_argument("--no-start", action="store_true", help="do not measure the start of a process")
    bench.add_argument("--svg", metavar="FILE", help="draw the charts into an SVG file")
    bench.add_argument("--html", metavar="FILE", help="write a page with the charts and every number")
    return parser


def _generation_commands(commands: Any) -> None:
    generate = add_command(commands, "generate", _generate, "continue a text as it stands", model=True)
    generate.add_argument("prompt", metavar="PROMPT", help="the text; - reads standard input")
    chat = add_command(commands, "chat", _chat, "talk to an instruct model", model=True)
    chat.add_argument(
        "message",
        nargs="?",
        metavar="MESSAGE",
        help="ask once (- reads standard input); without it, a conversation begins",
    )
    chat.add_argument("--system", metavar="TEXT", help="the system message")
    chat.add_argument("--prefill", metavar="TEXT", help="the answer to MESSAGE begins with this, and goes on")
    sampling.add_template_kwargs(chat)
    for parser in (generate, chat):
        sampling.add(parser.add_argument_group("generation"))


# --- text ---------------------------------------------------------------------------------------------------


def _generate(options: argparse.Namespace) -> int:
    if problem := sampling.contradiction(options):
        return wrong_usage(f"generate: {problem}")
    prompt = standard_input.read() if options.prompt == "-" else options.prompt
    with open_model(options) as llm:
        return _answer(llm, prompt, options)


def _chat(options: argparse.Namespace) -> int:
    if problem := sampling.contradiction(options):
        return wrong_usage(f"chat: {problem}")
    if options.message is None and (options.json or (options.n or 1) > 1 or options.prefill is not None):
        given = "--json" if options.json else "--n" if (options.n or 1) > 1 else "--prefill"
        return wrong_usage(f"chat: {given} needs a message")
    system = [{"role": "system", "content": options.system}] if options.system is not None else []
    how = given_options(options, ["chat_template_kwargs"])
    with open_model(options) as llm:
        from tuili.chat.rendering import rendering

        if options.message is not None:
            message = standard_input.read() if options.message == "-" else options.message
            messages, begun = [*system, {"role": "user", "content": message}], options.prefill
            if begun is not None:
                messages.append({"role": "assistant", "content": begun})
                how["continue_final_message"] = True
            return _answer(llm, messages, options, begun or "", **how)
        hello = [*system, {"role": "user", "content": "hello"}]
        llm.encode_chat(hello, rendering(**how))  # who cannot chat says so at once
        return _converse(llm, system, how | given_options(options, sampling.NAMES))


def _answer(llm: LLM, prompt: Any, options: argparse.Namespace, begun: str = "", **how: Any) -> int:
    """begun: stands before what is printed, but in JSON"""
    handle = llm.submit(prompt, **how, **given_options(options, sampling.NAMES))
    if options.json or (options.n or 1) > 1:
        output = handle.result()
        if options.json:
            print_json(_as_json(output))
        else:
            print("\n---\n".join(begun + item.text for item in output.outputs))
        return 0
    print(begun, end="", flush=True)
    for chunk in handle:
        print(chunk.text, end="", flush=True)
    print()
    _note_the_end(handle.result())
    return 0


def _as_json(output: RequestOutput) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(output)


def _note_the_end(output: RequestOutput) -> None:
    """Say why a text ends where its author would have gone on."""
    reasons = {
        "length": "cut at --max-tokens",
        "deadline": "cut at the deadline",
        "abort": "stopped",
    }
    end = output.outputs[0]
    if end.finish_reason in reasons and shows_progress():
        full = end.stop_reason == "max_model_len"
        complain(f"[{'the context is full' if full else reasons[end.finish_reason]}]")


def _converse(llm: LLM, messages: list[dict[str, Any]], sampling: dict[str, Any]) -> int:
    """A conversation. Ctrl-C stops an answer; /exit, Ctrl-D, or Ctrl-C at the prompt leaves; /new starts
    afresh.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401

    beginning = list(messages)
    complain("/new starts afresh, /exit leaves, Ctrl-C stops an answer")
    while True:
        try:
            line = standard_input.ask("> ")
        except EOFError:
            print()
            return 0
        if line.strip() in ("/exit", "/quit"):
            return 0
        if line.strip() == "/new":
            messages = list(beginning)
        elif line.strip():
            messages = _turn(llm, [*messages, {"role": "user", "content": line}], sampling)


def _turn(llm: LLM, messages: list[dict[str, Any]], sampling: dict[str, Any]) -> list[dict[str, Any]]:
    """One answer; returns the conversation with it, or without the question if there is none."""
    try:
        handle = llm.submit(messages, **sampling)
    except TuiliError as error:
        complain(f"tuili: {one_line(str(error))}")
        return messages[:-1]
    text = ""
    try:
        for chunk in handle:
            text += chunk.text
            print(chunk.text, end="", flush=True)
        print()
        _note_the_end(handle.result())
    except KeyboardInterrupt:
        handle.abort()
        print(" …")
    except TuiliError as error:
        complain(f"tuili: {one_line(str(error))}")
        return messages[:-1]
    return [*messages, {"role": "assistant", "content": text}]


def _embed(options: argparse.Namespace) -> int:
    texts = options.texts or standard_input.lines()
    with open_model(options) as llm:
        vectors = llm.embed(
            texts,
            truncation=options.truncate,
            prompt=options.prompt,
            prompt_name=options.prompt_name,
            truncate_dim=options.dimensions,
            progress=bar("embedding"),
        )
    if options.json:
        print_json({"model": options.model, "n_dimensions": vectors.shape[1], "embeddings": vectors.tolist()})
        return 0
    for vector in vectors:
        print(" ".join(f"{x:.6f}" for x in vector))
    return 0


def _similar(options: argparse.Namespace) -> int:
    result = words.run(options, bar("loading"))
    if options.json:
        print_json(result)
        return 0
    for entry in result["words"]:
        print(f"{entry['score']:.4f}  {entry['word']}")
    return 0


# --- models -------------------------------------------------------------------------------------------------


def _info(options: argparse.Namespace) -> int:
    with open_model(options) as llm:
        facts = {**llm.config, "memory": llm.memory}
    if options.json:
        print_json(facts)
        return 0
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            print(f"{name}:")
            for key, item in value.items():
                print(f"  {key}: {item}")
        elif value not in (None, {}, [], ()):
            print(f"{name}: {value}")
    return 0


def _models(options: argparse.Namespace) -> int:
    from tuili.loading.store import models

    entries = models(options.cache_dir)
    if options.json:
        print_json(
            {
                "models": [
                    {
                        "name": entry.name,
                        "source": entry.source,
                        "licence": entry.licence,
                        "packages": entry.packages,
                        "download_bytes": entry.download_bytes,
                        "path": entry.path and str(entry.path),
                    }
                    for entry in entries
                ]
            }
        )
        return 0
    for entry in entries:
        where = f"here: {entry.path}" if entry.path else f"{entry.download_bytes / 1e6:.0f} MB to download"
        print(f"{entry.name}\n  {entry.source}\n  licence: {entry.licence}\n  {where}")
    return 0


def _pull(options: argparse.Namespace) -> int:
    from tuili.loading.store import BUILT_IN, pull, resolve

    known = options.name in BUILT_IN or "/" not in options.name
    path = pull(options.name, options.cache_dir) if known else resolve(options.name, options.cache_dir)
    if options.json:
        print_json({"name": options.name, "path": str(path)})
    else:
        print(path)
    return 0


def _cache(options: argparse.Namespace) -> int:
    if options.max_bytes < 0:
        return wrong_usage("cache: --max-bytes starts at 0, which leaves nothing")
    with importing():
        from tuili.cli import cache

    result, code = cache.run(options, bar("verifying"))
    if options.json:
        print_json(result)
    else:
        print(cache.table(result))
    return code


def _doctor(options: argparse.Namespace) -> int:
    with importing():
        from tuili.cli.doctor import examine

    facts, problems = examine(options.cache_dir)
    if options.json:
        print_json({**facts, "problems": problems})
    else:
        for name, value in facts.items():
            print(f"{name:<16} {', '.join(map(str, value)) if isinstance(value, list) else value}")
        for problem in problems:
            print(f"PROBLEM: {problem}")
        if not problems:
            print("no problems found")
    return 1 if problems else 0


def _bench(options: argparse.Namespace) -> int:
    with importing():
        from tuili import benchmark

    if min(options.repeats, options.prompt_tokens, options.new_tokens - 1) < 1 or options.depth < 0:
        return wrong_usage("bench: --repeats and --prompt-tokens start at 1, --new-tokens at 2, --depth at 0")
    for path in (options.svg, options.html):
        try:
            if path is not None:
                _check_writable(path)
        except OSError as error:  # before minutes are measured for nothing
            complain(f"tuili: cannot write {one_line(path)}: {error.strerror}")
            return 1
    plan = benchmark.Plan(
        repeats=options.repeats,
        n_prompt=options.prompt_tokens,
        n_new=options.new_tokens,
        depth=options.depth,
        start_command=() if options.no_start else _start_command(options),
    )
    result = benchmark.measure(
        lambda: open_model(options, enable_prefix_caching=False), plan, progress if shows_progress() else None
    )
    for path, drawing in ((options.svg, benchmark.svg), (options.html, benchmark.html)):
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(drawing(result))
    if options.json:
        print_json(result)
    else:
        print(benchmark.table(result))
    return 0


def _check_writable(path: str) -> None:
    """raises  OSError if no such file can be written; one that was not there is not there afterwards"""
    is_new = not os.path.lexists(path)
    open(path, "a", encoding="utf-8").close()
    if is_new:
        os.unlink(path)


def _start_command(options: argparse.Namespace) -> tuple[str, ...]:
    """A process that opens the same model and gives one result, or one vector."""
    given = given_options(options, MODEL_OPTIONS)
    program = (
        "import sys, json, tuili; llm = tuili.LLM(sys.argv[1], **json.loads(sys.argv[2])); "
        "llm.embed('a') if llm.kind == 'encoder' else llm.generate('a', max_tokens=1)"
    )
    return (sys.executable, "-c", program, options.model, json.dumps(given))


if __name__ == "__main__":
    run()
