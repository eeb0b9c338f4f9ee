"""Every op and the tiny models in plain numpy float64: the specification that the C++ core is tested against.

Nothing here is fast, and nothing here is shared with the core. Activations are [n_tokens, d], weights
[n_out, n_in]. `reference_formats.py` holds the quantized formats and the integer GEMM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray

# ---- norms, activations, softmax


def rms_norm(x: Array, gain: Array, eps: float) -> Array:
    """x / sqrt(mean(x²) + eps) · gain. Source: Zhang & Sennrich 2019, eq. 4."""
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * gain


def layer_norm(x: Array, gain: Array, bias: Array | None, eps: float) -> Array:
    """(x - mean) / sqrt(variance + eps) · gain + bias, with the biased variance. Source: Ba et al. 2016."""
    x = np.asarray(x, np.float64)
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps) * gain
    return y if bias is None else y + bias


def softmax(x: Array) -> Array:
    """Along the last axis; a row may hold -inf, but not only -inf."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


_erf = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


def gated(name: str, gate: Array, up: Array) -> Array:
    """activation(gate) · up. Source: Shazeer 2020, "GLU variants improve Transformer"."""
    return ACTIVATIONS[name](np.asarray(gate, np.float64)) * up


# ---- linear maps and gathers


def gemm(x: Array, w: Array, bias: Array | None = None) -> Array:
    """y[m, n] = x[m, k] · w[n, k]ᵀ + bias[n]."""
    y = np.asarray(x, np.float64) @ np.asarray(w, np.float64).T
    return y if bias is None else y + bias


def embedding(table: Array, ids: Array, scale: float = 1.0) -> Array:
    """Rows `ids` of the table, times the scale."""
    return np.asarray(table, np.float64)[np.asarray(ids)] * scale


def softcap(x: Array, cap: float) -> Array:
    """cap · tanh(x / cap); no cap when 0. Source: Gemma 2 (2024), section 2."""
    return cap * np.tanh(x / cap) if cap else x


# ---- positions


def rope_angles(inv_freq: Array, positions: Array, scale: float = 1.0) -> tuple[Array, Array]:
    """cos and sin [n_tokens, head_dim / 2] of float32(position · inv_freq), as the models were trained."""
    positions = np.asarray(positions, np.float32)
    angle = (positions[:, None] * np.asarray(inv_freq, np.float32)).astype(np.float64)
    return np.cos(angle) * scale, np.sin(angle) * scale


def rope(x: Array, cos: Array, sin: Array, interleaved: bool = False) -> Array:
    """Rotate each head of x [n_tokens, n_heads, head_dim] by its position. Source: Su et al. 2021.

    The first 2 · half elements turn, half being the width of cos and sin; the rest stay. A pair is
    (i, i + half), or (2i, 2i + 1) when interleaved.
    """
    y = np.array(x, np.float64)
    cos, sin = cos[:, None, :], sin[:, None, :]
    half = cos.shape[-1]
    if interleaved:
        at, to = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    else:
        at, to = slice(0, half), slice(half, 2 * half)
    first, second = y[..., at].copy(), y[..., to].copy()
    y[..., at] = first * cos - second * sin
    y[..., to] = second * cos + first * sin
    return y


# ---- attention


def visible(n_queries: int, n_keys: int, causal: bool, sliding_window: int) -> Array:
    """bool [n_queries, n_keys]: whether a query sees a key; the queries are the last of the keys' positions.

    Causal: j ≤ i. Window w > 0: i - j < w.
    """
    i = np.arange(n_keys - n_queries, n_keys)[:, None]
    j = np.arange(n_keys)[None, :]
    seen = (j <= i) if causal else np.ones((n_queries, n_keys), bool)
    if sliding_window:
        seen = seen & (i - j < sliding_window)
    return seen


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    causal: bool,
    sliding_window: int = 0,
    score_softcap: float = 0.0,
) -> Array:
    """softmax(softcap(scale · q kᵀ) + mask) v; query head h reads KV head h // (n_heads / n_kv_heads).

    q        [n_queries, n_heads, head_dim], the last positions of the keys
    k, v     [n_keys, n_kv_heads, head_dim]
    returns  [n_queries, n_heads, head_dim]
    """
    q = np.asarray(q, np.float64)
    share = q.shape[1] // k.shape[1]
    k, v = (np.repeat(np.asarray(a, np.float64), share, axis=1) for a in (k, v))
    scores = softcap(scale * np.einsum("qhd,khd->hqk", q, k), score_softcap)
    scores = np.where(visible(len(q), len(k), causal, sliding_window), scores, -np.inf)
    return np.einsum("hqk,khd->qhd", softmax(scores), v)


