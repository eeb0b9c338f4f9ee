"""CTranslate2's Translator. What arrives while it is at work waits and makes the next batch.

Converting needs torch and transformers in the same interpreter.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from pathlib import Path
from typing import Any

from . import translator_work
from .ctranslate2_engine import version

__all__ = ["Translator", "convert", "open", "version"]

MOST_AT_ONCE = 64


def convert(source: Path, target: Path, variant: str) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(source), copy_files=["vocab.json"]).convert(str(target), quantization=variant)


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Translator:
    import ctranslate2

    made = ctranslate2.Translator(
        str(model), device="cpu", intra_threads=threads, inter_threads=1, compute_type=variant
    )
    return Translator(made, json.loads((model / "vocab.json").read_text(encoding="utf-8")))


class Translator:
    def __init__(self, translator: Any, vocab: dict[str, int]) -> None:
        self._translator = translator
        self._texts = {i: text for text, i in vocab.items()}

    def batch(self, n_seqs: int, beam: int, n_new: int, seed: int) -> float:
        """Tokens per second of n_seqs sources that come together."""
        sources = self._texts_of(translator_work.sources(n_seqs, seed))
        start = time.monotonic()
        self._translate(sources, beam, n_new)
        return n_seqs * n_new / (time.monotonic() - start)

    def arrivals(self, n_seqs: int, rate: float, beam: int, n_new: int, seed: int) -> list[float]:
        sources = self._texts_of(translator_work.sources(n_seqs, seed))
        waiting: queue.Queue[int] = queue.Queue()
        ended = [0.0] * n_seqs

        def work() -> None:
            n_done = 0
            while n_done < n_seqs:
                chosen = [waiting.get()]
                while len(chosen) < MOST_AT_ONCE and not waiting.empty():
                    chosen.append(waiting.get())
                self._translate([sources[i] for i in chosen], beam, n_new)
                now = time.monotonic()
                for i in chosen:
                    ended[i] = now
                n_done += len(chosen)

        worker = threading.Thread(target=work)
        worker.start()
        begun = translator_work.arrive(n_seqs, rate, seed, waiting.put)
        worker.join()
        return translator_work.rates(begun, ended, n_new)

    def _texts_of(self, sources: list[list[int]]) -> list[list[str]]:
        return [[self._texts[i] for i in ids] for ids in sources]

    def _translate(self, sources: list[list[str]], beam: int, n_new: int) -> None:
        results = self._translator.translate_batch(
            sources, beam_size=beam, min_decoding_length=n_new, max_decoding_length=n_new
        )
        lengths = {len(result.hypotheses[0]) for result in results}
        if lengths != {n_new}:
            raise RuntimeError(f"ctranslate2 made {lengths} tokens, not {n_new}")
