"""Requests for text: from a body to sequences in the engine, and texts to token ids and back.

All of it runs on threads beside the event loop. An error is a TuiliError or Refused; a field that has no
effect is one, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuili.chat import completions
from tuili.chat.rendering import WORDS, Rendering, with_tools
from tuili.checks import (
    boolean,
    described,
    integer,
    invalid,
    measured,
    not_supported_yet,
    only_known,
    same,
    unknown_name,
)
from tuili.generation.params import MAX_LOGPROBS, SamplingParams
from tuili.generation.prompts import is_one
from tuili.generation.request import Handle
from tuili.server.fields import CUT, Fields, Served, required
from tuili.server.formats import ChatFormat, Format, TextFormat
from tuili.server.lengths import Lengths

MAX_CHOICES = 8
MAX_STOP_STRINGS = 16
MAX_PROMPTS = 256
MAX_BAD_WORDS = 1024  # each is spelled for each prompt
MAX_PROMPT_LOGPROBS = 100_000  # of an answer: of all tokens of its prompts, for each choice
_PROMPT_LOGPROBS = "prompt_logprobs"

Widen = Callable[[int], None]  # told of how many sequences a request is, before it is queued; may refuse


@dataclass(slots=True)
class Job:
    """Requests in the engine, and how their answer is written."""

    handles: list[Handle]
    format: Format
    stream: bool
    include_usage: bool


class TextRequests:
    """Makes jobs of one model. `timeout_s`: the deadline of requests that name no earlier one."""

    def __init__(self, served: Served, timeout_s: float) -> None:
        self._served, self._llm, self._timeout_s = served, served.llm, timeout_s

    def chat(self, body: bytes, salt: str | None, widen: Widen) -> Job:
        """POST /v1/chat/completions"""
        fields = self._served.fields(body)
        stream, include_usage = _streaming(fields)
        messages = required(fields, "messages")
        lengths = self._served.lengths(fields.get(CUT))
        lengths.check([messages, fields.get("tools"), fields.get("chat_template_kwargs")])
        wanted = completions.chat_request(fields, **self._own(fields, salt))
        _check_limits(wanted.params)
        widen(wanted.params.n_sequences)
        ids = self._encode_chat(messages, wanted.rendering, lengths)
        role = wanted.rendering.role(messages)
        format = ChatFormat(self._served.name, self._llm.tokenizer.token_bytes, wanted.tools, role)
        return Job(self._submitted([ids], wanted.params), format, stream, include_usage)

    def text(self, body: bytes, salt: str | None, widen: Widen) -> Job:
        """POST /v1/completions"""
        fields = self._served.fields(body)
        stream, include_usage = _streaming(fields)
        prompts = _prompts(required(fields, "prompt"))
        own = self._own(fields, salt)
        own["logprobs"] = _legacy_logprobs(fields.pop("logprobs", None))
        echo = self._echoes(fields)
        if echo and fields.get(_PROMPT_LOGPROBS) is None:
            own[_PROMPT_LOGPROBS] = own["logprobs"]
        _check_legacy(fields)
        params = completions.sampling_params(fields, **own)
        _check_limits(params, len(prompts))
        widen(len(prompts) * params.n_sequences)
        handles = self._submitted(prompts, params, params.n * (1 + echo))
        format = TextFormat(self._served.name, self._llm.tokenizer, params, handles, echo=echo)
        return Job(handles, format, stream, include_usage)

    def _echoes(self, fields: Fields) -> bool:
        """Whether a text's answer begins with it."""
        given = fields.pop("echo", None)
        if given is None or not boolean("echo", given):
            return False
        if self._llm.kind != "decoder":
            invalid("echo", "is for decoders: the answer of this model does not go on from its source")
        return True

    def _submitted(self, prompts: list[Any], params: SamplingParams, n_written: int = 1) -> list[Handle]:
        """All of them in the engine, or none. n_written: how often a prompt's log-probabilities are."""
        lengths = self._served.lengths(params.truncate_prompt_tokens)
        handles: list[Handle] = []
        n_tokens = 0
        try:
            for prompt in prompts:
                lengths.check(prompt)
                handles.append(self._llm.submit(prompt, params))
                n_tokens += handles[-1].totals().n_prompt
                _check_prompt_logprobs(params, n_tokens * n_written)
        except BaseException:
            for handle in handles:
                handle.abort()
            raise
        return handles

    def _encode_chat(self, messages: Any, how: Rendering, lengths: Lengths) -> list[int]:
        prompt = self._llm.render_chat(messages, how)
        lengths.check(prompt.text)  # only the template knows what of the messages stands in it
        return self._llm.tokenizer.encode_chat(prompt.parts())

    def _own(self, fields: Fields, salt: str | None) -> dict[str, Any]:
        """Parameters that are not the client's to choose."""
        own: dict[str, Any] = {"cache_salt": salt}
        given = fields.get("deadline_s")
        if given is None or (isinstance(given, int | float) and given > self._timeout_s):
            own["deadline_s"] = self._timeout_s
        return own

    # --- tokens -----------------------------------------------------------------------------------------

    def tokenize(self, body: bytes) -> dict[str, Any]:
        """POST /tokenize: of "prompt", or of "messages" as a chat would render them."""
        fields = self._served.fields(body)
        known = ("prompt", "messages", "tools", "add_special_tokens", "return_token_strs")
        text, messages, tools, special, written = (fields.pop(name, None) for name in known)
        of_chats = {name: given for name in WORDS if (given := fields.pop(name, None)) is not None}
        only_known(fields, ("model", *known, *WORDS))
        if (text is None) == (messages is None):
            invalid("prompt", "or messages must be given, and not both")
        if messages is not None:
            if special is not None and boolean("add_special_tokens", special):
                invalid("add_special_tokens", "is the template's to say")
            self._served.countable.check([messages, tools, of_chats.get("chat_template_kwargs")])
            ids = self._encode_chat(messages, with_tools(tools, **of_chats), self._served.countable)
        else:
            for name in ("tools", *of_chats) if tools is not None else of_chats:
                invalid(name, "needs messages")
            if not isinstance(text, str):
                invalid("prompt", f"must be a string, not {described(text)}")
            self._served.countable.check(text)
            add = special is None or boolean("add_special_tokens", special)
            ids = self._llm.tokenizer.encode(text, add_special=add)
        found = {"count": len(ids), "max_model_len": self._llm.config["max_model_len"], "tokens": ids}
        if written is not None and boolean("return_token_strs", written):
            found["token_strs"] = [self._llm.tokenizer.loaded.text_of(token_id) or "" for token_id in ids]
        return found

    def detokenize(self, body: bytes) -> dict[str, Any]:
        """POST /detokenize"""
        fields = self._served.fields(body)
        ids = required(fields, "tokens")
        only_known(fields, ("model", "tokens"))
        if not isinstance(ids, list):
            invalid("tokens", f"must be a list of token ids, not {described(ids)}")
        tokens = self._llm.tokenizer.check_ids(ids, "tokens")
        return {"prompt": self._llm.tokenizer.decode(tokens, skip_special=False)}


