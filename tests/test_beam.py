"""Beam search: transformers' sequences and scores, whatever else runs, and nothing left behind.

Catalogue rows KV-03, KV-09, CAN-01, CAN-06. The goldens are transformers' (oracle/beams.py).
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest

import tuili
from beam_goldens import asked, check
from tiny_core import built
from tiny_engine import BLOCK, POISON, codes, counted, drain, is_idle, make_engine, sampling
from tuili import _core
from tuili.errors import (
    DeadlineExceeded,
    InvalidParameterError,
    KVCacheExhaustedError,
    NumericError,
    RequestCancelled,
    TokenIdError,
)
from tuili.generation import params as parameters
from tuili.generation.forecast import tokens_to_draw
from tuili.generation.params import ALIASES, SamplingParams

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "beams.json").read_text(encoding="utf-8"))


def submitted(engine, golden):
    return engine.submit(golden["prompt"], asked(golden))


def n_blocks(golden):
    """The fewest that a search is admitted with, or a request of 40 tokens after the same prompt."""
    n_tokens = len(golden["prompt"]) + golden["max_new_tokens"] - 1
    return max(golden["num_beams"] * (-(-n_tokens // BLOCK) + 1), -(-(len(golden["prompt"]) + 40) // BLOCK))


def test_the_goldens_hold_every_way_to_end():
    ended = [g["sequences"][0][-1] in g["eos_token_id"] for g in GOLDENS]
    assert len(GOLDENS) > 50 and 10 < sum(ended) < len(GOLDENS) - 10
    lengths = [len({len(sequence) for sequence in golden["sequences"]}) for golden in GOLDENS]
    assert max(lengths) > 2, "no search has continuations of several lengths"
    stopped = [golden for golden in GOLDENS if "stop" in golden.get("options", {})]
    ends = [chr(sequence[-1]) for golden in stopped for sequence in golden["sequences"]]
    assert len({*ends} & {stop[-1] for golden in stopped for stop in golden["options"]["stop"]}) > 5


def test_sequences_and_scores_are_those_of_transformers():
    for golden in GOLDENS:
        engine = make_engine(model=built("llama"))
        handle = submitted(engine, golden)
        drain(engine)
        check(golden, handle)
        assert is_idle(engine)


@pytest.mark.parametrize("seed", range(40))
def test_company_chunks_preemption_and_threads_change_no_beam(seed):
    rng = random.Random(seed)
    goldens, handles, others = rng.sample(GOLDENS, 5), [], []
    engine = make_engine(
        model=built("llama"),
        n_blocks=max(map(n_blocks, goldens)) + rng.choice([0, 0, 3, 200]),
        num_threads=rng.choice([1, 2]),
        prefill_chunk=rng.choice([3, 16, 64]),
        prefix_caching=rng.random() < 0.5,
        max_num_seqs=rng.choice([8, 9, 20]),
    )
    for golden in goldens:
        handles.append(submitted(engine, golden))
        options = {"max_tokens": rng.randint(1, 40), "logprobs": rng.choice([None, 2])}
        others.append((engine.submit(golden["prompt"], sampling(**options)), golden["prompt"], options))
        for _ in range(rng.choice([0, 2, 10])):
            engine.step()
            engine.scheduler.check_invariants()
            if rng.random() < 0.2 and len(engine.scheduler.running) > 1:  # also who came long before others
                engine.scheduler._preempt(rng.choice(engine.scheduler.running[1:]))
    drain(engine)
    for golden, handle in zip(goldens, handles, strict=True):
        check(golden, handle)
    for handle, prompt, options in others:
        alone = make_engine(model=built("llama"))
        expected = alone.submit(prompt, sampling(**options))
        drain(alone)
        assert handle.result(timeout=0).outputs == expected.result(timeout=0).outputs
    assert is_idle(engine)


@pytest.mark.parametrize("n_beams", [2, 3])
@pytest.mark.parametrize("priority", [0, -1])
def test_searches_that_hold_each_others_blocks_go_on(n_beams, priority):
    """priority: of the newer one"""
    engine = make_engine(prefix_caching=False)
    options = {"max_tokens": 25, "num_beams": n_beams}
    handles = [
        engine.submit(codes("a"), sampling(**options)),
        engine.submit(codes("d"), sampling(**options, priority=priority)),
    ]
    for _ in range(20):
        engine.step()
    older, newer = (engine._live.rows[handle.request_id] for handle in handles)
    for rows in (older, newer):
        engine.scheduler._preempt(rows[-1])
    others = engine._pool.take(engine._pool.n_free - 1)
    engine.step()  # those that are left compute their tokens; from then on each search waits for its last row
    engine.step()
    assert {id(row) for row in engine.scheduler.running} == {*map(id, older)}, "the newer search gives way"
    for block in others:
        engine._pool.drop(block)
    drain(engine)
    texts = [handle.result(timeout=0).outputs[0].text for handle in handles]
    assert texts == [counted("a", 25), counted("d", 25)]
    assert is_idle(engine)


def test_searches_begin_in_one_step_and_their_beams_stand_together():
    engine = make_engine(prefix_caching=False, max_num_seqs=16)
    handles = [engine.submit(codes(c), sampling(max_tokens=4, num_beams=3)) for c in "adgjmp"]
    engine.step()
    assert len(engine.scheduler.running) == 5, "all that have places for their mates"
    engine.step()
    searches = [id(row.beams) for row in engine.scheduler.running]
    assert len(searches) == 15
    assert searches == [search for search in dict.fromkeys(searches) for _ in range(3)]
    drain(engine)
    assert all(handle.result(timeout=0).outputs for handle in handles)
    assert is_idle(engine)


def test_one_row_of_a_search_computes_its_prompt():
    engine = make_engine(prefix_caching=False)
    handles = [engine.submit(codes(c), sampling(max_tokens=4, num_beams=3)) for c in "adg"]
    drain(engine)
    assert all(handle.result(timeout=0).outputs for handle in handles)
    stats = engine.stats()
    assert stats["computed_tokens"] == 3 * (1 + 3 * 3) and stats["steps"] == 4


def test_the_best_of_fewer_beams_than_searched_are_returned():
    golden = next(g for g in GOLDENS if g["num_beams"] == 4 and g["max_new_tokens"] == 9)
    engine = make_engine(model=built("llama"))
    handle = submitted(engine, golden | {"num_beams": 4})
    one = engine.submit(
        golden["prompt"],
        sampling(
            max_tokens=9,
            num_beams=4,
            length_penalty=golden["length_penalty"],
            early_stopping=golden["early_stopping"],
            stop_token_ids=golden["eos_token_id"],
        ),
    )
    drain(engine)
    assert one.result(timeout=0).outputs == handle.result(timeout=0).outputs[:1]


def test_beams_share_the_blocks_of_what_they_have_in_common():
    engine = make_engine(prefix_caching=False)
    handle = engine.submit(codes("x" * 100), sampling(max_tokens=30, num_beams=4))
    for _ in range(5):
        engine.step()
    held = [row.sequence.block_ids for row in engine.scheduler.running]
    assert len(held) == 4 and len(set.intersection(*map(set, held))) == 6, "six whole blocks of 16"
    assert engine.stats()["n_blocks"] - engine.stats()["free_blocks"] == 6 + 4
    assert engine.stats()["computed_tokens"] < 100 + 4 * 6
    handle.abort()
    drain(engine)
    assert is_idle(engine)


ENDS_EARLY = {"abort": RequestCancelled, "deadline": DeadlineExceeded}  # and the error without an answer


def ended_early(engine, handle, how, n_steps, monkeypatch):
    """What it answers when it is aborted, or its deadline_s of 1000 is over, after so many steps."""
    for _ in range(n_steps):
        engine.step()
    if how == "abort":
        handle.abort()
    else:
        now = handle._request.times.submitted + 1001
        monkeypatch.setattr(engine, "_clock", lambda: now)
    engine.step()
    assert is_idle(engine)
    if n_steps < 2:  # the prompt; then the first choice, and the second
        with pytest.raises(ENDS_EARLY[how]):
            handle.result(timeout=0)
        return None
    outputs = handle.result(timeout=0).outputs
    assert [out.finish_reason for out in outputs] == [how, how]
    return outputs


@pytest.mark.parametrize("n_steps", range(7))
@pytest.mark.parametrize("how", ENDS_EARLY)
def test_an_early_end_gives_the_best_so_far(how, n_steps, monkeypatch):
    engine = make_engine()
    handle = engine.submit(codes("a" * 20), sampling(max_tokens=30, num_beams=3, n=2, deadline_s=1000))
    if outputs := ended_early(engine, handle, how, n_steps, monkeypatch):
        assert outputs[0].text == "bcdefgh"[:n_steps] and len(outputs[1].token_ids) == n_steps


@pytest.mark.parametrize("how", ENDS_EARLY)
def test_an_early_end_is_told_where_the_best_so_far_is_a_whole_text(how, monkeypatch):
    """The search, had it gone on, might have found another."""
    engine = make_engine(eos_ids=codes("d"))
    handle = engine.submit(codes("a" * 20), sampling(max_tokens=30, num_beams=3, n=2, deadline_s=1000))
    assert ended_early(engine, handle, how, 4, monkeypatch)[0].text == "bc"


def test_a_beam_of_not_numbers_fails_its_search_alone():
    engine = make_engine()
    poisoned = engine.submit([POISON], sampling(max_tokens=5, num_beams=2))
    good = engine.submit(codes("a"), sampling(max_tokens=5, num_beams=2))
    drain(engine)
    with pytest.raises(NumericError):
        poisoned.result(timeout=0)
    assert good.result(timeout=0).outputs[0].text == "bcdef"
    assert is_idle(engine)


def test_chunks_of_a_search_come_at_its_end():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=5, num_beams=2))
    chunks = iter(handle)
    drain(engine)
    assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [("bcdef", "length")]


def test_the_end_of_text_is_counted_and_not_shown():
    engine = make_engine(eos_ids=tuple(codes("f")))
    handle = engine.submit(codes("a"), sampling(max_tokens=9, num_beams=2, early_stopping=True))
    ignoring = engine.submit(codes("a"), sampling(max_tokens=9, num_beams=2, ignore_eos=True))
    drain(engine)
    best = handle.result(timeout=0).outputs[0]
    assert (best.text, best.token_ids, best.finish_reason) == ("bcde", codes("bcdef"), "stop")
    assert ignoring.result(timeout=0).outputs[0].text == "bcdefghij"


REFUSED = {
    "n": {"n": 5},
    "temperature": {"temperature": 0.5},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.9},
    "seed": {"seed": 1},
    "prompt_logprobs": {"prompt_logprobs": 1},
    "on_nan": {"on_nan": "eos"},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "length_penalty": {"num_beams": 1, "length_penalty": 2.0},
    "early_stopping": {"num_beams": 1, "early_stopping": "never"},
    "forced_bos_token_id": {"num_beams": 1, "forced_bos_token_id": 5, "choice": ["a"]},
}


@pytest.mark.parametrize("param", REFUSED)
def test_what_a_search_has_no_use_for_is_refused(param):
    with pytest.raises(InvalidParameterError) as caught:
        sampling(**{"num_beams": 4} | REFUSED[param])
    assert caught.value.param == param


def test_what_cannot_run_at_once_is_refused():
    engine = make_engine(n_blocks=12, max_num_seqs=4)
    with pytest.raises(InvalidParameterError, match="max_num_seqs = 4"):
        engine.submit(codes("a"), sampling(max_tokens=5, num_beams=5))
    with pytest.raises(KVCacheExhaustedError, match="4 beams may need 16"):
        engine.submit(codes("a" * 33), sampling(max_tokens=5, num_beams=4))
    with pytest.raises(InvalidParameterError, match="vocabulary"):
        make_engine(eos_ids=range(290)).submit(codes("a"), sampling(max_tokens=5, num_beams=20))
    assert is_idle(engine)


@pytest.fixture(scope="module")
def llm(llama_path):
    with tuili.LLM(llama_path, num_threads=1, kv_cache_bytes=1 << 21, max_model_len=256) as llm:
        yield llm


def test_beam_search_is_generate_with_all_beams(llm):
    text, words = "the answer is", {"length_penalty": 2.0, "ignore_eos": True}
    one = llm.beam_search(text, 3, 8, **words)
    many = llm.beam_search([text, [5, 6, 7]], beam_width=3, max_tokens=8, **words)
    best = llm.generate(text, num_beams=3, max_new_tokens=8, do_sample=False, **words)
    assert len(one.outputs) == 3 and one.outputs == many[0].outputs
    assert best.outputs == one.outputs[:1]
    totals = [out.cumulative_logprob for out in one.outputs]
    assert totals == sorted(totals, reverse=True)


def test_a_search_of_one_beam_is_greedy(llm):
    [greedy] = llm.beam_search("the answer is", 1, 8, ignore_eos=True).outputs
    plain = llm.generate("the answer is", max_tokens=8, ignore_eos=True, logprobs=0)
    assert greedy.score == greedy.cumulative_logprob / 8 < 0
    assert dataclasses.replace(greedy, score=None) == plain.outputs[0]
    [best, *_] = llm.beam_search("the answer is", 8, 8, ignore_eos=True).outputs
    assert best.cumulative_logprob >= greedy.cumulative_logprob


def test_a_search_takes_the_words_of_generate_for_its_own(llm):
    plain = llm.beam_search("the answer is", 3, 8)
    assert llm.beam_search("the answer is", num_beams=3, max_new_tokens=8).outputs == plain.outputs
    for twice in ({"beam_width": 2, "num_beams": 3}, {"max_tokens": 8, "max_new_tokens": 9}):
        with pytest.raises(InvalidParameterError, match="given twice"):
            llm.beam_search("the answer is", **twice)
    for wrong in ({"beam_width": np.arange(3)}, {"max_tokens": np.arange(3)}, {"num_beams": np.arange(3)}):
        with pytest.raises(InvalidParameterError):
            llm.beam_search("the answer is", **{"num_beams": 3, "max_new_tokens": 8} | wrong)


def test_no_width_is_the_default_one(llm):
    plain = llm.beam_search("the answer is", max_tokens=8)
    for words in ({"num_beams": None}, {"beam_width": None}):
        assert llm.beam_search("the answer is", max_tokens=8, **words).outputs == plain.outputs
    assert len(llm.beam_search("the answer is", 2, 8, num_beams=None).outputs) == 2


def test_a_search_of_one_beam_takes_none_for_a_default(llm):
    plain = llm.beam_search("the answer is", 1, 8)
    assert llm.beam_search("the answer is", 1, 8, None, logprobs=None).outputs == plain.outputs
    [empty] = llm.beam_search("the answer is", 1, 0, prompt_logprobs=0).outputs
    assert empty.token_ids == [] and empty.score is None


WRONG_WORDS = {
    "beam_width": 33,
    "early_stopping": "always",
    "forced_eos_token_id": -1,
    "num_return_sequences": 5,
    "seed": 1,
    "num_beam": 2,
    "max_tokens": -1,
}


@pytest.mark.parametrize("param", WRONG_WORDS)
def test_a_wrong_word_of_a_search_is_named(llm, param):
    with pytest.raises(InvalidParameterError) as caught:
        llm.beam_search("a", **{param: WRONG_WORDS[param]})
    assert caught.value.param == ALIASES.get(param, param)


@pytest.mark.parametrize("first, second", [({"priority": 1}, {}), ({}, {"deadline_s": 1000})])
def test_a_search_that_runs_gets_its_places_before_a_more_urgent_one(first, second):
    engine = make_engine(max_num_seqs=4, prefix_caching=False)
    early = engine.submit(codes("a" * 20), sampling(max_tokens=5, num_beams=4, **first))
    engine.step()
    late = engine.submit(codes("b" * 20), sampling(max_tokens=5, num_beams=4, **second))
    for _ in range(60):
        engine.step()
    assert early.done and late.done and not engine.scheduler.n_preemptions
    assert is_idle(engine)


@pytest.mark.parametrize("n_beams", [2, 4])
def test_a_search_that_waits_for_its_places_is_overtaken_by_nobody(n_beams):
    engine = make_engine(max_num_seqs=4, prefix_caching=False)
    running = [engine.submit(codes(c), sampling(max_tokens=10 + i)) for i, c in enumerate("abc")]
    engine.step()
    search = engine.submit(codes("d"), sampling(max_tokens=5, num_beams=n_beams))
    behind = [engine.submit(codes(c), sampling(max_tokens=1)) for c in "efghij"]
    while not running[-n_beams + 1].done:
        assert not any(handle.done for handle in behind), "who came later took a place that the search needs"
        engine.step()
        engine.scheduler.check_invariants()
    for _ in range(10):
        engine.step()
    assert search.done
    drain(engine)
    assert all(handle.done for handle in behind) and is_idle(engine)


def test_who_waits_takes_no_place_that_a_search_keeps_for_its_mates():
    engine = make_engine(max_num_seqs=4, prefix_caching=False, prefill_chunk=4)
    search = engine.submit(codes("a" * 20), sampling(max_tokens=5, num_beams=3))
    engine.step()
    others = [engine.submit(codes(c), sampling(max_tokens=30, priority=-1)) for c in "bcde"]
    engine.step()
    assert [row.request is search._request for row in engine.scheduler.running] == [True, False]
    while not search.done:
        engine.step()
        engine.scheduler.check_invariants()
    assert not engine.scheduler.n_preemptions
    drain(engine)
    assert all(handle.done for handle in others) and is_idle(engine)


def test_a_search_begins_where_there_are_blocks_for_its_mates():
    engine = make_engine(max_num_seqs=16, prefix_caching=False, n_blocks=14)
    handles = [engine.submit(codes(c), sampling(max_tokens=3, num_beams=4)) for c in "adgj"]
    while engine.step():
        searches = {id(row.beams) for row in engine.scheduler.running}
        whole = sum(len(row.beams.rows) for row in engine.scheduler.running if row is row.beams.rows[0])
        assert len(engine.scheduler.running) in (whole, len(searches)), "one waits for blocks of others"
    assert all(handle.done for handle in handles) and is_idle(engine)


def test_a_search_that_is_nearly_done_counts_as_nearly_done():
    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=40, num_beams=2, ignore_eos=True))
    for _ in range(30):
        engine.step()
    rows = engine._live.rows[handle.request_id]
    drawn = rows[0].sequence.n_tokens - rows[0].sequence.n_prompt
    assert drawn > 20 and tokens_to_draw(rows[0], engine.scheduler.costs) == 40 - drawn


def test_a_search_with_one_way_to_go_gives_one_continuation():
    engine = make_engine(prefix_caching=False)
    only = {"max_tokens": 40, "num_beams": 4, "n": 3, "allowed_token_ids": codes("x")}
    handles = [engine.submit(codes("a" * 20), sampling(**only, priority=i)) for i in (1, 0)]
    streamed = iter(engine.submit(codes("a" * 20), sampling(**only)))
    for _ in range(30):
        engine.step()
    engine.scheduler._preempt(engine.scheduler.running[-1])  # one that holds a beam's place
    drain(engine)
    for handle in handles:
        assert [out.text for out in handle.result(timeout=0).outputs] == ["x" * 40]
    assert [chunk.text for chunk in streamed] == ["x" * 40]
    assert is_idle(engine)


def test_a_search_without_a_way_to_go_fails():
    engine = make_engine(eos_ids=codes("x"))
    options = {"max_tokens": 5, "num_beams": 2, "min_tokens": 3, "allowed_token_ids": codes("x")}
    handle = engine.submit(codes("a"), sampling(**options))
    drain(engine)
    with pytest.raises(NumericError) as caught:
        handle.result(timeout=0)
    assert caught.value.code == "no_token_allowed" and is_idle(engine)


def test_forced_tokens_are_first_and_last():
    engine = make_engine(eos_ids=codes("z"))
    forced = {"forced_bos_token_id": ord("k"), "forced_eos_token_id": ord("z")}
    handles = [
        engine.submit(codes("a"), sampling(max_tokens=5, num_beams=width, **forced)) for width in (1, 3)
    ]
    handles.append(engine.submit(codes("a"), sampling(max_tokens=1, **forced)))
    handles.append(engine.submit(codes("a"), sampling(max_tokens=5, seed=1, **forced)))
    drain(engine)
    for handle, ids in zip(handles, ("klmnz", "klmnz", "z", "k"), strict=True):
        [out] = handle.result(timeout=0).outputs
        assert out.token_ids[: len(ids)] == codes(ids)
        assert len(out.token_ids) == 1 or out.token_ids[-1] == ord("z")
        assert out.finish_reason == "stop" and not out.stop_reason


def test_the_models_own_forced_tokens_are_the_default():
    from_model = parameters.defaults_from({"forced_bos_token_id": 7, "forced_eos_token_id": 2})
    assert from_model == {"forced_bos_token_id": 7, "forced_eos_token_id": 2}
    assert parameters.resolve(SamplingParams(), from_model).forced_bos_token_id == 7
    assert parameters.resolve(SamplingParams(forced_bos_token_id=8), from_model).forced_bos_token_id == 8
    engine = make_engine()
    with pytest.raises(TokenIdError, match="forced_eos_token_id"):
        engine.submit(codes("a"), sampling(forced_eos_token_id=[5, 300]))


def test_stop_strings_end_beams_and_are_cut():
    engine = make_engine()
    words = {"max_tokens": 9, "num_beams": 2, "stop": ["de"]}
    handles = [
        engine.submit(codes("a"), sampling(**words | more))
        for more in ({}, {"include_stop_str_in_output": True}, {"min_tokens": 6, "stop": ["de", "hi"]})
    ]
    drain(engine)
    texts = [handle.result(timeout=0).outputs[0] for handle in handles]
    assert [(out.text, out.stop_reason) for out in texts] == [("bc", "de"), ("bcde", "de"), ("bcdefg", "hi")]
    assert [len(out.token_ids) for out in texts] == [4, 4, 8]


def test_log_probabilities_of_beams_are_the_models_own():
    engine = make_engine(model=built("llama"))
    options = {"max_tokens": 6, "ignore_eos": True, "logit_bias": dict.fromkeys(range(300), -1.0)}
    search = engine.submit([5, 6, 7], sampling(**options, num_beams=3, logprobs=2))
    drain(engine)
    [best] = search.result(timeout=0).outputs
    again = engine.submit([5, 6, 7, *best.token_ids], sampling(max_tokens=0, prompt_logprobs=2))
    drain(engine)
    assert best.logprobs == again.result(timeout=0).prompt_logprobs[3:]
    assert abs(best.score - (best.cumulative_logprob / 6 - 1)) < 1e-6, "the bias is part of the score alone"


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if _core.build_info()["cuda"] != "none" else [])])
def test_a_processor_that_returns_what_it_got_changes_no_bit_of_a_search(device):
    """A device ranks the one row from its list, and brings the other's logits to the host."""
    engine = make_engine(model=built("llama", device=device))
    options = {"max_tokens": 9, "num_beams": 3, "n": 3, "logprobs": 1, "no_repeat_ngram_size": 2}
    seen = []
    handles = [
        engine.submit([5, 6, 7], sampling(**options, logits_processors=given))
        for given in ((), [lambda token_ids, logprobs: seen.append((token_ids, logprobs.max()))])
    ]
    drain(engine)
    plain, same = (handle.result(timeout=0).outputs for handle in handles)
    assert plain == same and len({tuple(token_ids) for token_ids, _ in seen}) > 9
    assert all(best <= 0 for _, best in seen)
    assert (engine._runner.n_listed() > 9) == (device == "cuda")


def test_certainty_is_no_log_probability():
    def certain(token_ids, logprobs):
        logprobs[5] = np.inf

    engine = make_engine()
    handle = engine.submit(codes("a"), sampling(max_tokens=5, num_beams=2, logits_processors=[certain]))
    drain(engine)
    with pytest.raises(InvalidParameterError) as caught:
        handle.result(timeout=0)
    assert caught.value.param == "logits_processors" and is_idle(engine)


def test_the_usual_cache_holds_as_many_beams_of_a_full_text_as_there_are_places(llama_path):
    with tuili.LLM(llama_path, num_threads=1, max_num_seqs=8, max_model_len=64) as llm:
        answer = llm.generate("the", num_beams=8, n=8, max_tokens=None, ignore_eos=True, temperature=0.0)
        assert len(answer.outputs) == 8 and answer.outputs[0].stop_reason == "max_model_len"
