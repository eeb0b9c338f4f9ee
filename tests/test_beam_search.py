"""The core's beam search: the reference's decisions, bit for bit, whatever the candidates; and no call of it
that ends the process. Catalogue row KV-09.
"""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from beam_reference import ReferenceSearch
from tiny_core import built
from tuili import _core, errors

BLOCK_SIZE = 16
PROMPT = np.arange(2, 14, dtype=np.int32)


def search_of(width=2, ending=(9,), max_tokens=50, kind=_core.BeamSearch, **rules):
    return kind(width, [*ending], max_tokens, **{"length_penalty": 1.0, "early_stopping": False} | rules)


def candidates(*found):
    return [(token_id, score, score) for token_id, score in found], []


def texts(beams, score):
    return [(list(beam.token_ids), list(beam.logprobs), score(beam), beam.ended) for beam in beams]


def drawn(rng, n, *, n_vocab):
    """Candidates as a step leaves them: some as likely as others, some forbidden, few enough for ties."""
    ids = rng.sample(range(n_vocab), n)
    steps = [-math.inf, -2.0, -1.5, -1.0, -0.5, float(np.float32(rng.uniform(-9, 0)))]
    scored = [(i, rng.choice(steps), float(np.float32(rng.uniform(-9, 0)))) for i in ids]
    best = [(i, -float(i)) for i in range(rng.randint(0, 2))]
    return sorted(scored, key=lambda entry: (-entry[1], entry[0])), best


@pytest.mark.parametrize("seed", range(300))
def test_a_search_is_the_references(seed):
    rng = random.Random(seed)
    width, ending = rng.choice([1, 2, 3, 5, 8]), rng.sample(range(60), rng.choice([0, 1, 3]))
    rules = {
        "max_tokens": rng.randint(1, 12),
        "length_penalty": rng.choice([-2.0, 0.0, 0.6, 1.0, 2.5]),
        "early_stopping": rng.choice([True, False, "never"]),
        "may_end": rng.random() < 0.5,
    }
    core, reference = (
        search_of(width, ending, kind=kind, **rules) for kind in (_core.BeamSearch, ReferenceSearch)
    )
    assert core.n_candidates == reference.n_candidates and not core.begun and core.best(width) == []
    asked = []

    def ends(parent, token):
        asked.append((parent, token))
        return (parent * 7 + token) % 5 == 0

    while not reference.done:
        given = [drawn(rng, core.n_candidates, n_vocab=60) for _ in reference.running]
        questions = []
        for search in (core, reference):
            parents = search.advance(given, *([ends] if rules["may_end"] else []))
            questions.append((parents, asked.copy()))
            asked.clear()
        assert questions[0] == questions[1]
        assert core.done == reference.done and core.begun == bool(reference.finished or reference.running)
        for n in (1, width):
            assert texts(core.best(n), lambda beam: beam.score) == texts(reference.best(n), reference.score)


def test_a_long_search_is_the_references():
    """Of more tokens than it keeps of beams that are lost."""
    rng = random.Random(0)
    rules = {"width": 8, "ending": [9], "max_tokens": 700, "early_stopping": "never", "length_penalty": 2.0}
    core, reference = (search_of(kind=kind, **rules) for kind in (_core.BeamSearch, ReferenceSearch))
    while not reference.done:
        given = [drawn(rng, core.n_candidates, n_vocab=60) for _ in reference.running]
        assert core.advance(given) == reference.advance(given)
    assert core.done and len(reference.best(1)[0].token_ids) > 500
    assert texts(core.best(8), lambda beam: beam.score) == texts(reference.best(8), reference.score)


def test_a_search_ends_when_no_beam_can_still_win():
    search = search_of()
    assert search.advance([candidates((1, -0.1), (9, -0.2), (2, -9.0), (3, -9.5))]) == [0, 0]
    assert [beam.token_ids for beam in search.best(2)] == [[9], [1]] and not search.done
    search.advance([candidates((9, -0.1), (1, -9.0), (2, -9.0), (3, -9.0)), candidates(*[(1, -1.0)] * 4)])
    assert search.done and [beam.token_ids for beam in search.best(2)] == [[1, 9], [9]]


