"""`tuili` on the command line: generate, chat, translate, summarize, classify, embed, similar, serve, info,
models, pull, cache, doctor, bench.

Exit codes: 0; 1 for a TuiliError, one line on standard error; 2 for wrong usage; 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tuili import __version__, sampling_arguments, standard_input, task_commands, word_commands
from tuili.__main__ import EXIT_INTERRUPTED, importing, run
from tuili.errors import CUTTING_HELPS, TuiliError
from tuili.server import command as serve

if TYPE_CHECKING:
    from tuili.generation.request import RequestOutput
    from tuili.llm import LLM

BAR_AFTER_S = 0.5
BAR_PARTS = 30
EXIT_USAGE = 2  # argparse's own
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
        message = str(error).replace(CUTTING_HELPS, "; --truncate cuts it")
        _complain(f"tuili: {_one_line(message)}")
        return 1
    except KeyboardInterrupt:
        _complain("")
        return EXIT_INTERRUPTED
    except OSError as error:  # of standard input or output: the library's own are TuiliErrors
        if not isinstance(error, BrokenPipeError):  # then the reader has what it wanted
            _complain(f"tuili: {_one_line(error.strerror or str(error))}")
        _drop_output()
        return 1


def _tolerate_encodings() -> None:
    """A terminal that cannot show Chinese, or input that is not text, must not end the program."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdin else "replace")


def _drop_output() -> None:
    """Nothing more can be written, also not when the interpreter flushes at its end."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(line: str) -> None:
    """A line on standard error, if there is one."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)


def _wrong_usage(problem: str) -> int:
    _complain(f"tuili {problem}")
    return EXIT_USAGE


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


# --- the commands' arguments --------------------------------------------------------------------------------


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command; leaves with EXIT_USAGE if they are wrong.

    argparse takes texts that may be missing as missing once an option follows MODEL; they are what is left.
    """
    parser = _parser()
    options, left = parser.parse_known_args(arguments)
    if not left:
        return options
    texts = left[1:] if left[0] == "--" else left
    strange = texts is left and any(text.startswith("-") and text != "-" for text in left)
    if strange or not texts:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if getattr(options, "texts", None) == []:
        options.texts = texts
    elif len(texts) == 1 and getattr(options, "message", "") is None:
        options.message = texts[0]
    else:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
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
    parser.add_argument("--version", action="version", version=f"tuili {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _generation_commands(commands)
    embed = _command(commands, "embed", _embed, "print the vectors of texts", model=True)
    embed.add_argument(
        "texts", nargs="*", metavar="TEXT", help="texts; without any, the lines of standard input"
    )
    embed.add_argument(
        "--truncate", action="store_true", help="cut texts that are too long instead of failing"
    )
    embed.add_argument("--prompt", metavar="TEXT", help="words that stand before each text")
    embed.add_argument("--prompt-name", metavar="NAME", help="one of the model's own prompts instead")
    embed.add_argument("--dimensions", type=int, metavar="N", help="keep the first N numbers of each vector")
    task_commands.add_commands(commands, _command, _open, _print_json)
    word_commands.add_arguments(
        _command(commands, "similar", _similar, "print the words nearest to others, by their vectors")
    )
    serve.add_command(commands, _command, _MODEL_OPTIONS, _bar)
    _command(commands, "info", _info, "print what a model is and how it would be run", model=True)
    models = _command(commands, "models", _models, "list the models that tuili knows by name")
    models.add_argument("--cache-dir", metavar="FOLDER")
    pull = _command(commands, "pull", _pull, "download a model that tuili knows by name")
    pull.add_argument("name", metavar="NAME")
    pull.add_argument("--cache-dir", metavar="FOLDER")
    cache = _command(commands, "cache", _cache, "list, verify or clear the weights that are kept packed")
    cache.add_argument("action", choices=("list", "verify", "clear"), nargs="?", default="list")
    cache.add_argument("--cache-dir", metavar="FOLDER")
    cache.add_argument(
        "--max-bytes", type=int, default=0, metavar="N", help="clear: down to this size (default 0)"
    )
    doctor = _command(
        commands, "doctor", _doctor, "say what this computer offers, and check the installation"
    )
    doctor.add_argument("--cache-dir", metavar="FOLDER")
    bench = _command(commands, "bench", _bench, "measure a model and this computer's limits", model=True)
    bench.add_argument("--repeats", type=int, default=5, help="runs of each measurement (default 5)")
    bench.add_argument("--prompt-tokens", type=int, default=512, help="length of the prefill (default 512)")
    bench.add_argument("--new-tokens", type=int, default=64, help="length of the decode (default 64)")
    bench.add_argument("--depth", type=int, default=1024, help="tokens before the deep decode (default 1024)")
    bench.add_argument("--no-start", action="store_true", help="do not measure the start of a process")
    bench.add_argument("--svg", metavar="FILE", help="draw the charts into an SVG file")
    bench.add_argument("--html", metavar="FILE", help="write a page with the charts and every number")
    return parser


def _generation_commands(commands: Any) -> None:
    generate = _command(commands, "generate", _generate, "continue a text as it stands", model=True)
    generate.add_argument("prompt", metavar="PROMPT", help="the text; - reads standard input")
    chat = _command(commands, "chat", _chat, "talk to an instruct model", model=True)
    chat.add_argument(
        "message", nargs="?", metavar="MESSAGE", help="ask once; without it, a conversation begins"
    )
    chat.add_argument("--system", metavar="TEXT", help="the system message")
    chat.add_argument("--prefill", metavar="TEXT", help="the answer to MESSAGE begins with this, and goes on")
    sampling_arguments.add_template_kwargs(chat)
    for parser in (generate, chat):
        sampling_arguments.add(parser.add_argument_group("generation"))


def _command(
    commands: Any, name: str, run: Any, text: str, *, model: bool = False, prints_json: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=run)
    if prints_json:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
    if not model:
        return parser
    parser.add_argument(
        "model", metavar="MODEL", help="a folder, a .gguf file, or a name from `tuili models`"
    )
    group = parser.add_argument_group("model")
    group.add_argument("--device", metavar="cpu|cuda|cuda:N")
    group.add_argument("--threads", type=int, dest="num_threads", metavar="N")
    group.add_argument("--compute", choices=("auto", "int8", "float32"))
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"))
    group.add_argument("--quantization", choices=("int8", "int4"))
    group.add_argument("--kv-cache-dtype", choices=("auto", "float32", "float16", "bfloat16", "int8"))
    group.add_argument("--kv-cache-bytes", type=int, metavar="BYTES")
    group.add_argument("--max-model-len", type=int, metavar="N")
    group.add_argument("--cache-dir", metavar="FOLDER")
    return parser


_MODEL_OPTIONS = (
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


def _given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _open(options: argparse.Namespace, **more: Any) -> LLM:
    with importing():
        from tuili.llm import LLM

    return LLM(options.model, **_given(options, _MODEL_OPTIONS), **more, progress=_bar("loading"))


def _print_json(value: Any) -> None:
    """On one line; characters that the output's encoding lacks are escaped, never lost."""
    everything = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not everything, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: bytes on the command line that were no text
        text = json.dumps(value, default=str)
    print(text)


