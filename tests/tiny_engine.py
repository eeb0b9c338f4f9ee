"""Engines on a tiny model whose answers are known: each token is followed by the next larger one.

`COUNTER` is a Llama whose layers add nothing and whose head looks for the predecessor's embedding, so greedy
decoding counts: "a" is continued "bcdefg…". Row 299 of the embedding is not a number, which poisons whoever
uses that token.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable

import numpy as np

import tiny_core
from reference_formats import encode_float
from tiny_models import N_VOCAB, TinyModel, Weight, tiny_llama
from tuili import _core
from tuili.generation import params as parameters
from tuili.generation.engine import Engine
from tuili.generation.grammar import Grammars
from tuili.generation.intake import SourceLimits
from tuili.generation.params import SamplingParams
from tuili.generation.scheduler import Limits

POISON = N_VOCAB - 1
BLOCK = 16  # tokens; the smallest there is


def counter() -> TinyModel:
    """The counting model's weights."""
    model = tiny_llama(n_layers=1)
    for name in ("layers.0.output", "layers.0.down"):
        weight = model.weights[name]
        model.weights[name] = Weight("f32", weight.shape, np.zeros_like(weight.rows))
    embedding = np.random.default_rng(0).standard_normal((N_VOCAB, 64)).astype(np.float32)
    head = np.roll(embedding, 1, axis=0)  # row t + 1 looks for token t
    embedding[POISON] = np.nan
    model.weights["token_embedding"] = Weight("f32", embedding.shape, encode_float("f32", embedding))
    model.weights["head"] = Weight("f32", head.shape, encode_float("f32", head))
    return model


@functools.cache
def counting_model() -> _core.Model:
    return tiny_core.build(counter())


class Letters:
    """A detokenizer for ids that are character codes."""

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def push_many(self, token_ids: Iterable[int]) -> str:
        return "".join(map(chr, token_ids))

    def flush(self) -> str:
        return ""


class Slow:
    """A runner whose steps take `seconds` at least."""

    def __init__(self, runner, seconds):
        self.runner, self.seconds = runner, seconds

    def step(self, *args):
        time.sleep(self.seconds)
        return self.runner.step(*args)

    def run(self, sequences, *, max_steps, max_s):
        time.sleep(self.seconds)
        return self.runner.run(sequences, max_steps=1, max_s=max_s)

    def copy_block(self, *copy):
        self.runner.copy_block(*copy)

    def advance_beams(self, *searches):
        self.runner.advance_beams(*searches)

    def interrupt(self):
        self.runner.interrupt()


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self, step_s=0.0, token_s=0.0):
        self.now, self.step_s, self.token_s = 0.0, step_s, token_s

    def __call__(self):
        return self.now


class Timed:
    """A runner whose steps take the clock's step_s + token_s per token; `steps` has what each computed."""

    def __init__(self, runner, clock):
        self.runner, self.clock = runner, clock
        self.steps: list[tuple[list[int], float]] = []  # (tokens per row, seconds)
        self.interrupt, self.copy_block = runner.interrupt, runner.copy_block
        self.advance_beams = runner.advance_beams

    def step(self, sequences, n_new, sample):
        result = self.runner.step(sequences, n_new, sample)
        self.pass_time(n_new)
        return result

    def run(self, sequences, *, max_steps, max_s):
        result = self.runner.run(sequences, max_steps=1, max_s=max_s)
        self.pass_time([1] * len(sequences))
        return result

    def pass_time(self, n_new):
        seconds = self.clock.step_s + self.clock.token_s * sum(n_new)
        self.steps.append((list(n_new), seconds))
        self.clock.now += seconds


def make_engine(
    *,
    model: _core.Model | None = None,
    kv_type: str = "float32",
    n_blocks: int = 256,
    windows: dict[int, int] | None = None,
    max_model_len: int = 200,
    eos_ids: tuple[int, ...] = (),
    grammars: Grammars | None = None,
    step_s: float = 0.0,
    start_thread: bool = False,
    num_threads: int = 1,
    clock: Clock | None = None,
    sources: SourceLimits | None = None,
    **limits: object,
) -> Engine:
    """An engine on the counting model with small blocks; without a thread unless asked for."""
    model = model or counting_model()
    limit = Limits(**limits)
    windows = windows or {}
    cache = _core.KvCache(model.spec, n_blocks, BLOCK, kv_type, windows=windows, device=model.device)
    runner = _core.Runner(
        model,
        cache,
        max_batch_tokens=limit.prefill_chunk + limit.max_num_seqs,
        max_seqs=limit.max_num_seqs,
        max_source_tokens=0 if sources is None else max(limit.prefill_chunk, sources.max_len),
        num_threads=num_threads,
    )
    if clock is not None:
        runner = Timed(runner, clock)
    return Engine(
        Slow(runner, step_s) if step_s else runner,
        _core.BlockPool(
            n_blocks,
            BLOCK,
            prefix_cache=limit.prefix_caching,
            windows=windows,
            step_tokens=limit.prefill_chunk,
        ),
        n_vocab=N_VOCAB,
        max_model_len=max_model_len,
        decoder=lambda before, params: Letters(),
        encode_words=lambda text: [ord(c) for c in text],
        eos_ids=eos_ids,
        sources=sources,
        grammars=grammars,
        limits=limit,
        start_thread=start_thread,
        clock=clock or time.monotonic,
    )


def sampling(**options: object) -> SamplingParams:
    """Resolved parameters; greedy unless asked otherwise."""
    return parameters.resolve(SamplingParams(**options), {})


def codes(text: str) -> list[int]:
    return [ord(c) for c in text]


def counted(prompt: str, n: int) -> str:
    """What the counting model answers in n tokens."""
    return "".join(chr(ord(prompt[-1]) + i + 1) for i in range(n))


def drain(engine: Engine) -> None:
    """Step until there is nothing to do, checking the ledger each time."""
    while engine.step():
        engine.scheduler.check_invariants()
    engine.scheduler.check_invariants()


def is_idle(engine: Engine) -> bool:
    """Whether nothing of any request is left in the engine."""
    stats = engine.stats()
    return (
        stats["free_blocks"] == stats["n_blocks"]
        and stats["free_window_blocks"] == stats["window_blocks"]
        and stats["running"] == stats["waiting"] == stats["queued_tokens"] == 0
    )
