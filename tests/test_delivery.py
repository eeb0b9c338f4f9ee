"""Stop rules: whatever the tokens' boundaries are, a text ends before the first stop string and loses nothing
before it. And who makes the text: its reader, where nobody looks for stop strings.

Catalogue rows TK-13, TK-14, KV-12.
"""

from __future__ import annotations

import asyncio
import codecs
import itertools
import threading
from typing import ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hostile.tokenizers import DOCUMENTS
from tiny_engine import Letters, codes, counted, make_engine, sampling
from tiny_tokenizers import full_byte_level, of_document
from tuili.errors import TokenizerError
from tuili.generation.delivery import spelling_for, transcript_for
from tuili.generation.params import SamplingParams
from tuili.generation.request import Reader, Request
from tuili.generation.spelling import Spelling
from tuili.loading.tokenizers.calls import call
from tuili.tokenization.tokenizer import Detokenizer

EOS = 1000


class Pieces:
    """Token i is the i-th of the given texts."""

    def __init__(self, texts, rest=""):
        self.texts, self.rest = texts, rest

    def push_many(self, token_ids):
        return "".join(map(self.push, token_ids))

    def push(self, token_id):
        return self.texts[token_id] if token_id < len(self.texts) else "<eos>"

    def flush(self):
        rest, self.rest = self.rest, ""
        return rest


def play(texts, *, rest="", max_tokens=10**6, tokens=None, **options):
    """The pieces that a reader sees who looks after every token, the reason and stop reason; ends like an
    abort if no rule stops it.
    """
    params, decoder = SamplingParams(**options), lambda skip_special: Pieces(texts, rest)
    transcript = transcript_for(params, [EOS], decoder, max_tokens=max_tokens, full="full")
    request = Request(0, [1], params, submitted=0.0, spelling=spelling_for(params, [EOS], decoder))
    reader, shown = Reader(request, 0, request.tracks[0]), []
    for token_id in range(len(texts)) if tokens is None else tokens:
        piece = transcript.accept(token_id)
        request.append(0, piece.text, [token_id], [])
        if piece.finish_reason:
            request.finish(0, piece.finish_reason, piece.stop_reason)
            shown.append(reader.take().text)
            return shown, piece.finish_reason, piece.stop_reason
        shown.append(reader.take().text)
    request.append(0, transcript.rest().text, [], [])
    request.finish(0, "abort", None)
    shown.append(reader.take().text)
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


def test_what_many_long_stop_strings_begin_with_is_text():
    stops = ["x" * 4093 + chr(0x4E00 + i) for i in range(256)]
    shown, reason, _ = play(["x"] * 50, stop=stops)
    assert ("".join(shown), reason) == ("x" * 50, None)


# --- who makes the text


class Spelled:
    """A detokenizer of ids that are bytes, which knows the threads that used it, and fails at some ids."""

    threads: ClassVar[list[str]] = []

    def __init__(self, refused=()):
        self.refused, self.decoder = refused, codecs.getincrementaldecoder("utf-8")("replace")

    def __copy__(self):
        twin = Spelled(self.refused)
        twin.decoder.setstate(self.decoder.getstate())
        return twin

    def push(self, token_id):
        return self.push_many((token_id,))

    def push_many(self, token_ids):
        self.threads.append(threading.current_thread().name)
        data = bytes(token_ids)
        if any(token_id in self.refused for token_id in data):
            call(panic)
        return self.decoder.decode(data)

    def flush(self):
        return self.decoder.decode(b"", final=True)


def panic():
    """As the Rust library does: with what is no Exception."""
    raise BaseException("a panic")


def spelling_engine(monkeypatch, refused=()):
    engine = make_engine(start_thread=True, eos_ids=(255,))
    engine._intake._decoder = lambda before, skip_special: Spelled(refused)
    monkeypatch.setattr(Spelled, "threads", [])
    return engine


@pytest.mark.parametrize("way", ["result", "for", "await", "async for"])
@pytest.mark.parametrize("stop", [(), ("zz",)])
def test_text_is_made_by_whoever_reads_it_unless_stop_strings_are_looked_for(monkeypatch, stop, way):
    engine = spelling_engine(monkeypatch)
    handle = engine.submit(codes("a"), sampling(max_tokens=9, stop=stop))
    assert read(handle, way) == counted("a", 9)
    own = threading.current_thread().name
    assert set(Spelled.threads) == {"tuili-engine" if stop else own}
    engine.close()


