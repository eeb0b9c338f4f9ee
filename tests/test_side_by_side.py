"""Texts that several threads read at once: the answers and errors of one thread."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuili
from encoder_models import CASES, write_folder
from patience import comes_true
from tuili.errors import InvalidParameterError
from tuili.tokenization import side_by_side
from tuili.tokenization.side_by_side import CHARS_PER_THREAD, each, reads_beside_others

LONG = "x" * CHARS_PER_THREAD


def test_texts_are_read_in_the_order_given_by_as_many_threads_as_are_allowed():
    together = threading.Barrier(3)

    def read(text: str, i: int) -> tuple[int, int]:
        if i < 3:
            together.wait(10)  # only three threads at once get over it
        assert reads_beside_others()
        return i, threading.get_ident()

    found = each(read, [(LONG, i) for i in range(20)], 3)
    assert [i for i, _ in found] == list(range(20))
    assert len({thread for _, thread in found[:3]}) == 3
    assert not reads_beside_others()


@pytest.mark.parametrize(("text", "n", "num_threads"), [("short", 9, 8), (LONG, 9, 1), (LONG * 9, 1, 8)])
def test_short_texts_one_text_and_one_thread_stay_with_the_caller(text: str, n: int, num_threads: int):
    caller = threading.current_thread()
    assert all(each(lambda _: threading.current_thread() is caller, [(text,)] * n, num_threads))
    assert not any(each(lambda _: reads_beside_others(), [(text,)] * n, num_threads))


def test_the_error_is_that_of_the_first_text_whoever_was_sooner():
    read: list[int] = []

    def refuse(text: str, i: int) -> None:
        read.append(i)
        if i == 1:
            time.sleep(0.05)
        if i >= 1:
            raise InvalidParameterError(f"text {i}")

    for _ in range(5):
        read.clear()
        with pytest.raises(InvalidParameterError, match="text 1"):
            each(refuse, [(LONG, i) for i in range(1000)], 4)
        assert len(read) < 20
    assert not [thread for thread in threading.enumerate() if thread.name == "tuili-reader"]


def test_the_error_is_that_of_the_first_text_wherever_the_threads_are():
    luck = random.Random(0)

    def slowly(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != side_by_side.__file__:
            return None
        time.sleep(luck.choice((0, 0, 0.001)))
        return slowly

    def refuse(text: str, i: int) -> None:
        if i >= 2:
            raise InvalidParameterError(f"text {i}")

    threading.settrace(slowly)
    try:
        for _ in range(100):
            with pytest.raises(InvalidParameterError, match="text 2"):
                each(refuse, [(LONG, i) for i in range(8)], 4)
    finally:
        threading.settrace(None)  # type: ignore[arg-type]


def test_ctrl_c_ends_all_threads_and_waits_for_none():
    claimed = itertools.count()
    go = threading.Event()

    def read(text: str) -> None:
        next(claimed)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        go.wait(60)
        raise InvalidParameterError("of a text before")

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        each(read, [(LONG,)] * 1000, 4)
    assert time.monotonic() - begin < 30
    go.set()
    assert comes_true(
        lambda: not [thread for thread in threading.enumerate() if thread.name == "tuili-reader"]
    )
    assert next(claimed) < 20


def test_an_error_is_gone_when_nobody_has_it():
    """Without the collector of garbage, which may come late: its frames hold all that was read."""
    made: list[weakref.ref[BaseException]] = []

    class Refusal(InvalidParameterError):
        def __init__(self) -> None:
            super().__init__("no")
            made.append(weakref.ref(self))

    def refuse(text: str) -> None:
        raise Refusal

    gc.disable()
    try:
        with contextlib.suppress(Refusal):
            each(refuse, [(LONG,)] * 9, 4)
        assert made and not any(error() for error in made)
    finally:
        gc.enable()


def test_without_more_threads_the_caller_reads_all(monkeypatch: pytest.MonkeyPatch):
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert each(lambda text, i: i, [(LONG, i) for i in range(50)], 4) == list(range(50))


MODELS = Path(__file__).parent / "models"
QUESTIONS = [
    {"question": "Where does Anna live?", "context": f"Anna lives in Paris. Bob has {i} dogs. 安娜住在巴黎。"}
    for i in range(12)
]
SENTENCES = [
    f"Anna Smith met 王小明 in Paris on day {i}; it was {'great' if i % 3 else 'bad'}." for i in range(24)
]


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("questions", lambda llm: tuili.pipeline("question-answering", llm)(QUESTIONS)),
        ("entities", lambda llm: tuili.pipeline("ner", llm, aggregation_strategy="simple")(SENTENCES)),
        ("entities", lambda llm: tuili.pipeline("ner", llm)([one.split() for one in SENTENCES],
                                                            is_split_into_words=True)),
        ("sentiment", lambda llm: llm.classify(SENTENCES)),
        ("sentiment", lambda llm: tuili.pipeline("feature-extraction", llm)(SENTENCES)),
    ],
)  # fmt: skip
def test_a_task_answers_the_same_by_several_threads(
    name: str, ask: Callable[[tuili.LLM], Any], monkeypatch: pytest.MonkeyPatch
):
    begun: list[threading.Thread] = []
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        begun.extend([thread] if thread.name == "tuili-reader" else [])
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    with tuili.LLM(MODELS / name, num_threads=2) as llm:
        wanted = ask(llm)
        assert not begun
        monkeypatch.setattr(side_by_side, "CHARS_PER_THREAD", 100)
        assert ask(llm) == wanted
        assert len(begun) == 1


def test_ids_and_vectors_are_the_same_by_several_threads(tmp_path: Path):
    texts = [f"{i} 推理 is inference. " * 40 * (i % 7) for i in range(60)]
    folder = write_folder(CASES["BertModel"], tmp_path)
    with tuili.LLM(folder, num_threads=1) as alone, tuili.LLM(folder, num_threads=3) as several:
        assert several.tokenizer.encode_batch(texts) == [alone.tokenizer.encode(text) for text in texts]
        vectors = [llm.embed(texts, truncation=True) for llm in (alone, several)]
        assert np.array_equal(*vectors)
