"""`LLM.beam_search`: `generate` with the words of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from tuili.checks import integer, invalid, same
from tuili.generation.outputs import RequestOutput
from tuili.generation.params import MAX_BEAMS, SamplingParams, canonical_names
from tuili.generation.prompts import ManyPrompts, Messages, OnePrompt

if TYPE_CHECKING:
    from tuili.llm import LLM

_DEFAULTS = {"num_beams": 4, "max_tokens": 64, "length_penalty": 1.0}  # those of `beam_search`


@overload
def beam_search(
    self: LLM,
    prompts: OnePrompt | Messages,
    beam_width: int | None = 4,
    max_tokens: int = 64,
    length_penalty: float = 1.0,
    *,
    early_stopping: bool | Literal["never"] = False,
    truncation: bool = False,
    **options: Any,
) -> RequestOutput: ...
@overload
def beam_search(
    self: LLM,
    prompts: ManyPrompts,
    beam_width: int | None = 4,
    max_tokens: int = 64,
    length_penalty: float = 1.0,
    *,
    early_stopping: bool | Literal["never"] = False,
    truncation: bool = False,
    **options: Any,
) -> list[RequestOutput]: ...


def beam_search(
    self: LLM,
    prompts: Any,
    beam_width: int | None = 4,
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
    asked = canonical_names(options)
    if asked.get("num_beams", 1) is None:  # as if it were not given
        del asked["num_beams"]
    words: dict[str, Any] = {
        "num_beams": _DEFAULTS["num_beams"] if beam_width is None else beam_width,
        "max_tokens": max_tokens,
        "length_penalty": length_penalty,
    }
    for name, plain in _DEFAULTS.items():  # by one of its other names, as `generate` has it
        if name in asked and not same(words[name], plain):
            invalid(name, "is given twice")
    words |= asked
    width = integer("beam_width", words.pop("num_beams"), 1, MAX_BEAMS)
    how = {"length_penalty": words.pop("length_penalty"), "early_stopping": early_stopping}
    checked = SamplingParams(**{"num_beams": max(width, 2), **how})
    search: dict[str, Any] = {"n": width, "num_beams": width, "temperature": 0.0}
    if width > 1:
        search |= how
    elif words.get("logprobs") is None:
        words["logprobs"] = 0  # for the score
    found: RequestOutput | list[RequestOutput]
    found = self.generate(prompts, SamplingParams(**search | words), truncation=truncation)
    if width > 1:
        return found
    penalty = 1.0 if checked.length_penalty is None else checked.length_penalty
    for output in found if isinstance(found, list) else [found]:
        for out in output.outputs:
            if out.token_ids and out.cumulative_logprob is not None:
                out.score = out.cumulative_logprob / len(out.token_ids) ** penalty
    return found
