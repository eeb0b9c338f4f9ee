"""Text generation by a decoder, with transformers' parameters and result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tuili.errors import InvalidParameterError
from tuili.generation.checks import MAX_INT, boolean, described, integer
from tuili.generation.params import from_options
from tuili.generation.request import CompletionOutput, RequestOutput
from tuili.prompts import is_chat
from tuili.tasks.answers import as_ids, cleaned
from tuili.tasks.encoding import checked_str
from tuili.tasks.generate_words import in_our_words, settled
from tuili.tasks.pipeline import Pipeline, many, marked, refuse

TASK = "text-generation"


class Task(Pipeline):
    """`pipe(text_inputs, return_full_text=True, **what LLM.generate takes)`, and the
    words of transformers' `generate`: see `generate_words`.

    text_inputs      a text, the messages of a chat, or a list of either
    max_length,      of the prompt and what follows, in tokens; min_new_tokens of what follows alone
    min_length
    continue_final_message
                     of chats: the answer goes on with the last message; by default if it is an assistant's
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

    def answer(self, text_inputs: Any, **options: Any) -> Any:
        chosen = settled(self.task, self.options(options), (*self.OPTIONS, "params"), self.model)
        own = {name: chosen.pop(name) for name in self.OPTIONS}
        own["return_tensors"], tidy = as_ids(own), cleaned(own)
        if own["return_tensors"] and own["return_full_text"] is not None:
            raise InvalidParameterError(
                "return_full_text: return_tensors gives no text", param="return_tensors"
            )
        alone = isinstance(text_inputs, str) or is_chat(text_inputs)
        prompts = [text_inputs] if alone else many(text_inputs, "text_inputs")
        encoded = [self._encoded(prompt, own) for prompt in prompts]
        params = [from_options(chosen.get("params"), _steered(chosen, own, len(ids))) for ids in encoded]
        truncation = boolean("truncation", own["truncation"])
        outputs = self.model.generate(encoded, params, truncation=truncation) if encoded else []
        results = []
        for prompt, output in zip(prompts, outputs, strict=True):
            entries = [_result(prompt, output, one, tidy(one.text), own) for one in output.outputs]
            results.append(marked(entries, output.truncated))
        return results[0] if alone else results

    def elements(self, inputs: list[Any], *args: Any, **options: Any) -> list[Any]:
        if is_chat(inputs):  # the messages of one chat
            raise InvalidParameterError(
                f"text_inputs must be texts or chats, not {described(inputs[0])}", param="text_inputs"
            )
        return list(self.answer(inputs, *args, **options))

    def _encoded(self, prompt: Any, own: Mapping[str, Any]) -> list[int]:
        tokenizer = self.model.tokenizer
        if is_chat(prompt):
            if own["prefix"]:
                raise InvalidParameterError("prefix is for texts, not for chats", param="prefix")
            return tokenizer.encode_chat(
                self.model._render_chat(prompt, goes_on=_goes_on(prompt, own)).parts()
            )
        if own["continue_final_message"] is not None:
            boolean("continue_final_message", own["continue_final_message"])
        return tokenizer.encode(checked_str(own["prefix"], "prefix") + checked_str(prompt, "text_inputs"))


def _goes_on(messages: Any, own: Mapping[str, Any]) -> bool:
    """Whether the answer goes on with the last message."""
    last, given = messages[-1], own["continue_final_message"]
    known = isinstance(last, Mapping) and isinstance(last.get("content"), str)
    if given is None:
        return known and last.get("role") == "assistant"
    if boolean("continue_final_message", given) and not known:
        raise InvalidParameterError(
            "continue_final_message: the last message's content is not a text", param="continue_final_message"
        )
    return bool(given)


def _steered(chosen: Mapping[str, Any], own: Mapping[str, Any], n_prompt: int) -> dict[str, Any]:
    """What SamplingParams takes, for a prompt of n_prompt tokens, which max_length and min_length count."""
    options = {name: value for name, value in chosen.items() if name != "params"}
    if own["stop_sequence"] is not None:
        if "stop" in options:
            raise InvalidParameterError("stop_sequence is given next to stop", param="stop_sequence")
        options = {"include_stop_str_in_output": True} | options | {"stop": own["stop_sequence"]}
    cut = options.get("truncate_prompt_tokens")
    if isinstance(cut, int) and cut > 0:  # lengths count what is read
        n_prompt = min(n_prompt, cut)
    most, least, n_least = own["max_length"], own["min_length"], own["min_new_tokens"]
    if most is not None and not {"max_tokens", "max_new_tokens"} & set(options):
        options["max_tokens"] = integer("max_length", most, 1, MAX_INT) - n_prompt
        if options["max_tokens"] < 1:
            raise InvalidParameterError(
                f"max_length is {most}, and the prompt alone has {n_prompt} tokens; max_new_tokens counts "
                "what follows",
                param="max_length",
            )
    for name in ("min_new_tokens", "min_length"):
        if own[name] is not None and "min_tokens" in options:
            raise InvalidParameterError(f"{name} is given next to min_tokens", param=name)
    if n_least is not None:
        options["min_tokens"] = n_least
    elif least is not None:
        options["min_tokens"] = max(0, integer("min_length", least, 0, MAX_INT) - n_prompt)
    return options


def _result(
    prompt: Any, output: RequestOutput, one: CompletionOutput, text: str, own: Mapping[str, Any]
) -> dict[str, Any]:
    if own["return_tensors"]:
        return {"generated_token_ids": [*output.prompt_token_ids, *one.token_ids]}
    full = own["return_full_text"]
    if full is not None and not boolean("return_full_text", full):
        return {"generated_text": text}
    if isinstance(prompt, str):
        return {"generated_text": prompt + text}
    if _goes_on(prompt, own):
        return {"generated_text": [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + text}]}
    return {"generated_text": [*prompt, {"role": "assistant", "content": text}]}
