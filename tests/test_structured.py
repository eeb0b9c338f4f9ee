"""Structured output: whatever the model wants, the text is what was asked for, and so are its bits.

The engine is that of tiny_engine.py: a token is a character, and the next one is its successor unless a
temperature draws another. Catalogue rows REQ-10 … REQ-13, CAN-01, CAN-06.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
import threading

import jsonschema
import numpy as np
import pytest

import tuili
from patience import comes_true, least, processor_s
from tiny_engine import Clock, codes, drain, is_idle, make_engine, sampling
from tiny_grammars import EOS, Characters, engine_with, make_grammars, outcome
from tiny_models import N_VOCAB
from tuili import errors
from tuili.chat import completions
from tuili.generation import grammar, quantifiers
from tuili.generation.grammar import Grammars
from tuili.generation.params import SamplingParams


def texts(grammars, prompt="a", **options):
    engine = engine_with(grammars)
    options.setdefault("max_tokens", 100)
    found = outcome(engine, grammars, [engine.submit(codes(prompt), sampling(**options))])
    return [(text, reason) for text, reason, _ in found]


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name"],
    "additionalProperties": False,
}
FORMS = {
    "regex": ("[a-f]{2,5}[0-9]+x", lambda text: re.fullmatch("[a-f]{2,5}[0-9]+x", text)),
    "choice": (["yes", "no", "ÿes"], lambda text: text in ("yes", "no", "ÿes")),
    "grammar": ('start: "(" start ")" | "x"', lambda text: re.fullmatch(r"(\(*)x(\)*)", text)),
    "json_schema": (PERSON, lambda text: jsonschema.validate(json.loads(text), PERSON) is None),
}


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("temperature", [0, 5.0])
def test_a_finished_text_has_the_form(grammars, kind, temperature):
    form, holds = FORMS[kind]
    for text, reason in texts(grammars, **{kind: form}, temperature=temperature, n=8, seed=1):
        assert reason == "length" or holds(text), text
    assert any(
        reason == "stop" for _, reason in texts(grammars, **{kind: form}, temperature=5.0, n=8, seed=1)
    )


def test_any_character_may_be_in_a_choice(grammars):
    for code in (*range(1, 32), *map(ord, '"/\\|#'), 127, 128, 255):
        text = f"x{chr(code)}y"
        assert texts(grammars, choice=[text]) == [(text, "stop")]


@pytest.mark.parametrize("name", ["节点", "a b", "é🙂", "100%", "%41", 'a"b', "a/b~c", "a^[b]#c"])
def test_a_definition_may_have_any_name(grammars, name):
    reference = name.replace("~", "~0").replace("/", "~1").replace("%41", "%2541")
    at, value = {"$ref": "#/$defs/" + reference}, {"$ref": "#/$defs/no definition"}
    properties = {"one": at, "const": at, "two": {"const": value}}
    rest = {"required": list(properties), "additionalProperties": False}
    definitions = {name: {"const": 7}, "no definition": {}}
    schema = {"$defs": definitions, "properties": properties, "type": "object", **rest}
    for form in (schema, json.dumps(schema, ensure_ascii=False)):
        [(text, reason)] = texts(grammars, json_schema=form, temperature=0, max_tokens=200)
        assert (json.loads(text), reason) == ({"one": 7, "const": 7, "two": value}, "stop")


def test_a_text_ends_where_its_grammar_ends(grammars):
    assert texts(grammars, regex="bcd") == [("bcd", "stop")]
    assert texts(grammars, regex="bcd", max_tokens=3) == [("bcd", "stop")]
    assert texts(grammars, regex="bcd", max_tokens=2) == [("bc", "length")]
    assert texts(grammars, regex="bcd", min_tokens=50, ignore_eos=True) == [("bcd", "stop")]


def test_end_of_text_is_allowed_where_the_grammar_accepts(grammars):
    (text, reason), *_ = texts(grammars, regex="(bc)*", logit_bias={EOS: 100})
    assert (text, reason) == ("", "stop")
    (text, reason), *_ = texts(grammars, regex="(bc)+", logit_bias={EOS: 100})
    assert (text, reason) == ("bc", "stop")
    (text, reason), *_ = texts(grammars, regex="(bc)*", logit_bias={EOS: 100}, min_tokens=3)
    assert (text, reason) == ("bcbc", "stop"), "min_tokens holds where the grammar can go on"


def test_a_stop_string_may_cut_a_form(grammars):
    assert texts(grammars, regex="bcdef", stop="d") == [("bc", "stop")]
    assert texts(grammars, regex="bcdef", stop="fg") == [("bcdef", "stop")], "what was held back is shown"


def test_neither_mates_nor_blocks_change_a_structured_text(grammars):
    forms = [{kind: form} for kind, (form, _) in FORMS.items()] * 2 + [{}, {}]
    requests = [
        sampling(**form, temperature=3.0, seed=i, max_tokens=40, logprobs=i % 3)
        for i, form in enumerate(forms)
    ]
    alone = []
    for i, params in enumerate(requests):
        engine = engine_with(grammars)
        alone += outcome(engine, grammars, [engine.submit(codes("ab" * (3 + i)), params)])
    engine = engine_with(grammars, n_blocks=10, max_model_len=100, prefill_chunk=16)
    handles = [engine.submit(codes("ab" * (3 + i)), params) for i, params in enumerate(requests)]
    together = outcome(engine, grammars, handles)
    assert engine.stats()["preemptions"] > 0
    assert together == alone


# Every pair of these meets in some request (row REQ-13).
PAIRS = {
    "stop": [(), "}"],
    "n": [1, 3],
    "frequency_penalty": [0.0, 1.5],
    "logprobs": [None, 2],
    "repetition_penalty": [1.0, 1.3],
    "min_tokens": [0, 10],
    "logits_processors": [(), [lambda ids, logits: None]],
    "top_p": [1.0, 0.9],
}


def test_a_form_goes_with_every_pair_of_other_parameters(grammars):
    for first, second in itertools.combinations(PAIRS, 2):
        options = {first: PAIRS[first][1], second: PAIRS[second][1]}
        found = texts(grammars, json_schema=PERSON, temperature=2.0, seed=7, **options)
        assert len(found) == options.get("n", 1)
        for text, reason in found:
            cut = "stop" in options or reason == "length"
            assert cut or FORMS["json_schema"][1](text), (options, text)


# --- what is refused

MANY = {"type": "object", "properties": {f"p{i}": {} for i in range(1001)}}
DEEP = {"type": "array"}
for _ in range(100_000):
    DEEP = {"items": DEEP}
PATTERNS = [{"type": "string", "pattern": f"a.*{i}.*b"} for i in range(60)]
CHAIN = {"$defs": {"d0": True}, "$ref": "#/$defs/d999"}
for i in range(1, 1000):
    CHAIN["$defs"][f"d{i}"] = {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{i - 1}"}}}
LETTERS = "abcdefghijklmnopqrstuvwxyz" * 40
OPTIONAL = "".join(f"[^{c}]?" for c in LETTERS)  # the library takes half a second and 150 MB for it
UNFOLDING = "start: T12\nT0: /[^a]?[^b]?/\n" + "".join(f"T{i}: T{i - 1} T{i - 1}\n" for i in range(1, 13))
CYCLE: dict = {}
CYCLE["not"] = CYCLE

REFUSED = {
    "text that is not JSON": {"json_schema": "{"},
    "a key twice": {"json_schema": '{"type": "object", "type": "array"}'},
    "not a number": {"json_schema": {"minimum": float("nan")}},
    "NaN in the text": {"json_schema": '{"minimum": NaN}'},
    "a list": {"json_schema": "[]"},
    "false": {"json_schema": False},
    "not JSON": {"json_schema": {"enum": [object()]}},
    "half a pair": {"json_schema": {"enum": ["\ud83d"]}},
    "too long": {"json_schema": {"enum": ["x" * 300_000]}},
    "much too long": {"json_schema": '{"a": "' + "x" * 10_000_000 + '"}'},
    "too deep": {"json_schema": DEEP},
    "too deep a text": {"json_schema": '{"a":' * 100_000},
    "a cycle": {"json_schema": CYCLE},
    "too many properties": {"json_schema": MANY},
    "a bound beyond 2^53": {"json_schema": {"type": "integer", "minimum": 2**53 + 1}},
    "a remote reference": {"json_schema": {"$ref": "https://example.com/schema.json"}},
    "a reference to nowhere": {"json_schema": {"$ref": "#/$defs/a"}},
    "a reference past the end": {"json_schema": {"anyOf": [{"$ref": "#/anyOf/7"}]}},
    "a reference that another base changes": {"json_schema": {"items": {"$id": "x", "$ref": "#"}}},
    "references that lead deep": {"json_schema": CHAIN},
    "many definitions": {"grammar": "".join(f"r{i}: r{i + 1}\n" for i in range(300))},
    "patterns that all hold": {"json_schema": {"type": "string", "allOf": PATTERNS}},
    "a pattern at each turn": {"json_schema": {"pattern": "a", "anyOf": PATTERNS}},
    "expressions that all hold": {"grammar": "start: A\nA: " + " & ".join(["/a/"] * 60)},
    "patterns inside a grammar": {"grammar": "start: %json " + json.dumps({"allOf": PATTERNS})},
    "many patterns of names": {"json_schema": {"patternProperties": {f"a{i}$": {} for i in range(40)}}},
    "a large multiple": {"json_schema": {"multipleOf": 99_991}},
    "multiples that all hold": {"json_schema": {"allOf": [{"multipleOf": 997}, {"multipleOf": 0.991}]}},
    "names that could come twice": {"json_schema": {"minProperties": 3, "required": ["a"]}},
    "a schema that relaxes itself": {"json_schema": {"x-guidance": {"lenient": True}, "not": {}}},
    "a value beyond 2^53": {"json_schema": {"enum": [1, 1e300]}},
    "many parts": {"json_schema": {"anyOf": [{} for _ in range(6000)]}},
    "many formats": {"json_schema": {"properties": {f"p{i}": {"format": "uri"} for i in range(900)}}},
    "many bounds": {"json_schema": {"anyOf": [{"type": "number", "minimum": i * 1.01} for i in range(1200)]}},
    "parts left out of a pattern": {"json_schema": {"pattern": OPTIONAL}},
    "parts left out of names": {"json_schema": {"patternProperties": {OPTIONAL: {}}}},
    "parts left out": {"regex": OPTIONAL},
    "empty alternatives": {"regex": "".join(f"([^{c}]|)" for c in LETTERS)},
    "parts left out of a grammar": {"grammar": f"start: /{OPTIONAL}/"},
    "symbols left out": {"grammar": "start: " + '"a"? ' * 8000},
    "terminals that unfold": {"grammar": UNFOLDING},
    "terminals that unfold behind a comment": {"grammar": '# "\n' + UNFOLDING + 'b: /#"/ // "\n'},
    "empty alternatives of a terminal": {"grammar": "start: A\nA: " + " ".join(["( | /[^a]/)"] * 1500)},
    "a rule that counts without end": {"grammar": "start: a::0\na::_: a::incr(_)"},
    "a number of 5,000 digits": {"grammar": 'start: %json {"minimum": ' + "1" * 5000 + "}"},
    "JSON that does not end": {"grammar": 'start: %json {"a"'},
    "JSON that is nested deep": {"grammar": "start: %json " + "[" * 30_000},
    "text that does not end": {"grammar": 'start: "' + '\\"' * 30_000},
    "an expression that does not end": {"grammar": "start: /" + "\\/" * 30_000},
    "many definitions beside schemas": {
        "grammar": "start: a %json {}\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(300))
    },
    "a long regex": {"regex": "a" * 70_000},
    "a nested regex": {"regex": "(" * 60_000},
    "a nested grammar": {"grammar": "start: " + "(" * 60_000 + '"a"' + ")" * 60_000},
    "many choices": {"choice": [str(i) for i in range(2000)]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_form_beyond_the_limits_is_refused_when_it_is_named(name):
    def refused():
        with pytest.raises(errors.GrammarError) as caught:
            SamplingParams(**REFUSED[name])
        assert len(str(caught.value)) < 300

    assert least(lambda: processor_s(refused), 0.5) < 0.5


def test_what_a_grammar_may_leave_out_is_counted_as_the_library_reads_it():
    assert quantifiers.in_regex(r"(a|)b*\*[x+]?") == 4, "a class counts what it holds"
    count = quantifiers.in_grammar
    assert count('start: A A\nA: B B /c?/\nB: /a*/ | "b"?  # B B') == (2 * 2 + 1) + 2
    assert count('start: A\nA: "?*" ["b"] | ""i\n  | // A A\n') == 3
    assert count('start[capture="a: A"]: %json {"a": "b?*"} /x?\ny?/ <[0-9]> "B: B B"') == 2
    assert count("".join(f'r{i}: "a"? r{i + 1}* ("b" | "c")+\n' for i in range(200))) == 150


def test_schemas_are_taken_from_a_grammar_as_the_library_reads_it():
    text = 'start: "%json {1}" a # %json {2}\na: %json\n {"b: c": [1]} /%json {3}/'
    own = 'start: "%json {1}" a # %json {2}\na: %json\n {} /%json {3}/'
    assert quantifiers.without_schemas(text) == (own, [{"b: c": [1]}])


def test_words_in_quotes_are_no_schema():
    """Read as JSON, this is nested 3,000 deep."""
    text = 'start: "%json [' + '")",[' * 3000 + '"'
    assert SamplingParams(grammar=text).grammar == text


def test_only_one_form_can_be_asked_for():
    with pytest.raises(errors.InvalidParameterError, match="next to"):
        SamplingParams(regex="a", choice=["a"])


UNFIT = {
    "a schema that nothing satisfies": {"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}},
    "a reference to itself": {"json_schema": {"$ref": "#"}},
    "a keyword that is not implemented": {"json_schema": {"type": "array", "uniqueItems": True}},
    "a multiple of nothing": {"json_schema": {"type": "number", "multipleOf": 0}},
    "an expression that ends early": {"regex": "(a"},
    "an expression that looks around": {"regex": "(?=a)b"},
    "a bare quantifier": {"regex": "*a"},
    "a grammar without an end": {"grammar": 'start: start "a"'},
    "a grammar of nothing": {"grammar": ""},
    "a name that is not defined": {"grammar": "start: b"},
}


def test_a_form_that_does_not_compile_fails_its_request_alone(grammars):
    engine = engine_with(grammars)
    mate = engine.submit(codes("a"), sampling(max_tokens=20))
    handles = {name: engine.submit(codes("a"), sampling(**form)) for name, form in UNFIT.items()}
    drain(engine)
    while any(not handle.done for handle in handles.values()):
        grammars.step()
        drain(engine)
    for name, handle in handles.items():
        with pytest.raises(errors.GrammarError) as caught:
            handle.result()
        assert len(str(caught.value)) < 400, name
    assert mate.result().outputs[0].text == "bcdefghijklmnopqrstu"
    assert is_idle(engine)


def test_a_form_and_other_parameters_may_leave_nothing(grammars):
    engine = engine_with(grammars)
    handle = engine.submit(codes("a"), sampling(regex="bcd", allowed_token_ids=codes("x")))
    drain(engine)
    grammars.step()
    drain(engine)
    with pytest.raises(errors.GrammarError) as caught:
        handle.result()
    assert caught.value.code == "no_token_allowed"


def test_a_panic_of_the_library_is_an_error_of_its_request():
    class Panic(BaseException):
        pass

    def fail():
        raise Panic

    with pytest.raises(errors.GrammarError) as caught:
        grammar.guarded(fail)
    assert caught.value.code == "grammar_library_panic"


def test_without_the_library_the_error_says_how_to_get_it(grammars, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    engine = engine_with(grammars)
    with pytest.raises(errors.InvalidParameterError, match=r"pip install 'tuili\[structured\]'") as caught:
        engine.submit(codes("a"), sampling(regex="a"))
    assert caught.value.param == "regex" and is_idle(engine)


def test_a_model_without_end_of_text_is_refused():
    engine = make_engine(grammars=Grammars(Characters(), N_VOCAB, (), start_thread=False))
    with pytest.raises(errors.GrammarError, match="end-of-text"):
        engine.submit(codes("a"), sampling(regex="a"))


# --- while it compiles


def test_a_request_can_be_aborted_while_its_grammar_compiles(grammars):
    engine = engine_with(grammars)
    handle = engine.submit(codes("a"), sampling(regex="b+"))
    assert not engine.step() and engine.stats()["waiting"] == 1
    handle.abort()
    engine.step()
    with pytest.raises(errors.RequestCancelled):
        handle.result(0)
    assert is_idle(engine)
    grammars.step()
    drain(engine)
    assert is_idle(engine)


def test_a_deadline_can_pass_while_a_grammar_compiles(grammars):
    clock = Clock()
    engine = engine_with(grammars, clock=clock)
    handle = engine.submit(codes("a"), sampling(regex="b+", deadline_s=10.0))
    engine.step()
    clock.now = 10.0
    assert not handle.done
    engine.step()
    with pytest.raises(errors.DeadlineExceeded):
        handle.result(0)
    grammars.step()
    drain(engine)
    assert is_idle(engine)


def test_a_deadline_wakes_an_engine_that_has_nothing_else_to_do():
    engine = engine_with(make_grammars(start_thread=False), start_thread=True)  # nobody compiles
    handle = engine.submit(codes("a"), sampling(regex="b+", deadline_s=0.05))
    with pytest.raises(errors.DeadlineExceeded):
        handle.result(60)
    engine.close()


def test_what_nobody_wants_is_not_compiled(grammars, monkeypatch):
    compiled = []
    monkeypatch.setattr(grammars, "_compile", lambda form: compiled.append(form))
    engine = engine_with(grammars)
    handle = engine.submit(codes("a"), sampling(regex="b+"))
    handle.abort()
    engine.step()
    grammars.step()
    assert handle.done and not compiled


def test_closing_ends_what_compiles():
    compiling, release = threading.Event(), threading.Event()

    class Slow(Characters):
        def token_bytes(self, token_id, first=False):
            compiling.set()
            release.wait(60)
            return super().token_bytes(token_id, first)

    engine = engine_with(Grammars(Slow(), N_VOCAB, (EOS,)), start_thread=True)
    others = engine.submit(codes("a"), sampling(max_tokens=3))
    handle = engine.submit(codes("a"), sampling(regex="b+"))
    assert compiling.wait(10)
    assert others.result(10).outputs[0].text == "bcd", "a compilation holds nobody up"
    threading.Thread(target=lambda: comes_true(lambda: engine.closed) and release.set()).start()
    engine.close()
    with pytest.raises(errors.EngineClosedError):
        handle.result(10)


def test_rows_that_had_to_be_compiled_find_their_place(grammars):
    engine = engine_with(grammars, max_num_seqs=2)
    late = engine.submit(codes("a"), sampling(regex="[b-z]{30}", max_tokens=30))
    early = [engine.submit(codes("a"), sampling(max_tokens=30)) for _ in range(4)]
    engine.step()  # the first two of the early ones run
    grammars.step()
    drain(engine)  # checks the order in each step
    assert all(handle.done for handle in (late, *early))


def test_the_vocabulary_is_indexed_once_and_off_the_step_thread(monkeypatch):
    threads = []

    class Watched(grammar.Vocabulary):
        def __init__(self, *args):
            threads.append(threading.current_thread().name)
            super().__init__(*args)

    monkeypatch.setattr(grammar, "Vocabulary", Watched)
    engine = make_engine(grammars=make_grammars(), eos_ids=(EOS,), start_thread=True)
    callers = [threading.Thread(target=engine.grammars.prepare) for _ in range(3)]
    for caller in callers:
        caller.start()
    handles = [engine.submit(codes("a"), sampling(regex=f"b{{{i}}}", max_tokens=9)) for i in range(1, 5)]
    assert [handle.result(20).outputs[0].text for handle in handles] == ["b", "bb", "bbb", "bbbb"]
    for caller in callers:
        caller.join()
    assert threads == [Grammars.thread_name] != [engine.thread_name]
    engine.close()
    with pytest.raises(errors.EngineClosedError):
        engine.grammars.prepare()


def test_a_vocabulary_cannot_be_indexed_without_library_or_end_of_text(grammars, monkeypatch):
    with pytest.raises(errors.GrammarError):
        Grammars(Characters(), N_VOCAB, ()).prepare()
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(errors.InvalidParameterError, match="structured"):
        grammars.prepare()


def test_as_many_bytes_of_grammars_are_kept_as_is_said(monkeypatch):
    monkeypatch.setattr(grammar, "MAX_KEPT_BYTES", 2 * (grammar.GRAMMAR_BYTES + grammar.CHARACTER_BYTES))
    monkeypatch.setattr(grammar, "SECOND_BYTES", 0)
    own = make_grammars(start_thread=False)
    engine = engine_with(own)
    for regex in ("a", "b", "a", "c"):
        outcome(engine, own, [engine.submit(codes("a"), sampling(regex=regex))])
    assert [form.text for form in own._compiled] == ["a", "c"]
    outcome(engine, own, [engine.submit(codes("a"), sampling(regex="a|" + "b" * 5000))])
    assert len(own._compiled) == 1, "one that is larger is kept alone"
    assert own._kept_bytes == sum(kept.n_bytes for kept in own._compiled.values())


# --- the core's part


def test_a_mask_has_a_bit_for_every_token():
    engine = make_engine()
    sequence = tuili._core.Sequence(np.array(codes("a"), np.int32))
    engine._pool.grow(sequence, 4)
    sequence.allow(np.full(9, 2**32 - 1, np.uint32))
    with pytest.raises(errors.InvalidParameterError, match="mask of 9 words"):
        engine._runner.step([sequence], [1], [True])
    mask = np.zeros(10, np.uint32)
    mask[ord("x") // 32] = 1 << ord("x") % 32
    sequence.allow(mask)
    assert engine._runner.step([sequence], [1], [True]).token_ids == [ord("x")]
    with pytest.raises(errors.InvalidParameterError, match="use step"):
        engine._runner.run([sequence], max_steps=2, max_s=1)
    sequence.allow(np.zeros(10, np.uint32))
    assert engine._runner.step([sequence], [1], [True]).token_ids == [-2]


# --- OpenAI's response_format


def test_response_format_becomes_a_schema():
    def schema(form):
        text = completions.sampling_params({"response_format": form}).json_schema
        return None if text is None else json.loads(text)

    assert schema({"type": "text"}) is None
    assert schema({"type": "json_object"}) == {"type": "object"}
    named = {"name": "person", "strict": True, "schema": PERSON}
    assert schema({"type": "json_schema", "json_schema": named}) == PERSON


@pytest.mark.parametrize(
    "form",
    [
        "json_object",
        {},
        {"type": "xml"},
        {"type": np.array(["text", "json_object"])},
        {"type": "json_schema", "json_schema": {"schema": {}, 10**5000: 1}},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "stricter": True}},
        {"type": "json_object", "json_schema": {"schema": {}}},
        {"type": "text", "schema": {}},
    ],
)
def test_another_response_format_is_refused(form):
    with pytest.raises(errors.InvalidParameterError):
        completions.sampling_params({"response_format": form})


# --- a real model

CITY = {
    "type": "object",
    "properties": {"城市": {"enum": ["北京", "上海"]}, "residents": {"type": "integer", "minimum": 1}},
    "required": ["城市", "residents"],
    "additionalProperties": False,
}


@pytest.mark.models
def test_a_real_model_answers_in_the_form():
    with tuili.LLM("smollm2-135m-instruct", num_threads=1) as llm:
        llm.prepare_grammars()
        messages = [{"role": "user", "content": "Which city has more residents?"}]
        alone = llm.chat(messages, json_schema=CITY, max_tokens=60, seed=5).outputs[0]
        together = [
            llm.submit(messages, json_schema=CITY, max_tokens=60, seed=5),
            llm.submit("Once upon a time", max_tokens=30),
            llm.submit(messages, choice=["上海", "北京"], max_tokens=10, temperature=1.0, seed=1),
        ]
        outputs = [handle.result(60).outputs[0] for handle in together]
        assert outputs[0] == alone and alone.finish_reason == "stop"
        jsonschema.validate(json.loads(alone.text), CITY)
        assert outputs[2].text in ("上海", "北京")
        answer = llm.create_chat_completion(
            messages=messages, max_tokens=60, response_format={"type": "json_object"}, temperature=0
        )
        assert isinstance(json.loads(answer["choices"][0]["message"]["content"]), dict)


def test_what_a_signals_handler_raises_is_no_failure_of_the_library():
    def late(*_):
        raise TimeoutError("the host's own")

    before = signal.signal(signal.SIGALRM, late)
    try:
        with pytest.raises(TimeoutError, match="own"):
            grammar.guarded(signal.raise_signal, signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
