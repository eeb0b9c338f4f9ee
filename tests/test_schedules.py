"""24 schedules of property_schedules.py in every test run; .ci/run plays 976 more."""

from __future__ import annotations

from collections import Counter

import pytest

import property_schedules


@pytest.mark.parametrize("seed", range(24))
def test_a_random_schedule_changes_no_bit(seed):
    property_schedules.check(seed)


@pytest.mark.slow
def test_schedules_preempt_and_hit_prefixes():
    """The generator must reach what it is meant to test."""
    counts: Counter[str] = Counter()
    for seed in range(1000, 1250):
        counts += property_schedules.check(seed)
    for what in (
        "preemptions",
        "prefix hits",
        "forks",
        "guesses",
        "right guesses",
        "engine preemptions",
        "engine requests in a grammar",
        "texts of encoders beside engines",
    ):
        assert counts[what] > 50, counts
    assert counts["engine requests preempted"] >= 0.3 * counts["engine requests"], counts