# ---- the models

Weights = Mapping[str, Array]


def _norm(spec: Any, w: Weights, name: str, x: Array) -> Array:
    if spec.norm == "rms":
        return rms_norm(x, w[name], spec.norm_eps)
    return layer_norm(x, w[name], w.get(f"{name}.bias"), spec.norm_eps)


def _linear(w: Weights, name: str, x: Array) -> Array:
    return gemm(x, w[name], w.get(f"{name}.bias"))


def embed(spec: Any, w: Weights, ids: Array, types: Array) -> Array:
    """Token, position and type embeddings, added and normed as the spec says."""
    h = embedding(w["token_embedding"], ids, spec.embedding_scale)
    if spec.n_positions_learned:
        h = h + np.asarray(w["position_embedding"], np.float64)[np.arange(len(ids)) + spec.position_offset]
    if spec.n_token_types:
        h = h + np.asarray(w["token_type_embedding"], np.float64)[types]
    return _norm(spec, w, "embedding_norm", h) if spec.embedding_norm else h


def attention_block(spec: Any, layer: Any, w: Weights, prefix: str, x: Array) -> Array:
    """Projections, q/k norm, RoPE, attention, output projection of one layer; x is its (normed) input."""
    n = len(x)
    q = _linear(w, f"{prefix}.query", x).reshape(n, layer.n_heads, layer.head_dim)
    k = _linear(w, f"{prefix}.key", x).reshape(n, layer.n_kv_heads, layer.head_dim)
    v = _linear(w, f"{prefix}.value", x).reshape(n, layer.n_kv_heads, layer.head_dim)
    if layer.qk_norm:
        q = rms_norm(q, w[f"{prefix}.query_norm"], spec.norm_eps)
        k = rms_norm(k, w[f"{prefix}.key_norm"], spec.norm_eps)
    if layer.rope >= 0:
        table = spec.ropes[layer.rope]
        cos, sin = rope_angles(np.asarray(table.inv_freq), np.arange(n), table.scale)
        q, k = rope(q, cos, sin, table.interleaved), rope(k, cos, sin, table.interleaved)
    mixed = attention(
        q,
        k,
        v,
        scale=layer.attention_scale,
        causal=layer.causal,
        sliding_window=layer.sliding_window,
        score_softcap=layer.score_softcap,
    )
    return _linear(w, f"{prefix}.output", mixed.reshape(n, -1))


def mlp_block(layer: Any, w: Weights, prefix: str, x: Array) -> Array:
    """Up (and gate), activation, down."""
    up = _linear(w, f"{prefix}.up", x)
    if layer.gated:
        inner = gated(layer.activation, _linear(w, f"{prefix}.gate", x), up)
    else:
        inner = ACTIVATIONS[layer.activation](up)
    return _linear(w, f"{prefix}.down", inner)


def block(spec: Any, layer: Any, w: Weights, prefix: str, h: Array) -> Array:
    """One layer: attention and MLP with the norms before, after, or both before and after each."""
    if layer.norm_placement == "post":
        h = _norm(spec, w, f"{prefix}.attention_norm", h + attention_block(spec, layer, w, prefix, h))
        return _norm(spec, w, f"{prefix}.mlp_norm", h + mlp_block(layer, w, prefix, h))
    sandwich = layer.norm_placement == "sandwich"
    mixed = attention_block(spec, layer, w, prefix, _norm(spec, w, f"{prefix}.attention_norm", h))
    h = h + (_norm(spec, w, f"{prefix}.post_attention_norm", mixed) if sandwich else mixed)
    mixed = mlp_block(layer, w, prefix, _norm(spec, w, f"{prefix}.mlp_norm", h))
    return h + (_norm(spec, w, f"{prefix}.post_mlp_norm", mixed) if sandwich else mixed)


