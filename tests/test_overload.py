"""Deadlines under overload: what is begun is done in time, and more is done than in order of arrival.

Simulated, so that no other load of the machine counts. Catalogue row CAN-06.
"""

from __future__ import annotations

import dataclasses

import pytest

from simulated_overload import HOSTS, missed, overload, simulate

SEEDS = range(3)


@pytest.mark.slow
@pytest.mark.parametrize("load, host", [(1.3, "calm"), (2.0, "calm"), (3.0, "calm"), (2.0, "busy")])
def test_deadlines_are_kept_and_worth_it_for_every_seed(load, host):
    for seed in SEEDS:
        played = simulate(load, seed, HOSTS[host])
        assert len(played.aware) > 200 and len(played.begun) < len(played.aware)
        assert not missed(overload.judged([played], f"seed {seed}"))
        assert played.gain(played.leaving) > 1.1, "also when nobody waits in vain for the others"


def test_a_short_overload_is_judged_and_a_bad_policy_is_found(monkeypatch):
    monkeypatch.setattr(overload, "LIVES", 8)
    played = simulate(2.0, 1)
    assert not missed(overload.judged([played], ""))
    blind = dataclasses.replace(played, aware=played.fifo)
    assert len(missed(overload.judged([blind], ""))) == 2, "those begun are late, and few"
