"""CTranslate2: Generator for Llama, Encoder for BERT, converted from a Hugging Face folder.

Converting needs torch and transformers in the same interpreter.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .inputs import padded, pooled, prompt_ids, tokenizer


def version() -> str:
    import ctranslate2

    return f"ctranslate2 {ctranslate2.__version__}"


def convert(source: Path, target: Path, variant: str) -> None:
    from ctranslate2.converters import TransformersConverter

    files = ["tokenizer.json"] if variant.startswith("minilm") else []
    TransformersConverter(str(source), copy_files=files).convert(str(target), quantization=_kind(variant))


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Any:
    import ctranslate2

    settings = {"device": "cpu", "intra_threads": threads, "inter_threads": 1, "compute_type": _kind(variant)}
    if variant.startswith("minilm"):
        return Encoder(ctranslate2.Encoder(str(model), **settings), tokenizer(model))
    return Generator(ctranslate2.Generator(str(model), **settings), model)


def _kind(variant: str) -> str:
    return variant.partition("-")[2]


class Encoder:
    def __init__(self, encoder: Any, encode: Any) -> None:
        self._encoder, self._encode = encoder, encode

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        ids = self._encode(texts)
        hidden = np.asarray(self._encoder.forward_batch(ids).last_hidden_state)
        return pooled(hidden, padded(ids)[1])


class Generator:
    """Times come from the callback that each step makes for each sequence."""

    def __init__(self, generator: Any, model: Path) -> None:
        import json

        self._generator = generator
        self._tokens: list[str] = json.loads((model / "vocabulary.json").read_text(encoding="utf-8"))

    def prefill(self, n_prompt: int, seed: int) -> float:
        start, ends = self._generate([prompt_ids(n_prompt, seed)], 1)
        return n_prompt / (ends[0] - start)

    def decode(self, depth: int, n_new: int, seed: int) -> float:
        _, ends = self._generate([prompt_ids(max(depth, 1), seed)], n_new + 1)
        return n_new / (ends[n_new] - ends[0])

    def decode_batch(self, n_seqs: int, n_prompt: int, n_new: int, seed: int) -> float:
        _, ends = self._generate([prompt_ids(n_prompt, seed, i) for i in range(n_seqs)], n_new + 1)
        return n_seqs * n_new / (ends[n_new] - ends[0])

    def _generate(self, prompts: list[list[int]], n_new: int) -> tuple[float, dict[int, float]]:
        """(when it began, step -> when its last token came)"""
        ends: dict[int, float] = {}

        def note(result: Any) -> bool:
            ends[result.step] = time.perf_counter()
            return False

        texts = [[self._tokens[i] for i in ids] for ids in prompts]
        start = time.perf_counter()
        self._generator.generate_batch(
            texts,
            beam_size=1,
            sampling_topk=1,
            min_length=n_new,
            max_length=n_new,
            include_prompt_in_result=False,
            callback=note,
        )
        if len(ends) != n_new:
            raise RuntimeError(f"ctranslate2 made {len(ends)} steps, not {n_new}")
        return start, ends
