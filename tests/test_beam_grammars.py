"""Beams inside a grammar: those that a search over its whole language finds, whatever else runs.

Tokens are characters (tiny_engine.py) and the languages are finite, so that what may come next is told by
looking at all of their texts. Catalogue rows REQ-12, KV-09, CAN-01, CAN-06.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random

import jsonschema
import numpy as np
import pytest

from beam_reference import ReferenceSearch
from test_beam import ENDS_EARLY, ended_early
from test_structured import FORMS, PERSON
from tiny_core import built, run
from tiny_engine import BLOCK, codes, drain, is_idle, sampling
from tiny_grammars import EOS, engine_with, outcome
from tuili.errors import GrammarError, InvalidParameterError

PROMPT = "hello"
LANGUAGES = {
    "words": ({"choice": ["yes", "no", "yess", "maybe", "ma"]}, ["yes", "no", "yess", "maybe", "ma"]),
    "letters": (
        {"regex": "[ab]{1,2}c?"},
        ["a", "b", "aa", "ab", "ba", "bb", "ac", "bc", "aac", "abc", "bac", "bbc"],
    ),
    "many ends": ({"regex": "[A-z]|[0-9]!"}, [*map(chr, range(65, 123)), *(f"{i}!" for i in range(10))]),
    "brackets": ({"grammar": 'start: "x" | "(" "x" ")" | "((x))"'}, ["x", "(x)", "((x))"]),
    "values": ({"json_schema": {"enum": ["a", "ab", 1, 12, None]}}, ['"a"', '"ab"', "1", "12", "null"]),
}


class Language:
    """Its texts, looked through for whatever is asked, and the log-probabilities of a model's tokens."""

    def __init__(self, words):
        self.words, self._known = words, {}

    def following(self, text):
        """Tokens that may come after it: end of text only if another one may, too."""
        longer = {ord(word[len(text)]) for word in self.words if word.startswith(text) and word != text}
        return longer | ({EOS} if longer and text in self.words else set())

    def is_finished(self, text):
        return text in self.words and not self.following(text)

    def logprobs(self, text):
        """Of all tokens after the prompt and `text`, in nats."""
        if text not in self._known:
            logits = run(built("llama"), np.array(codes(PROMPT + text), np.int32)).logits()[-1]
            row = logits.astype(np.float64) - logits.max()
            self._known[text] = dict(enumerate(row - np.log(np.exp(row).sum())))
        return self._known[text]

    def candidates(self, text, n):
        """The n likeliest tokens, as a step gives them: what may not follow has log-probability -inf."""
        own, following = self.logprobs(text), self.following(text)
        scored = [(token, own[token] if token in following else -math.inf, own[token]) for token in own]
        return sorted(scored, key=lambda entry: (-entry[1], entry[0]))[:n], []

    def search(self, width, max_tokens, **how):
        search = ReferenceSearch(width, {EOS}, max_tokens, may_end=True, **how)

        def ends(parent, token):
            return token == EOS or self.is_finished(said(search.running[parent].token_ids) + chr(token))

        while not search.done:
            texts = [said(beam.token_ids) for beam in search.running]
            search.advance([self.candidates(text, search.n_candidates) for text in texts], ends)
        return [(said(beam.token_ids), beam.token_ids, search.score(beam)) for beam in search.best(width)]


def said(token_ids):
    return "".join(chr(token) for token in token_ids if token != EOS)


def found(handle):
    return [(said(out.token_ids), tuple(out.token_ids), out.score) for out in handle.result(0).outputs]


HOWS = [(1.0, False), (0.0, True), (2.0, "never")]


@pytest.mark.parametrize("name", LANGUAGES)
def test_beams_are_those_of_a_search_that_looks_at_every_text(grammars, name):
    form, words = LANGUAGES[name]
    language, engine = Language(words), engine_with(grammars, model=built("llama"))
    cases = [
        {"width": width, "max_tokens": n, "length_penalty": penalty, "early_stopping": early}
        for width, n, (penalty, early) in itertools.product((2, 3, 8), (2, 12), HOWS)
    ]
    handles = []
    for case in cases:
        options = {key: value for key, value in case.items() if key != "width"}
        width = case["width"]
        handles.append(engine.submit(codes(PROMPT), sampling(**form, num_beams=width, n=width, **options)))
    outcome(engine, grammars, handles)
    for case, handle in zip(cases, handles, strict=True):
        beams, expected = found(handle), language.search(**case)
        assert [beam[:2] for beam in beams] == [beam[:2] for beam in expected], case
        assert np.allclose([beam[2] for beam in beams], [beam[2] for beam in expected], rtol=1e-5), case


@pytest.mark.parametrize("name", [name for name in LANGUAGES if name != "many ends"])
def test_enough_beams_find_every_text_the_likeliest_first(grammars, name):
    form, words = LANGUAGES[name]
    language, engine = Language(words), engine_with(grammars, model=built("llama"))
    handle = engine.submit(
        codes(PROMPT),
        sampling(**form, num_beams=32, n=32, max_tokens=20, length_penalty=0.0, early_stopping="never"),
    )
    outcome(engine, grammars, [handle])

    def total(word):
        tokens = [*codes(word), *([EOS] if language.following(word) else [])]
        return sum(language.logprobs(said(tokens[:i]))[token] for i, token in enumerate(tokens))

    assert [text for text, _, _ in found(handle)] == sorted(words, key=total, reverse=True)
    for out in handle.result(0).outputs:
        assert out.finish_reason == "stop" and out.text == said(out.token_ids)


