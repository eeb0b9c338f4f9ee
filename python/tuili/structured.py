"""`LLM.prepare_grammars`: what the first structured request would otherwise do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuili.llm import LLM


def prepare_grammars(self: LLM) -> None:
    """Index the model's vocabulary for json_schema, regex, choice and grammar; returns when it is done.

    Once per model; without this the first request with one of them does it. The library keeps the GIL
    meanwhile, so that nobody gets tokens for 0.05 s with 49,000 of them, 0.5 s with 262,000, and twice where
    tokens lose a space at a text's beginning: a service calls this at its start.

    raises  InvalidParameterError without the extra tuili[structured], GrammarError for a model without end of
            text, ModelUnsupportedError for an encoder
    """
    grammars = self._decoder_engine().grammars
    assert grammars is not None
    grammars.prepare()