def read(handle, way):
    async def later():
        if way == "await":
            return (await handle).outputs[0].text
        return "".join([chunk.text async for chunk in handle])

    if way == "result":
        return handle.result(10).outputs[0].text
    return "".join(chunk.text for chunk in handle) if way == "for" else asyncio.run(later())


@pytest.mark.parametrize("way", ["result", "for", "await", "async for"])
def test_a_tokenizer_that_fails_harms_one_reader(monkeypatch, way):
    engine = spelling_engine(monkeypatch, refused=codes("f"))
    other = engine.submit(codes("k"), sampling(max_tokens=9))
    handle = engine.submit(codes("a"), sampling(max_tokens=9))
    for _ in range(2):
        with pytest.raises(TokenizerError) as caught:
            read(handle, way)
        assert caught.value.code == "library_panic"
    assert read(other, way) == counted("k", 9)
    assert engine.submit(codes("p"), sampling(max_tokens=2)).result(10).outputs[0].text == "qr"
    engine.close()


def test_a_stream_says_again_what_it_could_not_say(monkeypatch):
    refused = set(codes("d"))
    engine = spelling_engine(monkeypatch, refused)
    stream = iter(engine.submit(codes("a"), sampling(max_tokens=6)))
    text = ""
    with pytest.raises(TokenizerError):
        while True:
            text += next(stream).text
    refused.clear()
    assert text + "".join(chunk.text for chunk in stream) == "bcdefg"
    engine.close()


def test_threads_that_share_a_stream_share_its_chunks(monkeypatch):
    engine = spelling_engine(monkeypatch)
    handle = engine.submit(codes("a"), sampling(max_tokens=150))
    stream, chunks = iter(handle), []
    threads = [threading.Thread(target=lambda: chunks.extend(stream)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chunks.sort(key=lambda chunk: chunk.token_ids)  # it counts
    ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
    assert ids == list(range(98, 248)) == handle.result().outputs[0].token_ids
    engine.close()


def test_a_thread_whose_chunk_another_took_waits_for_the_next(monkeypatch):
    engine = make_engine()
    stream = iter(engine.submit(codes("a"), sampling(max_tokens=3, logprobs=0)))  # a token a step
    take = stream._next

    def taken():
        monkeypatch.setattr(stream, "_next", take)
        assert take().text == "b"
        engine.step()

    monkeypatch.setattr(stream, "_next", taken)
    engine.step()
    assert next(stream).text == "c"


@given(data=st.text(max_size=12).map(str.encode), cuts=st.sets(st.integers(0, 40)), whole=st.booleans())
def test_chunks_joined_are_the_text_and_none_ends_within_a_character(data, cuts, whole):
    data = data if whole else data[:-1]
    params = SamplingParams()
    spelling = Spelling(Spelled, frozenset([255]), 0)
    request = Request(0, [1], params, submitted=0.0, spelling=spelling)
    reader, texts = Reader(request, 0, request.tracks[0]), []
    for i, token_id in enumerate([*data, 255]):
        request.append(0, "", [token_id], [])
        if i in cuts:
            texts.append(reader.take().text)
            assert data.decode("utf-8", "replace").startswith("".join(texts))
    request.finish(0, "stop", None)
    texts.append(reader.take().text)
    whole = Reader(request, 0, request.tracks[0]).output().text
    assert "".join(texts) == data.decode("utf-8", "replace") == whole


def test_a_token_that_ends_the_text_is_not_shown_to_a_reader_who_looks_before_the_end():
    params = SamplingParams(stop_token_ids=[98], min_tokens=1)
    decoder = lambda skip_special: Spelled()  # noqa: E731
    request = Request(0, [1], params, submitted=0.0, spelling=spelling_for(params, [], decoder))
    reader = Reader(request, 0, request.tracks[0])
    for token_id, text in ((98, "b"), (97, "a"), (98, "")):  # the first cannot end it
        request.append(0, "", [token_id], [])
        assert reader.take().text == text
    assert not reader.has_news()
    request.finish(0, "stop", 98)
    assert (reader.take().finish_reason, reader.has_news()) == ("stop", False)


# --- the reader's text is what the engine's would be

TOKENIZERS = [full_byte_level(), of_document(DOCUMENTS["sentencepiece"]())]  # the second has byte fallback
NEVER = "\x07 never"


@st.composite
def continuations(draw):
    """A tokenizer, ids, options, where a reader looks, and what ends them if no rule does."""
    tokenizer = draw(st.sampled_from(TOKENIZERS))
    ids = st.integers(0, tokenizer.n_vocab)  # a model may have more rows than tokens
    special = st.sampled_from(sorted(tokenizer.special_ids))
    eos_id, stop_ids = draw(special), draw(st.lists(ids | special, max_size=2, unique=True))
    single = st.one_of(ids, special, st.sampled_from([eos_id, *stop_ids])).map(lambda token_id: [token_id])
    text = st.text("añ你🙂 ", max_size=6).map(lambda text: tokenizer.encode(text, add_special=False))
    token_ids = draw(st.lists(single | text, max_size=8))
    options = {
        "min_tokens": draw(st.integers(0, 3)),
        "ignore_eos": draw(st.booleans()),
        "stop_token_ids": stop_ids,
        "skip_special_tokens": draw(st.booleans()),
        "include_stop_str_in_output": draw(st.booleans()),
    }
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=30))  # of what comes between two looks
    return tokenizer, list(itertools.chain(*token_ids)), eos_id, options, draw(st.integers(8, 40)), sizes


