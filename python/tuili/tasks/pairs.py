"""A query and a document as a cross-encoder reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from tuili.errors import PromptTooLongError, TemplateError
from tuili.tasks.encoding import Encoded, Room, too_long
from tuili.tasks.head import TaskModel


@dataclass(frozen=True)
class PairReading:
    """How a pair is read: as two texts or, if there is a format of messages, by the chat template.

    prompt     what stands before the query, or what the system says
    variables  of the template, besides the messages
    """

    prompt: str | None
    format: str | None
    template: str | None
    variables: Mapping[str, str | float | bool] = field(default_factory=dict)

    def encode(self, model: TaskModel, space: Room, query: str, document: str) -> Encoded:
        """raises  TemplateError, PromptTooLongError"""
        if self.format is None:
            return model.encode((self.prompt or "") + query, document, space)
        ids = self._messages(model, query, document)
        truncated = len(ids) > space.max_len
        if truncated:
            if space.cut is None:
                raise too_long(len(ids), space.max_len)
            end = self._end(model)
            if len(end) >= space.max_len:
                raise PromptTooLongError(f"the chat template alone leaves no room in {space.max_len} tokens")
            ids = ids[: space.max_len - len(end)] + end
        return Encoded(ids, [0] * len(ids), [], [], truncated)

    def _messages(self, model: TaskModel, query: str, document: str) -> list[int]:
        if self.template is None:
            raise TemplateError("the model has no chat template, which pairs need", code="template_missing")
        from tuili.chat import template as chat  # here: most models need no templates

        prompt = chat.render_pair(
            self.template,
            query,
            document,
            chat.token_names(model.tokenizer.loaded) | dict(self.variables),
            system=self.prompt,
            structured=self.format == "structured",
        )
        return model.tokenizer.encode_chat(prompt.parts())

    def _end(self, model: TaskModel) -> list[int]:
        """The tokens that end any pair, which a decoder judges after: those stay where a text is cut."""
        pairs = zip(*(reversed(self._messages(model, text, text)) for text in ("0", "1 2 3 4")), strict=False)
        return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)][::-1]