@pytest.mark.parametrize("kind", FORMS)
def test_a_finished_beam_has_the_form(grammars, kind):
    form, holds = FORMS[kind]
    engine = engine_with(grammars, model=built("llama"))
    for prompt in ("a", "hello", "zzz"):
        options = {kind: form, "num_beams": 6, "n": 6, "max_tokens": 40, "repetition_penalty": 1.3}
        handle = engine.submit(codes(prompt), sampling(**options))
        outputs = outcome(engine, grammars, [handle])
        for text, reason, _ in outputs:
            assert reason == "length" or holds(text), text
        assert any(reason == "stop" for _, reason, _ in outputs) or kind == "grammar"


@pytest.mark.parametrize("seed", range(12))
def test_company_chunks_preemption_and_threads_change_no_beam(grammars, seed):
    rng = random.Random(seed)
    requests = []
    for _ in range(4):
        width, form = rng.choice([2, 3, 5]), LANGUAGES[rng.choice(list(LANGUAGES))][0]
        options = form | {"num_beams": width, "n": width, "max_tokens": rng.randint(1, 12)}
        requests.append((codes("hello world, and so on"[: rng.randint(3, 22)]), options))
    requests.append((codes("hello"), {"max_tokens": 20, "json_schema": PERSON, "logprobs": 1}))
    engine = engine_with(
        grammars,
        model=built("llama"),
        n_blocks=5 * (-(-33 // BLOCK) + 1) + rng.choice([0, 0, 3, 200]),
        num_threads=rng.choice([1, 2]),
        prefill_chunk=rng.choice([3, 64]),
        prefix_caching=rng.random() < 0.5,
        max_num_seqs=rng.choice([6, 20]),
    )
    handles = []
    for ids, options in requests:
        handles.append(engine.submit(ids, sampling(**options)))
        grammars.step()
        for _ in range(rng.choice([0, 2, 5])):
            engine.step()
            engine.scheduler.check_invariants()
            if rng.random() < 0.3 and len(engine.scheduler.running) > 1:
                engine.scheduler._preempt(rng.choice(engine.scheduler.running[1:]))
    outcome(engine, grammars, handles)
    for (ids, options), handle in zip(requests, handles, strict=True):
        alone = engine_with(grammars, model=built("llama"))
        expected = alone.submit(ids, sampling(**options))
        outcome(alone, grammars, [expected])
        assert handle.result(0).outputs == expected.result(0).outputs


@pytest.mark.parametrize("n_steps", range(5))
@pytest.mark.parametrize("how", ENDS_EARLY)
def test_an_early_end_gives_the_best_so_far(grammars, how, n_steps, monkeypatch):
    engine = engine_with(grammars)
    handle = engine.submit(
        codes("a" * 20), sampling(regex="[a-z]{30}", max_tokens=30, num_beams=3, n=2, deadline_s=1000)
    )
    grammars.step()
    if outputs := ended_early(engine, handle, how, n_steps, monkeypatch):
        assert outputs[0].text == "bcdefgh"[:n_steps]


def test_a_stop_string_ends_a_beam_before_its_grammar_does(grammars):
    engine = engine_with(grammars)
    handle = engine.submit(codes("a"), sampling(regex="[a-z]{8}", max_tokens=30, num_beams=2, stop=["e"]))
    [(text, reason, _)] = outcome(engine, grammars, [handle])
    assert (text, reason, handle.result(0).outputs[0].stop_reason) == ("bcd", "stop", "e")


def test_a_grammar_that_ends_with_the_last_token_is_a_stop(grammars):
    engine = engine_with(grammars)
    texts = []
    for n in (2, 3, 4):
        handle = engine.submit(codes("a"), sampling(regex="bcd", max_tokens=n, num_beams=3, n=3))
        texts.append([(text, reason) for text, reason, _ in outcome(engine, grammars, [handle])])
    assert texts == [[("bc", "length")], [("bcd", "stop")], [("bcd", "stop")]]


def test_parameters_that_leave_no_text_of_the_grammar_fail_their_search_alone(grammars):
    engine = engine_with(grammars)
    never = engine.submit(codes("a"), sampling(regex="bcd", num_beams=2, allowed_token_ids=codes("bc")))
    good = engine.submit(codes("a"), sampling(regex="bcd", num_beams=2))
    while not (never.done and good.done):
        grammars.step()
        drain(engine)
    assert good.result(0).outputs[0].text == "bcd" and is_idle(engine)
    with pytest.raises(GrammarError) as caught:
        never.result(0)
    assert caught.value.code == "no_token_allowed"


def test_a_schemas_beams_validate(grammars):
    schema = PERSON | {"required": ["name", "age"]}
    engine = engine_with(grammars, model=built("llama"))
    handle = engine.submit(codes("a"), sampling(json_schema=schema, num_beams=4, n=4, max_tokens=60))
    outputs = [text for text, reason, _ in outcome(engine, grammars, [handle]) if reason == "stop"]
    assert outputs
    for text in outputs:
        jsonschema.validate(json.loads(text), schema)


def test_more_beams_than_a_grammar_can_rank_are_refused(grammars):
    engine = engine_with(grammars, max_num_seqs=200)
    with pytest.raises(InvalidParameterError, match="num_beams"):
        engine.submit(codes("a"), dataclasses.replace(sampling(regex="a", num_beams=2), num_beams=160))
