"""Who is computed when, on a clock that the tests move: step budget, priorities, deadlines, preemption.

Catalogue rows KV-03, KV-04, KV-05, KV-11, CAN-06, REQ-09.
"""

from __future__ import annotations

import numpy as np
import pytest

from tiny_engine import Clock, codes, drain, is_idle, make_engine, sampling
from tuili.errors import DeadlineExceeded
from tuili.generation.costs import FEWEST_ANSWERS, MEMORY, SMALLEST_CHUNK, Costs, Typical
from tuili.generation.scheduler import AGEING_S, FIRST_CHUNK, REVIEW_S

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def timed_engine(step_s=0.01, token_s=0.0, **options):
    """An engine whose steps take step_s + token_s per token."""
    return make_engine(clock=Clock(step_s, token_s), **options)


def warmed(step_s=0.01, token_s=0.0, **options):
    """The same, once it has measured prompts and decode steps of one row."""
    engine = timed_engine(step_s, token_s, **options)
    handle = engine.submit(codes("y" * 40), sampling(max_tokens=4, cache_salt="warm"))
    drain(engine)
    assert handle.done
    return engine


def exact(max_tokens, **options):
    """Parameters of an answer whose length is known before."""
    return sampling(max_tokens=max_tokens, ignore_eos=True, **options)


def first_tokens(handles):
    """Indices of the requests in the order of their first tokens."""
    return sorted(range(len(handles)), key=lambda i: handles[i].result(0).metrics["first_token_time"])


# --- what is learned


def test_nothing_measured_is_none():
    costs = Costs()
    assert costs.decode_s(1) is costs.prompt_token_s(0) is costs.prompt_s(0, 9) is None
    assert (costs.pace_s(), costs.answer_tokens(), costs.prompt_s(3, 3)) == (0.0, 1, 0.0)


def test_a_step_that_was_held_up_changes_no_estimate():
    typical = Typical()
    for i in range(MEMORY):
        typical.learn(4, 100.0 if i in (2, 5) else 1.0)
    assert typical.at(3) == typical.at(4) == 1.0


def test_an_unknown_size_is_never_overestimated():
    typical = Typical()
    typical.learn(8, 8.0)
    assert (typical.at(64), typical.at(2), typical.at(1)) == (8.0, 2.0, 1.0)


def test_a_deep_prompt_costs_what_deep_tokens_cost():
    costs = Costs()
    costs.learn_prompt([(100, 0)], 0, 1.0)
    costs.learn_prompt([(100, 512)], 0, 3.0)
    assert costs.prompt_s(500, 520) == pytest.approx(12 * 0.01 + 8 * 0.03)


def test_decoding_rows_are_not_counted_as_part_of_a_prompt():
    costs = Costs()
    costs.learn_decode(5, 0.4, n_steps=4)
    costs.learn_prompt([(20, 0), (20, 0)], 5, 0.9)
    assert costs.decode_s(5) == pytest.approx(0.1)
    assert costs.prompt_token_s(0) == pytest.approx(0.02)


# --- the step's budget


def test_a_prompt_beside_decoding_rows_keeps_steps_within_the_budget():
    engine = timed_engine(0.002, 0.0001, step_budget_s=0.012, n_blocks=300, max_model_len=2000)
    decoding = [engine.submit(codes(c), exact(90, logprobs=0)) for c in "abcd"]
    engine.step()
    handle = engine.submit(codes("x" * 1500), sampling(max_tokens=1))
    first = len(engine._runner.steps)
    while not handle.done:
        engine.step()
    mixed = engine._runner.steps[first:]
    assert max(mixed[0][0]) == FIRST_CHUNK, "nothing is known of a prompt's cost"
    assert max(seconds for _, seconds in mixed) <= 0.012
    assert min(seconds for _, seconds in mixed[1:-1]) >= 0.6 * 0.012, "the budget is there to be used"
    drain(engine)
    assert all(one.done for one in decoding) and is_idle(engine)


