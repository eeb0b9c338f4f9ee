"""A decoder's engine, an encoder-decoder's and encoders at work at once; every answer is the one alone.

All compute on the process's one pool of threads. The engines live as in engine_schedules.py, each on a thread
of its own; on a third, encoders embed, rank, classify and answer texts in random batches at random moments.
What threads do when is the system's affair, what they do is drawn from the seed. property_schedules.py plays
them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engine_schedules
import tuili
from encoder_models import CASES, Case, write_folder

RELEVANCE = dataclasses.replace(
    CASES["BertForSequenceClassification"],
    name="relevance",
    config=CASES["BertForSequenceClassification"].config | {"id2label": {"0": "relevant"}},
)
MODELS: list[tuple[str, Case, str | None]] = [  # what is asked, of whom, and its quantization
    ("embed", CASES["BertModel"], None),
    ("embed", CASES["BertForMaskedLM-wide"], "int8"),
    ("embed", CASES["LlamaModel"], None),
    ("embed", CASES["ModernBertModel"], None),
    ("rank", RELEVANCE, None),
    ("classify", CASES["RobertaForSequenceClassification"], None),
    ("tokens", CASES["DistilBertForTokenClassification"], None),
    ("spans", CASES["ElectraForQuestionAnswering"], None),
]
WORDS = ["the", "cat", "dog", "house", "river", "good", "new", "你好", "天", "q7", ".", "in"]
QUERY = "the good cat in the house?"
LONGEST = 24  # words; most are one token


def draw_texts() -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, LONGEST))) for _ in range(60)]


TEXTS = draw_texts()


@functools.cache
def opened(model_id: int, num_threads: int, max_num_seqs: int) -> tuili.LLM:
    _, case, quantization = MODELS[model_id]
    with tempfile.TemporaryDirectory() as folder:
        return tuili.LLM(
            write_folder(case, Path(folder)),
            num_threads=num_threads,
            max_num_seqs=max_num_seqs,
            quantization=quantization,
            packed_cache=False,
        )


def embed(llm: tuili.LLM, texts: list[str], **how: Any) -> list[Hashable]:
    return [vector.tobytes() for vector in llm.embed(texts, **how)]


def rank(llm: tuili.LLM, texts: list[str]) -> list[Hashable]:
    scores = {one["index"]: one["score"] for one in llm.rank(QUERY, texts, truncation=True)}
    return [scores[i] for i in range(len(texts))]


def classify(llm: tuili.LLM, texts: list[str]) -> list[Any]:
    return llm.classify(texts, truncation=True)


def tokens(llm: tuili.LLM, texts: list[str], **how: Any) -> list[Any]:
    return tuili.pipeline("ner", llm, ignore_labels=[], truncation=True, **how)(texts)


def spans(llm: tuili.LLM, texts: list[str]) -> list[Any]:
    return tuili.pipeline("question-answering", llm)([{"question": QUERY, "context": text} for text in texts])


TASKS: dict[str, Callable[..., list[Any]]] = {
    "embed": embed,
    "rank": rank,
    "classify": classify,
    "tokens": tokens,
    "spans": spans,
}


@functools.cache
def alone(model_id: int, text: str, how: tuple[tuple[str, Any], ...]) -> Any:
    return TASKS[MODELS[model_id][0]](opened(model_id, 1, 1), [text], **dict(how))[0]


class EncoderWork:
    """One batch of texts for one encoder, with the answers of each text alone."""

    def __init__(self, rng: random.Random) -> None:
        self.model_id = rng.randrange(len(MODELS))
        self.task = MODELS[self.model_id][0]
        how: dict[str, Any] = {}
        if self.task == "embed":
            how = {"pooling": rng.choice(["mean", "cls", "last"]), "normalize": rng.random() < 0.5}
        elif self.task == "tokens":
            how = {"aggregation_strategy": rng.choice(["none", "simple", "average"])}
        self.texts = rng.sample(TEXTS, rng.randint(1, 12))
        self.how = tuple(how.items())
        self.expected = [alone(self.model_id, text, self.how) for text in self.texts]
        self.llm = opened(self.model_id, *rng.choice([(1, 64), (2, 5), (2, 64)]))  # each has a thread
        self.pause_s = rng.choice([0, 0, 0.001, 0.004])

    def __call__(self) -> int:
        time.sleep(self.pause_s)
        found = TASKS[self.task](self.llm, self.texts, **dict(self.how))
        for text, got, wanted in zip(self.texts, found, self.expected, strict=True):
            assert got == wanted, f"{self.task} of {text!r} by {self.llm.config['architecture']} differs"
        return len(self.texts)


def encode_while(engines: list[Future[Counter[str]]], works: list[EncoderWork]) -> Counter[str]:
    """Every work once at least, and all over again until the engines are done."""
    counts: Counter[str] = Counter()
    for n_done, work in enumerate(itertools.cycle(works)):
        together = not all(engine.done() for engine in engines)
        if n_done >= len(works) and not together:
            return counts
        n_texts = work()
        counts["texts of encoders"] += n_texts
        counts["texts of encoders beside engines"] += n_texts * together
    raise AssertionError("no works")


def play(seed: int) -> Counter[str]:
    """The lives of two engines and of encoders beside them; raises AssertionError where an answer differs."""
    rng = random.Random(seed)
    works = [EncoderWork(rng) for _ in range(6)]
    lives = [
        engine_schedules.Life(rng.getrandbits(32), engine_schedules.DECODERS),
        engine_schedules.Life(rng.getrandbits(32), engine_schedules.ENCODER_DECODERS),
    ]
    with ThreadPoolExecutor(len(lives) + 1) as threads:
        engines = [threads.submit(life.live) for life in lives]
        encoders = threads.submit(encode_while, engines, works)
    counts: Counter[str] = Counter({"engines beside encoders": len(lives)})
    for played in (*engines, encoders):
        counts += played.result()
    return counts
