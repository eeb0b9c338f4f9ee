"""Compare tuili's integer path with its own float32 path: how much do int8 activations change the answers?

    python tests/compare_quantized.py [--smollm2 FILE.gguf] [--gemma3 FILE.gguf] [--only MODEL]

`compute="auto"` with the default KV cache against `compute="float32"` with a float32 KV cache, over the first
1,500 tokens of an English and of a Chinese story. A model passes if over both languages the mean KL
divergence from the float32 path is at most 0.004 nats and the most likely token is the same at 96.5 % of the
positions or more. Exit status 1 if a model fails. Needs tuili alone, about 6 GB of memory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from oracle import model_files, texts
from oracle.measures import kl_divergence
from oracle.table import Table

MODELS = ("smollm2", "gemma3")
LANGUAGES = {"en": "English", "zh": "Chinese"}
N_TOKENS = 1_500  # of each language, less if the story is shorter
MIN_TOKENS = 1_000
MAX_MEAN_KL = 0.004  # nats
MIN_TOP1 = 0.965


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    model_files.add_arguments(parser, MODELS)
    paths = model_files.chosen(parser.parse_args(), MODELS)
    table = Table(model=8, language=8, positions=9, mean_KL=9, p99_KL=9, max_KL=9, same_top_1=10)
    for model, path in paths.items():
        _compare(table, model, path)
    return table.finish()


def _compare(table: Table, model: str, path: Path) -> None:
    """A row per language for information, and the row of both that decides."""
    import tuili

    with tuili.LLM(path, compute="float32", kv_cache_dtype="float32") as llm:
        ids = {language: llm.tokenizer.encode(texts.story(language))[:N_TOKENS] for language in LANGUAGES}
        exact = {language: llm.logits(ids[language]) for language in LANGUAGES}
    with tuili.LLM(path, compute="auto") as llm:
        results = {
            language: _divergence(llm.logits(ids[language]), exact.pop(language)) for language in LANGUAGES
        }
    for language, (kl, same) in results.items():
        table.row(_cells(model, LANGUAGES[language], kl, same), passed=len(kl) >= MIN_TOKENS)
    kl, same = (np.concatenate(columns) for columns in zip(*results.values(), strict=True))
    passed = bool(kl.mean() <= MAX_MEAN_KL and same.mean() >= MIN_TOP1)
    table.row(_cells(model, "both", kl, same), passed=passed)


def _divergence(logits: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per position: KL divergence from the exact path in nats, and whether the first maximum is the same."""
    return kl_divergence(exact, logits), logits.argmax(axis=1) == exact.argmax(axis=1)


def _cells(model: str, language: str, kl: np.ndarray, same: np.ndarray) -> list[object]:
    levels = [kl.mean(), np.quantile(kl, 0.99), kl.max()]
    return [model, language, len(kl), *(f"{level:.5f}" for level in levels), f"{same.mean():.2%}"]


if __name__ == "__main__":
    sys.exit(main())
