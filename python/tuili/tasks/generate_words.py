"""The words of transformers' `generate` that pipelines take besides SamplingParams' own."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tuili.checks import MAX_INT, described, integer, invalid, token_ids, unknown_name
from tuili.errors import InvalidParameterError
from tuili.generation.params import ALIASES, NAMES, SamplingParams, canonical_names

if TYPE_CHECKING:
    from tuili.llm import LLM

logger = logging.getLogger("tuili")

_SAME = {"max_time": "deadline_s", "stop_strings": "stop"}
_ENDS = ("eos_token_id", "pad_token_id")
_OWN = ("generation_config",)
_DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p")  # nothing without do_sample, in a config
_SEARCHING = ("length_penalty", "early_stopping")  # nothing without beams
_NOTES = ("transformers_version", "bos_token_id", "cache_implementation", "cache_config")  # of a config
# What has an effect only with other values than these.
_PLAIN: dict[str, bool | float] = {
    "use_cache": True,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": 0.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "guidance_scale": 1.0,
    "remove_invalid_values": False,
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "synced_gpus": False,
}


def in_our_words(task: str, options: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """What a call or a pipeline is given, under SamplingParams' names, without what is None. A
    generation_config, which is checked, stays: what it comes to is for `settled`.

    own     the task's other words, which stay, too
    raises  InvalidParameterError for an unknown name, which lists those that are known, for two names of one
            thing, and with the code "not_supported_yet" for what transformers alone does
    """
    rest = {name: value for name, value in options.items() if name != "generation_config"}
    found = _translated(task, rest, own)
    config = options.get("generation_config")
    if config is not None:
        words = _words_of(config)
        _translated(task, {name: value for name, value in words.items() if name not in _DRAWING}, own)
        found["generation_config"] = config
    return found


def settled(task: str, chosen: dict[str, Any], own: Collection[str], model: LLM) -> dict[str, Any]:
    """`chosen`, all that counts for a call, with what its generation_config has besides."""
    if chosen.get("max_length") is not None and not {"max_tokens", "max_new_tokens"}.isdisjoint(chosen):
        logger.warning("max_length has no effect beside max_new_tokens, which counts what follows alone")
    config = chosen.pop("generation_config", None)
    if config is not None:
        given = {name: value for name, value in chosen.items() if value is not None}
        chosen |= _beside(task, _words_of(config), given, own, model)
    return chosen


def _translated(task: str, options: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    known = sorted({*own, *NAMES, *ALIASES, "do_sample", *_SAME, *_ENDS, *_OWN})
    for name in options:
        if name not in known and name not in _PLAIN:
            _unknown(task, name, known)
    given = {name: value for name, value in options.items() if value is not None}
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in _PLAIN:
            _check_plain(name, value)
        elif name == "pad_token_id":
            integer(name, value, 0, MAX_INT)  # nothing is padded here
        elif name == "eos_token_id":
            ids = token_ids(name, [value] if isinstance(value, int | np.integer) else value)
            _put(found, "stop_token_ids", ids, name)
            _put(found, "ignore_eos", True, name)
        else:
            _put(found, _SAME.get(name, name), value, name)
    if "stop_strings" in given or ("eos_token_id" in given and "stop" not in given):
        found.setdefault("include_stop_str_in_output", True)
    canonical_names({name: value for name, value in found.items() if name not in (*own, *_OWN)})
    return found


def _words_of(config: Any) -> dict[str, Any]:
    """What a GenerationConfig of transformers asks for, or a dict of what it holds."""
    words: object = config
    if not isinstance(config, type) and callable(getattr(config, "to_diff_dict", None)):
        words = config.to_diff_dict()
    if not isinstance(words, Mapping) or not all(isinstance(name, str) for name in words):
        invalid("generation_config", f"must be a GenerationConfig or a dict by name, not {described(config)}")
    if "generation_config" in words:
        invalid("generation_config", "cannot hold another")
    return {name: value for name, value in words.items() if value is not None and not _is_note(name)}


def _beside(
    task: str, words: Mapping[str, Any], given: Mapping[str, Any], own: Collection[str], model: LLM
) -> dict[str, Any]:
    """What a config adds to the words that were given. How it draws and searches counts where that is done,
    be it the model's files that say so.
    """
    meant = {_meaning(name) for name in given}
    taken = {name: value for name, value in words.items() if _meaning(name) not in meant}
    files = model.config["sampling_defaults"]
    of_task = model.config.get("task_parameters", {}).get(task, {})
    temperature = SamplingParams(temperature=given.get("temperature")).temperature
    draws = bool(files.get("temperature") if temperature is None else temperature)
    asked = {"do_sample": draws, **files, **of_task, **taken, **given}
    beams = SamplingParams(num_beams=asked.get("num_beams")).num_beams or 1
    unused = (() if asked["do_sample"] is True else _DRAWING) + (() if beams != 1 else _SEARCHING)
    found = _translated(task, {name: value for name, value in taken.items() if name not in unused}, own)
    if "stop" in given and "include_stop_str_in_output" not in taken:
        found.pop("include_stop_str_in_output", None)  # which was of the config's own ends
    return {name: value for name, value in found.items() if name not in given}


def _is_note(name: str) -> bool:
    """Whether it changes no answer: a beginning of texts counts where there is no prompt, and how keys and
    values are kept, which Gemma's files say, is the engine's to choose.
    """
    return name.startswith("_") or name in _NOTES


def _meaning(name: str) -> str:
    return {**_SAME, **ALIASES}.get(name, name)


def _put(found: dict[str, Any], name: str, value: Any, given: str) -> None:
    if name in found:
        invalid(given, "is given twice, under two of its names")
    found[name] = value


def _check_plain(name: str, value: object) -> None:
    plain = _PLAIN[name]
    same_kind = isinstance(value, bool) == isinstance(plain, bool) and isinstance(value, int | float)
    if not same_kind or value != plain:
        invalid(
            name,
            f"is not supported by this version of tuili; leave it out or set it to {plain}",
            code="not_supported_yet",
        )


def _unknown(task: str, name: str, known: list[str]) -> None:
    try:
        unknown_name(name, known)
    except InvalidParameterError as error:
        raise InvalidParameterError(
            f"{error}; {task} takes {', '.join(known)}", param=error.param, code=error.code
        ) from None
