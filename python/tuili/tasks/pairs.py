"""A query and a document as a cross-encoder reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tuili.errors import PromptTooLongError, TemplateError
from tuili.tasks.encoding import Encoded, Room
from tuili.tasks.head import TaskModel


@dataclass(frozen=True)
class PairReading:
    """As two texts or, if there is a format of messages, by the chat template.

    prompt     what stands before the query, or what the system says
    variables  of the template, besides the messages
    """

    prompt: str | None
    format: str | None
    template: str | None
    variables: Mapping[str, str | float | bool] = field(default_factory=dict)

    def encode(self, model: TaskModel, space: Room, query: str, document: str) -> Encoded:
        """raises  TemplateError, PromptTooLongError; of messages nothing is cut"""
        if self.format is None:
            return model.encode_in(space, (self.prompt or "") + query, document)
        if self.template is None:
            raise TemplateError("the model has no chat template, which pairs need", code="template_missing")
        from tuili import chat  # here: most models need no templates

        prompt = chat.render_pair(
            self.template,
            query,
            document,
            chat.token_names(model.tokenizer.loaded) | dict(self.variables),
            system=self.prompt,
            structured=self.format == "structured",
        )
        ids = model.tokenizer.encode_chat(prompt.parts())
        if len(ids) > space.max_len:
            raise PromptTooLongError(
                f"the pair has {len(ids)} tokens as messages; the limit is {space.max_len}"
            )
        return Encoded(ids, [0] * len(ids), [], [], False)
