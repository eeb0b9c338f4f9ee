"""From a conversation to a prompt: what a model's chat template makes of checked messages.

Templates are jinja code from model files. They run in `tuili.templating`, which is imported on first use, and
the result remembers which of its characters came from a user: special tokens spelled there stay ordinary
text.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from tuili.chat.messages import Budget, bad, validate_messages, validate_tools
from tuili.checks import described, invalid
from tuili.errors import InvalidParameterError, TemplateError
from tuili.loading.files import shown
from tuili.loading.tokenizers.tokenizer import LoadedTokenizer
from tuili.signals import of_a_handler
from tuili.tokenization.tokenizer import clean_text

T = TypeVar("T")

MAX_TEXT_CHARS = 4 << 20  # of any text that a template makes, in addition to the conversation's own length

# Work: 10^5 ticks are about 20 ms. A long conversation has more to do.
_BASE_FUEL = 200_000
_FUEL_PER_VALUE = 400

_RESERVED = ("messages", "tools", "add_generation_prompt")
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation.

    text        all of it
    user_spans  [begin, end) of the characters that came from messages and tools, in order
    """

    text: str
    user_spans: tuple[tuple[int, int], ...]

    def parts(self) -> Iterator[tuple[str, bool]]:
        """(text, did a user write it?) pairs, for `Tokenizer.encode_chat`."""
        at = 0
        for begin, end in self.user_spans:
            if at < begin:
                yield self.text[at:begin], False
            yield self.text[begin:end], True
            at = end
        if at < len(self.text):
            yield self.text[at:], False


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
    now: datetime | None = None,
    **names: str | float | bool | None,
) -> Prompt:
    """The prompt that a model's chat template makes of `messages`.

    add_generation_prompt   end with the beginning of the assistant's answer
    continue_final_message  end where the last message's text does, so that an answer goes on with it
    tools                   JSON schemas of functions, as OpenAI writes them
    variables               a user's, JSON values; one that the template does not know is an error
    now                     what `strftime_now` tells; None for the clock
    names                   further variables: bos_token, eos_token … and whatever the template may know,
                            scalars only
    raises                  InvalidParameterError (messages[i].…, chat_template_kwargs.…), TemplateError;
                            with the code template_continue if the template does not show the last message
    """
    conversation = validate_messages(messages)
    functions = None if tools is None else validate_tools(tools)
    if variables:
        names = {**names, **_validate_variables(template, variables)}
    for name, value in names.items():
        if name in _RESERVED or not name.isidentifier() or name.startswith("_"):
            bad(shown(name), "not a variable that can be given")
        if value is not None and not isinstance(value, (str, int, float)) and name not in (variables or ()):
            invalid(name, f"must be a scalar, not {described(value)}")

    def render(messages: list[dict[str, Any]]) -> Prompt:
        return _render(template, messages, functions, now, names, add_generation_prompt=add_generation_prompt)

    return _left_open(render, conversation) if continue_final_message else render(conversation)


def render_pair(
    template: str,
    query: str,
    document: str,
    names: Mapping[str, Any],
    *,
    system: str | None = None,
    structured: bool = False,
) -> Prompt:
    """What a reranker's chat template makes of messages of the roles "query" and "document", as
    sentence-transformers gives them; structured: their contents are lists of one part.

    names   further variables, scalars, add_generation_prompt among them
    raises  TemplateError (template_pair) if the template does not show both
    """
    query, document = clean_text(query), clean_text(document)

    def rendered(query: str, document: str) -> Prompt:
        roles = {"system": system and clean_text(system), "query": query, "document": document}
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if structured else text}
            for role, text in roles.items()
            if text is not None
        ]
        return _render(
            template,
            messages,
            None,
            None,
            names,
            add_generation_prompt=bool(names.get("add_generation_prompt")),
        )

    prompt = rendered(query, document)
    if not all(text.strip() in prompt.text for text in (query, document)):  # perhaps as something else
        plain, *others = (rendered(*pair).text for pair in (("0", "0"), ("1", "0"), ("0", "1")))
        if plain in others:
            raise TemplateError(
                "chat template: it does not show messages of the roles query and document",
                code="template_pair",
            )
    return prompt


def token_names(tokens: LoadedTokenizer) -> dict[str, Any]:
    """The special tokens that templates know by name."""
    ids = {"bos_token": tokens.bos_id, "pad_token": tokens.pad_id, "unk_token": tokens.unk_id}
    ids["eos_token"] = tokens.eos_ids[0] if tokens.eos_ids else None
    return {name: tokens.special.get(token_id) for name, token_id in ids.items() if token_id is not None}


