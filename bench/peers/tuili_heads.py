"""tuili's pipelines over BERT with a head, from text to answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .heads import MASK, head_of, inputs_of
from .tuili_engine import version as version

TASKS = {
    "sequence": ("text-classification", {}),
    "tokens": ("token-classification", {"aggregation_strategy": "simple"}),
    "spans": ("question-answering", {}),
    "words": ("fill-mask", {}),
}


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Any:
    import tuili

    quantization = "int8" if variant.endswith("int8") else None
    llm = tuili.LLM(model, num_threads=threads, quantization=quantization)
    task, settings = TASKS[head_of(variant)]
    return Head(tuili.pipeline(task, llm, **settings), head_of(variant), model / "tokenizer.json")


class Head:
    def __init__(self, pipe: Any, head: str, tokenizer_json: Path) -> None:
        self._pipe, self._head, self._tokenizer_json = pipe, head, tokenizer_json

    def answers(self, n_texts: int, shortest: int, longest: int, seed: int) -> float:
        """Texts per second of one call."""
        texts = inputs_of(self._head, self._tokenizer_json, n_texts, shortest, longest, seed)
        start = time.perf_counter()
        if self._head == "spans":
            self._pipe([{"question": question, "context": context} for question, context in texts])
        elif self._head == "words":
            self._pipe([f"{MASK} {text}" for text, _ in texts])
        else:
            self._pipe([text for text, _ in texts])
        return n_texts / (time.perf_counter() - start)