# --- text ---------------------------------------------------------------------------------------------------


def _generate(options: argparse.Namespace) -> int:
    if problem := sampling_arguments.contradiction(options):
        return _wrong_usage(f"generate: {problem}")
    prompt = standard_input.read() if options.prompt == "-" else options.prompt
    with _open(options) as llm:
        return _answer(llm, prompt, options)


def _chat(options: argparse.Namespace) -> int:
    if problem := sampling_arguments.contradiction(options):
        return _wrong_usage(f"chat: {problem}")
    if options.message is None and (options.json or (options.n or 1) > 1 or options.prefill is not None):
        given = "--json" if options.json else "--n" if (options.n or 1) > 1 else "--prefill"
        return _wrong_usage(f"chat: {given} needs a message")
    system = [{"role": "system", "content": options.system}] if options.system is not None else []
    how = _given(options, ["chat_template_kwargs"])
    with _open(options) as llm:
        from tuili.conversations import rendering

        if options.message is not None:
            messages, begun = [*system, {"role": "user", "content": options.message}], options.prefill
            if begun is not None:
                messages.append({"role": "assistant", "content": begun})
                how["continue_final_message"] = True
            return _answer(llm, messages, options, begun or "", **how)
        hello = [*system, {"role": "user", "content": "hello"}]
        llm._encode_chat(hello, rendering(**how))  # who cannot chat says so at once
        return _converse(llm, system, how | _given(options, sampling_arguments.NAMES))


def _answer(llm: LLM, prompt: Any, options: argparse.Namespace, begun: str = "", **how: Any) -> int:
    """begun: stands before what is printed, but in JSON"""
    handle = llm.submit(prompt, **how, **_given(options, sampling_arguments.NAMES))
    if options.json or (options.n or 1) > 1:
        output = handle.result()
        if options.json:
            _print_json(_as_json(output))
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
    if end.finish_reason in reasons and _shows_progress():
        full = end.stop_reason == "max_model_len"
        _complain(f"[{'the context is full' if full else reasons[end.finish_reason]}]")


