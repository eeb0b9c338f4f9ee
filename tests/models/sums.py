"""Sums of two numbers as people write them in columns, which a GPT-2 learns to complete: for training and for
tests.
"""

from __future__ import annotations

import random

VOCAB = [*"0123456789+=", "Ġ", "<|endoftext|>"]  # Ġ is GPT-2's space
LIMIT = 1000  # of each number


def summands(rng: random.Random) -> tuple[int, int]:
    """Two numbers of up to three digits, short ones more often than among all of them."""
    a, b = (rng.randrange(10 ** rng.choice((1, 2, 3, 3, 3))) for _ in range(2))
    return a, b


def prompt(a: int, b: int) -> str:
    return f"{a:3}+{b:3}="


def answer(a: int, b: int) -> str:
    return f"{a + b:4}"
