"""OpenAI's chat completion as a dict in and a dict out, in this process and over HTTP. A field that has no
effect here is an error, never ignored.
"""

from __future__ import annotations

import re
import time
import unicodedata
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuili.chat import tool_calls
from tuili.chat.rendering import WORDS, Rendering, rendering
from tuili.chat.tool_calls import Call, Tools
from tuili.checks import (
    boolean,
    described,
    integer,
    invalid,
    measured,
    not_supported_yet,
    only_known,
    same,
)
from tuili.generation.outputs import CompletionOutput, RequestOutput, TokenLogprob, Totals
from tuili.generation.params import MAX_LOGPROBS, SamplingParams
from tuili.loading.files import shown

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
# SamplingParams' own, which OpenAI does not have, under vLLM's names, else transformers'.
_MORE = (
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "truncate_prompt_tokens",
    "allowed_token_ids",
    "bad_words",
    "length_penalty",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "renormalize_logits",
    "num_beams",
    "early_stopping",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "decoder_start_token_id",
    "prompt_logprobs",
    "deadline_s",
    "prompt_lookup_num_tokens",
    "regex",
    "choice",
    "grammar",
)
# Fields that have an effect only with these values, which are the ones that change nothing.
_PLAIN: dict[str, tuple[object, ...]] = {
    "stream": (False,),
    "stream_options": (),
    "functions": (),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
    "prompt_cache_retention": (),
    "prompt_cache_options": (),
    "moderation": (),
    "metadata": ({},),
}
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
NAMES = ("user", "safety_identifier", "prompt_cache_key")  # a client's own, which change no answer
_OWN = (
    "model",
    *NAMES,
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "response_format",
    "use_beam_search",
    "structured_outputs",
    *_TOOLS,
    *WORDS,
)
# vLLM's names for a form of the output -> SamplingParams'.
_FORMS = {"json": "json_schema", "regex": "regex", "choice": "choice", "grammar": "grammar"}
MAX_NAME_CHARS = 256
MODEL_NAME = f"1 to {MAX_NAME_CHARS} letters and digits of any script and . _ : / -"
FIELDS = (*_SAME, *_MORE, *_PLAIN, *_OWN)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a chat completion's fields ask for."""

    params: SamplingParams
    tools: Tools
    rendering: Rendering


def chat_request(fields: Mapping[str, Any], **own: Any) -> ChatRequest:
    """What OpenAI's fields, without the messages, ask for. Arguments and errors as those of
    `sampling_params`.
    """
    tools = tool_calls.tools_of(fields)
    if tools.offered and fields.get("structured_outputs") is not None:
        invalid("structured_outputs", "cannot be given next to tools, unless tool_choice is none")
    schema = tools.schema()
    form = fields.get("response_format")
    if tools.offered and form is not None and not same(form, {"type": "text"}):
        invalid("response_format", "cannot be given next to tools, unless tool_choice is none")
    more = own if schema is None else {**own, "json_schema": schema}
    grammar = tools.grammar()
    if grammar is not None:
        for name in ("regex", "choice", "grammar"):
            if fields.get(name) is not None:
                invalid(name, "cannot be given next to strict tools or parallel_tool_calls = false")
        more = {**more, "grammar": grammar}
    how = rendering(**{name: fields.get(name) for name in WORDS}, tools=tools)
    return ChatRequest(sampling_params(fields, **more), tools, how)


