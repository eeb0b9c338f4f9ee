"""What the engine's thread is told, what a step gives it, and what it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tuili.errors import TuiliError
from tuili.generation.delivery import Row
from tuili.generation.grammar import Constraint
from tuili.generation.outputs import Logprobs
from tuili.generation.request import Request


@dataclass(frozen=True, slots=True)
class Abort:
    """Message: end this request."""

    request: Request


@dataclass(frozen=True, slots=True)
class Compiled:
    """Message: a request's grammar, for each of its rows, or why there is none. Now it may run."""

    request: Request
    outcome: list[Constraint] | TuiliError


@dataclass(slots=True)
class Counters:
    """What `stats()` shows; written by the engine's thread."""

    requests: int = 0
    finished: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    step_s: float = 0.0
    computed_tokens: int = 0
    drafted_tokens: int = 0  # guessed by prompt lookup
    accepted_tokens: int = 0  # those of them that were right


@dataclass(slots=True)
class Drawn:
    """What a step, or several without a pause, drew for the rows of its plan that sample; n_drafted tokens
    were guessed.
    """

    n_steps: int
    token_ids: list[list[int]]
    logprobs: Sequence[Sequence[Logprobs]]  # of these tokens, where asked for
    n_drafted: int = 0


@dataclass(slots=True)
class Submission:
    """Message: a request with its rows."""

    request: Request
    rows: list[Row] = field(default_factory=list)
    compiles: bool = False  # its rows wait for their grammar, in no queue
    counted: bool = False  # among those that run or wait
    taken: bool = False  # by the engine's thread


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Message: forget a submission in whose middle Ctrl-C came, whether it has arrived or not."""

    submission: Submission
