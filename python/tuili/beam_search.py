"""`LLM.beam_search`: `generate` with the words of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tuili.generation.checks import integer
from tuili.generation.params import MAX_BEAMS, SamplingParams, canonical_names
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
    early_stopping: bool | Literal["never"] = False,
    truncation: bool = False,
    **options: Any,
) -> RequestOutput | list[RequestOutput]:
    """The beam_width most probable continuations of a prompt, or of each of a list, best first.

    A continuation's `score` is the sum of its tokens' log-probabilities / len(token_ids) ** length_penalty,
    in nats; the search is that of transformers. A width of 1 is greedy.

    prompts         as `generate` takes them
    early_stopping  True: end with beam_width finished continuations, even if better ones may follow; "never":
                    only when none can follow, however long it becomes
    options         stop, logprobs, no_repeat_ngram_size, deadline_s and what else SamplingParams has for a
                    search; in a json_schema, regex, choice or grammar a text may come more than once, of
                    other tokens each time
    raises          as `generate`; InvalidParameterError for what does not go with a search
    """
    width = integer("beam_width", beam_width, 1, MAX_BEAMS)
    searching: dict[str, Any] = {"n": width, "num_beams": width, "temperature": 0.0}
    how: dict[str, Any] = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    if width > 1:
        searching |= how
    else:
        searching["logprobs"] = 0  # for the score
        SamplingParams(num_beams=2, **how)  # checked all the same
    params = SamplingParams(max_tokens=max_tokens, **searching | canonical_names(options))
    outputs: RequestOutput | list[RequestOutput] = self.generate(prompts, params, truncation=truncation)
    if width == 1:
        for output in outputs if isinstance(outputs, list) else [outputs]:
            for out in output.outputs:
                assert out.cumulative_logprob is not None
                out.score = out.cumulative_logprob / len(out.token_ids) ** length_penalty
    return outputs