def forward(spec: Any, w: Weights, ids: Array, types: Array | None = None) -> dict[str, Array]:
    """Every hidden state of one sequence through a decoder or an encoder, by name.

    spec     a ModelSpec (any object with its fields)
    w        float arrays by tensor name; quantized weights dequantized
    types    token types, all 0 if not given
    returns  "hidden.0" (after the embedding), "hidden.i" (after layer i - 1), "final" (after the final norm,
             if there is one), and "logits" when the spec has a head
    """
    h = embed(spec, w, ids, np.zeros(len(ids), np.int64) if types is None else types)
    out = {"hidden.0": h}
    for i, layer in enumerate(spec.layers):
        h = block(spec, layer, w, f"layers.{i}", h)
        out[f"hidden.{i + 1}"] = h
    out["final"] = _norm(spec, w, "final_norm", h) if spec.final_norm else h
    if spec.has_head:
        head = w["token_embedding" if spec.tied_head else "head"]
        logits = gemm(out["final"], head, w.get("head.bias")) * spec.logit_scale
        out["logits"] = softcap(logits, spec.logit_softcap)
    return out


# ---- random numbers

_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def philox4x32(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Ten rounds of Philox4x32. Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        p0, p1 = _PHILOX_MULTIPLIERS[0] * c0, _PHILOX_MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _PHILOX_WEYL[0]) & _MASK, (k1 + _PHILOX_WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, counter: int) -> float:
    """Number `counter` of the stream `seed`: the upper 53 bits of the first two words, in [0, 1)."""
    key, count = ((value & _MASK, value >> 32) for value in (seed, counter))
    high, low, _, _ = philox4x32(key, (*count, 0, 0))
    return ((high << 32 | low) >> 11) * 2.0**-53


# ---- sampling


def penalized(
    logits: Array,
    history: list[int],
    n_prompt: int,
    *,
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
) -> Array:
    """Repetition over prompt and output (Keskar et al. 2019); presence, frequency over the output."""
    y = np.array(logits, np.float64)
    for token in set(history):
        y[token] = y[token] / repetition if y[token] > 0 else y[token] * repetition
    for token in set(history[n_prompt:]):
        y[token] -= frequency * history[n_prompt:].count(token) + presence
    return y


def ban_repeats(logits: Array, history: list[int], ngram_size: int) -> Array:
    """-inf for each token that would repeat an n-gram of the history. Source: Paulus et al. 2017."""
    y = np.array(logits, np.float64)
    for i in range(len(history) - ngram_size + 1):
        if history[i : i + ngram_size - 1] == history[len(history) - ngram_size + 1 :]:
            y[history[i + ngram_size - 1]] = -np.inf
    return y


def _until(p: Array, order: list[int], mass: float) -> list[int]:
    """The shortest prefix of `order` whose probabilities reach `mass` of the whole."""
    total, reached = sum(p[i] for i in order), 0.0
    for n, i in enumerate(order):
        reached += p[i]
        if reached >= mass * total:
            return order[: n + 1]
    return order


def sample(
    logits: Array,
    seed: int,
    counter: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
) -> int:
    """The token that number `counter` of stream `seed` draws; ties go to the lower id, 0 is greedy."""
    if temperature == 0:
        return int(np.argmax(logits))
    p = softmax(np.asarray(logits, np.float64) / temperature)
    kept = sorted(range(len(p)), key=lambda i: (-p[i], i))
    if top_k:
        kept = kept[:top_k]
    if top_p < 1:
        kept = _until(p, kept, top_p)
    kept = [i for i in kept if p[i] >= min_p * p.max()]
    if typical_p < 1:  # Meister et al. 2022
        kept = [i for i in kept if p[i] > 0]
        q = p / sum(p[i] for i in kept)
        entropy = -sum(q[i] * math.log(q[i]) for i in kept)
        kept = _until(p, sorted(kept, key=lambda i: (abs(-math.log(q[i]) - entropy), i)), typical_p)
    kept = sorted(kept)
    target = uniform(seed, counter) * sum(p[i] for i in kept)
    reached = 0.0
    for i in kept:
        reached += p[i]
        if reached > target:
            return i
    return max(i for i in kept if p[i] > 0)
