"""What an LLM answers conversations with: its chat template, and the engine as for any prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from tuili.chat.rendering import USUAL, Rendering, with_tools
from tuili.checks import boolean, invalid
from tuili.errors import CUTTING_HELPS, TemplateError, cutting_helps
from tuili.generation import params as parameters
from tuili.generation.outputs import RequestOutput
from tuili.generation.params import SamplingParams
from tuili.generation.prompts import Messages
from tuili.loading.model import LoadedModel
from tuili.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tuili.chat.template import Prompt
    from tuili.generation.engine import Engine


class Conversations:
    """A part of `LLM`, which makes what is declared here."""

    tokenizer: Tokenizer
    loaded: LoadedModel
    name: str

    def _decoder_engine(self) -> Engine:
        raise NotImplementedError

    def _generate_all(
        self, prompts: Sequence[Any], params: Sequence[SamplingParams], *, truncation: bool
    ) -> list[RequestOutput]:
        raise NotImplementedError

    @overload
    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tools: list[dict[str, Any]] | None = None,
        truncation: bool = False,
        **options: Any,
    ) -> RequestOutput: ...
    @overload
    def chat(
        self,
        messages: list[Messages],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tools: list[dict[str, Any]] | None = None,
        truncation: bool = False,
        **options: Any,
    ) -> list[RequestOutput]: ...
    def chat(
        self,
        messages: Any,
        params: Any = None,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tools: list[dict[str, Any]] | None = None,
        truncation: bool = False,
        **options: Any,
    ) -> RequestOutput | list[RequestOutput]:
        """Answer a conversation by the model's chat template; a list of conversations gives a list of
        RequestOutput.

        messages                dicts with "role" and "content"; text that spells special tokens stays text
        add_generation_prompt   end the prompt with the beginning of an answer; by default, unless it goes on
        continue_final_message  the answer goes on with the last message, from the end of its text
        chat_template_kwargs    variables of the template, such as {"enable_thinking": False}; one that it
                                does not know is an error
        tools                   functions as OpenAI writes them, that an answer may call: its text says
                                which; `create_chat_completion` reads the calls
        raises                  TemplateError if the model has none, InvalidParameterError naming messages[i]
                                or chat_template_kwargs.NAME, and as `generate`
        """
        how = with_tools(
            tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            chat_template_kwargs=chat_template_kwargs,
        )
        if isinstance(messages, list | tuple) and messages and isinstance(messages[0], list | tuple):
            chats, each = messages, parameters.of_each(params, options, len(messages))
        else:
            chats, each = [messages], [parameters.from_options(params, options)]
        truncates = boolean("truncation", truncation)
        cuts = [truncates or chosen.truncate_prompt_tokens is not None for chosen in each]
        ids = [self.encode_chat(one, how, cuts=cut) for one, cut in zip(chats, cuts, strict=True)]
        outputs = self._generate_all(ids, each, truncation=truncation)
        return outputs if chats is messages else outputs[0]

    def create_chat_completion(self, *, messages: Messages, **fields: Any) -> dict[str, Any]:
        """OpenAI's chat completion with the model in this process: its fields in, its dict out.

        raises  InvalidParameterError for a field that is unknown or not implemented; otherwise as `chat`
        """
        from tuili.chat import completions

        if (stream := fields.get("stream")) is not None and boolean("stream", stream):
            problem = "is for HTTP: in a process `stream(messages, …)` gives the pieces of an answer"
            invalid("stream", problem, code="not_supported_yet")
        wanted = completions.chat_request(fields)
        cuts = wanted.params.truncate_prompt_tokens is not None
        with cutting_helps("; truncate_prompt_tokens=-1 cuts it"):
            ids = self.encode_chat(messages, wanted.rendering, cuts=cuts)
            [output] = self._generate_all([ids], [wanted.params], truncation=False)
        name = fields.get("model") or self.name
        role = wanted.rendering.role(messages)
        return completions.completion(output, name, self.tokenizer.token_bytes, wanted.tools, role)

    def encode_chat(self, messages: Any, how: Rendering = USUAL, *, cuts: bool = False) -> list[int]:
        """The ids of a chat, which must fit unless it `cuts`."""
        self._decoder_engine()  # what is no decoder lacks more than a template
        prompt = self.render_chat(messages, how)
        if cuts:
            ids = self.tokenizer.encode_chat(self.tokenizer.chat_ending(prompt.parts(), self._longest()))
            first = self.tokenizer.first_id
            if first is None or ids[:1] == [first]:
                return ids
            began = prompt.text.startswith(self.tokenizer.loaded.text_of(first) or "\0")
            return [first, *ids] if began else ids
        self.fitting(prompt.text, cuts=False)
        return self.tokenizer.encode_chat(prompt.parts())

    def fitting(self, text: str, *, cuts: bool) -> str:
        """What is tokenized of a text: all of it or, if it `cuts`, what has more tokens than are read.

        raises  PromptTooLongError if a long text cannot have as few tokens as are read
        """
        if not cuts:
            self.tokenizer.check_fits(text, self._longest(), CUTTING_HELPS)
            return text
        decodes = self._decoder_engine().sources is None
        part = self.tokenizer.ending if decodes else self.tokenizer.beginning
        return part(text, self._longest())

    def _longest(self) -> int:
        engine = self._decoder_engine()
        return engine.max_model_len if engine.sources is None else engine.sources.max_len

    def render_chat(self, messages: Any, how: Rendering = USUAL) -> Prompt:
        """What the model's template makes of messages. raises  TemplateError, InvalidParameterError"""
        from tuili.chat import template as chat
        from tuili.chat import tool_calls

        template = self.loaded.chat_template
        if template is None:
            raise TemplateError(
                "the model has no chat template; it continues texts: generate, or /v1/completions",
                code="template_missing",
            )
        tools, definitions = how.tools, None
        if tools is not None and "tools" not in template:
            messages = tool_calls.in_words(messages, tools, goes_on=how.goes_on)
        elif tools is not None and tools.offered:
            definitions = tools.definitions
        return chat.render(
            template,
            messages,
            add_generation_prompt=how.begins,
            continue_final_message=how.goes_on,
            tools=definitions,
            variables=how.variables,
            **chat.token_names(self.tokenizer.loaded),
        )