def test_a_prompt_alone_is_computed_in_whole_chunks():
    engine = warmed(0.002, 0.001, step_budget_s=0.01, n_blocks=300, max_model_len=2000)
    first = len(engine._runner.steps)
    handle = engine.submit(codes("x" * 1500), sampling(max_tokens=1))
    drain(engine)
    assert [n_new for n_new, _ in engine._runner.steps[first:]] == [[512], [512], [476]] and handle.done


def test_a_budget_that_decoding_alone_exceeds_still_lets_prompts_go_on():
    engine = warmed(0.002, 0.001, step_budget_s=0.001)
    decoding = engine.submit(codes("a"), exact(60, logprobs=0))
    engine.step()
    first = len(engine._runner.steps)
    handle = engine.submit(codes("x" * 100), sampling(max_tokens=1))
    while not handle.done:
        engine.step()
    assert {max(n_new) for n_new, _ in engine._runner.steps[first:-1]} == {SMALLEST_CHUNK}
    assert not decoding.done


def test_chunks_adapt_when_the_machine_slows_down():
    engine = warmed(0.002, 0.0001, step_budget_s=0.012, n_blocks=600, max_model_len=2000)
    decoding = engine.submit(codes("a"), exact(190, logprobs=0))
    engine.step()
    handle = engine.submit(codes("x" * 1900), sampling(max_tokens=1))
    for _ in range(3):
        engine.step()
    engine._clock.step_s, engine._clock.token_s = 0.004, 0.0004
    first = len(engine._runner.steps)
    while not handle.done and len(engine._runner.steps) < first + 40:
        engine.step()
    slow = [seconds for _, seconds in engine._runner.steps[first:]]
    assert slow[0] > 0.02, "this is the speed to notice"
    assert max(slow[MEMORY:]) <= 0.0125 and not decoding.done


# --- priorities


def test_the_lower_priority_comes_first_then_the_deadline_then_arrival():
    engine = timed_engine(max_num_seqs=1)
    wanted = [
        {"priority": 1},
        {"priority": 0},
        {"priority": 0, "deadline_s": 50},
        {"priority": 0, "deadline_s": 40},
        {"priority": -1, "deadline_s": 90},
        {"priority": 0},
    ]
    first = engine.submit(codes("b"), exact(5))
    engine.step()
    handles = [engine.submit(codes("k"), exact(2, **options)) for options in wanted]
    drain(engine)
    assert first_tokens(handles) == [4, 3, 2, 1, 5, 0] and first.done


def test_a_prompt_that_runs_lets_a_more_urgent_one_pass():
    engine = timed_engine(prefill_chunk=16, prefix_caching=False)
    long = engine.submit(codes("x" * 190), exact(1))
    engine.step()
    urgent = engine.submit(codes("k" * 16), exact(1, priority=-1))
    later = engine.submit(codes("m" * 16), exact(1))
    drain(engine)
    assert first_tokens([long, urgent, later]) == [1, 0, 2]


@pytest.mark.parametrize("priority", [1, 3])
def test_nobody_starves(priority):
    """One place, and always three more urgent requests that wait for it."""
    engine = timed_engine(0.05, max_num_seqs=1)
    low = engine.submit(codes("a"), exact(1, priority=priority))
    others = []
    while not low.done and engine._clock.now < 100:
        while sum(not other.done for other in others) < 3:
            others.append(engine.submit(codes("k"), exact(3)))
        engine.step()
        engine.scheduler.check_invariants()
    waited = low.result(0).metrics["queue_s"]
    assert priority * AGEING_S <= waited <= (priority + 1) * AGEING_S + REVIEW_S, (
        "as many levels as it is behind"
    )


# --- deadlines


def test_an_engine_that_has_measured_nothing_refuses_nobody():
    engine = timed_engine(1.0, max_num_seqs=1)
    handles = [engine.submit(codes(c), exact(100, deadline_s=5)) for c in "abc"]
    engine.step()
    assert not any(handle.done for handle in handles)
    drain(engine)
    assert handles[0].result(0).outputs[0].finish_reason == "deadline"


def refused(handle):
    with pytest.raises(DeadlineExceeded) as caught:
        handle.result(0)
    return caught.value.code == "deadline_unreachable"


