"""Who computes what in the next step. Policy only: block ids come from the core's BlockPool, nothing here
touches tensors.

In a step every decoding row gets its one token; what is left goes to prompts, oldest first, in chunks. Rows
are admitted in order of arrival, with blocks for all their tokens; when a decoding row finds no block, the
newest row gives all of its blocks back and is computed again later (to the same bits). The oldest
is never asked, so somebody always advances.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from tuili import _core
from tuili.errors import KVCacheExhaustedError
from tuili.generation.delivery import Row

SMALLEST_CHUNK = 16  # tokens: fewer cost as much time as these, since a step reads all weights once
ORDER = attrgetter("order")
SPEED_MEMORY = 0.8  # weight of the past in the estimate of seconds per token


@dataclass(frozen=True, slots=True)
class Limits:
    """What runs and waits at most.

    max_num_seqs       rows that run at once
    prefill_chunk      prompt tokens of a step; fewer while others decode, so that it takes step_budget_s
    max_queue          rows that wait for one of the places; with more, a submission is refused
    max_queued_tokens  prompt tokens of all that wait
    """

    max_num_seqs: int = 64
    prefill_chunk: int = 512
    step_budget_s: float = 0.04
    prefix_caching: bool = True
    max_queue: int = 1024
    max_queued_tokens: int = 1 << 20


@dataclass(slots=True)
class StepPlan:
    """One step: n_new[i] tokens of rows[i] are computed; where sample[i], the next one is drawn.

    admitted  the rows among them that run for the first time
    """

    rows: list[Row] = field(default_factory=list)
    n_new: list[int] = field(default_factory=list)
    sample: list[bool] = field(default_factory=list)
    admitted: list[Row] = field(default_factory=list)

    @property
    def sequences(self) -> list[_core.Sequence]:
        return [row.sequence for row in self.rows]

    def add(self, row: Row, n_new: int) -> None:
        self.rows.append(row)
        self.n_new.append(n_new)
        self.sample.append(row.transcript is not None and n_new == row.n_pending)


class Scheduler:
    """The rows that wait, the rows that run, and the blocks between them. For one thread.

    copy_block  copies what a block holds, by (from, to)
    """

    def __init__(
        self, pool: _core.BlockPool, limits: Limits, copy_block: Callable[[int, int], object]
    ) -> None:
        self._pool = pool
        self._copy_block = copy_block
        self._limits = limits
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []  # oldest first
        self.n_preemptions = 0
        self._seconds_per_token: float | None = None

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def n_blocks(self, n_tokens: int) -> int:
        return -(-n_tokens // self._pool.block_size)

    def check_fits(self, n_tokens: int, n_beams: int = 1) -> None:
        """Raise KVCacheExhaustedError if the whole cache has fewer blocks than so many tokens need. Beams
        advance together: they need them all at once, and the spare block of a newcomer each.
        """
        needed, who = self.n_blocks(n_tokens), "the request needs"
        if n_beams > 1:
            needed, who = n_beams * (needed + 1), f"{n_beams} beams may need"
        if needed > self._pool.n_blocks:
            raise KVCacheExhaustedError(
                f"{who} {needed} cache blocks for {n_tokens} tokens, the "
                f"whole cache has {self._pool.n_blocks} of {self._pool.block_size} tokens; give more "
                "kv_cache_bytes or ask for fewer tokens"
            )

    def add(self, rows: Iterable[Row]) -> None:
        self.waiting.extend(rows)

    def remove(self, row: Row) -> None:
        """Take a row out for good, wherever it is, with its blocks."""
        row.ended = True
        if row.running:
            self.running.remove(row)
            row.running = False
            self._pool.release(row.sequence)
        elif row in self.waiting:
            self.waiting.remove(row)

    def plan(self) -> StepPlan:
        """The next step; without rows if there is nothing to do."""
        plan = StepPlan()
        preempted = self._plan_decodes(plan)
        left = self._chunk(decoding=bool(plan.rows))
        left = self._plan_prompts(plan, left)
        if not preempted:
            self._admit(plan, left)
        while not plan.rows and self.running and self.waiting:  # beams that wait for one hold its blocks
            self._preempt(self.running[-1])
            self._admit(plan, left)
        return plan

    def give_room(self, plan: StepPlan, n_steps: int) -> int:
        """Blocks ahead, for n_steps steps of one token for every row of the plan; returns for how many there
        is room. They are given only where nobody is made to wait or give way for them.
        """
        ends = [row.sequence.n_computed + n_steps for row in plan.rows]
        held = [row.sequence.n_blocks for row in plan.rows]
        missing = sum(max(0, self.n_blocks(end) - n) for end, n in zip(ends, held, strict=True))
        if not self.waiting and missing <= self._pool.n_free - len(self.running):
            for row, end in zip(plan.rows, ends, strict=True):
                self._pool.grow(row.sequence, end)
            return n_steps
        room = (n * self._pool.block_size - end for n, end in zip(held, ends, strict=True))
        return n_steps + min(0, *room)

    def finished_step(self, plan: StepPlan, seconds: float) -> None:
        """Learn the step's speed, and make whole prompts findable."""
        n_tokens = sum(plan.n_new)
        if n_tokens > len(plan.rows):  # steps that only decode say nothing about prompts
            old, new = self._seconds_per_token, seconds / n_tokens
            self._seconds_per_token = new if old is None else SPEED_MEMORY * old + (1 - SPEED_MEMORY) * new
        for row, n_new in zip(plan.rows, plan.n_new, strict=True):
            if n_new > 1 or row.sequence.n_computed == row.sequence.n_prompt:
                self.publish(row)

    def publish(self, row: Row) -> None:
        """Make the row's computed whole blocks findable for others."""
        if self._limits.prefix_caching and row.shares and row.running:
            self._pool.publish(row.sequence)

    def _chunk(self, *, decoding: bool) -> int:
        """Prompt tokens of this step: all that are allowed, or what keeps the decoding rows' step short."""
        most = self._limits.prefill_chunk
        if not decoding or self._seconds_per_token is None:
            return most
        return min(
            most, max(SMALLEST_CHUNK, int(self._limits.step_budget_s / max(self._seconds_per_token, 1e-9)))
        )

    def _plan_decodes(self, plan: StepPlan) -> bool:
        """One token for each row that has one pending; returns whether any row had to give way."""
        preempted = False
        for row in list(self.running):
            if not row.running or row.n_pending != 1:
                continue
            while row.running and not self._pool.grow(row.sequence, row.sequence.n_tokens):
                self._preempt(self.running[-1])
                preempted = True
            if row.running:
                plan.add(row, 1)
        return preempted

    def _plan_prompts(self, plan: StepPlan, left: int) -> int:
        """Chunks for the rows that are still in their prompt; returns how many tokens the step has left."""
        for row in self.running:
            if left > 0 and row.n_pending > 1:
                n_new = min(left, row.n_pending)
                plan.add(row, n_new)
                left -= n_new
        return left

    def _admit(self, plan: StepPlan, left: int) -> None:
        while self.waiting and left > 0 and len(self.running) < self._limits.max_num_seqs:
            row = self.waiting[0]
            if not self._take_blocks(row):
                return
            self.waiting.popleft()
            insort(self.running, row, key=ORDER)
            if not row.admitted:
                plan.admitted.append(row)
            row.running = row.admitted = True
            n_new = min(left, row.n_pending)
            plan.add(row, n_new)
            left -= n_new

    def _take_blocks(self, row: Row) -> bool:
        """Blocks for all tokens of a waiting row, shared ones first; False if it has to wait."""
        sequence, leader = row.sequence, row.leader
        if leader is not None and leader.running and leader.sequence.n_computed < leader.sequence.n_prompt:
            return False  # a step or two later the whole prompt is there to share
        cached, copy = self._share_prefix(row)
        # One spare block per running row: a newcomer should not push others out, or be pushed out, at once.
        if not self._pool.grow(sequence, sequence.n_tokens) or (
            self.running and self._pool.n_free < len(self.running)
        ):
            self._pool.release(sequence)
            return False
        if copy is not None:
            self._copy_block(*copy)
        if not row.admitted:
            row.cached_tokens = cached
        return True

    def _share_prefix(self, row: Row) -> tuple[int, tuple[int, int] | None]:
        """Let a row begin with what is computed already: its leader's prompt, of which the last block is to
        be copied, or what the prefix cache has; returns the number of tokens, and the copy.
        """
        sequence, leader = row.sequence, row.leader
        cached = self._pool.attach_prefix(sequence) if self._limits.prefix_caching and row.shares else 0
        n_shared = min(sequence.n_prompt, sequence.n_tokens - 1)
        if leader is None or not leader.running or not row.shares or n_shared <= cached:
            return cached, None
        if leader.sequence.n_computed < n_shared:
            return cached, None
        self._pool.release(sequence)
        copy = self._pool.fork(sequence, leader.sequence, n_shared)
        return (n_shared, copy) if copy is not None else (0, None)

    def _preempt(self, row: Row) -> None:
        self.publish(row)
        self.running.remove(row)
        row.running = False
        self._pool.release(row.sequence)
        insort(self.waiting, row, key=ORDER)
        row.preemptions += 1
        self.n_preemptions += 1

    def check_invariants(self) -> None:
        """The ledger of rows and blocks; AssertionError names what is wrong."""
        self._pool.check_invariants()
        assert [row.order for row in self.running] == sorted(row.order for row in self.running), (
            "running is out of order"
        )
        assert [row.order for row in self.waiting] == sorted(row.order for row in self.waiting), (
            "waiting is out of order"
        )
        assert all(row.running and not row.ended for row in self.running)
        assert all(not row.running and row.sequence.n_blocks == 0 for row in self.waiting)
        held = {block for row in self.running for block in row.sequence.block_ids}
        assert self._pool.n_free + len(held) == self._pool.n_blocks, "a block is held by nobody"