def sampling_params(fields: Mapping[str, Any], **own: Any) -> SamplingParams:
    """The parameters that OpenAI's fields ask for; null is the default, which is the model's and not
    OpenAI's.

    own     parameters that are not the client's to choose
    raises  InvalidParameterError, also for a field that this version does not implement
            (not_supported_yet); GrammarError
    """
    only_known(fields, ("messages", *FIELDS))  # whatever its value: null is the default of what there is
    given = {name: value for name, value in fields.items() if value is not None}
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name in _SAME or name in _MORE:
            target = _SAME.get(name, name)
            if target in options:
                other = next(other for other in given if _SAME.get(other) == target)
                invalid(name, f"is given twice, also as {other}")
            options[target] = value
        elif name in _PLAIN and not any(same(value, plain) for plain in _PLAIN[name]):
            not_supported_yet(name)
    check_names(given)
    if "logit_bias" in given:
        options["logit_bias"] = _logit_bias(given["logit_bias"])
    if "response_format" in given:
        options["json_schema"] = _json_schema(given["response_format"])
    if "structured_outputs" in given:
        for name, value in _structured(given["structured_outputs"]).items():
            if options.get(name) is not None:
                invalid("structured_outputs", f"{name} is given next to them")
            options[name] = value
    if "use_beam_search" in given:
        if "num_beams" in options:
            invalid("use_beam_search", "is given next to num_beams")
        searches = boolean("use_beam_search", given["use_beam_search"])
        options["num_beams"] = given.get("n", 1) if searches else 1
        if searches and options.setdefault("temperature", 0.0) != 0:  # also of one beam, which draws nothing
            invalid("temperature", "cannot be combined with use_beam_search; leave it out or set it to 0.0")
    options["logprobs"] = _n_logprobs(given)
    return SamplingParams(**{**options, **own})


def check_names(given: Mapping[str, Any]) -> None:
    """What clients call the model, and whom they speak for. raises  InvalidParameterError"""
    if given.get("model") is not None and not is_model_name(given["model"]):
        invalid("model", f"must be {MODEL_NAME}, not {given_name(given['model'])}")
    for name in NAMES:
        value = given.get(name)
        if value is not None and not (
            isinstance(value, str) and 1 <= len(value) <= MAX_NAME_CHARS and value.isprintable()
        ):
            printable = not isinstance(value, str) or value.isprintable()
            found = measured(value) if printable else "one with others"
            invalid(name, f"must be a string of 1 to {MAX_NAME_CHARS} printable characters, not {found}")


def is_model_name(value: object) -> bool:
    """Whether `value` is what MODEL_NAME says."""
    return (
        isinstance(value, str)
        and 1 <= len(value) <= MAX_NAME_CHARS
        and all(in_names(character) or character in ":/" for character in value)
    )


def given_name(value: object) -> str:
    """What was given for a model's name, for a message."""
    return shown(value) if isinstance(value, str) else described(value)


def in_names(character: str) -> bool:
    """Letters and digits of any script, also the marks that Hindi and Thai write vowels with, and . _ -"""
    return character.isalnum() or character in "._-" or unicodedata.category(character)[0] == "M"


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
        found = "one with others" if isinstance(form, Mapping) else described(form)
        expected = 'an object with "type" and, for one of its types, "json_schema"'
        invalid("response_format", f"must be {expected}, not {found}")
    kind = kind if isinstance(kind, str) else None
    if kind in ("text", "json_object") and "json_schema" not in form:
        return None if kind == "text" else {"type": "object"}
    named = form.get("json_schema")
    if kind != "json_schema" or not isinstance(named, Mapping):
        invalid("response_format", 'has a type other than "text", "json_object", or "json_schema" with one')
    only_known(named, ("name", "description", "schema", "strict"), "response_format.json_schema.")
    if not isinstance(named.get("schema"), dict):
        found = described(named.get("schema"))
        invalid("response_format", f"json_schema.schema must be an object, not {found}")
    return named["schema"]


def _structured(form: object) -> dict[str, Any]:
    """What vLLM's structured_outputs ask for, which is one form."""
    if not isinstance(form, Mapping):
        invalid("structured_outputs", f"must be an object, not {described(form)}")
    given = {name: value for name, value in form.items() if value is not None}
    only_known(form, (*_FORMS, "json_object"), "structured_outputs.")
    if given.get("json_object") is False:
        del given["json_object"]
    if len(given) != 1:
        invalid(
            "structured_outputs", f"must have one of {', '.join(_FORMS)} and json_object, not {len(given)}"
        )
    [(name, value)] = given.items()
    if name == "json_object":
        boolean("structured_outputs.json_object", value)
        return {"json_schema": {"type": "object"}}
    return {_FORMS[name]: value}


