"""How messages become a prompt, as a call says it: what a chat template is given beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tuili.checks import boolean, described, invalid
from tuili.generation.prompts import Messages, is_chat

if TYPE_CHECKING:
    from tuili.chat.tool_calls import Tools

WORDS = ("add_generation_prompt", "continue_final_message", "chat_template_kwargs")


@dataclass(frozen=True, slots=True)
class Rendering:
    """How messages become a prompt, in vLLM's and transformers' words.

    begins     add_generation_prompt: the prompt ends with the beginning of an answer
    goes_on    continue_final_message: it ends where the last message's text does
    variables  chat_template_kwargs: a user's variables of the template
    tools      the functions that an answer may call; None: messages of tools are the template's to show
    """

    begins: bool = True
    goes_on: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    tools: Tools | None = None

    def role(self, messages: Messages) -> str:
        """The role of the message that comes after these."""
        return "assistant" if self.begins else str(messages[-1]["role"])


USUAL = Rendering()


def rendering(
    add_generation_prompt: object = None,
    continue_final_message: object = None,
    chat_template_kwargs: object = None,
    tools: Tools | None = None,
) -> Rendering:
    """What these ask for; None is the default.

    raises  InvalidParameterError, also where an answer is to begin and to go on with the last message
    """
    given = {"continue_final_message": continue_final_message, "add_generation_prompt": add_generation_prompt}
    flags = {name: boolean(name, value) for name, value in given.items() if value is not None}
    goes_on = flags.get("continue_final_message", False)
    begins = flags.get("add_generation_prompt", not goes_on)
    if goes_on and begins:
        invalid(
            "continue_final_message", "goes on with the last message: add_generation_prompt begins another"
        )
    variables = {} if chat_template_kwargs is None else chat_template_kwargs
    if not isinstance(variables, Mapping):
        invalid("chat_template_kwargs", f"must be variables by name, not {described(variables)}")
    return Rendering(begins, goes_on, variables, tools)


def with_tools(tools: object, **words: object) -> Rendering:
    """`rendering`, of tools as OpenAI writes them."""
    from tuili.chat.tool_calls import tools_of  # here: a start that only generates does without

    return rendering(**words, tools=tools_of({"tools": tools}))


def taken_from(options: dict[str, Any], prompt: object) -> Rendering | None:
    """What the WORDS and tools among `options` ask for, which leave them; None if none is there.

    raises  InvalidParameterError, also where the prompt is no messages
    """
    given = {name: options.pop(name) for name in (*WORDS, "tools") if name in options}
    if given and not is_chat(prompt):
        invalid(next(iter(given)), f"is for messages, not for {described(prompt)}")
    return with_tools(given.pop("tools", None), **given) if given else None
