"""SamplingParams as arguments of `tuili generate` and `tuili chat`. Ranges are SamplingParams' business."""

from __future__ import annotations

import argparse

DEFAULT_MAX_TOKENS = 512
MAX_FILE_BYTES = 1 << 20  # more than any schema or grammar may have

_INTEGERS = {
    "max_tokens": f"most tokens of the answer (default {DEFAULT_MAX_TOKENS})",
    "min_tokens": "no end before so many tokens",
    "top_k": "draw among the k likeliest tokens",
    "seed": "draw the same again",
    "n": "so many answers, in place of one",
    "num_beams": "beam search of this width",
    "no_repeat_ngram_size": "no so many tokens come twice",
    "encoder_no_repeat_ngram_size": "no so many tokens that the source, or the prompt, has",
    "logprobs": "with --json: log-probabilities of each token and of the N likeliest",
    "prompt_lookup_num_tokens": "guess up to N tokens from the text before: faster where it repeats itself",
    "priority": "the lower, the sooner",
}
_NUMBERS = {
    "temperature": "0: always the likeliest token",
    "top_p": "draw among the likeliest tokens with this probability together",
    "min_p": "draw among tokens with this share of the likeliest one's probability",
    "typical_p": "draw among the tokens of usual surprise with this probability together",
    "repetition_penalty": "above 1: tokens that are there already become less likely",
    "presence_penalty": "subtracted once from what is in the answer already",
    "frequency_penalty": "subtracted for each time that it is",
    "length_penalty": "beams: scores are log-probability / length ** X",
    "deadline_s": "seconds until the answer ends as it is",
}
_LISTS = {
    "stop": "end before this text; may be repeated",
    "bad_words": "a text that the answer has not; may be repeated",
    "choice": "the answer is this text, or one of several",
}
_FLAGS = {
    "ignore_eos": "go on after the model's end of text",
    "include_stop_str_in_output": "show the stop text, too",
}
_OTHERS = ("early_stopping", "json_schema", "regex", "grammar")
NAMES = (*_INTEGERS, *_NUMBERS, *_LISTS, *_FLAGS, *_OTHERS)


def add(group: argparse._ArgumentGroup) -> None:
    """Add an argument for each of NAMES, with the same name in the namespace; None if it is not given."""

    def flag(name: str) -> str:
        return f"--{name.replace('_', '-')}"

    for name, text in _INTEGERS.items():
        default = DEFAULT_MAX_TOKENS if name == "max_tokens" else None
        group.add_argument(flag(name), type=int, metavar="N", default=default, help=text)
    for name, text in _NUMBERS.items():
        group.add_argument(flag(name), type=float, metavar="X", help=text)
    for name, text in _LISTS.items():
        group.add_argument(flag(name), action="append", metavar="TEXT", help=text)
    for name, text in _FLAGS.items():
        group.add_argument(flag(name), action="store_true", default=None, help=text)
    group.add_argument(
        "--early-stopping",
        nargs="?",
        type=_early_stopping,
        const=True,
        metavar="never",
        help="beams: end with as many answers as beams; or never while a better one may come",
    )
    schema = "the answer is JSON of this schema: JSON text, or a file with it"
    group.add_argument("--json-schema", type=_json_or_file, metavar="JSON|FILE", help=schema)
    group.add_argument("--regex", metavar="TEXT", help="the answer matches this regular expression")
    group.add_argument(
        "--grammar", type=_file, metavar="FILE", help="the answer follows the grammar in this file (Lark)"
    )


def contradiction(options: argparse.Namespace) -> str | None:
    """What is wrong with these options together, if anything is."""
    return "--logprobs needs --json" if options.logprobs is not None and not options.json else None


def _early_stopping(text: str) -> str:
    if text != "never":
        raise argparse.ArgumentTypeError("takes nothing, or never")
    return text


def _json_or_file(text: str) -> str:
    return text if text.lstrip()[:1] in ("{", "") or text in ("true", "false") else _file(text)


def _file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise argparse.ArgumentTypeError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        problem = (isinstance(error, OSError) and error.strerror) or "it is not a text"
        raise argparse.ArgumentTypeError(f"cannot read {path}: {problem}") from None
