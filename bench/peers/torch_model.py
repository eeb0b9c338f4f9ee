"""transformers on torch, float32, eager mode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .inputs import padded, pooled, prompt_ids, tokenizer


def version() -> str:
    import torch
    import transformers

    return f"transformers {transformers.__version__} on torch {torch.__version__}"


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Any:
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    if variant.startswith("minilm"):
        bert = transformers.BertModel.from_pretrained(model, dtype=torch.float32)
        return Encoder(bert.eval(), tokenizer(model))
    return Generator(transformers.LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).eval())


class Encoder:
    def __init__(self, model: Any, encode: Any) -> None:
        self._model, self._encode = model, encode

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        ids, mask = padded(self._encode(texts))
        hidden = self._model(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state
        return pooled(hidden.numpy(), mask)


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
        """(when it began, when each step ended); only the last position's logits are computed."""
        import torch

        ids, cache, ends = torch.tensor(prompts), None, []
        start = time.perf_counter()
        for _ in range(n_new):
            out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids, cache = out.logits[:, -1].argmax(dim=-1, keepdim=True), out.past_key_values
            ends.append(time.perf_counter())
        return start, ends
