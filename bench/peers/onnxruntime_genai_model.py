"""ONNX Runtime GenAI, int4 weights, made by its own model builder.

Building needs torch, transformers, onnx and onnx_ir in the same interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .inputs import prompt_ids


def version() -> str:
    import onnxruntime_genai

    return f"onnxruntime-genai {onnxruntime_genai.__version__}"


def convert(source: Path, target: Path, variant: str) -> None:
    """int4 as the builder makes it for a CPU, output head included."""
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    paths = ["-i", str(source), "-o", str(target), "-c", str(target.parent / "cache")]
    subprocess.run([*builder, *paths, "-p", variant.partition("-")[2], "-e", "cpu"], check=True)


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Generator:
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(model))
    settings = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": settings}}}))
    return Generator(onnxruntime_genai.Model(config))


class Generator:
    def __init__(self, model: Any) -> None:
        self._model = model

    def prefill(self, n_prompt: int, seed: int) -> float:
        start, ends = self._generate([prompt_ids(n_prompt, seed)], 1)
        return n_prompt / (ends[0] - start)

    def decode(self, depth: int, n_new: int, seed: int) -> float:
        _, ends = self._generate([prompt_ids(max(depth, 1), seed)], n_new + 1)
        return n_new / (ends[-1] - ends[0])

    def decode_batch(self, n_seqs: int, n_prompt: int, n_new: int, seed: int) -> float:
        _, ends = self._generate([prompt_ids(n_prompt, seed, i) for i in range(n_seqs)], n_new + 1)
        return n_seqs * n_new / (ends[-1] - ends[0])

    def _generate(self, prompts: list[list[int]], n_new: int) -> tuple[float, list[float]]:
        """(when it began, when each step ended)"""
        import onnxruntime_genai

        params = onnxruntime_genai.GeneratorParams(self._model)
        length = len(prompts[0]) + n_new
        params.set_search_options(
            batch_size=len(prompts), min_length=length, max_length=length, do_sample=False
        )
        generator = onnxruntime_genai.Generator(self._model, params)
        ends = []
        start = time.perf_counter()
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        for _ in range(n_new):
            generator.generate_next_token()
            ends.append(time.perf_counter())
        return start, ends
