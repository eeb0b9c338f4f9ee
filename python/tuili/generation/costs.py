"""What steps cost on this machine, learned while they run.

Medians of recent steps, so that one during which the host was elsewhere changes nothing. Nothing measured
gives None: who asks decides what not knowing means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

SMALLEST_CHUNK = 16  # tokens: fewer cost as much time as these, since a step reads all weights once
DEPTH = 512  # tokens: within so many, attention adds little to what a prompt's token costs
MEMORY = 9  # steps of a size that are remembered
ANSWERS, FEWEST_ANSWERS = 64, 8  # answers whose lengths are remembered; with fewer nothing is said
PACE_MEMORY = 0.95  # weight of the past in the mean of what a step takes


class Typical:
    """Running medians of a quantity, apart for sizes that differ by a power of two."""

    def __init__(self) -> None:
        self._recent: dict[int, deque[float]] = {}

    def learn(self, size: int, value: float) -> None:
        """size  at least 1"""
        key = (size - 1).bit_length()
        if key not in self._recent:
            self._recent[key] = deque(maxlen=MEMORY)
        self._recent[key].append(value)

    def at(self, size: int) -> float | None:
        """At least what this size takes: what is known of it, of the next smaller one, or a larger one's
        share.
        """
        if not self._recent:
            return None
        key = (size - 1).bit_length()
        nearest = max((k for k in self._recent if k <= key), default=min(self._recent))
        recent = self._recent[nearest]
        return sorted(recent)[len(recent) // 2] * min(1.0, 2.0 ** (key - nearest))


class Costs:
    """Seconds of a decode step, of a prompt's token, and how long answers are. For one thread."""

    def __init__(self) -> None:
        self._decode = Typical()
        self._prompt = Typical()
        self._pace_s = 0.0
        self._lengths: deque[int] = deque(maxlen=ANSWERS)

    def learn_decode(self, n_rows: int, seconds: float, n_steps: int) -> None:
        """n_steps steps in which n_rows rows got a token each, and nothing else was computed."""
        step_s = seconds / n_steps
        self._decode.learn(n_rows, step_s)
        past = (PACE_MEMORY if n_steps == 1 else PACE_MEMORY**n_steps) if self._pace_s else 0.0
        self._pace_s = past * self._pace_s + (1 - past) * step_s

    def learn_prompt(self, chunks: Iterable[tuple[int, int]], n_decoding: int, seconds: float) -> None:
        """A step with chunks of prompts, each (tokens, depth of its first), beside n_decoding rows."""
        if n_decoding:
            past = PACE_MEMORY if self._pace_s else 0.0
            self._pace_s = past * self._pace_s + (1 - past) * seconds
        n_tokens = sum_of_depths = 0
        for n, depth in chunks:
            n_tokens += n
            sum_of_depths += n * depth
        if n_tokens >= SMALLEST_CHUNK:
            decode_s = (self._decode.at(n_decoding) or 0.0) if n_decoding else 0.0
            own_s = max(seconds - decode_s, 0.25 * seconds)  # rows that come together share the weights
            self._prompt.learn(1 + sum_of_depths // n_tokens // DEPTH, own_s / n_tokens)

    def learn_answer(self, n_tokens: int) -> None:
        """An answer that ended by itself."""
        self._lengths.append(n_tokens)

    def decode_s(self, n_rows: int) -> float | None:
        """One step of n_rows rows."""
        return self._decode.at(n_rows)

    def pace_s(self) -> float:
        """What lies between two tokens of a row in these minutes, prompts of others included; 0: unknown."""
        return self._pace_s

    def prompt_token_s(self, depth: int) -> float | None:
        return self._prompt.at(1 + depth // DEPTH)

    def prompt_s(self, begin: int, end: int) -> float | None:
        """Tokens [begin, end) of a prompt."""
        total = 0.0
        while begin < end:
            token_s = self.prompt_token_s(begin)
            if token_s is None:
                return None
            next_begin = min(end, (begin // DEPTH + 1) * DEPTH)
            total += (next_begin - begin) * token_s
            begin = next_begin
        return total

    def answer_tokens(self) -> int:
        """A length that three in four answers exceed; 1 while too few are known."""
        if len(self._lengths) < FEWEST_ANSWERS:
            return 1
        return sorted(self._lengths)[len(self._lengths) // 4]