def _n_logprobs(given: Mapping[str, Any]) -> int | None:
    asked = boolean("logprobs", given.get("logprobs", False))
    if "top_logprobs" not in given:
        return 0 if asked else None
    if not asked:
        invalid("top_logprobs", "needs logprobs = true")
    return integer("top_logprobs", given["top_logprobs"], 0, MAX_LOGPROBS)


# --- the answer ---------------------------------------------------------------------------------------------


def completion(
    output: RequestOutput,
    model: str,
    token_text: Callable[[int], bytes],
    tools: Tools = Tools(),  # noqa: B008 (immutable)
    role: str = "assistant",
) -> dict[str, Any]:
    """OpenAI's answer; with vLLM's prompt_logprobs where they are. token_text: the bytes of a token."""
    answer = {
        **heading("chatcmpl", "chat.completion", model),
        "choices": [_choice(item, token_text, tools, role) for item in output.outputs],
        "usage": usage([output]),
    }
    if output.prompt_logprobs is not None:
        answer["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs, token_text)
    return answer


def _choice(
    item: CompletionOutput, token_text: Callable[[int], bytes], tools: Tools, role: str
) -> dict[str, Any]:
    reader = tool_calls.CallReader(tools)
    shown = reader.push(item.text)
    rest, calls = reader.finish()
    text = shown.rstrip() if calls else shown + rest
    message: dict[str, Any] = {"role": role, "content": text}
    if calls:
        message |= {"content": text or None, "tool_calls": [shown_call(call) for call in calls]}
    return {
        "index": item.index,
        "message": message,
        "finish_reason": finish_reason(item.finish_reason, calls),
        "logprobs": None if item.logprobs is None else logprobs(item.logprobs, token_text),
    }


def heading(kind: str, name: str, model: str) -> dict[str, Any]:
    """What every answer of the `name` begins with."""
    return {"id": new_id(kind), "object": name, "created": int(time.time()), "model": model}


def new_id(kind: str) -> str:
    """An id that tells nothing about other requests."""
    return f"{kind}-{uuid.uuid4().hex}"


def finish_reason(reason: str | None, calls: list[Call]) -> str | None:
    return "tool_calls" if calls and reason == "stop" else reason


def shown_call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": new_id("call"), "type": "function", "function": function}


def usage(outputs: list[RequestOutput]) -> dict[str, Any]:
    def totals(output: RequestOutput) -> Totals:
        n_generated = sum(len(item.token_ids) for item in output.outputs)
        return Totals(len(output.prompt_token_ids), n_generated, [], output.metrics)

    return usage_of([totals(output) for output in outputs])


def usage_of(totals: list[Totals]) -> dict[str, Any]:
    prompt = sum(each.n_prompt for each in totals)
    generated = sum(each.n_generated for each in totals)
    cached = sum(int(each.metrics["cached_tokens"] or 0) for each in totals)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def logprobs(entries: list[TokenLogprob], token_text: Callable[[int], bytes]) -> dict[str, Any]:
    """OpenAI's form of log-probabilities, in nats."""

    def shown(token_id: int, logprob: float) -> dict[str, Any]:
        data = token_text(token_id)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}

    return {
        "content": [
            {**shown(entry.token_id, entry.logprob), "top_logprobs": [shown(i, p) for i, p in entry.top]}
            for entry in entries
        ]
    }


def prompt_logprobs(
    entries: list[TokenLogprob | None], token_text: Callable[[int], bytes]
) -> list[dict[str, Any] | None]:
    """vLLM's form: for each token of the prompt but the first, by their ids, itself and the likeliest there.
    The rank is None of a token that is none of these.
    """

    def shown(entry: TokenLogprob) -> dict[str, Any]:
        ranks = {token_id: rank for rank, (token_id, _) in enumerate(entry.top, 1)}
        return {
            str(token_id): {
                "logprob": logprob,
                "rank": ranks.get(token_id),
                "decoded_token": token_text(token_id).decode("utf-8", "replace"),
            }
            for token_id, logprob in {entry.token_id: entry.logprob, **dict(entry.top)}.items()
        }

    return [None if entry is None else shown(entry) for entry in entries]
