"""The words of transformers' `generate` that pipelines take besides SamplingParams' own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tuili.errors import InvalidParameterError
from tuili.generation.checks import MAX_INT, integer, invalid, token_ids
from tuili.generation.params import ALIASES, NAMES, canonical_names, unknown_name

_SAME = {"max_time": "deadline_s", "stop_strings": "stop"}
_ENDS = ("eos_token_id", "pad_token_id")
# What has an effect only with other values than these.
_PLAIN: dict[str, bool | float] = {
    "use_cache": True,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": 0.0,
    "encoder_repetition_penalty": 1.0,
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
    """What a call is given, under SamplingParams' names, without what is None.

    own     the task's other words, which stay
    raises  InvalidParameterError for an unknown name, which lists those that are known, for two names of one
            thing, and with the code "not_supported_yet" for what transformers alone does
    """
    known = sorted({*own, *NAMES, *ALIASES, "do_sample", *_SAME, *_ENDS})
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
    canonical_names({name: value for name, value in found.items() if name not in own})
    return found


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
