"""tuili itself, by its public interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .inputs import prompt_ids

MAX_SEQS = 40  # more than a batch, as the request before it has a place too
MAX_PROMPT = 128  # of a batch; all of its prompts fit into one step


def version() -> str:
    import tuili

    return f"tuili {tuili.__version__}"


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Any:
    if variant.startswith("minilm"):
        quantization = "int8" if variant.endswith("int8") else None
        return Encoder(_loaded(model, num_threads=threads, quantization=quantization))
    return Generator(
        _loaded(
            model,
            num_threads=threads,
            compute=variant.partition("+")[2] or "auto",
            enable_prefix_caching=False,
            max_model_len=2048,
            max_num_seqs=MAX_SEQS,
            prefill_chunk=MAX_SEQS * MAX_PROMPT,
        )
    )


def _loaded(model: Path, **options: Any) -> Any:
    """The model from the packed cache: a first load fills that in the background, beside what is measured."""
    import tuili

    tuili.LLM(model, **options).close()
    return tuili.LLM(model, **options)


class Encoder:
    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._llm.embed(list(texts))


class Generator:
    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def prefill(self, n_prompt: int, seed: int) -> float:
        out = self._generate(prompt_ids(n_prompt, seed), 1)
        return n_prompt / out.metrics["prefill_s"]

    def decode(self, depth: int, n_new: int, seed: int) -> float:
        out = self._generate(prompt_ids(max(depth, 1), seed), n_new + 1)
        return n_new / out.metrics["decode_s"]

    def decode_batch(self, n_seqs: int, n_prompt: int, n_new: int, seed: int) -> float:
        """The prompts wait while another one is computed, so that they begin together; should they not,
        counting from the first of all first tokens is to our disadvantage.
        """
        blocker = self._llm.submit(prompt_ids(512, seed, n_seqs), max_tokens=1, ignore_eos=True)
        prompts = [prompt_ids(n_prompt, seed, i) for i in range(n_seqs)]
        metrics = [out.metrics for out in self._generate(prompts, n_new + 1)]
        blocker.result()
        begin = min(one["first_token_time"] for one in metrics)
        end = max(one["finished_time"] for one in metrics)
        return n_seqs * n_new / (end - begin)

    def _generate(self, prompt: Any, max_tokens: int) -> Any:
        return self._llm.generate(prompt, max_tokens=max_tokens, temperature=0, ignore_eos=True)