def _left_open(rendered: Callable[[list[dict[str, Any]]], Prompt], messages: list[dict[str, Any]]) -> Prompt:
    """A conversation up to where the last message's text ends. A mark that stands there in another rendering
    shows the place: what comes after it may have any text of the conversation in it.
    """
    *before, last = messages
    if last.get("tool_calls"):
        bad(f"messages[{len(before)}].tool_calls", "are its end, with which no answer can go on")
    content = last["content"]
    mark, spaces = secrets.token_hex(16), content[len(content.rstrip()) :]
    # Most templates take spaces at the end of a text away, here the one behind the mark.
    marked_text = rendered([*before, {**last, "content": f"{content}{mark} "}]).text
    end = marked_text.rfind(mark)
    if not marked_text.startswith(f"{mark} ", end) and marked_text.endswith(spaces, 0, end):
        end -= len(spaces)
    prompt, beginning = rendered(messages), marked_text[:end]
    ends_there = prompt.text.startswith(beginning) and beginning.rstrip().endswith(content.strip())
    if end < 0 or not ends_there:
        raise TemplateError(
            "chat template: it does not show the last message's text, with which the answer is to go on, "
            "once and as it is",
            code="template_continue",
        )
    spans = tuple((begin, min(stop, end)) for begin, stop in prompt.user_spans if begin < end)
    return Prompt(prompt.text[:end], spans)


def _render(
    template: str,
    messages: list[dict[str, Any]],
    tools: list[Any] | None,
    now: datetime | None,
    names: Mapping[str, Any],
    *,
    add_generation_prompt: bool,
) -> Prompt:
    from tuili.templating import environment
    from tuili.templating.marked_text import MarkedText, marked, spans_of
    from tuili.templating.meter import METER, Meter

    n_values, n_chars = _size([messages, tools, dict(names)])
    given: dict[str, Any] = {
        name: clean_text(value) if name in _TOKENS and isinstance(value, str) else marked(value)
        for name, value in names.items()
    }
    # Roles are not a user's to choose, and templates make special tokens of them: "<|" + role + "|>".
    given["messages"] = [
        {MarkedText(key): value if key == "role" else marked(value) for key, value in message.items()}
        for message in messages
    ]
    given |= {"tools": marked(tools), "add_generation_prompt": bool(add_generation_prompt)}
    fuel = _BASE_FUEL + _FUEL_PER_VALUE * n_values + n_chars
    token = METER.set(Meter(fuel, MAX_TEXT_CHARS + n_chars, now))
    try:
        text = _guarded(lambda source: environment.compile_template(source).render(given), template)
    finally:
        METER.reset(token)
    return Prompt(str.__str__(text), spans_of(text))


def _guarded(work: Callable[[str], T], template: str) -> T:
    """What `work` makes of a template.

    raises  TemplateError for whatever goes wrong; what a signal's handler raises meanwhile stays as it is
    """
    from jinja2 import TemplateError as JinjaError
    from jinja2 import TemplateSyntaxError
    from jinja2.exceptions import SecurityError

    try:
        return work(template)
    except (TemplateError, InvalidParameterError, KeyboardInterrupt):
        raise
    except JinjaError as error:
        kind = "template_security" if isinstance(error, SecurityError) else "template_error"
        code = "template_syntax" if isinstance(error, TemplateSyntaxError) else kind
        raise TemplateError(f"chat template: {shown(str(error), 200)}", code=code) from None
    except RecursionError:
        raise TemplateError("chat template: nested too deeply", code="template_depth") from None
    except Exception as error:  # what an expression of the template raises: TypeError, ZeroDivisionError …
        if of_a_handler(error):
            raise
        problem = f"chat template: {type(error).__name__} while rendering"
        raise TemplateError(problem, code="template_error") from None


def _validate_variables(template: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    from tuili.templating import environment

    where = "chat_template_kwargs"
    plain: dict[str, Any] = Budget().plain(variables, where)
    known = _guarded(environment.variables_of, template) - {*_RESERVED, *_TOKENS}
    for name in plain:
        if name in (*_RESERVED, *_TOKENS):
            bad(f"{where}.{name}", "not a variable that can be given")
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            bad(f"{where}.{shown(name)}", f"not known to the model's chat template, which knows {listed}")
    return plain


def _size(value: Any) -> tuple[int, int]:
    """The number of values in `value`, and of characters."""
    n_values, n_chars, stack = 0, 0, [value]
    while stack:
        item = stack.pop()
        n_values += 1
        if isinstance(item, str):
            n_chars += len(item)
        elif isinstance(item, dict):
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
    return n_values, n_chars
