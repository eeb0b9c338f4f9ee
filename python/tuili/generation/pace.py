"""How long the core may decode on by itself before Python looks at the tokens.

Between two looks nothing is delivered and the GIL is not needed, so that a busy host thread delays one look,
not every token. Where every token has to be looked at, it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

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
LOOKED_AT, GUESSED = attrgetter("is_looked_at"), attrgetter("n_guessed")


def leash(plan: StepPlan, time_left_s: float) -> Leash:
    """How far the planned step may be continued with steps of one token for each of its rows.

    time_left_s  until the next deadline, also of rows that are not in the step
    """
    rows = plan.rows
    looked_at, n_drafted = any(map(LOOKED_AT, rows)), max(map(GUESSED, rows))
    if (looked_at and not n_drafted) or sum(plan.n_new) > len(rows) or not all(plan.sample):
        return ONE_STEP
    if not all(map(decodes, rows)):
        return ONE_STEP
    if looked_at:
        return Leash(1, 0.0, n_drafted)
    streamed = any(row.request.streamed for row in rows)
    most, seconds = (STREAMED_STEPS, STREAMED_S) if streamed else (AWAITED_STEPS, AWAITED_S)
    return Leash(min(most, *(row.n_left for row in rows)), min(seconds, max(0.0, time_left_s)), n_drafted)


def decodes(row: Row) -> bool:
    """Whether the row, which draws a token, has drawn one before, and nobody has a say in each of them."""
    drawn = row.transcript is not None and row.transcript.n_tokens > 0
    return drawn and row.collect is None and row.constraint is None and not row.processors