def _converse(llm: LLM, messages: list[dict[str, Any]], sampling: dict[str, Any]) -> int:
    """A conversation. Ctrl-C stops an answer; /exit, Ctrl-D, or Ctrl-C at the prompt leaves; /new starts
    afresh.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401

    beginning = list(messages)
    _complain("/new starts afresh, /exit leaves, Ctrl-C stops an answer")
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
        _complain(f"tuili: {_one_line(str(error))}")
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
        _complain(f"tuili: {_one_line(str(error))}")
        return messages[:-1]
    return [*messages, {"role": "assistant", "content": text}]


def _embed(options: argparse.Namespace) -> int:
    texts = options.texts or standard_input.lines()
    with _open(options) as llm:
        vectors = llm.embed(
            texts,
            truncation=options.truncate,
            prompt=options.prompt,
            prompt_name=options.prompt_name,
            truncate_dim=options.dimensions,
            progress=_bar("embedding"),
        )
    if options.json:
        _print_json(
            {"model": options.model, "n_dimensions": vectors.shape[1], "embeddings": vectors.tolist()}
        )
        return 0
    for vector in vectors:
        print(" ".join(f"{x:.6f}" for x in vector))
    return 0


def _similar(options: argparse.Namespace) -> int:
    result = word_commands.run(options, _bar("loading"))
    if options.json:
        _print_json(result)
        return 0
    for entry in result["words"]:
        print(f"{entry['score']:.4f}  {entry['word']}")
    return 0


# --- models -------------------------------------------------------------------------------------------------


def _info(options: argparse.Namespace) -> int:
    with _open(options) as llm:
        facts = {**llm.config, "memory": llm.memory}
    if options.json:
        _print_json(facts)
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
        _print_json(
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
        _print_json({"name": options.name, "path": str(path)})
    else:
        print(path)
    return 0


def _cache(options: argparse.Namespace) -> int:
    if options.max_bytes < 0:
        return _wrong_usage("cache: --max-bytes starts at 0, which leaves nothing")
    with importing():
        from tuili import cache_commands

    result, code = cache_commands.run(options, _bar("verifying"))
    if options.json:
        _print_json(result)
    else:
        print(cache_commands.table(result))
    return code


def _doctor(options: argparse.Namespace) -> int:
    with importing():
        from tuili.doctor import examine

    facts, problems = examine(options.cache_dir)
    if options.json:
        _print_json({**facts, "problems": problems})
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
        return _wrong_usage(
            "bench: --repeats and --prompt-tokens start at 1, --new-tokens at 2, --depth at 0"
        )
    for path in filter(None, (options.svg, options.html)):
        try:
            open(path, "a", encoding="utf-8").close()
        except OSError as error:  # before minutes are measured for nothing
            _complain(f"tuili: cannot write {_one_line(path)}: {error.strerror}")
            return 1
    plan = benchmark.Plan(
        repeats=options.repeats,
        n_prompt=options.prompt_tokens,
        n_new=options.new_tokens,
        depth=options.depth,
        start_command=() if options.no_start else _start_command(options),
    )
    result = benchmark.measure(
        lambda: _open(options, enable_prefix_caching=False), plan, _progress if _shows_progress() else None
    )
    for path, drawing in ((options.svg, benchmark.svg), (options.html, benchmark.html)):
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(drawing(result))
    if options.json:
        _print_json(result)
    else:
        print(benchmark.table(result))
    return 0


def _start_command(options: argparse.Namespace) -> tuple[str, ...]:
    """A process that opens the same model and gives one result, or one vector."""
    given = _given(options, _MODEL_OPTIONS)
    program = (
        "import sys, json, tuili; llm = tuili.LLM(sys.argv[1], **json.loads(sys.argv[2])); "
        "llm.embed('a') if llm.kind == 'encoder' else llm.generate('a', max_tokens=1)"
    )
    return (sys.executable, "-c", program, options.model, json.dumps(given))


def _bar(what: str) -> Callable[[int, int], None] | None:
    """Progress of work that may be long, drawn on a terminal once it has been."""
    if not _shows_progress():
        return None
    begin, drawn = time.monotonic(), -1

    def show(done: int, total: int) -> None:
        nonlocal drawn
        parts = BAR_PARTS * done // total
        if time.monotonic() - begin > BAR_AFTER_S and parts != drawn:
            drawn = parts
            _progress(done, total, what)

    return show


def _shows_progress() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _progress(done: int, total: int, what: str) -> None:
    """A bar on one line of the terminal, however narrow, gone when all is done."""
    room = min(60, _columns() - 1)  # in the last column some terminals begin a new line
    width = max(0, min(BAR_PARTS, room - len(f"[] {what}")))
    filled = width * done // total
    line = f"[{'#' * filled}{'.' * (width - filled)}] {what}"[:room]
    print(f"\r{line:<{room}}" if done < total else f"\r{'':<{room}}\r", end="", file=sys.stderr, flush=True)


def _columns() -> int:
    """Of the terminal that standard error is."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (AttributeError, OSError, ValueError):
        return 80


if __name__ == "__main__":
    run()