def test_never_looks_as_far_as_a_continuation_may_become():
    def after_two_steps(early_stopping):
        search = search_of(1, early_stopping=early_stopping)
        search.advance([candidates((9, -2.0), (1, -2.5))])
        return search.done

    assert [after_two_steps(early) for early in (True, False, "never")] == [True, True, False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"width": -1},
        {"width": 1 << 40},
        {"ending": [1.5]},
        {"ending": [-1]},
        {"max_tokens": 0},
        {"length_penalty": math.nan},
        {"length_penalty": math.inf},
        {"early_stopping": "always"},
    ],
)
def test_a_search_by_wrong_rules_is_refused(wrong):
    with pytest.raises((errors.InvalidParameterError, errors.TokenIdError)):
        search_of(**wrong)


WRONG_STEPS = {
    "candidates of nobody": [],
    "candidates of two": [candidates((1, -1.0)), candidates((1, -1.0))],
    "no number": [candidates((1, -1.0), (2, math.nan))],
    "certainty": [candidates((1, math.inf))],
    "no token": [candidates((-1, -1.0))],
}


@pytest.mark.parametrize("what", WRONG_STEPS)
def test_a_wrong_step_is_refused_and_changes_nothing(what):
    search = search_of()
    with pytest.raises((errors.InvalidParameterError, errors.TokenIdError)):
        search.advance(WRONG_STEPS[what])
    assert not search.begun and search.advance([candidates((1, -1.0))]) == [0, 0]
    assert search.best(2)[0].token_ids == [1]


def test_sums_that_overflow_are_refused():
    search = search_of(1)
    search.advance([candidates((1, 3e38))])
    with pytest.raises(errors.InvalidParameterError):
        search.advance([candidates((1, 3e38))])


def test_a_search_without_candidates_ends():
    search = search_of()
    assert search.advance([candidates()]) == [] and search.done and not search.begun
    with pytest.raises(errors.InvalidParameterError, match="ended"):
        search.advance([candidates((1, -1.0))])


def test_what_a_search_asks_may_call_it_or_fail():
    def again(parent, token):
        search.advance([candidates((1, -1.0))])

    def fails(parent, token):
        raise KeyError("no answer")

    for ends, error in ((again, errors.InvalidParameterError), (fails, KeyError)):
        search = search_of(may_end=True)
        with pytest.raises(error):
            search.advance([candidates((1, -1.0))], ends)
        assert search.best(2) == []
        with pytest.raises(errors.InvalidParameterError, match="ended"):
            search.advance([candidates((1, -1.0))])


class Machine:
    """A runner and its pool, and searches of two beams whose prompts are computed."""

    def __init__(self, n_blocks=16):
        self.model = built("llama")
        self.cache = _core.KvCache(self.model.spec, n_blocks, BLOCK_SIZE)
        self.pool = _core.BlockPool(n_blocks, BLOCK_SIZE)
        self.runner = _core.Runner(self.model, self.cache, max_batch_tokens=64, num_threads=1)

    def sequences(self, n=2):
        params = _core.SamplingParams(n_candidates=3)
        sequences = [_core.Sequence(PROMPT, params) for _ in range(n)]
        assert self.pool.grow(sequences[0], len(PROMPT))
        self.runner.step(sequences[:1], [len(PROMPT)], [True])
        return sequences

    def rows(self, **rules):
        sequences = self.sequences()
        search = search_of(**rules)
        return search, sequences, _core.BeamRows(search, sequences)

    def advance(self, *searches, ends=None):
        self.runner.advance_beams(self.pool, [*searches], [ends] * len(searches))
        self.pool.check_invariants()

    def compute(self, sequences):
        for sequence in sequences:
            assert self.pool.grow(sequence, sequence.n_tokens)
        self.runner.step(sequences, [1] * len(sequences), [True] * len(sequences))


