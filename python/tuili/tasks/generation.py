"""Text generation by a decoder, with transformers' parameters and result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from tuili.chat.rendering import WORDS, Rendering, rendering, with_tools
from tuili.checks import MAX_INT, boolean, described, integer, invalid, is_text
from tuili.errors import InvalidParameterError
from tuili.generation.outputs import CompletionOutput, RequestOutput
from tuili.generation.params import SamplingParams, from_options
from tuili.generation.prompts import is_chat
from tuili.generation.sources import ANSWER_LEN
from tuili.generation.structure import form_of
from tuili.tasks.answers import as_ids, cleaned
from tuili.tasks.encoding import checked_str
from tuili.tasks.generate_words import in_our_words, settled
from tuili.tasks.pipeline import Pipeline, many, marked, refuse
from tuili.tokenization.tokenizer import encoding_of

TASK = "text-generation"


class Task(Pipeline):
    """`pipe(text_inputs, return_full_text=True, **what LLM.generate takes)`, and the
    words of transformers' `generate`: see `generate_words`.

    text_inputs      a text, the messages of a chat, or a list of either; an empty text is gone on with from
                     the token that texts begin with
    max_length,      of the prompt and what follows, in tokens, without a prefix's; min_new_tokens of what
    min_length       follows alone
    continue_final_message
                     of chats: the answer goes on with the last message; by default if it is an assistant's
    add_generation_prompt
                     of chats: the answer is a message of its own; by default if it does not go on
    chat_template_kwargs, tokenizer_encode_kwargs
                     of chats: variables of the template, under vLLM's name or transformers'
    tools            of chats: functions, as OpenAI writes them, that an answer may call
    prefix           stands before each text, and is left out of the result
    stop_sequence    ends an answer, of which it is the last part
    return_tensors   give "generated_token_ids", a list with the prompt's, for texts
    return_text      its opposite
    clean_up_tokenization_spaces
                     write no space before punctuation in what follows
    truncation       cut the beginning of a prompt that is too long
    returns          per input a list of dicts: "generated_text", the prompt and what follows, or all
                     messages; with return_full_text=False what follows alone
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "return_full_text": None,
        "return_tensors": None,
        "return_text": None,
        "clean_up_tokenization_spaces": None,
        "continue_final_message": None,
        "add_generation_prompt": None,
        "chat_template_kwargs": None,
        "tokenizer_encode_kwargs": None,
        "tools": None,
        "prefix": "",
        "stop_sequence": None,
        "max_length": None,
        "min_length": None,
        "min_new_tokens": None,
        "truncation": False,
    }

    def _known(self, options: dict[str, Any]) -> dict[str, Any]:
        return in_our_words(self.task, options, (*self.OPTIONS, "params"))

    def prepare(self) -> None:
        if self.model.kind != "decoder":
            refuse(TASK, self.model)

    def settings(self, chosen: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The task's own words, checked, and how the answer is made."""
        rest = settled(self.task, chosen, (*self.OPTIONS, "params"), self.model)
        own = {name: rest.pop(name) for name in self.OPTIONS}
        for name in ("truncation", "return_full_text"):
            if own[name] is not None:
                boolean(name, own[name])
        own["return_tensors"] = as_ids(own)
        if own["return_tensors"] and own["return_full_text"] is not None:
            raise InvalidParameterError(
                "return_full_text: return_tensors gives no text", param="return_tensors"
            )
        cleaned(own)
        checked_str(own["prefix"], "prefix")
        _rendering([{}], own)
        if own["min_length"] is not None:  # counts the prompt, which is not known here
            integer("min_length", own["min_length"], 0, MAX_INT)
        from_options(rest.get("params"), _steered(rest, {**own, "min_length": None}, 0))
        return own, rest

    def answer(self, text_inputs: Any, **options: Any) -> Any:
        own, chosen = self.settings(self.options(options))
        tidy = cleaned(own)
        alone = isinstance(text_inputs, str) or is_chat(text_inputs)
        prompts = [text_inputs] if alone else many(text_inputs, "text_inputs")
        given = chosen.get("params")
        cuts = own["truncation"] or chosen.get("truncate_prompt_tokens") is not None
        cuts = cuts or getattr(given, "truncate_prompt_tokens", None) is not None
        encoded = [self._encoded(prompt, own, cuts=cuts) for prompt in prompts]
        files = self.model.config["sampling_defaults"]
        usual = files.get("max_tokens", None if "max_length" in files else ANSWER_LEN)
        before = encoding_of(self.model.tokenizer.loaded.backend, own["prefix"]).ids if own["prefix"] else []
        lengths = [len(ids) - len(before) for ids in encoded]
        params = [_ending(from_options(given, _steered(chosen, own, n)), usual) for n in lengths]
        outputs = self.model.generate(encoded, params, truncation=own["truncation"]) if encoded else []
        results = []
        for prompt, output in zip(prompts, outputs, strict=True):
            entries = [_result(prompt, output, one, tidy(one.text), own) for one in output.outputs]
            results.append(marked(entries, truncated=output.truncated))
        return results[0] if alone else results

    def elements(self, inputs: list[Any], *args: Any, **options: Any) -> list[Any]:
        if is_chat(inputs):  # the messages of one chat
            invalid("text_inputs", f"must be texts or chats, not {described(inputs[0])}")
        return list(self.answer(inputs, *args, **options))

    def _encoded(self, prompt: Any, own: Mapping[str, Any], *, cuts: bool) -> list[int]:
        if is_chat(prompt):
            if own["prefix"]:
                invalid("prefix", "is for texts, not for chats")
            return self.model.encode_chat(prompt, _rendering(prompt, own), cuts=cuts)
        for name in ("chat_template_kwargs", "tokenizer_encode_kwargs", "tools"):
            if own[name] is not None:
                invalid(name, "is for chats, not for texts")
        rendering(*(own[name] for name in WORDS))
        text = own["prefix"] + checked_str(prompt, "text_inputs")
        text = self.model.fitting(text, cuts=cuts)
        first = self.model.tokenizer.loaded.bos_id
        return self.model.tokenizer.encode(text) or ([] if first is None else [first])


def _rendering(messages: Any, own: Mapping[str, Any]) -> Rendering:
    """How a chat is rendered; as in transformers, an answer goes on with a last assistant's message."""
    given = {name: own[name] for name in WORDS}
    if own["tokenizer_encode_kwargs"] is not None:
        if own["chat_template_kwargs"] is not None:
            invalid("tokenizer_encode_kwargs", "is given next to chat_template_kwargs")
        given["chat_template_kwargs"] = own["tokenizer_encode_kwargs"]
    if given["continue_final_message"] is None and given["add_generation_prompt"] is not True:
        last = messages[-1]
        known = isinstance(last, Mapping) and last.get("content") is not None
        given["continue_final_message"] = known and is_text(last.get("role"), "assistant")
    return rendering(**given) if own["tools"] is None else with_tools(own["tools"], **given)


def _continued(content: Any, text: str) -> Any:
    """The content of a message, a text or parts, with what follows it."""
    if isinstance(content, str):
        return content + text
    return [*content[:-1], {**content[-1], "text": content[-1]["text"] + text}]


def _steered(chosen: Mapping[str, Any], own: Mapping[str, Any], n_prompt: int) -> dict[str, Any]:
    """What SamplingParams takes, for a prompt of n_prompt tokens, which max_length and min_length count."""
    options = {name: value for name, value in chosen.items() if name != "params"}
    if own["stop_sequence"] is not None:
        if "stop" in options:
            invalid("stop_sequence", "is given next to stop")
        options = {"include_stop_str_in_output": True} | options | {"stop": own["stop_sequence"]}
    cut = options.get("truncate_prompt_tokens")
    if isinstance(cut, int) and cut > 0:  # lengths count what is read
        n_prompt = min(n_prompt, cut)
    most, least, n_least = own["max_length"], own["min_length"], own["min_new_tokens"]
    if most is not None and not {"max_tokens", "max_new_tokens"} & set(options):
        options["max_tokens"] = integer("max_length", most, 1, MAX_INT) - n_prompt
        if options["max_tokens"] < 1:
            invalid(
                "max_length",
                f"is {most}, and the prompt alone has {n_prompt} tokens; max_new_tokens counts what follows",
            )
    for name in ("min_new_tokens", "min_length"):
        if own[name] is not None and "min_tokens" in options:
            invalid(name, "is given next to min_tokens")
    if n_least is not None:
        options["min_tokens"] = n_least
    elif least is not None:
        options["min_tokens"] = max(0, integer("min_length", least, 0, MAX_INT) - n_prompt)
    return options


def _ending(params: SamplingParams, usual: int | None) -> SamplingParams:
    """`params` with `usual` tokens where nobody says how many; an answer of a given form ends by itself."""
    if usual is None or params.max_tokens is not None or form_of(params) is not None:
        return params
    return dataclasses.replace(params, max_tokens=max(usual, params.min_tokens or 0))


def _result(
    prompt: Any, output: RequestOutput, one: CompletionOutput, text: str, own: Mapping[str, Any]
) -> dict[str, Any]:
    if own["return_tensors"]:
        return {"generated_token_ids": [*output.prompt_token_ids, *one.token_ids]}
    full = own["return_full_text"]
    if full is not None and not full:
        return {"generated_text": text}
    if isinstance(prompt, str):
        return {"generated_text": prompt + text}
    if _rendering(prompt, own).goes_on:
        return {
            "generated_text": [
                *prompt[:-1],
                {**prompt[-1], "content": _continued(prompt[-1]["content"], text)},
            ]
        }
    return {"generated_text": [*prompt, {"role": "assistant", "content": text}]}
