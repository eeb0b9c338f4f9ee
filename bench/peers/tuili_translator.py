"""tuili on an encoder-decoder, by its public interface."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from . import translator_work
from .tuili_engine import version

__all__ = ["Translator", "open", "version"]


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Translator:
    import tuili

    quantization = "int8" if variant == "int8" else None
    return Translator(tuili.LLM(model, dtype="float32", quantization=quantization, num_threads=threads))


class Translator:
    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def batch(self, n_seqs: int, beam: int, n_new: int, seed: int) -> float:
        """Tokens per second of n_seqs sources that come together."""
        sources = translator_work.sources(n_seqs, seed)
        start = time.monotonic()
        self._llm.generate(sources, **_searching(beam, n_new))
        return n_seqs * n_new / (time.monotonic() - start)

    def arrivals(self, n_seqs: int, rate: float, beam: int, n_new: int, seed: int) -> list[float]:
        sources, handles = translator_work.sources(n_seqs, seed), []

        def submit(i: int) -> None:
            handles.append(self._llm.submit(sources[i], **_searching(beam, n_new)))

        begun = translator_work.arrive(n_seqs, rate, seed, submit)
        ended = [handle.result().metrics["finished_time"] for handle in handles]
        return translator_work.rates(begun, ended, n_new)


def _searching(beam: int, n_new: int) -> dict[str, Any]:
    return {"num_beams": beam, "max_tokens": n_new, "ignore_eos": True}
