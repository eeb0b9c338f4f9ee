"""sentence-transformers with its default backend, torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def version() -> str:
    import sentence_transformers

    return f"sentence-transformers {sentence_transformers.__version__}"


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Encoder:
    import sentence_transformers
    import torch

    torch.set_num_threads(threads)
    return Encoder(sentence_transformers.SentenceTransformer(str(model), device="cpu"))


class Encoder:
    def __init__(self, model: Any) -> None:
        self._model = model

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.encode(list(texts), batch_size=32, normalize_embeddings=True)
