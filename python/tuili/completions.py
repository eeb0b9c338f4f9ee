"""OpenAI's chat completion as a dict in and a dict out. A field that has no effect here is an error, never
ignored.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from tuili.generation import params as parameters
from tuili.generation.checks import boolean, described, integer, invalid
from tuili.generation.params import MAX_LOGPROBS, SamplingParams, not_supported_yet
from tuili.generation.request import RequestOutput, TokenLogprob

# Fields that mean what SamplingParams' field of this name means.
_SAME = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "n": "n",
    "stop": "stop",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
# Fields that have an effect only with these values, which are the ones that change nothing.
_PLAIN: dict[str, tuple[object, ...]] = {
    "stream": (False,),
    "stream_options": (),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (),
    "functions": (),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
}
_OWN = ("model", "user", "logprobs", "top_logprobs", "logit_bias", "response_format")


def sampling_params(fields: Mapping[str, Any]) -> SamplingParams:
    """The parameters that OpenAI's fields ask for; null is the default, which is the model's and not
    OpenAI's.

    raises  InvalidParameterError, also for a field that this version does not implement (not_supported_yet)
    """
    given = {name: value for name, value in fields.items() if value is not None}
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name in _SAME:
            if _SAME[name] in options:
                invalid(name, f"is given twice, also as {_SAME[name]}")
            options[_SAME[name]] = value
        elif name in _PLAIN:
            if not any(parameters.same(value, plain) for plain in _PLAIN[name]):
                not_supported_yet(name)
        elif name not in _OWN:
            parameters.unknown_name(name, ("messages", *_SAME, *_PLAIN, *_OWN))
    for name in ("model", "user"):
        _check_name(name, given.get(name))
    if "logit_bias" in given:
        options["logit_bias"] = _logit_bias(given["logit_bias"])
    if "response_format" in given:
        options["json_schema"] = _json_schema(given["response_format"])
    options["logprobs"] = _n_logprobs(given)
    return SamplingParams(**options)


def _check_name(name: str, value: object) -> None:
    if value is not None and (
        not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._:/-]{1,256}", value)
    ):
        invalid(name, "must be a string of 1 to 256 letters, digits and . _ : / -")


def _logit_bias(value: object) -> dict[int, Any]:
    """JSON's keys are strings: "42" is token 42."""
    if not isinstance(value, Mapping):
        invalid("logit_bias", f"must be an object, not {described(value)}")
    bias: dict[int, Any] = {}
    for key, item in value.items():
        if isinstance(key, str) and re.fullmatch(r"\d{1,10}", key):
            key = int(key)
        if key in bias:
            invalid("logit_bias", f"holds token id {key} twice")
        bias[key] = item
    return bias


def _json_schema(form: object) -> Any:
    """The schema that response_format asks for; None for text. What `strict` asks for is always done."""
    kind = form.get("type") if isinstance(form, Mapping) else None
    if not isinstance(form, Mapping) or not form.keys() <= {"type", "json_schema"}:
        invalid("response_format", 'must be an object with "type" and, for one of its types, "json_schema"')
    if kind in ("text", "json_object") and "json_schema" not in form:
        return None if kind == "text" else {"type": "object"}
    named = form.get("json_schema")
    if kind != "json_schema" or not isinstance(named, Mapping):
        invalid("response_format", 'has a type other than "text", "json_object", or "json_schema" with one')
    for name in named:
        if name not in ("name", "description", "schema", "strict"):
            parameters.unknown_name(f"response_format.json_schema.{name}", ("name", "schema", "strict"))
    if not isinstance(named.get("schema"), dict):
        invalid("response_format", "json_schema.schema must be an object")
    return named["schema"]


def _n_logprobs(given: Mapping[str, Any]) -> int | None:
    asked = boolean("logprobs", given.get("logprobs", False))
    if "top_logprobs" not in given:
        return 0 if asked else None
    if not asked:
        invalid("top_logprobs", "needs logprobs = true")
    return integer("top_logprobs", given["top_logprobs"], 0, MAX_LOGPROBS)


def completion(output: RequestOutput, model: str, token_text: Callable[[int], bytes]) -> dict[str, Any]:
    """OpenAI's answer. token_text: the bytes of a token."""
    generated = sum(len(item.token_ids) for item in output.outputs)
    prompt = len(output.prompt_token_ids)
    return {
        "id": f"chatcmpl-{output.request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": item.index,
                "message": {"role": "assistant", "content": item.text},
                "finish_reason": item.finish_reason,
                "logprobs": None if item.logprobs is None else _logprobs(item.logprobs, token_text),
            }
            for item in output.outputs
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": output.metrics["cached_tokens"]},
        },
    }


def _logprobs(entries: list[TokenLogprob], token_text: Callable[[int], bytes]) -> dict[str, Any]:
    def shown(token_id: int, logprob: float) -> dict[str, Any]:
        data = token_text(token_id)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}

    return {
        "content": [
            {**shown(entry.token_id, entry.logprob), "top_logprobs": [shown(i, p) for i, p in entry.top]}
            for entry in entries
        ]
    }
