"""Checks of names, and of one value each by its name: what a caller gave becomes what is worked with, or
InvalidParameterError.

No message shows a text that a user wrote, which a word given for one of a few is not.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from tuili.errors import InvalidParameterError
from tuili.loading.files import shown

MAX_INT = 2**31 - 1
MAX_TOKEN_IDS = 1024
MAX_WORD_IDS = 64
MAX_BIAS = 1e30
MAX_STOP_STRINGS = 256
MAX_STOP_BYTES = 4096
MAX_SHOWN_BITS = 2048


def invalid(name: str, problem: str, *, code: str | None = None) -> NoReturn:
    """Raise InvalidParameterError that names the parameter."""
    raise InvalidParameterError(f"{name} {problem}", param=name, code=code)


def described(value: object) -> str:
    """`value` for a message, never longer than a line and never a text that a user wrote."""
    if isinstance(value, int) and value.bit_length() > MAX_SHOWN_BITS:  # Python refuses to write it out
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, bool | int | float | np.number):
        text = repr(value)
        return text if len(text) <= 40 else text[:40] + "…"
    return "null" if value is None else f"a value of type {type(value).__name__}"


def not_supported_yet(name: str) -> NoReturn:
    """Raise the error for a name that a later version will implement."""
    invalid(name, "is not supported by this version of tuili", code="not_supported_yet")


def measured(value: object) -> str:
    """As `described`, with the length of what has one: for a message of how long something may be."""
    if isinstance(value, str | list | tuple):
        return f"a {'str' if isinstance(value, str) else 'list'} of {len(value)}"
    return described(value)


# What other libraries call these, where the spelling is too far away for a guess, or would be a wrong one; of
# several the first that is known.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("max_length", "max_completion_tokens", "n_predict", "num_predict"), ("max_tokens",)),
    **dict.fromkeys(("best_of", "num_samples"), ("n",)),
    "eos_token_id": ("stop_token_ids",),
    "pad_token_id": (),  # nothing is padded
    **dict.fromkeys(("beam_width", "use_beam_search"), ("num_beams",)),
    **dict.fromkeys(("max_time", "timeout"), ("deadline_s",)),
    **dict.fromkeys(("stop_sequences", "stop_words", "stop_strings", "stopping_criteria"), ("stop",)),
    "top_logprobs": ("logprobs",),
    "repeat_penalty": ("repetition_penalty",),
    **dict.fromkeys(
        ("guided_json", "response_format", "structured_outputs", "schema"), ("json_schema", "response_format")
    ),
    "guided_regex": ("regex",),
    "guided_choice": ("choice",),
    "guided_grammar": ("grammar",),
    **dict.fromkeys(("enable_thinking", "thinking", "documents"), ("chat_template_kwargs",)),
    **dict.fromkeys(("model_path", "model_name_or_path", "model_id"), ("model",)),
    "n_ctx": ("max_model_len",),
    "n_threads": ("num_threads",),
    "torch_dtype": ("dtype",),
    "gpu_memory_utilization": ("kv_cache_bytes",),
    **dict.fromkeys(("load_in_8bit", "load_in_4bit"), ("quantization",)),
}


def _meant(name: str, known: list[str]) -> str | None:
    """The known name that `name` is likely to stand for."""
    elsewhere = {
        theirs: next((one for one in ours if one in known), None) for theirs, ours in _ELSEWHERE.items()
    }
    if name in elsewhere:
        return elsewhere[name]
    names = {theirs: ours for theirs, ours in elsewhere.items() if ours} | {ours: ours for ours in known}
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.7)
    return names[near[0]] if near else None


def unknown_name(name: str, known: Iterable[str], where: str = "") -> NoReturn:
    """Raise InvalidParameterError that suggests the nearest known name. where: shown before both"""
    meant = _meant(name, list(known))
    param = "".join(c if c.isprintable() else "?" for c in f"{where}{name}"[:64])
    hint = f"; did you mean {where}{meant}?" if meant else ""
    raise InvalidParameterError(f"unknown parameter {param}{hint}", param=param, code="unknown_parameter")


def only_known(names: Iterable[object], known: Collection[str], where: str = "") -> None:
    """As `unknown_name` for the first of `names` that is not `known`."""
    for name in names:
        if name not in known:
            unknown_name(name if isinstance(name, str) else described(name), known, where)


def same(value: object, plain: object) -> bool:
    """Whether `value` is `plain`, of the same type; never what an `__eq__` of a user's makes of it."""
    return type(value) is type(plain) and value == plain


def is_text(value: object, text: str) -> bool:
    """Whether `value` is this str, whatever else it may be."""
    return isinstance(value, str) and value == text


