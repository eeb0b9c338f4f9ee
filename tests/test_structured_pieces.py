"""Structured output where tokens are pieces of words: no token for every byte, and a first space that the
text does not show. Catalogue rows REQ-10, REQ-12, CAN-01, CAN-06.
"""

from __future__ import annotations

import gc
import random
import re
import weakref

import numpy as np
import pytest

import translators
import tuili
from tuili import errors
from tuili.generation.grammar import UNSATISFIABLE, Compilation, Grammars
from tuili.generation.params import SamplingParams
from tuili.generation.structure import form_of

SOURCES = {name: translators.PREFIXES[name]["en"] + "1005" for name in translators.NAMES}


@pytest.fixture(scope="module", params=translators.NAMES)
def model(request):
    with tuili.LLM(str(translators.MODELS / request.param), num_threads=1) as llm:
        yield llm, SOURCES[request.param]


def outputs(model, **options):
    llm, source = model
    options = {"num_beams": 1, "max_tokens": 20} | options
    [answer] = llm.generate([source], SamplingParams(**options))
    return answer.outputs


def texts(model, **options):
    return [out.text for out in outputs(model, **options)]


SHARED = [{"choice": ["一千", "二千"]}, {"grammar": 'start: "一千" | "二千"'}, {"regex": "[一二]千"}]
HOWS = [{}, {"num_beams": 3, "n": 2}, {"temperature": 5.0, "n": 6, "seed": 3}]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("form", SHARED)
def test_alternatives_may_begin_with_one_byte(model, form, how):
    found = outputs(model, **form, **how)
    assert {out.finish_reason for out in found} == {"stop"}
    assert {out.text for out in found} <= {"一千", "二千"}
    assert how == {} or len({out.text for out in found}) == 2


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("text", ["one", " one", "one thousand five", "一千零五", " 一千零五", "10 05"])
def test_the_text_that_is_shown_is_the_one_of_the_form(model, text, how):
    found = outputs(model, choice=[text], **how)
    assert {(out.text, out.finish_reason) for out in found} == {(text, "stop")}


def test_a_token_named_by_its_number_may_come_first(model):
    llm, _ = model
    one = next(i for i in range(llm.config["n_vocab"]) if llm.tokenizer.token_bytes(i) == b" one")
    assert texts(model, grammar=f'start: <[{one}]> " thousand"') == ["one thousand"]


@pytest.mark.parametrize(
    "form", [{"choice": ["x"]}, {"regex": "one [xy]"}, {"json_schema": {"type": "array"}}]
)
def test_what_no_tokens_spell_is_said_to_be_so(model, form):
    with pytest.raises(errors.GrammarError) as caught:
        outputs(model, **form)
    assert caught.value.code == UNSATISFIABLE


def test_a_limit_of_tokens_cuts_such_a_text(model):
    [out] = outputs(model, choice=["one thousand five"], max_tokens=2)
    assert (out.text, out.finish_reason) == ("one thousand", "length")


def test_mates_and_preemption_change_no_such_text():
    name = "t5-numbers"
    path, source = str(translators.MODELS / name), SOURCES[name]
    tail = "( thousand| five| six| eight){35,45}"
    cases = [{"regex": "(one|two)" + tail}, {"regex": " (four|six)" + tail}, {"regex": "[一二三四]{36,40}"}]
    many = [
        SamplingParams(**case, seed=i, temperature=0.5, max_tokens=60) for i in range(4) for case in cases
    ]
    many += [SamplingParams(**case, num_beams=2, n=2, max_tokens=60) for case in cases]
    with tuili.LLM(path, num_threads=1) as llm:
        alone = [llm.generate([source], params)[0].outputs for params in many]
    with tuili.LLM(path, num_threads=1) as llm:
        engine = llm._decoder_engine()

        def preempt():
            if len(engine.scheduler.running) > 1:
                engine.scheduler._preempt(engine.scheduler.running[-1])

        handles = [llm.submit(source, params) for params in many]
        while not all(handle.done for handle in handles) and llm.stats()["preemptions"] < 30:
            engine.call(preempt)
        together = [handle.result(60).outputs for handle in handles]
        assert llm.stats()["preemptions"] > 0
    assert together == alone
    for params, outs in zip(many, alone, strict=True):
        assert all(re.fullmatch(params.regex, out.text) for out in outs)


# --- any vocabulary of pieces, against a look at every text of the language

EOS = 0
ALPHABET = "ab一二é "