@pytest.mark.parametrize("n", [1, 3])
def test_a_deadline_that_cannot_be_met_is_refused_before_anything_is_computed(n):
    engine = warmed()
    before = engine.stats()["computed_tokens"]
    handle = engine.submit(codes("a"), exact(60, deadline_s=0.5, n=n))  # 60 tokens take 0.6 s
    engine.step()
    assert refused(handle) and is_idle(engine)
    assert engine.stats()["computed_tokens"] == before


def test_a_deadline_that_can_be_met_is_met():
    engine = warmed()
    handle = engine.submit(codes("a"), exact(60, deadline_s=0.65))
    drain(engine)
    assert handle.result(0).outputs[0].finish_reason == "length"


def test_what_runs_and_waits_ahead_counts():
    engine = warmed(max_num_seqs=1, prefix_caching=False)
    running = engine.submit(codes("a"), exact(100))  # 1 s
    engine.step()
    waiting = engine.submit(codes("b"), exact(100, deadline_s=9))  # 1 s more
    soon = engine.submit(codes("c"), exact(100, priority=1, deadline_s=2))
    late = engine.submit(codes("d"), exact(100, priority=1, deadline_s=9.5))
    engine.step()
    engine._clock.now += REVIEW_S
    engine.step()
    assert refused(soon), "it would be done after 3 s"
    drain(engine)
    for handle in (running, waiting, late):
        assert handle.result(0).outputs[0].finish_reason == "length"


@pytest.mark.parametrize("many", [{"num_beams": 4}, {"n": 4, "seed": 1}])
def test_a_prompt_ahead_counts_once_for_all_rows_of_its_request(many):
    engine = warmed(0.01, 0.01, prefix_caching=False)
    ahead = engine.submit(codes("a" * 64), exact(2, **many))  # its prompt takes 0.65 s
    handle = engine.submit(codes("b"), exact(2, priority=1, deadline_s=1.5))
    drain(engine)
    assert ahead.result(0).outputs and handle.result(0).outputs[0].finish_reason == "length"


def test_a_request_that_waits_in_vain_is_told_before_its_deadline():
    engine = warmed(max_num_seqs=1)
    first = engine.submit(codes("a"), exact(90))
    engine.step()
    handle = engine.submit(codes("b"), exact(30, deadline_s=1.3))  # 1.2 s with what is ahead
    other = engine.submit(codes("c"), exact(1, priority=1))  # which has none
    engine.step()
    assert not handle.done
    engine._clock.step_s = 0.02
    drain(engine)
    assert refused(handle) and handle._request.times.finished < min(1.3, first._request.times.finished)
    assert other.done


def test_an_answer_that_may_end_early_is_given_the_chance():
    engine = warmed(eos_ids=(ord("f"),))
    handle = engine.submit(codes("a"), sampling(max_tokens=100, deadline_s=0.3))
    drain(engine)
    assert handle.result(0).outputs[0].text == "bcde"
    for _ in range(2 * FEWEST_ANSWERS):  # until answers of this engine are known to be long
        other = engine.submit(codes("g"), sampling(max_tokens=50))
        drain(engine)
        assert other.done
    handle = engine.submit(codes("a"), sampling(max_tokens=100, deadline_s=0.3))
    engine.step()
    assert refused(handle)


def test_a_cached_prompt_counts_as_what_is_left_of_it():
    engine = warmed(0.01, 0.01)
    prompt = codes("abcdefgh" * 16)
    first = engine.submit(prompt, exact(1))
    drain(engine)
    again = engine.submit(prompt, exact(1, deadline_s=0.5))  # 1.3 s if it were not cached
    other = engine.submit(prompt, exact(1, deadline_s=0.5, cache_salt="other", n=3))
    bystander = engine.submit(codes("k"), exact(3))
    before = engine.stats()["computed_tokens"]
    drain(engine)
    assert first.done and again.result(0).metrics["cached_tokens"] == 112
    assert refused(other) and bystander.result(0).outputs[0].text == "lmn"
    assert engine.stats()["computed_tokens"] - before == 16 + 3 and is_idle(engine)


