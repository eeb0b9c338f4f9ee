"""What a caller gets of a request: its outputs, or chunks of them. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "deadline", "abort", "error"]


@dataclass(slots=True)
class TokenLogprob:
    """Log-probability of a token, in nats, and the most probable ones at its place, best first."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


# As the core has it: log-probability of a token, and (token id, log-probability) of the likeliest ones.
Logprobs = tuple[float, list[tuple[int, float]]]


@dataclass(slots=True)
class CompletionOutput:
    """One continuation.

    token_ids      all generated tokens, with the one that ended the text
    stop_reason    the stop string or stop token id; None for the model's own end of text or a grammar's;
                   "max_model_len" if the context was full; "nan" with on_nan="eos"
    score          of a beam search, what transformers calls its sequence score: the sum of the tokens'
                   log-probabilities as the parameters changed them / len(token_ids) ** length_penalty
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    logprobs: list[TokenLogprob] | None
    cumulative_logprob: float | None
    score: float | None = None


@dataclass(slots=True)
class RequestOutput:
    """A finished request.

    prompt           the text, or None if token ids were given
    outputs          n; a beam search that is left fewer by its parameters has as many as there are
    prompt_logprobs  one entry per prompt token, None for the first
    truncated        whether the prompt was cut, which happens only when asked for
    metrics          seconds queue_s prefill_s first_token_s decode_s total_s (the first and the third from
                     submission), counts cached_tokens preemptions, and first_token_time, finished_time on
                     time.monotonic()'s clock
    """

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprob | None] | None
    truncated: bool
    metrics: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a request has come to, in numbers; metrics as those of RequestOutput, empty before the end."""

    n_prompt: int
    n_generated: int
    finish_reasons: list[FinishReason | None]
    metrics: dict[str, float | None]


@dataclass(slots=True)
class Chunk:
    """What one continuation gained since the consumer last looked. The last chunk of each has a
    finish_reason. A beam search's come at its end.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None