class Pieces:
    """The first loses a space in front."""

    special_ids = frozenset({EOS})
    first_differs = True

    def __init__(self, rng):
        letters = ALPHABET.replace(" ", "")
        pieces = {"".join(rng.choices(letters, k=rng.randint(1, 2))) for _ in range(12)}
        spaces = ["", " ", "", " "]
        spelt = {space + piece for piece in pieces for space in rng.sample(spaces, 2)}  # both, or one of them
        self.pieces = ["</s>", *sorted(spelt | {" "})]

    def token_bytes(self, token_id, first=False):
        data = self.pieces[token_id].encode()
        return data.removeprefix(b" ") if first else data


def walk(words, constraint, language, rng):
    """A way through the language; None where no token fits."""
    text, first = b"", True
    for _ in range(20):
        fitting = {
            i
            for i in range(1, len(words.pieces))
            if any(whole.startswith(text + words.token_bytes(i, first=first)) for whole in language)
        }
        bits = np.unpackbits(constraint.mask.view(np.uint8), bitorder="little")
        allowed = set(np.flatnonzero(bits).tolist())
        assert allowed - {EOS} <= fitting
        assert (EOS in allowed) == (text in language)
        token_id = rng.choice(sorted(allowed))
        if token_id == EOS:
            return text
        text, first = text + words.token_bytes(token_id, first=first), False
        if constraint.accept(token_id):
            return text
        try:
            constraint.look_ahead()
        except errors.GrammarError as error:
            assert error.code == UNSATISFIABLE
            assert not any(
                whole.startswith(text + words.token_bytes(i))
                for i in range(1, len(words.pieces))
                for whole in language
            )
            return None
    raise AssertionError("no end")


@pytest.mark.parametrize("seed", range(60))
def test_masks_hold_what_fits_and_nothing_else(seed):
    rng = random.Random(seed)
    words = Pieces(rng)
    grammars = Grammars(words, len(words.pieces), (EOS,), start_thread=False)
    for _ in range(6):
        language = set()
        while len(language) < rng.randint(1, 4):
            ids = rng.choices(range(1, len(words.pieces)), k=rng.randint(1, 4))
            data = b"".join(words.token_bytes(i, first=place == 0) for place, i in enumerate(ids))
            language |= {data} - {b""}
        form = form_of(SamplingParams(choice=[data.decode() for data in sorted(language)]))
        arrived = []
        grammars.handle(Compilation(form, 4, arrived.append, lambda: True))
        for constraint in arrived[0]:
            found = walk(words, constraint, language, rng)
            assert found is None or found in language


# --- what grammars say of tokens and not of text


class Twins(Pieces):
    """Two that say the same in the beginning, and none that says nothing there."""

    def __init__(self):
        self.pieces = ["</s>", " one", "one", "o", "n", "e", "two", "x"]


def begin(words, **form):
    """The place before the first token, and what compiled it."""
    grammars = Grammars(words, len(words.pieces), (EOS,), start_thread=False)
    arrived = []
    grammars.handle(Compilation(form_of(SamplingParams(**form)), 1, arrived.append, lambda: True))
    [[constraint]] = arrived
    return constraint, grammars


def allowed(constraint):
    return np.flatnonzero(np.unpackbits(constraint.mask.view(np.uint8), bitorder="little")).tolist()


@pytest.mark.parametrize(
    ("grammar", "first"),
    [
        ('start: <[1]> "two"', [1]),
        ('start: <[2]> "two"', [2]),
        ('start: <[1-2]> "two"', [1, 2]),
        ('start: "one" "two"', [1, 2]),
    ],
)
def test_a_token_named_by_its_number_is_that_one_alone(grammar, first):
    words = Twins()
    for token_id in first:
        constraint, _ = begin(words, grammar=grammar)
        assert allowed(constraint) == first
        constraint.accept(token_id)
        constraint.look_ahead()
        assert allowed(constraint) == [words.pieces.index("two")]


def test_the_first_token_is_counted_as_one():
    words = Twins()
    constraint, _ = begin(words, grammar='start: some "x"\nsome[max_tokens=2]: /[a-z ]*/')
    for token_id in (1, 6):
        constraint.accept(token_id)
        constraint.look_ahead()
    assert allowed(constraint) == [words.pieces.index("x")]


def test_what_is_forgotten_is_freed_without_a_garbage_collection():
    gc.collect()
    gc.disable()
    try:
        constraint, grammars = begin(Twins(), choice=["one", "two"])
        [(form, compiled)] = grammars._compiled.items()
        kept = [weakref.ref(compiled.start), weakref.ref(grammars._vocabulary.first)]
        del compiled, constraint
        grammars._forget(form)
        assert [ref() is None for ref in kept] == [True, False]
        del grammars
        assert [ref() is None for ref in kept] == [True, True]
    finally:
        gc.enable()
