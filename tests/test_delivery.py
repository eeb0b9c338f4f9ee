"""Stop rules: whatever the tokens' boundaries are, a text ends before the first stop string and loses nothing
before it.

Catalogue rows TK-13, TK-14, KV-12.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tuili.generation.delivery import Transcript
from tuili.generation.params import SamplingParams

EOS = 1000


class Pieces:
    """Token i is the i-th of the given texts."""

    def __init__(self, texts, rest=""):
        self.texts, self.rest = texts, rest

    def push(self, token_id):
        return self.texts[token_id] if token_id < len(self.texts) else "<eos>"

    def flush(self):
        rest, self.rest = self.rest, ""
        return rest


def play(texts, *, rest="", max_tokens=10**6, tokens=None, **options):
    """The pieces that are shown, the reason and stop reason; ends like an abort if no rule stops it."""
    transcript = Transcript(
        Pieces(texts, rest), SamplingParams(**options), [EOS], max_tokens=max_tokens, full="full"
    )
    shown = []
    for token_id in range(len(texts)) if tokens is None else tokens:
        piece = transcript.accept(token_id)
        shown.append(piece.text)
        if piece.finish_reason:
            return shown, piece.finish_reason, piece.stop_reason
    shown.append(transcript.rest().text)
    return shown, None, None


def expected(text, stops, include):
    """The specification, on the whole text."""
    found = [(text.find(stop), i) for i, stop in enumerate(stops) if stop in text]
    if not found:
        return text, None
    at, i = min(found)
    return text[: at + len(stops[i])] if include else text[:at], stops[i]


@given(
    texts=st.lists(st.text("ab。", max_size=3), max_size=12),
    stops=st.lists(st.text("ab。", min_size=1, max_size=4), min_size=1, max_size=3),
    include=st.booleans(),
)
@example(texts=["a", "b", "a", "b"], stops=["abb", "ba"], include=False)
def test_the_first_stop_string_ends_the_text_wherever_tokens_are_cut(texts, stops, include):
    shown, reason, stop = play(texts, stop=stops, include_stop_str_in_output=include)
    # A stop counts when it is complete: later tokens, which might complete one that begins earlier, never
    # come.
    for n in range(1, len(texts) + 1):
        text, found = expected("".join(texts[:n]), stops, include)
        if found:
            assert ("".join(shown), reason, stop) == (text, "stop", found)
            return
    assert ("".join(shown), reason) == ("".join(texts), None)


@given(texts=st.lists(st.text("abc", max_size=3), max_size=12), stop=st.text("abc", min_size=1, max_size=4))
def test_nothing_of_a_stop_string_is_ever_shown(texts, stop):
    shown, reason, _ = play(texts, stop=[stop])
    whole = "".join(texts)
    for n in range(len(shown)):
        assert whole.startswith("".join(shown[: n + 1]))
    if reason == "stop":
        assert stop not in "".join(shown)


def test_end_of_text_ends_without_a_reason_of_its_own():
    assert play(["a", "b"], tokens=[0, EOS, 1]) == (["a", ""], "stop", None)


def test_what_was_held_back_is_shown_at_the_end_of_text():
    assert play(["xa", "b"], tokens=[0, EOS], stop=["ab"]) == (["x", "a"], "stop", None)


def test_half_a_character_is_shown_at_the_end():
    assert play(["x"], rest="\ufffd", tokens=[0, EOS]) == (["x", "\ufffd"], "stop", None)


def test_stop_token_ids_say_which():
    assert play(["a", "b"], stop_token_ids=[1]) == (["a", ""], "stop", 1)
    assert play(["a", "b"], stop_token_ids=[1], include_stop_str_in_output=True) == (["a", "b"], "stop", 1)


def test_ignored_end_of_text_is_text():
    assert play(["a"], tokens=[0, EOS, 0], ignore_eos=True)[0] == ["a", "<eos>", "a", ""]


def test_nothing_stops_before_min_tokens():
    shown, reason, stop = play(["a", "b", "a", "b"], tokens=[0, EOS, 1, 2, 3], stop=["ab"], min_tokens=3)
    assert ("".join(shown), reason, stop) == ("a<eos>b", "stop", "ab")


def test_length_says_whether_the_context_was_the_limit():
    assert play(["a", "b"], max_tokens=2) == (["a", "b"], "length", "full")


def test_a_stop_string_wins_over_the_length():
    assert play(["a", "b"], max_tokens=2, stop=["b"]) == (["a", ""], "stop", "b")


def test_the_last_token_shows_what_was_held_back():
    assert play(["a", "b"], max_tokens=2, stop=["bc"]) == (["a", "b"], "length", "full")


@pytest.mark.parametrize("n", [256])
def test_many_long_stop_strings_cost_little(n):
    stops = ["x" * 4095 + chr(0x4E00 + i) for i in range(n)]
    stops = [stop.encode()[:4096].decode("utf-8", "ignore") for stop in stops]
    shown, reason, _ = play(["x"] * 50, stop=stops)
    assert ("".join(shown), reason) == ("x" * 50, None)
