"""Compiled grammars that are kept take no more memory than is said of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tuili.generation import grammar

FILL = r"""
import json, sys
from test_structured import EOS, Characters
from tuili.generation import grammar, structure

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYLLABLES = [a + b + c for a in LETTERS for b in LETTERS for c in LETTERS]

class Syllables:
    special_ids = frozenset()

    def token_bytes(self, token_id):
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
        n_bytes += own._compiled[form][2]
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
