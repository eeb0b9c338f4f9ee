"""Grammars over the characters of tiny_engine.py, and engines whose texts follow them."""

from __future__ import annotations

from tiny_engine import drain, is_idle, make_engine
from tiny_models import N_VOCAB
from tuili.generation.grammar import Grammars

EOS = 0


class Characters:
    """The vocabulary of `Letters`."""

    special_ids = frozenset({EOS})
    first_differs = False

    def token_bytes(self, token_id, first=False):
        return chr(token_id).encode()


def make_grammars(**options):
    return Grammars(Characters(), N_VOCAB, (EOS,), **options)


def engine_with(grammars, **options):
    return make_engine(grammars=grammars, eos_ids=(EOS,), **options)


def outcome(engine, grammars, handles):
    """Compile, step to the end, and return (text, finish_reason, token ids) of every continuation."""
    while any(not handle.done for handle in handles):
        grammars.step()
        drain(engine)
    assert is_idle(engine)
    outputs = [item for handle in handles for item in handle.result().outputs]
    return [(item.text, item.finish_reason, item.token_ids) for item in outputs]
