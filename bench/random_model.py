"""A decoder of a given shape with random weights, in an engine of its own: speed needs no meaning."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuili import _core
from tuili.generation import params as parameters
from tuili.generation.engine import Engine
from tuili.generation.outputs import RequestOutput
from tuili.generation.params import SamplingParams
from tuili.generation.scheduler import Limits

BLOCK = 32
# format: (weights, bytes) of a block, places of its fp16 numbers
BLOCKS = {
    "q4_0": (32, 18, (0,)),
    "q4_1": (32, 20, (0, 2)),
    "q8_0": (32, 34, (0,)),
    "q4_k": (256, 144, (0, 2)),
    "q6_k": (256, 210, (208,)),
}
POOL = 1 << 24  # random bytes or numbers that all weights are taken from: time is not spent on drawing


@dataclass(frozen=True)
class Shape:
    """TinyLlama 1.1B's, if nothing else is said."""

    n_layers: int = 22
    d_model: int = 2048
    n_heads: int = 32
    n_kv_heads: int = 4
    d_ff: int = 5632
    n_vocab: int = 32000
    max_positions: int = 2048
    n_experts: int = 0  # of d_ff each, in the place of one MLP
    n_used: int = 0


def spec_of(shape: Shape) -> _core.ModelSpec:
    head_dim = shape.d_model // shape.n_heads
    layer: dict[str, Any] = {
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads,
        "head_dim": head_dim,
        "d_ff": shape.d_ff,
        "attention_scale": 1 / math.sqrt(head_dim),
        "activation": "silu",
        "gated": True,
        "causal": True,
        "rope": 0,
    }
    if shape.n_experts:
        layer["moe"] = _core.MoeSpec(n_experts=shape.n_experts, n_used=shape.n_used, d_ff=shape.d_ff)
    frequencies = [10000.0 ** (-i / head_dim) for i in range(0, head_dim, 2)]
    return _core.ModelSpec(
        kind="decoder",
        n_vocab=shape.n_vocab,
        d_model=shape.d_model,
        max_positions=shape.max_positions,
        layers=[_core.LayerSpec(**layer)] * shape.n_layers,
        ropes=[_core.RopeSpec(inv_freq=frequencies)],
        norm="rms",
        norm_eps=1e-5,
        tied_head=False,
    )


class _Weights:
    """Rows of random weights: scales near 1e-2, because random bits would make denormals."""

    def __init__(self, format: str) -> None:
        random = np.random.default_rng(0)
        self.format = format
        if format in ("f32", "bf16"):
            values = random.standard_normal(POOL // 4, dtype=np.float32) * np.float32(0.02)
            self.pool = (
                values.view(np.uint8) if format == "f32" else values.view("<u2")[1::2].copy().view(np.uint8)
            )
            self.weights, self.bytes = 1, 4 if format == "f32" else 2
            return
        self.weights, self.bytes, places = BLOCKS[format]
        blocks = random.integers(0, 256, (POOL // self.bytes, self.bytes), dtype=np.uint8)
        for place in places:
            scales = random.uniform(0.002, 0.008, len(blocks)).astype("<f2")
            blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
        self.pool = blocks.reshape(-1)

    def rows(self, n: int, k: int) -> np.ndarray:
        row_bytes = k // self.weights * self.bytes
        return np.resize(self.pool, n * row_bytes).reshape(n, row_bytes)


def build(shape: Shape, format: str) -> _core.Model:
    """All matrices in `format`, the norms 1."""
    builder = _core.ModelBuilder(spec_of(shape))
    weights = _Weights(format)
    for name, sizes in builder.expected():
        if len(sizes) == 1:
            builder.add(name, "f32", sizes, np.ones((1, sizes[0]), np.float32).view(np.uint8))
        else:
            builder.add(name, format, sizes, weights.rows(*sizes))  # type: ignore[arg-type]
    return builder.finish()


class _NoText:
    def push(self, token_id: int) -> str:
        return ""

    def push_many(self, token_ids: Iterable[int]) -> str:
        return ""

    def flush(self) -> str:
        return ""


class Running:
    """The engine on a model, as `tuili.LLM` makes it, and the rates of what it does."""

    def __init__(
        self,
        model: _core.Model,
        n_threads: int = 0,
        max_len: int = 2048,
        limits: Limits | None = None,
        n_tokens: int | None = None,
    ) -> None:
        n_blocks = (n_tokens or 2 * max_len) // BLOCK
        limits = limits or Limits()
        runner = _core.Runner(
            model,
            _core.KvCache(model.spec, n_blocks, BLOCK, "float16", device=model.device),
            max_batch_tokens=limits.prefill_chunk + limits.max_num_seqs,
            max_seqs=limits.max_num_seqs,
            num_threads=n_threads,
        )
        self.n_threads, self.isa = runner.n_threads, runner.isa
        self._random = np.random.default_rng(0)
        self._n_vocab = model.spec.n_vocab
        self._engine = Engine(
            runner,
            _core.BlockPool(n_blocks, BLOCK, prefix_cache=False),
            n_vocab=self._n_vocab,
            max_model_len=max_len,
            decoder=lambda before, skip_special: _NoText(),
            encode_words=lambda text: [],
            eos_ids=(),
            limits=limits,
        )

    def _run(self, n_prompt: int, n_new: int) -> RequestOutput:
        return self._run_all(1, n_prompt, n_new, 0.0)[0]

    def _run_all(self, n: int, n_prompt: int, n_new: int, temperature: float) -> list[RequestOutput]:
        params = parameters.resolve(
            SamplingParams(max_tokens=n_new, temperature=temperature, seed=0, ignore_eos=True), {}
        )
        prompts = [self._random.integers(0, self._n_vocab, n_prompt).tolist() for _ in range(n)]
        handles = [self._engine.submit(ids, params) for ids in prompts]
        return [handle.result() for handle in handles]

    def prefill(self, n_tokens: int = 512) -> float:
        """Tokens per second."""
        return n_tokens / (self._run(n_tokens, 1).metrics["prefill_s"] or 1e-9)

    def decode(self, n_new: int = 24, depth: int = 8, n: int = 1, temperature: float = 0.0) -> float:
        """Tokens per second after the first, of n texts together."""
        outputs = self._run_all(n, depth, n_new, temperature)
        return n * (n_new - 1) / max(output.metrics["decode_s"] or 1e-9 for output in outputs)
