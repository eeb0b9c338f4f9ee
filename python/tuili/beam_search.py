"""`LLM.beam_search`: `generate` with the words of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuili.generation.params import MAX_BEAMS, SamplingParams, boolean, integer
from tuili.generation.request import RequestOutput

if TYPE_CHECKING:
    from tuili.llm import LLM


def beam_search(
    self: LLM,
    prompts: Any,
    beam_width: int = 4,
    max_tokens: int = 64,
    length_penalty: float = 1.0,
    *,
    early_stopping: bool = False,
    truncation: bool = False,
    **options: Any,
) -> RequestOutput | list[RequestOutput]:
    """The beam_width most probable continuations of a prompt, or of each of a list, best first.

    A continuation's score is cumulative_logprob / len(token_ids) ** length_penalty, in nats; the search is
    that of transformers. A width of 1 is greedy.

    prompts         as `generate` takes them
    early_stopping  end with beam_width finished continuations, even if better ones may follow
    options         ignore_eos, stop_token_ids, deadline_s and what else SamplingParams has for a search
    raises          as `generate`; InvalidParameterError for what does not go with a search
    """
    width = integer("beam_width", beam_width, 1, MAX_BEAMS)
    searching: dict[str, Any] = {"n": width, "num_beams": width, "temperature": 0.0}
    if width > 1:
        searching |= {
            "length_penalty": length_penalty,
            "early_stopping": boolean("early_stopping", early_stopping),
        }
    else:
        searching["logprobs"] = 0  # for the score
    params = SamplingParams(max_tokens=max_tokens, **searching | options)
    outputs: RequestOutput | list[RequestOutput] = self.generate(prompts, params, truncation=truncation)
    return outputs
