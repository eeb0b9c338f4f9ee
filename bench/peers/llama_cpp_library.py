"""llama.cpp by the low-level functions of llama-cpp-python, in the way of its own bench programs."""

from __future__ import annotations

import time
from pathlib import Path

from .inputs import prompt_ids

MAX_SEQS, MAX_BATCH, UBATCH = 32, 2048, 512


class Library:
    def __init__(self, model: Path, threads: int) -> None:
        import llama_cpp

        self._api = api = llama_cpp
        self._threads = threads
        api.llama_backend_init()
        params = api.llama_model_default_params()
        self._model = api.llama_model_load_from_file(str(model).encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {model.name}")
        self._batch = api.llama_batch_init(MAX_BATCH, 0, 1)

    def prefill(self, n_prompt: int, seed: int) -> float:
        with _Context(self, n_prompt, 1) as context:
            context.step([(prompt_ids(4, seed + 1), 0, 0)])
            context.clear()
            start = time.perf_counter()
            context.step([(prompt_ids(n_prompt, seed), 0, 0)])
            return n_prompt / (time.perf_counter() - start)

    def decode(self, depth: int, n_new: int, seed: int) -> float:
        return self._decode(1, max(depth, 1), n_new, seed)

    def decode_batch(self, n_seqs: int, n_prompt: int, n_new: int, seed: int) -> float:
        return self._decode(n_seqs, n_prompt, n_new, seed)

    def _decode(self, n_seqs: int, n_prompt: int, n_new: int, seed: int) -> float:
        """New tokens are random, as in llama-bench: choosing them costs nothing."""
        with _Context(self, n_seqs * (n_prompt + n_new), n_seqs) as context:
            for i in range(n_seqs):
                context.step([(prompt_ids(n_prompt, seed, i), 0, i)])
            new = [prompt_ids(n_new, seed + 1, i) for i in range(n_seqs)]
            start = time.perf_counter()
            for t in range(n_new):
                context.step([(new[i][t : t + 1], n_prompt + t, i) for i in range(n_seqs)])
            return n_seqs * n_new / (time.perf_counter() - start)


class _Context:
    """A fresh llama_context for n_tokens of n_seqs sequences."""

    def __init__(self, library: Library, n_tokens: int, n_seqs: int) -> None:
        self._api, self._batch = library._api, library._batch
        params = self._api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_tokens, MAX_BATCH, UBATCH
        params.n_seq_max = n_seqs
        params.n_threads = params.n_threads_batch = library._threads
        self._context = self._api.llama_init_from_model(library._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp cannot make a context")

    def step(self, parts: list[tuple[list[int], int, int]]) -> None:
        """One llama_decode of (ids, position of the first, sequence); logits of each part's last token."""
        batch, n = self._batch, 0
        for ids, position, sequence in parts:
            for i, token in enumerate(ids):
                batch.token[n], batch.pos[n] = token, position + i
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, sequence
                batch.logits[n] = i == len(ids) - 1
                n += 1
        batch.n_tokens = n
        if self._api.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        self._api.llama_synchronize(self._context)

    def clear(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)

    def __enter__(self) -> _Context:
        return self

    def __exit__(self, *error: object) -> None:
        self._api.llama_free(self._context)
