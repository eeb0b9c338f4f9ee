"""Who computes what in the next step. Policy only: block ids come from the core's BlockPool, nothing here
touches tensors.

In a step every decoding row gets its one token; what is left of the step's time goes to prompts in chunks.
Who waits stands by priority, deadline and arrival, and gains a level of priority with every AGEING_S, so that
nobody starves. Rows are admitted with blocks for all their tokens; when a decoding row finds no block, the
row of the lowest priority, of these the newest, gives all of its blocks back and is computed again later (to
the same bits). The oldest is never asked, nor, while others run, are the beams of its search, so somebody
always advances.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter

from tuili import _core
from tuili.errors import KVCacheExhaustedError
from tuili.generation.beam import BeamGroup
from tuili.generation.costs import SMALLEST_CHUNK, Costs
from tuili.generation.delivery import Row
from tuili.generation.forecast import LOOKED_AT, admitted_s, hopeless

AGEING_S = 5.0  # of waiting weigh as much as one level of priority
REVIEW_S = 0.1  # how often the queue is looked through: who has aged, who cannot meet a deadline any more
FIRST_CHUNK = 64  # tokens of a prompt beside decoding rows before anything is known of its cost
Copy = tuple[list[int], list[int], tuple[int, int]]  # as BlockPool.fork gives them
STANDING, SEQUENCE = attrgetter("standing"), attrgetter("sequence")


@dataclass(frozen=True, slots=True)
class Limits:
    """What runs and waits at most.

    max_num_seqs       rows that run at once
    prefill_chunk      prompt tokens of a step; fewer while others decode, so that it stays within
                       step_budget_s
    max_queue          rows that wait for one of the places; with more, a submission is refused
    max_queued_tokens  prompt tokens of all that wait
    """

    max_num_seqs: int = 64
    prefill_chunk: int = 512
    step_budget_s: float = 0.04
    prefix_caching: bool = True
    max_queue: int = 1024
    max_queued_tokens: int = 1 << 20


class StepPlan:
    """One step: n_new[i] tokens of rows[i] are computed; where sample[i], the next one is drawn.

    rows, sequences  at first of those that decode, each of which has drawn a token that is to be computed
    chunks           the rows among them that are in their prompt, with their tokens of it
    sources          tokens of each source that is encoded before
    admitted         those that run for the first time
    begun            searches that take their first step before another plan is made; then rows is empty
    refused          first rows of requests that will not run, as their deadline cannot be met
    """

    __slots__ = ("admitted", "begun", "chunks", "n_new", "refused", "rows", "sample", "sequences", "sources")

    def __init__(self, rows: list[Row], sequences: list[_core.Sequence]) -> None:
        self.rows, self.sequences = rows, sequences
        self.n_new, self.sample = [1] * len(rows), [True] * len(rows)
        self.chunks: list[tuple[Row, int]] = []
        self.sources: list[int] = []
        self.admitted: list[Row] = []
        self.begun: list[BeamGroup] = []
        self.refused: list[Row] = []

    def add_chunk(self, row: Row, n_new: int, *, whole: bool) -> None:
        """whole: these are all the tokens that the row has pending"""
        self.chunks.append((row, n_new))
        self.rows.append(row)
        self.sequences.append(row.sequence)
        self.n_new.append(n_new)
        self.sample.append(whole and row.transcript is not None)

    def drop(self, row: Row) -> None:
        i = self.rows.index(row)
        del self.rows[i], self.sequences[i], self.n_new[i], self.sample[i]
        self.chunks = [chunk for chunk in self.chunks if chunk[0] is not row]


def in_prompt(row: Row) -> bool:
    """Whether it has tokens to compute, and not only the one that it drew last."""
    n_pending = row.n_pending
    return n_pending > 1 or (n_pending == 1 and row.sequence.n_tokens == row.sequence.n_prompt)


def _awaits_prompt(row: Row) -> bool:
    """Whether a step or two later the whole prompt is there to share."""
    leader = row.leader
    return leader is not None and leader.running and leader.sequence.n_computed < leader.sequence.n_prompt


def _leads_search(row: Row) -> bool:
    """Whether it has computed the prompt of a search that has not begun."""
    return row.beams is not None and not row.beams.search.begun and row.leader is None and row.n_pending == 0


def _awaits_search(row: Row) -> bool:
    """Whether it has nothing to compute before its search begins."""
    return row.beams is not None and not row.beams.search.begun and row.leader is not None


@dataclass(slots=True)
class Room:
    """What a step has left for prompts."""

    tokens: int
    seconds: float


class Scheduler:
    """The rows that wait, the rows that run, and the blocks between them. For one thread.

    copy_block  copies what a block holds, as Runner.copy_block
    """

    def __init__(self, pool: _core.BlockPool, limits: Limits, copy_block: Callable[..., object]) -> None:
        self._pool = pool
        self._copy_block = copy_block
        self._has_windows = bool(pool.windows)
        self._limits = limits
        self.waiting: list[Row] = []  # by standing
        self.running: list[Row] = []
        self._searches: dict[BeamGroup, int] = {}  # those that run, and how many of their rows do
        self.costs = Costs()
        self.n_preemptions = 0
        self._next_review = -math.inf

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def n_blocks(self, n_tokens: int) -> int:
        return -(-n_tokens // self._pool.block_size)

    def check_fits(self, n_tokens: int, n_beams: int = 1, n_source: int = 0) -> None:
        """Raise KVCacheExhaustedError if the whole cache has fewer blocks than so many tokens need. Beams
        advance together: they need them all at once, and the spare block of a newcomer each; of a window what
        decoding needs, and one of them, which others may have pushed out, what a chunk of its text does. The
        source of an encoder-decoder is there once.
        """
        whole, size = self.n_blocks(n_tokens), self._pool.block_size
        areas = [(whole, whole, self._pool.n_blocks, "the whole cache has")]
        for area in self._pool.windows:
            decoding = min(whole, self._pool.window_span(area.window, size, 1))
            has = f"the window of {area.window} tokens has"
            areas.append((min(whole, area.span), decoding, area.n_blocks, has))
        who = "the request needs" if n_beams == 1 else f"{n_beams} beams may need"
        for row_needs, mate_needs, n_blocks, has in areas:
            needed = row_needs if n_beams == 1 else row_needs + (n_beams - 1) * mate_needs + n_beams
            needed += self.n_blocks(n_source)
            if needed > n_blocks:
                raise KVCacheExhaustedError(
                    f"{who} {needed} cache blocks for {n_tokens + n_source} tokens, {has} {n_blocks} of "
                    f"{size} tokens; give more kv_cache_bytes or ask for fewer tokens"
                )

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            insort(self.waiting, row, key=STANDING)

    def remove(self, row: Row) -> None:
        """Take a row out for good, wherever it is, with its blocks."""
        row.ended = True
        if row.running:
            self._leave(row)
        elif row in self.waiting:
            self.waiting.remove(row)
        self._pool.release(row.sequence)  # also of one that waits, if memory ran out while it was admitted

    def plan(self, now: float) -> StepPlan:
        """The next step; without rows if there is nothing to do. now: on the clock of the deadlines."""
        refused = self._review(now) if self.waiting and now >= self._next_review else None
        before = self.n_preemptions
        begun = self._begin_searches(StepPlan([], [])) if self.waiting else None  # where mates wait
        if begun is not None and begun.begun:
            plan = begun
        else:
            plan = self._plan_decodes()
            if begun is not None:
                plan.admitted = begun.admitted
        if refused:
            plan.refused = refused
        if not plan.begun and (self.waiting or len(plan.rows) < len(self.running)):
            room = self._room(len(plan.rows))
            self._plan_prompts(plan, room, now, may_admit=self.n_preemptions == before)
            while not plan.rows and self.running and self.waiting:  # beams that wait for one hold its blocks
                self._preempt_search(self._victim())
                if self._begin_searches(plan).begun:
                    break
                self._plan_prompts(plan, room, now, may_admit=True)
        return plan

    def give_room(self, plan: StepPlan, n_steps: int) -> int:
        """Blocks ahead, for n_steps steps of one token for every row of the plan; returns for how many there
        is room. They are given only where nobody is made to wait or give way for them.
        """
        sequences = plan.sequences
        if not self.waiting:
            self._pool.grow_ahead(sequences, n_steps, n_spare=len(self.running))
        return min(n_steps, self._pool.room(sequences))

    def finished_step(self, plan: StepPlan, seconds: float, n_steps: int) -> None:
        """Learn what the step, or several of the same rows, took, make whole prompts findable, and take back
        what lies before the windows.
        """
        for row, _ in plan.chunks:
            self.publish(row)
        if self._has_windows:
            self._pool.release_unseen([row.sequence for row in plan.rows if row.running])
        n_decoding = len(plan.rows)
        if plan.chunks:
            chunks = [(n_source, 0) for n_source in plan.sources]
            chunks += [(n, row.sequence.n_computed - n) for row, n in plan.chunks if n > 1]
            if chunks:
                self.costs.learn_prompt(chunks, max(0, n_decoding - len(chunks)), seconds)
                return
        self.costs.learn_decode(n_decoding, seconds, n_steps)

    def publish(self, row: Row) -> None:
        """Make the row's computed whole blocks findable for others."""
        if self._limits.prefix_caching and row.shares and row.running:
            self._pool.publish(row.sequence)

    def _review(self, now: float) -> list[Row]:
        """Let everybody age; returns the first rows of those who will miss their deadline, who are out."""
        self._next_review = now + REVIEW_S
        for row in (*self.waiting, *self.running):
            request = row.request
            level = request.params.priority - int((now - request.times.submitted) / AGEING_S)
            row.standing = level, *row.standing[1:]
        self.waiting.sort(key=STANDING)
        if all(row.request.deadline == math.inf for row in self.waiting[:LOOKED_AT]):
            return []
        limits = self._limits
        refused = hopeless(
            self.waiting,
            self.running,
            self.costs,
            n_places=limits.max_num_seqs,
            may_share=limits.prefix_caching,
            now=now,
        )
        requests = {id(row.request) for row in refused}
        self.waiting = [row for row in self.waiting if id(row.request) not in requests]
        return refused

    def _room(self, n_decoding: int) -> Room:
        """Prompt tokens of this step: all that are allowed, or what keeps the decoding rows' step short."""
        if not n_decoding:
            return Room(self._limits.prefill_chunk, math.inf)
        decode_s = self.costs.decode_s(n_decoding) or 0.0
        return Room(self._limits.prefill_chunk, max(0.0, self._limits.step_budget_s - decode_s))

    def _begin_searches(self, plan: StepPlan) -> StepPlan:
        """Let the mates run of those leaders that have computed their prompt: no mate needs to, as it follows
        its leader in the first step of the search.
        """
        running = self.running
        for search in [row.beams for row in running if row.beams is not None and _leads_search(row)]:
            for row in search.rows:
                if row.running:
                    continue
                if len(running) == self._limits.max_num_seqs or not self._take_blocks(row):
                    break
                self.waiting.remove(row)
                self._enter(plan, row)
            else:
                plan.begun.append(search)
        return plan

    def _plan_decodes(self) -> StepPlan:
        """One token for each row that has drawn one; if need be, others give way."""
        while True:
            rows = self.running
            sequences = list(map(SEQUENCE, rows))
            places = self._pool.grow_decoding(sequences)
            if places is not None:
                break
            self._preempt(self._victim())
        if len(places) == len(rows):
            return StepPlan(rows.copy(), sequences)
        return StepPlan([rows[i] for i in places], [sequences[i] for i in places])

    def _grow(self, plan: StepPlan, row: Row, n_tokens: int) -> bool:
        """Blocks for a running row, if need be those of rows that give way; False if it does so itself."""
        while not self._pool.grow(row.sequence, n_tokens):
            victim = self._victim()
            self._preempt(victim)
            if victim in plan.rows:
                plan.drop(victim)
            if victim is row:
                return False
        return True

    def _plan_prompts(self, plan: StepPlan, room: Room, now: float, *, may_admit: bool) -> None:
        """Chunks by standing for the rows that are in their prompt, and for those that can be admitted."""
        before = self.n_preemptions
        prompts = sorted(filter(in_prompt, self.running), key=STANDING, reverse=True)
        while room.tokens > 0:
            if may_admit and self.n_preemptions == before and self._comes_next(prompts):
                row = self._admit(plan, room, now)
                if row is None:
                    may_admit = False
                    continue
            elif prompts:
                row = prompts.pop()
                # It has blocks for all tokens, but of a window's only those that a step needs.
                if not row.running or not self._grow(plan, row, row.sequence.n_tokens):
                    continue
            else:
                return
            self._add_chunk(plan, row, room)

    def _comes_next(self, prompts: list[Row]) -> bool:
        """Whether the next of those who wait stands before all prompts. prompts: best last."""
        row = self._next_waiting() if self.waiting else None
        return row is not None and (not prompts or row.standing < prompts[-1].standing)

    def _has_room_for_source(self, plan: StepPlan, row: Row, room: Room) -> bool:
        """Whether the row's source, which is encoded whole, fits into what is left. Of a step's first nobody
        asks.
        """
        if not plan.sources:
            return True
        n_source = row.sequence.n_source_pending
        return n_source <= room.tokens and n_source * (self.costs.prompt_token_s(0) or 0.0) <= room.seconds

    def _next_waiting(self) -> Row | None:
        """The first that waits, if there is a place for it. Beams that run wait for their mates, who come
        before everybody, and whose places nobody takes; those of a search that has not begun have nothing to
        compute: see _begin_searches.
        """
        n_free = self._limits.max_num_seqs - len(self.running)
        if n_free == 0:  # so no mate waits
            return None
        first, n_mates = None, self._n_mates()
        for row in self.waiting:
            if row.beams in self._searches:
                if not _awaits_search(row):
                    return row
                n_free -= 1
                n_mates -= 1
            elif first is None:
                first = row
            if first is not None and not n_mates:
                break
        if first is None:
            return None
        return first if n_free >= (1 if first.beams is None else len(first.beams.rows)) else None

    def _add_chunk(self, plan: StepPlan, row: Row, room: Room) -> None:
        n_pending, n_source = row.n_pending, row.sequence.n_source_pending
        if n_source:
            plan.sources.append(n_source)
            room.tokens = max(1, room.tokens - n_source)  # its decoder begins at once
            room.seconds = max(0.0, room.seconds - n_source * (self.costs.prompt_token_s(0) or 0.0))
        n_new = min(room.tokens, n_pending)
        if room.seconds < math.inf and n_new > 1:  # one is no more than a row that decodes
            token_s = self.costs.prompt_token_s(row.sequence.n_computed)
            if token_s is None:
                n_new, room.tokens = min(n_new, FIRST_CHUNK), 0
            else:
                n_new = min(n_new, max(SMALLEST_CHUNK, int(room.seconds / max(token_s, 1e-9))))
                room.seconds -= n_new * token_s
                if room.seconds < SMALLEST_CHUNK * token_s:
                    room.tokens = 0
        plan.add_chunk(row, n_new, whole=n_new == n_pending)
        room.tokens -= n_new

    def _admit(self, plan: StepPlan, room: Room, now: float) -> Row | None:
        """Let the first row run that can meet its deadline; None if none can run now."""
        while self.waiting:
            row = self._next_waiting()
            if row is None or not self._has_room_for_source(plan, row, room) or not self._take_blocks(row):
                return None
            self.waiting.remove(row)
            if self._is_refused(plan, row, now):
                self._pool.release(row.sequence)
                continue
            self._enter(plan, row)
            return row
        return None

    def _enter(self, plan: StepPlan, row: Row) -> None:
        """Let a row run that no longer waits. Beams stand together: rows of one source read it together."""
        mates = [i for i, other in enumerate(self.running) if other.beams is row.beams] if row.beams else ()
        self.running.insert(mates[-1] + 1 if mates else len(self.running), row)
        if not row.admitted:
            plan.admitted.append(row)
        row.running = row.admitted = True
        if row.beams is not None:
            self._searches[row.beams] = len(mates) + 1

    def _leave(self, row: Row) -> None:
        """Let a row run no longer."""
        self.running.remove(row)
        row.running = False
        if row.beams is not None:
            self._searches[row.beams] -= 1
            if not self._searches[row.beams]:
                del self._searches[row.beams]

    def _is_refused(self, plan: StepPlan, row: Row, now: float) -> bool:
        """Whether its request will not run: it has not begun, and would not be done before its deadline."""
        if row.leader is not None:
            return any(row.leader is refused for refused in plan.refused)
        if row.admitted or row.request.deadline == math.inf:
            return False
        need_s = admitted_s(row, self.running, self.costs, busy=bool(self.waiting))
        if now + need_s <= row.request.deadline:
            return False
        plan.refused.append(row)
        return True

    def _take_blocks(self, row: Row) -> bool:
        """Blocks for all tokens of a waiting row, shared ones first; False if it has to wait."""
        sequence = row.sequence
        if _awaits_prompt(row):
            return False
        cached, copy = self._share_prefix(row)
        # One spare block per row that runs: a newcomer should not push others out, or be pushed out, at once.
        # A beam that is to come needs one of its own, too.
        if not self._pool.grow(sequence, sequence.n_tokens) or (
            self.running and self._pool.least_free < len(self.running) + 2 * self._n_mates_to_come(row)
        ):
            self._pool.release(sequence)
            return False
        if copy is not None:
            self._copy_block(*copy)
        if not row.admitted:
            row.cached_tokens = cached
        return True

    def _n_mates_to_come(self, row: Row) -> int:
        """How many beams wait of the row's own search and of those that run; 0 for a row of these."""
        own = row.beams
        if own in self._searches:
            return 0
        return self._n_mates() + (0 if own is None else len(own.rows) - 1)

    def _n_mates(self) -> int:
        """How many beams wait, at most, of searches that run."""
        return sum(len(search.rows) - n for search, n in self._searches.items())

    def _victim(self) -> Row:
        """The row that gives way: of the lowest priority, of these the newest; the oldest's mates, for whom
        it would wait, only if no other is left, and itself only if alone.
        """
        oldest = self._oldest()

        def yields(row: Row) -> tuple[bool, bool, int, object]:
            is_mate = row.beams is not None and row.beams is oldest.beams
            return row is not oldest and not is_mate, row is not oldest, row.standing[0], row.order

        return max(self.running, key=yields)

    def _oldest(self) -> Row:
        return min(self.running, key=attrgetter("order"))

    def _attach_prefix(self, row: Row) -> int:
        return self._pool.attach_prefix(row.sequence) if self._limits.prefix_caching and row.shares else 0

    def _share_prefix(self, row: Row) -> tuple[int, Copy | None]:
        """Let a row begin with what is computed already: its leader's prompt, of which the last block is to
        be copied, or what the prefix cache has; returns the number of tokens, and the copy.
        """
        sequence, leader = row.sequence, row.leader
        cached = self._attach_prefix(row)
        if leader is not None and leader.running and sequence.n_source:
            self._pool.share_source(sequence, leader.sequence)
        n_shared = min(sequence.n_prompt, sequence.n_tokens - 1)
        if leader is None or not leader.running or not row.shares or n_shared <= cached:
            return cached, None
        if leader.sequence.n_computed < n_shared:
            return cached, None
        self._pool.release(sequence)
        copy = self._pool.fork(sequence, leader.sequence, n_shared)
        if copy is None:  # no block is free, or the leader is past its prompt by a window
            return self._attach_prefix(row), None
        return n_shared, copy

    def _preempt_search(self, row: Row) -> None:
        """Have a row give way with its mates: if they ran on, it would be the first to take blocks again."""
        oldest = self._oldest()
        mates = [other for other in self.running if row.beams is not None and other.beams is row.beams]
        for one in mates or [row]:
            if one is row or one is not oldest:
                self._preempt(one)

    def _preempt(self, row: Row) -> None:
        self.publish(row)
        self._leave(row)
        self._pool.release(row.sequence)
        insort(self.waiting, row, key=STANDING)
        row.preemptions += 1
        self.n_preemptions += 1

    def block_counts(self) -> dict[str, int]:
        """What `Engine.stats()` shows of the blocks."""
        pool, windows = self._pool, self._pool.windows
        return {
            "n_blocks": pool.n_blocks,
            "free_blocks": pool.n_free,
            "cached_blocks": pool.n_cached,
            "block_hits": pool.n_hits,
            "block_evictions": pool.n_evictions,
            "spared_blocks": pool.n_spared,
            "cache_salts": pool.n_salts,
            "window_blocks": sum(area.n_blocks for area in windows),
            "free_window_blocks": sum(area.n_free for area in windows),
            "cached_window_blocks": sum(area.n_cached for area in windows),
        }

    def check_invariants(self) -> None:
        """The ledger of rows and blocks; AssertionError names what is wrong."""
        self._pool.check_invariants()
        standings = [row.standing for row in self.waiting]
        assert standings == sorted(standings), "waiting is out of order"
        orders = [row.order for row in (*self.running, *self.waiting)]
        assert len(set(orders)) == len(orders), "a row is in two places"
        searches = Counter(row.beams for row in self.running if row.beams is not None)
        assert searches == self._searches, "the searches that run are not those of the rows that do"
        n_mates = sum(row.beams in searches for row in self.waiting)
        assert len(self.running) + n_mates <= self._limits.max_num_seqs, "more rows run, or will, than may"
        assert all(
            row.sequence.n_computed <= row.sequence.n_blocks * self._pool.block_size for row in self.running
        ), "a row has computed more tokens than it has blocks for"
        assert all(
            row.n_pending >= 1 or row.transcript is None or row.beams is not None for row in self.running
        ), "a row has no work"
        assert all(not row.ended for row in self.waiting), "a row that has ended waits"
        assert all(row.running and not row.ended for row in self.running)
        assert all(not row.running and row.sequence.n_blocks == 0 for row in self.waiting)
        assert all(not row.sequence.source_block_ids for row in self.waiting)
        sequences = [row.sequence for row in self.running]
        held = {block for row in sequences for block in (*row.block_ids, *row.source_block_ids)}
        assert self._pool.n_free + len(held) == self._pool.n_blocks, "a block is held by nobody"
        for i, area in enumerate(self._pool.windows):
            held = {id for row in self.running for id in row.sequence.window_block_ids[i] if id >= 0}
            assert area.n_free + len(held) == area.n_blocks, "a window's block is held by nobody"
