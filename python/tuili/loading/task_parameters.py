"""What config.json says of a model's tasks: the words before a text, and how the answer is searched."""

from __future__ import annotations

from typing import Any

from tuili.loading.config import MAX_POSITIONS, Config
from tuili.loading.files import shown

MAX_PREFIX_CHARS = 1024
_INTEGERS = {
    "max_length": (1, MAX_POSITIONS),
    "min_length": (0, MAX_POSITIONS),
    "max_new_tokens": (1, MAX_POSITIONS),
    "min_new_tokens": (0, MAX_POSITIONS),
    "no_repeat_ngram_size": (0, MAX_POSITIONS),
    "encoder_no_repeat_ngram_size": (0, MAX_POSITIONS),
    "num_beams": (1, 1024),
}
_NUMBERS = {
    "length_penalty": (-10.0, 10.0),
    "repetition_penalty": (1e-3, 1e3),
    "encoder_repetition_penalty": (1e-3, 1e3),
}


def task_parameters(config: Config) -> dict[str, dict[str, Any]]:
    """The known keys of `task_specific_params`, by task, with `prefix` under the task ""; checked.

    raises  ModelFormatError
    """
    found: dict[str, dict[str, Any]] = {}
    if config.values.get("prefix") is not None:
        found[""] = {"prefix": _prefix(config)}
    tasks = config.section("task_specific_params")
    for task in tasks.values if tasks is not None else ():
        section = tasks.section(task) if tasks is not None else None
        if section is not None:
            found[shown(task, 64)] = _parameters(section)
    return found


def _parameters(section: Config) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in section.values.items():
        if value is None:
            continue
        if key == "prefix":
            result[key] = _prefix(section)
        elif key in _INTEGERS:
            result[key] = section.integer(key, *_INTEGERS[key])
        elif key in _NUMBERS:
            result[key] = section.number(key, *_NUMBERS[key])
        elif key == "early_stopping":
            result[key] = value if value == "never" else section.flag(key)
    return result


def _prefix(config: Config) -> str:
    prefix: str = config.text("prefix")
    if len(prefix) > MAX_PREFIX_CHARS:
        raise config.wrong("prefix", f"at most {MAX_PREFIX_CHARS} characters")
    return prefix