def _streaming(fields: Fields) -> tuple[bool, bool]:
    """(stream, include_usage), which leave the fields."""
    given = fields.pop("stream", None)
    stream = given is not None and boolean("stream", given)
    if stream and fields.get(_PROMPT_LOGPROBS) is not None:
        invalid(_PROMPT_LOGPROBS, "are no part of a stream")
    options = fields.pop("stream_options", None)
    if options is None:
        return stream, False
    if not stream:
        invalid("stream_options", "needs stream = true")
    if not isinstance(options, dict):
        invalid("stream_options", f"must be an object, not {described(options)}")
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            unknown_name(name, ("include_usage",), "stream_options.")
    if options.get("include_obfuscation"):
        not_supported_yet("stream_options.include_obfuscation")
    usage = options.get("include_usage")
    return stream, usage is not None and boolean("stream_options.include_usage", usage)


def _prompts(given: Any) -> list[Any]:
    prompts = [given] if is_one(given) else given
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= MAX_PROMPTS:
        found = measured(prompts)
        invalid("prompt", f"must be a text, token ids, or a list of 1 to {MAX_PROMPTS} of these, not {found}")
    for prompt in prompts:
        if not isinstance(prompt, str | list) or any(isinstance(item, dict) for item in prompt):
            found = described(prompt)
            invalid("prompt", f"must be a text, token ids, or a list of these, which {found} is not")
    return prompts


def _legacy_logprobs(value: Any) -> int | None:
    return None if value is None else integer("logprobs", value, 0, MAX_LOGPROBS)


def _check_legacy(fields: Fields) -> None:
    """Fields of /v1/completions alone, and those that it does not have."""
    if fields.pop("suffix", None) is not None:
        not_supported_yet("suffix")
    best_of = fields.pop("best_of", None)
    if best_of is not None and not same(best_of, fields.get("n") or 1):
        not_supported_yet("best_of")
    for name in (
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "top_logprobs",
        "max_completion_tokens",
        "messages",
        *WORDS,
    ):
        if name in fields:
            known = tuple(field for field in completions.FIELDS if field != name)
            unknown_name(name, ("prompt", "echo", "suffix", "best_of", *known))


def _check_prompt_logprobs(params: SamplingParams, n_tokens: int) -> None:
    """n_tokens: of all prompts, each as often as it is written."""
    if params.prompt_logprobs is None:
        return
    if n_tokens * (1 + params.prompt_logprobs) > MAX_PROMPT_LOGPROBS:
        invalid(_PROMPT_LOGPROBS, f"and those of the tokens themselves may be {MAX_PROMPT_LOGPROBS} in all")


def _check_limits(params: SamplingParams, n_prompts: int = 1) -> None:
    """The server's limits where they are narrower than the library's."""
    if params.n > MAX_CHOICES:
        invalid("n", f"must be in [1, {MAX_CHOICES}], not {described(params.n)}")
    if len(params.stop) > MAX_STOP_STRINGS:
        invalid("stop", f"may hold at most {MAX_STOP_STRINGS} strings, not {len(params.stop)}")
    if n_prompts * len(params.bad_words) > MAX_BAD_WORDS:
        invalid("bad_words", f"times the number of prompts may be at most {MAX_BAD_WORDS}")
