"""Text generation by a decoder, with transformers' result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tuili.generation.checks import boolean
from tuili.prompts import is_chat
from tuili.tasks.pipeline import Pipeline, many, marked, refuse

TASK = "text-generation"


class Task(Pipeline):
    """`pipe(text_inputs, return_full_text=True, **what LLM.generate takes)`.

    text_inputs  a text, the messages of a chat, or a list of either
    returns      per input a list of dicts: "generated_text", the prompt and what follows, or all messages;
                 with return_full_text=False what follows alone
    """

    def _known(self, options: dict[str, Any]) -> dict[str, Any]:
        return options  # LLM.generate checks them

    def prepare(self) -> None:
        if self.model.kind != "decoder":
            refuse(TASK, self.model)

    def __call__(self, text_inputs: Any, **options: Any) -> Any:
        chosen = {"return_full_text": None, **self.options(options)}
        full = chosen.pop("return_full_text")
        whole = True if full is None else boolean("return_full_text", full)
        alone = isinstance(text_inputs, str) or is_chat(text_inputs)
        prompts = [text_inputs] if alone else many(text_inputs, "text_inputs")
        answer = self.model.chat if prompts and is_chat(prompts[0]) else self.model.generate
        outputs = answer(prompts, **chosen) if prompts else []
        results = []
        for prompt, output in zip(prompts, outputs, strict=True):
            texts = [one.text for one in output.outputs]
            entries = [{"generated_text": _joined(prompt, text) if whole else text} for text in texts]
            results.append(marked(entries, output.truncated))
        return results[0] if alone else results

    OPTIONS: ClassVar[Mapping[str, Any]] = {}


def _joined(prompt: Any, text: str) -> Any:
    if isinstance(prompt, str):
        return prompt + text
    return [*prompt, {"role": "assistant", "content": text}]