def test_moves_say_where_the_beams_are():
    machine = Machine()
    search, sequences, rows = machine.rows(ending=())
    assert not rows.ready and rows.moves == []
    reference = search_of(ending=(), kind=ReferenceSearch)
    holders = [0]
    for _ in range(30):
        reference.advance([sequences[row].candidates() for row in holders])
        before = {row: sequences[row].token_ids() for row in holders}
        machine.advance(rows)
        rows.check()
        assert not rows.ready and not search.done
        for beam, (parent, row, token_id, alive) in zip(reference.running, rows.moves, strict=True):
            assert sequences[row].token_ids() == [*before[holders[parent]], token_id]
            assert sequences[row].token_ids(len(PROMPT)) == list(beam.token_ids) and alive
        stays = {holders[parent] for parent, *_ in rows.moves}
        holders = [row for _, row, _, _ in rows.moves]
        assert sorted(holders) == [0, 1] and stays <= {*holders}
        machine.compute(sequences)
        assert rows.ready


def test_an_error_of_one_search_is_its_own():
    machine = Machine()
    (_, _, good), (_, _, bad), (_, waiting, behind) = (machine.rows() for _ in range(3))
    waiting[0].append_token(5)

    def fails(parent, token):
        raise KeyError("no answer")

    machine.runner.advance_beams(machine.pool, [bad, good, behind], [fails, None, None])
    with pytest.raises(KeyError, match="no answer"):
        bad.check()
    bad.check()  # it was told
    assert len(good.moves) == 2 and bad.moves == []
    machine.advance(good)
    for rows in (good, behind):
        with pytest.raises(errors.InvalidParameterError, match="to compute"):
            rows.check()


def test_a_beam_without_a_block_is_an_error():
    machine = Machine(n_blocks=1)
    _, _, rows = machine.rows()
    machine.advance(rows)
    with pytest.raises(errors.TuiliError, match="no block"):
        rows.check()


def test_what_a_step_asks_may_not_touch_its_sequences():
    machine, seen = Machine(), []
    search, sequences, rows = machine.rows(may_end=True)
    attempts = [
        lambda: machine.runner.advance_beams(machine.pool, [rows], [None]),
        lambda: machine.runner.step(sequences[:1], [0], [False]),
        lambda: machine.pool.release(sequences[0]),
        lambda: sequences[0].append_token(5),
        lambda: search.advance([candidates((1, -1.0))]),
    ]

    def ends(parent, token):
        given.clear()
        for attempt in attempts:
            with pytest.raises(errors.InvalidParameterError):
                attempt()
        seen.append(token)
        return False

    given = [rows]
    machine.runner.advance_beams(machine.pool, given, [ends])
    rows.check()
    assert len(seen) >= 2 and len(rows.moves) == 2
    machine.pool.check_invariants()


def test_wrong_calls_are_refused():
    machine = Machine()
    search, sequences, rows = machine.rows()
    other = Machine()
    wrong_rows = [
        (search, sequences[:1]),
        (search, [sequences[0], sequences[0]]),
        (search, [sequences[0], None]),
        (None, sequences),
        (search_of(3), sequences),
    ]
    for arguments in wrong_rows:
        with pytest.raises((errors.InvalidParameterError, TypeError)):
            _core.BeamRows(*arguments)
    for searches, ends in itertools.product(([None], [rows, rows], [rows], 5), ([], [1], [None, None, None])):
        with pytest.raises((errors.InvalidParameterError, TypeError)):
            machine.runner.advance_beams(machine.pool, searches, ends)
    for twice in ([rows, rows], [rows, _core.BeamRows(search, sequences)]):
        with pytest.raises(errors.InvalidParameterError, match="twice"):
            machine.advance(*twice)
    assert not search.begun
    other.advance(rows)  # of another pool
    with pytest.raises(errors.InvalidParameterError):
        rows.check()
    assert search.begun, "it has gone on without its sequences"
    with pytest.raises(errors.InvalidParameterError):
        _core.BeamRows(search, machine.sequences())
