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
    """A run ends after max_steps, or with the step in which max_s seconds have passed.

    n_drafted  tokens that a step may guess for one of its rows; none if 0
    """

    max_steps: int
    max_s: float
    n_drafted: int = 0


ONE_STEP = Leash(1, 0.0)


def leash(plan: StepPlan, time_left_s: float) -> Leash:
    """How far the planned step may be continued with steps of one token for each of its rows.

    time_left_s  until the next deadline, also of rows that are not in the step
    """
    rows = plan.rows
    if not all(map(decodes, rows)):
        return ONE_STEP
    n_drafted = max(row.request.params.prompt_lookup_num_tokens or 0 for row in rows)
    if not all(map(runs_freely, rows)):
        return Leash(1, 0.0, n_drafted)
    streamed = any(row.request.streamed for row in rows)
    most, seconds = (STREAMED_STEPS, STREAMED_S) if streamed else (AWAITED_STEPS, AWAITED_S)
    return Leash(min(most, *(row.n_left for row in rows)), min(seconds, max(0.0, time_left_s)), n_drafted)


def decodes(row: Row) -> bool:
    """Whether the row has drawn its first token, nothing is collected but log-probabilities, and nobody has a
    say in each token.
    """
    drawn = row.transcript is not None and row.transcript.n_tokens > 0
    steered = row.constraint is not None or bool(row.processors)
    return drawn and row.n_pending == 1 and row.collect is None and not steered


def runs_freely(row: Row) -> bool:
    """Whether, besides, the core can tell by itself when the row needs attention: no text is searched for
    stop strings, no log-probabilities are to be delivered.
    """
    params = row.request.params
    return params.logprobs is None and not params.stop