def integer(name: str, value: object, low: int, high: int) -> int:
    """An int or numpy integer in [low, high]; a bool is none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        invalid(name, f"must be an integer, not {described(value)}")
    number = int(value)
    if not low <= number <= high:
        invalid(name, f"must be in [{low}, {high}], not {described(number)}")
    return number


def number(name: str, value: object, low: float, high: float, *, above_low: bool = False) -> float:
    """A finite number in [low, high], or in (low, high] with `above_low`; a bool is none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        invalid(name, f"must be a number, not {described(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result) or not low <= result <= high or (above_low and result == low):
        invalid(name, f"must be in {'(' if above_low else '['}{low:g}, {high:g}], not {described(value)}")
    return result


def boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        invalid(name, f"must be true or false, not {described(value)}")
    return bool(value)


def one_of(name: str, value: object, choices: Collection[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        given = shown(value) if isinstance(value, str) else described(value)
        invalid(name, f"must be one of {', '.join(choices)}, not {given}")
    return value


def function_or_none(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        invalid(name, f"must be a function, not {described(value)}")
    return value


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def token_ids(name: str, value: object, max_n: int = MAX_TOKEN_IDS) -> tuple[int, ...]:
    """Distinct ids in [0, 2^31), in the order given; whether the model has them is known only later."""
    value = _listed(value)
    if not isinstance(value, list | tuple | set | frozenset):
        invalid(name, f"must be a list of token ids, not {described(value)}")
    if len(value) > max_n:
        invalid(name, f"may hold at most {max_n} ids, not {len(value)}")
    return tuple(dict.fromkeys(integer(name, item, 0, MAX_INT) for item in value))


def one_or_more_ids(name: str, value: object) -> int | tuple[int, ...]:
    """A token id, or several; of a list of one, that one."""
    value = _listed(value)
    if not isinstance(value, list | tuple | set | frozenset):
        return integer(name, value, 0, MAX_INT)
    ids = token_ids(name, value)
    if not ids:
        invalid(name, "must hold one token id at least, not none")
    return ids[0] if len(ids) == 1 else ids


def words_of_ids(name: str, value: object) -> tuple[tuple[int, ...], ...]:
    """Sequences of token ids, none empty."""
    value = _listed(value)
    if not isinstance(value, list | tuple):
        invalid(name, f"must be a list of lists of token ids, not {described(value)}")
    if len(value) > MAX_TOKEN_IDS:
        invalid(name, f"may hold at most {MAX_TOKEN_IDS} lists, not {len(value)}")
    words = [_listed(word) for word in value]
    for i, word in enumerate(words):
        if not isinstance(word, list | tuple):
            invalid(name, f"must hold lists of token ids; entry {i} is {described(word)}")
        if not 1 <= len(word) <= MAX_WORD_IDS:
            invalid(name, f"must hold lists of 1 to {MAX_WORD_IDS} token ids; entry {i} has {len(word)}")
    return tuple(tuple(integer(name, token_id, 0, MAX_INT) for token_id in word) for word in words)


def sequence_bias(name: str, value: object) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Pairs of a sequence of token ids and a number, each sequence once, of a mapping or a list of pairs."""
    pairs: Any = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs
    ):
        found = measured(value)
        invalid(name, f"must map tuples of token ids to numbers, or be a list of [ids, number], not {found}")
    words = words_of_ids(name, [ids for ids, _ in pairs])
    numbers = [-math.inf if _forbids(bias) else number(name, bias, -MAX_BIAS, MAX_BIAS) for _, bias in pairs]
    return tuple(dict(zip(words, numbers, strict=True)).items())


def _forbids(bias: object) -> bool:
    return isinstance(bias, float | np.floating) and bool(bias == -math.inf)


def texts(
    name: str, value: object, max_n: int = MAX_STOP_STRINGS, max_bytes: int = MAX_STOP_BYTES
) -> tuple[str, ...]:
    """One string or a list of them, none empty."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        invalid(name, f"must be a string or a list of strings, not {described(value)}")
    if len(items) > max_n:
        invalid(name, f"may hold at most {max_n} strings, not {len(items)}")
    for i, item in enumerate(items):
        if not isinstance(item, str):
            invalid(name, f"must hold strings; entry {i} is {described(item)}")
        if not item:
            invalid(name, f"must not hold an empty string; entry {i} is empty")
        if len(item.encode("utf-8", "surrogatepass")) > max_bytes:
            invalid(name, f"may hold strings of at most {max_bytes} bytes; entry {i} is longer")
    return tuple(items)


def logit_bias(name: str, value: object) -> dict[int, float]:
    if not isinstance(value, Mapping):
        invalid(name, f"must map token ids to numbers, not {described(value)}")
    if len(value) > MAX_TOKEN_IDS:
        invalid(name, f"may hold at most {MAX_TOKEN_IDS} entries, not {len(value)}")
    bias: dict[int, float] = {}
    for key, item in value.items():
        try:
            token_id = integer(name, key, 0, MAX_INT)
        except InvalidParameterError:
            invalid(name, f"has {described(key)} for a token id")
        if token_id in bias:
            invalid(name, f"holds token id {token_id} twice")
        bias[token_id] = number(f"{name}[{token_id}]", item, -100.0, 100.0)
    return bias


def top_k(name: str, value: object) -> int:
    return max(0, integer(name, value, -1, MAX_INT))  # -1 and 0 both say: no limit


def cut_length(name: str, value: object) -> int:
    """Tokens that a text is cut to; -1: as many as there is room for."""
    length = integer(name, value, -1, MAX_INT)
    if length == 0:
        invalid(name, "must be at least 1, or -1, which is the model's own limit; not 0")
    return length


def salt(name: str, value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        invalid(name, f"must be a string of 1 to 256 characters, not {measured(value)}")
    return value


def one_or_more(name: str, value: object) -> tuple[int, ...]:
    ids = token_ids(name, value)
    if not ids:
        invalid(name, "must hold one token id at least, not none: no token could be generated")
    return ids


def growth(name: str, value: object) -> tuple[int, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        invalid(name, f"must be a pair (start, factor), not {described(value)}")
    start, factor = value
    return integer(name, start, 0, MAX_INT), number(name, factor, 0.0, 1e6, above_low=True)


def early_stop(name: str, value: object) -> bool | str:
    if isinstance(value, str) and value == "never":
        return value
    if not isinstance(value, bool | np.bool_):
        invalid(name, f'must be true, false or "never", not {described(value)}')
    return bool(value)


Check = Callable[[str, Any], Any]


def choice_of(*choices: str) -> Check:
    return lambda name, value: one_of(name, value, choices)


def int_in(low: int, high: int) -> Check:
    return lambda name, value: integer(name, value, low, high)


def float_in(low: float, high: float, *, above_low: bool = False) -> Check:
    return lambda name, value: number(name, value, low, high, above_low=above_low)