def told(tokenizer, token_ids, eos_id, params, max_tokens, sizes):
    """The chunks' text, token ids and reasons, and the output's."""

    def decoder(skip_special):
        return Detokenizer(tokenizer, skip_special=skip_special)

    transcript = transcript_for(params, [eos_id], decoder, max_tokens=max_tokens, full="full")
    request = Request(0, [1], params, submitted=0.0, spelling=spelling_for(params, [eos_id], decoder))
    reader, chunks, size = Reader(request, 0, request.tracks[0]), [], itertools.cycle(sizes)
    token_ids, reason = list(token_ids), None
    while token_ids and reason is None:
        n = next(size)
        taken, piece = transcript.accept_all(token_ids[:n])
        del token_ids[:n]
        request.append(0, piece.text, taken, [])
        if sizes[0] % 2:  # a look between the last token and the end
            chunks.append(reader.take())
        if (reason := piece.finish_reason) is not None:
            request.finish(0, reason, piece.stop_reason)
        chunks.append(reader.take())
    if reason is None:
        request.append(0, transcript.rest().text, [], [])
        request.finish(0, "abort", None)
        chunks.append(reader.take())
    output = Reader(request, 0, request.tracks[0]).output()
    assert "".join(chunk.text for chunk in chunks) == output.text
    assert [i for chunk in chunks for i in chunk.token_ids] == output.token_ids
    return output


@settings(max_examples=200)
@given(continuations())
def test_a_readers_text_is_the_one_that_the_engine_makes_to_look_for_stop_strings(continuation):
    tokenizer, token_ids, eos_id, options, max_tokens, sizes = continuation
    outputs = [
        told(tokenizer, token_ids, eos_id, SamplingParams(**options, stop=stop), max_tokens, sizes)
        for stop in ((), [NEVER])
    ]
    assert outputs[0] == outputs[1]


def test_a_look_that_is_interrupted_is_repeated_whole():
    class Interrupted(Letters):
        """Half a character is held back; Ctrl-C comes when it is shown."""

        held, times = "", [KeyboardInterrupt]

        def push_many(self, token_ids):
            text, self.held = self.held + super().push_many(token_ids), "!"
            return text

        def flush(self):
            if self.times:
                raise self.times.pop()
            return self.held

    request = Request(0, [1], SamplingParams(), submitted=0.0, spelling=Spelling(Interrupted, frozenset(), 0))
    request.append(0, "", codes("ab"), [])
    request.finish(0, "length", None)
    reader = Reader(request, 0, request.tracks[0])
    with pytest.raises(KeyboardInterrupt):
        reader.take()
    assert reader.take().text == "ab!"