@pytest.mark.parametrize("n_before", range(6))
def test_a_deadline_inside_a_prompt_ends_it_within_a_step(n_before):
    engine = timed_engine(0.01, prefill_chunk=16)
    other = engine.submit(codes("b"), exact(9))
    handle = engine.submit(codes("x" * 100), exact(5, deadline_s=0.01 * n_before + 0.005))
    drain(engine)
    with pytest.raises(DeadlineExceeded) as caught:
        handle.result(0)
    assert caught.value.code == "deadline"
    request = handle._request
    assert request.deadline <= request.times.finished <= request.deadline + 0.0101
    assert other.result(0).outputs[0].text == "cdefghijk" and is_idle(engine)


def test_a_deadline_passes_while_a_row_is_preempted():
    engine = timed_engine(0.01, n_blocks=3, max_model_len=48)
    oldest = engine.submit(codes("abcdefgh"), exact(30))
    newest = engine.submit(codes("ijklmnop"), exact(30, deadline_s=0.2))
    while not engine.scheduler.n_preemptions:
        assert engine.step()
    assert engine._clock.now < 0.2
    drain(engine)
    assert newest.result(0).outputs[0].finish_reason == "deadline"
    assert oldest.result(0).outputs[0].finish_reason == "length" and is_idle(engine)


def test_deadlines_of_requests_that_ended_are_forgotten():
    engine = timed_engine()
    for _ in range(300):
        handle = engine.submit(codes("a"), exact(1, deadline_s=1e6))
        drain(engine)
        assert handle.done
    assert len(engine._live.deadlines) < 100


# --- who gives way


def test_the_lowest_priority_gives_way_first_then_the_newest():
    engine = timed_engine(n_blocks=8, max_model_len=64, prefix_caching=False)
    priorities = zip("aceg", [5, 0, 3, 0], strict=True)
    handles = [engine.submit(codes(letter), exact(45, priority=p)) for letter, p in priorities]
    engine.step()
    assert len(engine.scheduler.running) == 4
    out = watched_victims(engine)
    drain(engine)
    assert out[:2] == [2, 3], "request 0 has a lower priority, and is the oldest"
    assert all(handle.result(0).outputs[0].finish_reason == "length" for handle in handles)


def watched_victims(engine):
    """A list that gets the request ids of preempted rows; fails if the oldest that runs is among them."""
    out, preempt = [], engine.scheduler._preempt

    def watched(row):
        assert row.order != min(other.order for other in engine.scheduler.running), "the oldest gave way"
        out.append(row.request.id)
        preempt(row)

    engine.scheduler._preempt = watched
    return out


@pytest.mark.parametrize("seed", range(8))
def test_random_urgencies_leave_no_text_wrong_and_nothing_behind(seed):
    rng = np.random.default_rng(seed)
    engine = timed_engine(
        0.01, 0.0005, n_blocks=6, max_model_len=60, max_num_seqs=4, prefill_chunk=int(rng.integers(1, 20))
    )
    out, handles = watched_victims(engine), []
    for _ in range(250):
        if rng.random() < 0.3:
            options = {"n": int(rng.integers(1, 3)), "priority": int(rng.integers(-2, 3))}
            if rng.random() < 0.5:
                options["deadline_s"] = float(rng.exponential(1.0))
            prompt = codes(LETTERS[: rng.integers(1, 20)])
            handles.append(engine.submit(prompt, exact(int(rng.integers(1, 40)), temperature=0, **options)))
        else:
            engine.step()
            engine.scheduler.check_invariants()
    drain(engine)
    longest = max(seconds for _, seconds in engine._runner.steps)
    ends = set()
    for handle in handles:
        request = handle._request
        assert request.times.finished <= request.deadline + longest
        if request.error is not None:
            ends.add(request.error.code)
            continue
        for output in handle.result(0).outputs:
            ends.add(output.finish_reason)
            last = request.prompt_token_ids[-1]
            assert output.token_ids == [last + 1 + i for i in range(len(output.token_ids))]
            assert output.finish_reason == "deadline" or len(output.token_ids) == request.params.max_tokens
    assert {"length", "deadline"} <= ends and out, "the generator must reach what it is meant to test"
    assert is_idle(engine)
