"""Tiny models inside the core: build one, run one sequence alone, the way every comparison starts."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from tiny_models import FAMILIES, TinyModel
from tiny_variants import VARIANTS
from tuili import _core


def core_spec(model: TinyModel) -> _core.ModelSpec:
    """The model's ModelSpec."""
    fields = dict(model.spec)
    parts = {"moe": _core.MoeSpec, "latent": _core.LatentSpec, "xielu": _core.Xielu}
    fields["layers"] = [
        _core.LayerSpec(**{key: parts[key](**x) if key in parts else x for key, x in layer.items()})
        for layer in model.spec["layers"]
    ]
    fields["position_biases"] = [_core.PositionBias(**bias) for bias in model.spec.get("position_biases", [])]
    fields["ropes"] = [_core.RopeSpec(**rope) for rope in model.spec["ropes"]]
    return _core.ModelSpec(**fields)


def build(model: TinyModel, compute: str = "auto") -> _core.Model:
    """The model, packed."""
    builder = _core.ModelBuilder(core_spec(model), compute=compute, num_threads=1)
    expected = dict(builder.expected())
    for name, shape in expected.items():
        weight = model.weights[name]
        assert weight.shape == tuple(shape), (
            f"{name}: the core expects {shape}, the tiny model has {weight.shape}"
        )
        builder.add(name, weight.format, weight.shape, weight.rows)
    assert set(expected) == set(model.weights), f"not expected: {sorted(set(model.weights) - set(expected))}"
    return builder.finish()


@functools.cache
def tiny(family: str, format: str = "f32", **options: object) -> TinyModel:
    """The tiny model of a family, made once."""
    return (FAMILIES | VARIANTS)[family](format=format, **options)


@functools.cache
def built(
    family: str, format: str = "f32", compute: str = "auto", device: str = "cpu", **options: object
) -> _core.Model:
    """The same in the core, built once."""
    if device == "cuda":
        return built(family, format, compute, **options).upload()
    return build(tiny(family, format, **options), compute)


def some_ids(n: int, seed: int = 0, n_vocab: int = 300) -> np.ndarray:
    """Random token ids, int32 [n]."""
    return np.random.default_rng(seed).integers(0, n_vocab, n, dtype=np.int32)


@dataclasses.dataclass
class How:
    """Everything about a run that must not change a bit, except kv_type, which may."""

    isa: str | None = None
    num_threads: int = 1
    chunk: int = 4096
    block_size: int = 32
    kv_type: str = "float32"


def run(model: _core.Model, ids: np.ndarray, how: How | None = None) -> _core.Sequence:
    """One decoder sequence computed alone; the result holds logits and hidden states of every row."""
    how = how or How()
    n_blocks = -(-len(ids) // how.block_size)
    cache = _core.KvCache(model.spec, n_blocks, how.block_size, how.kv_type, device=model.device)
    pool = _core.BlockPool(n_blocks, how.block_size, prefix_cache=False)
    runner = _core.Runner(
        model, cache, max_batch_tokens=min(how.chunk, len(ids)), num_threads=how.num_threads, isa=how.isa
    )
    sequence = _core.Sequence(ids, collect_logits=True, collect_hidden=True)
    assert pool.grow(sequence, len(ids))
    while sequence.n_computed < len(ids):
        runner.step([sequence], [min(how.chunk, len(ids) - sequence.n_computed)], [False])
    return sequence


def encode(
    model: _core.Model,
    texts: list[np.ndarray],
    pooling: str = "mean",
    normalize: bool = False,
    how: How | None = None,
) -> tuple[np.ndarray, list[_core.Sequence]]:
    """Vectors of an encoder for a batch, and the sequences with their hidden states."""
    how = how or How()
    sequences = [_core.Sequence(ids, collect_hidden=True) for ids in texts]
    runner = _core.Runner(
        model, max_batch_tokens=sum(len(ids) for ids in texts), num_threads=how.num_threads, isa=how.isa
    )
    return runner.encode(sequences, pooling, normalize), sequences
