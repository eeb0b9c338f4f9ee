"""How long the core may decode on by itself before Python looks at the tokens.

Between two looks nothing is delivered and the GIL is not needed, so that a busy host thread delays one look,
not every token. Where every token has to be looked at, it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuili.generation.delivery import Row
from tuili.generation.scheduler import StepPlan

STREAMED_S, STREAMED_STEPS = 0.03, 8  # somebody reads chunks as they come: late by less than an eye notices
AWAITED_S, AWAITED_STEPS = 0.1, 64  # only the end is waited for; messages and deadlines cut it short


@dataclass(frozen=True, slots=True)
class Leash:
    """A run ends after max_steps, or with the step in which max_s seconds have passed."""

    max_steps: int
    max_s: float


ONE_STEP = Leash(1, 0.0)


def leash(plan: StepPlan, time_left_s: float) -> Leash:
    """How far the planned step may be continued with steps of one token for each of its rows.

    time_left_s  until the next deadline, also of rows that are not in the step
    """
    rows = plan.rows
    if not all(map(runs_freely, rows)):
        return ONE_STEP
    streamed = any(row.request.streamed for row in rows)
    most, seconds = (STREAMED_STEPS, STREAMED_S) if streamed else (AWAITED_STEPS, AWAITED_S)
    return Leash(min(most, *(row.n_left for row in rows)), min(seconds, max(0.0, time_left_s)))


def runs_freely(row: Row) -> bool:
    """Whether the core can tell by itself when the row needs attention: it has drawn its first token, nothing
    is collected, no text is searched for stop strings, and nobody has a say in each token.
    """
    params = row.request.params
    decoding = row.transcript is not None and row.transcript.n_tokens > 0 and row.n_pending == 1
    steered = row.constraint is not None or bool(params.logits_processors)
    return decoding and not steered and row.collect is None and params.logprobs is None and not params.stop
