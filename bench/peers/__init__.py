"""The peers: one small module each, run by worker.py in an interpreter of its own.

A module has
    open(model, variant, threads, options) -> Generator or Encoder    loads; time spent here is not measured
    version() -> str
and, where the peer needs the model in another format,
    convert(source, target, variant)    writes the folder `target`; also runs in the peer's interpreter

It imports its engine inside these functions, so that an absent one is an ImportError with a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np


class Generator(Protocol):
    """Rates in tokens per second, greedy, without an end of text. A seed makes the prompts of a call new."""

    def prefill(self, n_prompt: int, seed: int) -> float:
        """Of a prompt alone, up to its first new token."""

    def decode(self, depth: int, n_new: int, seed: int) -> float:
        """Of tokens after the first one, behind `depth` tokens of prompt (at least one)."""

    def decode_batch(self, n_seqs: int, n_prompt: int, n_new: int, seed: int) -> float:
        """All sequences together, from the last first token to the end."""


class Encoder(Protocol):
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [n_texts, d_model]: tokenized, mean-pooled and normalized, in one batch."""


@dataclass(frozen=True)
class Peer:
    """module  in this package; model  what its `open` is given"""

    module: str
    model: Literal["gguf", "folder", "converted"]


PEERS = {
    "tuili": Peer("tuili_engine", "gguf"),
    "llama.cpp": Peer("llama_cpp_programs", "gguf"),
    "ctranslate2": Peer("ctranslate2_engine", "converted"),
    "onnxruntime": Peer("onnxruntime_session", "converted"),
    "onnxruntime-genai": Peer("onnxruntime_genai_model", "converted"),
    "openvino": Peer("openvino_model", "converted"),
    "openvino-genai": Peer("openvino_pipeline", "converted"),
    "torch": Peer("torch_model", "folder"),
    "sentence-transformers": Peer("sentence_transformers_model", "folder"),
}
