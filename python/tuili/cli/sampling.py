"""SamplingParams as arguments of `tuili generate` and `tuili chat`. Ranges are SamplingParams' business."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping
from typing import Any

DEFAULT_MAX_TOKENS = 512
MAX_FILE_BYTES = 1 << 20  # more than any schema or grammar may have

_INTEGERS = {
    "max_tokens": f"most tokens of an answer; default {DEFAULT_MAX_TOKENS}, of a task the model's own",
    "min_tokens": "do not end before N tokens",
    "top_k": "draw among the k likeliest tokens",
    "seed": "the same number draws the same text again",
    "n": "give N answers",
    "num_beams": "beam search of this width",
    "no_repeat_ngram_size": "no N tokens in a row come twice",
    "encoder_no_repeat_ngram_size": "no N tokens in a row of the source, or the prompt, come again",
    "logprobs": "with --json: log-probabilities of each token and of the N likeliest",
    "prompt_logprobs": "with --json: the same of the prompt's tokens; --max-tokens 0 asks for nothing else",
    "truncate_prompt_tokens": "cut a prompt to its last N tokens, a source to its first; -1: to the limit",
    "forced_bos_token_id": "the first token of an answer: a language, for M2M100 and mBART",
    "decoder_start_token_id": "what an encoder-decoder's answer begins after",
    "prompt_lookup_num_tokens": "guess up to N tokens from the text before: faster where it repeats itself",
    "priority": "the lower, the sooner it runs",
}
_NUMBERS = {
    "temperature": "0: always the likeliest token; default 0, or 1 if something else is said of drawing",
    "top_p": "draw among the likeliest tokens with this probability together",
    "min_p": "draw among tokens with this share of the likeliest one's probability",
    "typical_p": "draw among the tokens of usual surprise with this probability together",
    "repetition_penalty": "above 1: tokens that are there already become less likely",
    "encoder_repetition_penalty": "above 1: tokens of the source, or the prompt, become likelier",
    "presence_penalty": "subtracted once from what is in the answer already",
    "frequency_penalty": "subtracted for each time that it is there",
    "length_penalty": "beams: scores are log-probability / length ** X",
    "deadline_s": "end after X seconds with what there is",
}
_LISTS = {
    "stop": "end before this text; may be repeated",
    "bad_words": "a text that does not come; may be repeated",
    "choice": "the answer is this text, or one of several",
}
_IDS = {
    "stop_token_ids": "tokens that also end a text",
    "allowed_token_ids": "no other tokens are generated",
    "suppress_tokens": "tokens that are not generated",
    "begin_suppress_tokens": "tokens that no answer begins with",
    "forced_eos_token_id": "the last one, or one of several, where --max-tokens is reached",
}
_FLAGS = {
    "ignore_eos": "go on after the model's end of text",
    "include_stop_str_in_output": "show the stop text as well",
    "renormalize_logits": "beams: rank by probabilities of what penalties and bans leave",
}
_OTHERS = (
    "early_stopping",
    "json_schema",
    "regex",
    "grammar",
    "bad_words_ids",
    "logit_bias",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "skip_special_tokens",
    "on_nan",
)
NAMES = (*_INTEGERS, *_NUMBERS, *_LISTS, *_IDS, *_FLAGS, *_OTHERS)
# What no option can say, or a process with one request has no use for.
LEFT_OUT = ("logits_processors", "cache_salt")


# What a search takes that translates or summarizes.
OF_TASKS = (
    "max_tokens",
    "min_tokens",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "bad_words",
)


def add(group: argparse._ArgumentGroup) -> None:
    """Add an argument for each of NAMES, with the same name in the namespace; None if it is not given."""
    _add_plain(group, NAMES)
    group.set_defaults(max_tokens=DEFAULT_MAX_TOKENS)
    _add_early_stopping(group)
    _add_others(group)


def add_of_tasks(group: argparse._ArgumentGroup) -> None:
    """Add an argument for each of OF_TASKS, as `add`."""
    _add_plain(group, OF_TASKS)
    _add_early_stopping(group)


def _add_plain(group: argparse._ArgumentGroup, names: Collection[str]) -> None:
    def each(texts: Mapping[str, str], **how: Any) -> None:
        for name, text in texts.items():
            if name in names:
                group.add_argument(f"--{name.replace('_', '-')}", help=text, **how)

    each(_INTEGERS, type=int, metavar="N")
    each(_NUMBERS, type=float, metavar="X")
    each(_LISTS, action="append", metavar="TEXT")
    each(_IDS, type=_ids, metavar="ID,ID")
    each(_FLAGS, action="store_true", default=None)


def _add_early_stopping(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--early-stopping",
        nargs="?",
        type=_early_stopping,
        const=True,
        metavar="never",
        help="beams: end with as many answers as beams; or never while a better one may come",
    )


def _add_others(group: argparse._ArgumentGroup) -> None:
    words = "token ids that never follow each other, or one that never comes; may be repeated"
    group.add_argument("--bad-words-ids", action="append", type=_ids, metavar="ID,ID", help=words)
    bias = "added to the logit of a token; may be repeated"
    group.add_argument("--logit-bias", action=_Biases, type=_bias, metavar="ID:X", help=bias)
    bias = "added to the logit of the last of these tokens, behind the others; may be repeated"
    group.add_argument("--sequence-bias", action="append", type=_biased_ids, metavar="ID,ID:X", help=bias)
    decay = "after N tokens an end becomes likelier with each, by this factor"
    group.add_argument("--exponential-decay-length-penalty", type=_decay, metavar="N,FACTOR", help=decay)
    group.add_argument(
        "--no-skip-special-tokens",
        dest="skip_special_tokens",
        action="store_const",
        const=False,
        help="show special tokens, too",
    )
    group.add_argument("--on-nan", metavar="error|eos", help="what a model that computes no numbers does")
    schema = "the answer is JSON of this schema: JSON text, or a file with it"
    group.add_argument("--json-schema", type=_json_or_file, metavar="JSON|FILE", help=schema)
    group.add_argument("--regex", metavar="TEXT", help="the answer matches this regular expression")
    group.add_argument(
        "--grammar", type=_file, metavar="FILE", help="the answer follows the grammar in this file (Lark)"
    )


def add_template_kwargs(parser: argparse.ArgumentParser) -> None:
    """Add --chat-template-kwargs, of which a JSON object comes."""
    words = 'variables of the model\'s chat template: {"enable_thinking": false}, or a file with such'
    parser.add_argument("--chat-template-kwargs", type=_variables, metavar="JSON|FILE", help=words)


def contradiction(options: argparse.Namespace) -> str | None:
    """What is wrong with these options together, if anything is."""
    for name in ("logprobs", "prompt_logprobs"):
        if getattr(options, name) is not None and not options.json:
            return f"--{name.replace('_', '-')} needs --json"
    return None


class _Biases(argparse.Action):
    """Collects pairs into a dict."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        token_id, bias = values
        biases = getattr(namespace, self.dest) or {}
        if token_id in biases:
            raise argparse.ArgumentError(self, f"holds token id {token_id} twice")
        setattr(namespace, self.dest, biases | {token_id: bias})


def _ids(text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError("takes token ids, with commas between them") from None


def _pair(text: str, separator: str, what: str) -> tuple[int, float]:
    first, _, second = text.partition(separator)
    try:
        return int(first), float(second)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes {what}") from None


def _bias(text: str) -> tuple[int, float]:
    return _pair(text, ":", "a token id and a number, as 42:-100")


def _biased_ids(text: str) -> tuple[list[int], float]:
    ids, _, bias = text.partition(":")
    try:
        return _ids(ids), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError("takes token ids and a number, as 4,2:1.5") from None


def _decay(text: str) -> tuple[int, float]:
    return _pair(text, ",", "a number of tokens and a factor, as 20,1.1")


def _early_stopping(text: str) -> str:
    if text != "never":
        raise argparse.ArgumentTypeError("takes nothing, or never")
    return text


def _json_or_file(text: str) -> str:
    return text if text.lstrip()[:1] in ("{", "") or text in ("true", "false") else _file(text)


def _variables(text: str) -> dict[str, Any]:
    try:
        given = json.loads(_json_or_file(text))
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise argparse.ArgumentTypeError("takes a JSON object")
    return given


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
