"""Compiled grammars that are kept take no more memory than is said of them, and work as new ones do."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from tiny_grammars import make_grammars
from tuili import GrammarError
from tuili.generation import grammar, structure

BRANCHED = structure.Form("regex", "([a-z ]*e[a-z ]{40}X)*[a-z ]*")  # a state for each set of places of an e


def follows(grammars, text):
    """Whether a text of the form comes to its end, or one of the library's limits."""
    arrived = []
    grammars.handle(grammar.Compilation(BRANCHED, 1, arrived.append, lambda: True))
    [[constraint]] = arrived
    try:
        for letter in text:
            constraint.accept(ord(letter))
            constraint.look_ahead()
    except GrammarError as error:
        assert "too many states" in str(error)
        return False
    return True


def test_outputs_that_use_up_a_grammars_states_do_no_harm_to_later_ones(monkeypatch):
    """The library counts the states of all outputs together."""
    monkeypatch.setitem(grammar.FUEL, "max_lexer_states", 3000)
    grammars = make_grammars(start_thread=False)
    texts = ["".join(random.Random(seed).choices("ae", k=40)) for seed in range(100)]
    failed = [text for text in texts if not follows(grammars, text)]
    assert 0 < len(failed) < 20, "the limit is met now and then"
    assert all(follows(grammars, text) for text in failed), "by none of them alone"


FILL = r"""
import json, sys
from tiny_grammars import EOS, Characters
from tuili.generation import grammar, structure

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYLLABLES = [a + b + c for a in LETTERS for b in LETTERS for c in LETTERS]

class Syllables:
    special_ids = frozenset()
    first_differs = False

    def token_bytes(self, token_id, first=False):
        return SYLLABLES[token_id].encode()

def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def long_ones(i):
    numbers = {f"p{i}_{j}": {"type": "array", "items": {"minimum": j, "maximum": i}} for j in range(300)}
    yield "json_schema", json.dumps({"properties": numbers, "required": list(numbers)})
    yield "choice", json.dumps([f"{i} {j}" for j in range(1000)])
    yield "grammar", "\n".join(f'r{j}: "{i}" r{(j + 1) % 250}?' for j in range(250)) + "\nstart: r1"
    yield "regex", str(i) + "." * 3000

def of_many_states(i):
    words = [f"T{j}: /[a-z]*{LETTERS[j % 26]}[a-z]{{{j % 7}}}{i}{j}/" for j in range(60)]
    yield "grammar", "start: " + "|".join(f"T{j}" for j in range(60)) + "\n" + "\n".join(words)

if sys.argv[1] == "long":
    forms, own = long_ones, grammar.Grammars(Characters(), 300, (EOS,), start_thread=False)
else:
    forms, own = of_many_states, grammar.Grammars(Syllables(), len(SYLLABLES), (0,), start_thread=False)
own._index()
before, n_bytes, i = resident_bytes(), 0, 0
while n_bytes < 3 * grammar.MAX_KEPT_BYTES:
    for kind, text in forms(i):
        form = structure.Form(kind, text)
        own._compile(form)
        n_bytes += own._compiled[form].n_bytes
    i += 1
print(resident_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["long", "of many states"])
def test_kept_grammars_take_no_more_than_is_said(kind):
    environment = {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", FILL, kind]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.1 * grammar.MAX_KEPT_BYTES
