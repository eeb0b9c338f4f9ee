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
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, x * 0.01),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "identity": lambda x: x,
}


def gated(name: str, gate: Array, up: Array) -> Array:
    """activation(gate) · up. Source: Shazeer 2020, "GLU variants improve Transformer"."""
    return ACTIVATIONS[name](np.asarray(gate, np.float64)) * up


def xielu(x: Array, alpha_p: float, alpha_n: float, beta: float) -> Array:
    """An activation that is learned. Source: Huang & Schlag 2025, "Deriving activation functions using
    integration"."""
    below = np.minimum(x, 0)
    return np.where(x > 0, alpha_p * x * x, alpha_n * (np.expm1(below) - below)) + beta * x


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

    Causal: j ≤ i. Window w > 0: |i - j| < w.
    """
    i = np.arange(n_keys - n_queries, n_keys)[:, None]
    j = np.arange(n_keys)[None, :]
    seen = (j <= i) if causal else np.ones((n_queries, n_keys), bool)
    if sliding_window:
        seen = seen & (abs(i - j) < sliding_window)
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
    bias: Array | None = None,
    sinks: Array | None = None,
) -> Array:
    """softmax(softcap(scale · q kᵀ) + bias + mask) v; query head h reads KV head h // (n_heads / n_kv_heads).

    q        [n_queries, n_heads, head_dim], the last positions of the keys
    k, v     [n_keys, n_kv_heads, head_dim]
    bias     [n_heads, n_queries, n_keys]
    sinks    [n_heads], a score of one more key per head, whose value is 0
    returns  [n_queries, n_heads, head_dim]
    """
    q = np.asarray(q, np.float64)
    share = q.shape[1] // k.shape[1]
    k, v = (np.repeat(np.asarray(a, np.float64), share, axis=1) for a in (k, v))
    scores = softcap(scale * np.einsum("qhd,khd->hqk", q, k), score_softcap)
    if bias is not None:
        scores = scores + bias
    scores = np.where(visible(len(q), len(k), causal, sliding_window), scores, -np.inf)
    if sinks is not None:
        sunk = np.broadcast_to(np.asarray(sinks, np.float64)[:, None, None], (*scores.shape[:2], 1))
        return np.einsum("hqk,khd->qhd", softmax(np.concatenate([scores, sunk], axis=2))[..., :-1], v)
    return np.einsum("hqk,khd->qhd", softmax(scores), v)


def position_bias(table: Any, n_queries: int, n_keys: int) -> Array:
    """[n_heads, n_queries, n_keys] of a PositionBias; the queries are the last of the keys' positions."""
    i = np.arange(n_keys - n_queries, n_keys)[:, None]
    j = np.arange(n_keys)[None, :]
    return np.asarray(table.values, np.float64)[:, table.origin + j - (i if table.relative else 0 * i)]


# ---- the models

Weights = Mapping[str, Array]


def _norm(spec: Any, w: Weights, name: str, x: Array) -> Array:
    if spec.norm == "rms":
        return rms_norm(x, w[name], spec.norm_eps)
    return layer_norm(x, w[name], w.get(f"{name}.bias"), spec.norm_eps)


def _linear(w: Weights, name: str, x: Array) -> Array:
    return gemm(x, w[name], w.get(f"{name}.bias"))


def position_rows(spec: Any, ids: Array) -> Array:
    """Of learned positions; padding, which is not counted, has the row before the first."""
    is_padding = np.asarray(ids) == spec.padding_id
    return np.where(is_padding, -1, np.cumsum(~is_padding) - 1) + spec.position_offset


def embed(spec: Any, w: Weights, ids: Array, types: Array) -> Array:
    """Token, position and type embeddings, added and normed as the spec says."""
    h = embedding(w["token_embedding"], ids, spec.embedding_scale)
    if spec.d_embedding and not spec.project_last:
        h = gemm(h, w["embedding_in"])
    if spec.norm_before_positions:
        h = _norm(spec, w, "embedding_norm", h)
    if spec.n_positions_learned:
        h = h + np.asarray(w["position_embedding"], np.float64)[position_rows(spec, ids)]
    if spec.n_token_types:
        h = h + np.asarray(w["token_type_embedding"], np.float64)[types]
    if spec.embedding_norm and not spec.norm_before_positions:
        h = _norm(spec, w, "embedding_norm", h)
    return _linear(w, "embedding_in", h) if spec.project_last else h


def qk_norm(spec: Any, layer: Any, w: Weights, name: str, x: Array) -> Array:
    """Heads x [n_tokens, n_heads, head_dim], normed one by one or all together."""
    if layer.qk_norm in ("heads", "rotated"):
        return rms_norm(x, w[f"{name}_norm"], spec.norm_eps)
    if layer.qk_norm == "whole":
        return rms_norm(x.reshape(len(x), -1), w[f"{name}_norm"], spec.norm_eps).reshape(x.shape)
    names = [f"{name}_norms.{h}" for h in range(x.shape[1])]
    heads = [layer_norm(x[:, h], w[n], w[f"{n}.bias"], spec.norm_eps) for h, n in enumerate(names)]
    return np.stack(heads, axis=1)


def attention_block(spec: Any, layer: Any, w: Weights, prefix: str, x: Array) -> Array:
    """Projections, q/k norm, RoPE, attention, output projection of one layer; x is its (normed) input."""
    n = len(x)
    if layer.latent.kv_rank:
        return latent_attention(spec, layer, w, prefix, x)
    q = _linear(w, f"{prefix}.query", x).reshape(n, layer.n_heads, layer.head_dim)
    k = _linear(w, f"{prefix}.key", x).reshape(n, layer.n_kv_heads, layer.head_dim)
    v = _linear(w, f"{prefix}.value", x).reshape(n, layer.n_kv_heads, layer.head_dim)
    if layer.qk_norm not in ("none", "rotated"):
        q, k = (qk_norm(spec, layer, w, f"{prefix}.{name}", x) for name, x in (("query", q), ("key", k)))
    if layer.qkv_clip:
        q, k, v = (np.clip(x, -layer.qkv_clip, layer.qkv_clip) for x in (q, k, v))
    if layer.rope >= 0:
        table = spec.ropes[layer.rope]
        cos, sin = rope_angles(np.asarray(table.inv_freq), np.arange(n), table.scale)
        q, k = rope(q, cos, sin, table.interleaved), rope(k, cos, sin, table.interleaved)
        v = rope(v, cos, sin, table.interleaved) if layer.rope_values else v
    if layer.qk_norm == "rotated":
        q, k = (qk_norm(spec, layer, w, f"{prefix}.{name}", x) for name, x in (("query", q), ("key", k)))
    bias = None
    if layer.position_bias >= 0:
        bias = position_bias(spec.position_biases[layer.position_bias], n, n)
    elif spec.distances.places:
        bias = distance_bias(spec, layer, w, prefix, q, k)
    mixed = attention(
        q,
        k,
        v,
        scale=layer.attention_scale,
        causal=layer.causal,
        sliding_window=layer.sliding_window,
        score_softcap=layer.score_softcap,
        bias=bias,
        sinks=w[f"{prefix}.sinks"] if layer.sinks else None,
    )
    mixed = mixed.reshape(n, -1)
    if layer.attention_gate:
        mixed = gated("sigmoid", gemm(x, w[f"{prefix}.attention_gate"]), mixed)
    return _linear(w, f"{prefix}.output", mixed)


def distance_bias(spec: Any, layer: Any, w: Weights, prefix: str, q: Array, k: Array) -> Array:
    """[n_heads, n, n]: scale · (q_i · key(place) + k_j · query(place)), place of i - j.

    Source: He et al. 2021, "DeBERTa", eq. 4.
    """
    table, places = w["distance_table"], np.asarray(spec.distances.places)
    if "distance_norm" in w:
        table = layer_norm(table, w["distance_norm"], w["distance_norm.bias"], spec.norm_eps)
    n = len(q)
    place = places[len(places) // 2 + np.arange(n)[:, None] - np.arange(n)[None, :]]
    bias = np.zeros((layer.n_heads, n, n))
    for name, used, x in (("key", spec.distances.keys, q), ("query", spec.distances.queries, k)):
        if not used:
            continue
        own = f"{prefix}.distance_{name}"
        mapped = _linear(w, own if own in w else f"{prefix}.{name}", table)
        scores = np.einsum("ihd,phd->hip", x, mapped.reshape(len(table), layer.n_heads, layer.head_dim))
        rows = np.arange(n)[:, None] if name == "key" else np.arange(n)[None, :]
        bias += scores[:, rows, place]
    return layer.attention_scale * bias


def latent_attention(spec: Any, layer: Any, w: Weights, prefix: str, x: Array) -> Array:
    """Attention from small vectors. Source: DeepSeek-V2 (2024), section 2.1."""
    latent, heads, n = layer.latent, layer.n_heads, len(x)
    source = x
    if latent.query_rank:
        source = rms_norm(
            _linear(w, f"{prefix}.query_in", x), w[f"{prefix}.query_latent_norm"], latent.norm_eps
        )
    small = rms_norm(_linear(w, f"{prefix}.latent", x), w[f"{prefix}.latent_norm"], latent.norm_eps)
    table = spec.ropes[layer.rope]
    cos, sin = rope_angles(np.asarray(table.inv_freq), np.arange(n), table.scale)

    def made(name: str, of: Array, size: int) -> Array:
        return gemm(of, w[f"{prefix}.{name}"]).reshape(n, heads, size)

    query_rope = rope(made("query_rope", source, latent.rope_dim), cos, sin, table.interleaved)
    key_rope = rope(_linear(w, f"{prefix}.key_rope", x)[:, None], cos, sin, table.interleaved)
    q = np.concatenate([query_rope, made("query_nope", source, latent.nope_dim)], axis=2)
    key_rope = np.repeat(key_rope, heads, axis=1)
    k = np.concatenate([key_rope, made("key_nope", small, latent.nope_dim)], axis=2)
    v = made("value", small, latent.value_dim)
    mixed = attention(q, k, v, scale=layer.attention_scale, causal=layer.causal)
    return _linear(w, f"{prefix}.output", mixed.reshape(n, -1))


def cross_attention_block(layer: Any, w: Weights, prefix: str, x: Array, source: Array) -> Array:
    """What the rows x see of a source's final hidden states."""
    size = (-1, layer.n_kv_heads, layer.head_dim)
    q = _linear(w, f"{prefix}.cross_query", x).reshape(len(x), layer.n_heads, layer.head_dim)
    k, v = (_linear(w, f"{prefix}.cross_{name}", source).reshape(size) for name in ("key", "value"))
    mixed = attention(q, k, v, scale=layer.attention_scale, causal=False)
    return _linear(w, f"{prefix}.cross_output", mixed.reshape(len(x), -1))


def mlp_block(layer: Any, w: Weights, prefix: str, x: Array) -> Array:
    """Up (and gate), activation, down; or experts."""
    return moe_block(layer, w, prefix, x) if layer.moe.n_experts else mlp(layer, w, prefix, x)


def mlp(layer: Any, w: Weights, prefix: str, x: Array) -> Array:
    """One MLP: the layer's, an expert's, or the one that is shared."""
    up = _linear(w, f"{prefix}.up", x)
    if not layer.gated:
        learned = layer.xielu.alpha_p, layer.xielu.alpha_n, layer.xielu.beta
        inner = xielu(up, *learned) if any(learned) else ACTIVATIONS[layer.activation](up)
        return _linear(w, f"{prefix}.down", inner)
    gate, clamp = _linear(w, f"{prefix}.gate", x), layer.moe.clamp
    if clamp:
        gate, up = np.minimum(gate, clamp), 1 + np.clip(up, -clamp, clamp)
        gate, up = gate * layer.moe.steepness, up / layer.moe.steepness
    return _linear(w, f"{prefix}.down", gated(layer.activation, gate, up))


def near_best(logits: Array, n_used: int, near: float) -> Array:
    """Each expert that is used has its share of a softmax of those left that are near it. Source: Liu et al.
    2024, "GRIN: GRadient-INformed MoE", as it is computed outside of training."""
    scores, left = np.zeros(len(logits)), np.asarray(logits, np.float64).copy()
    for _ in range(n_used):
        best = int(left.argmax())
        far = (left[best] - logits) / np.maximum(abs(logits), left[best]) > near
        scores[best] = softmax(np.where(far, -np.inf, left))[best]
        left[best] = -np.inf
    return scores


def route(moe: Any, logits: Array, selection_bias: Array | None = None) -> tuple[list[int], Array]:
    """The experts of one token, ascending, and their weights, from logits [n_experts]."""
    if moe.scoring == "near_best":
        scores = near_best(logits, moe.n_used, moe.near)
    elif moe.scoring == "softmax":
        scores = softmax(logits)
    else:
        scores = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    choice = scores if selection_bias is None else scores + selection_bias
    groups = choice.reshape(moe.n_groups, -1)
    best = np.sort(groups, axis=1)[:, -moe.group_top :].sum(axis=1)
    used = np.argsort(-best, kind="stable")[: moe.n_groups_used]
    allowed = np.repeat(np.isin(np.arange(moe.n_groups), used), groups.shape[1])
    experts = np.argsort(-np.where(allowed, choice, -np.inf), kind="stable")[: moe.n_used]
    experts = np.sort(experts)
    weights = scores[experts]
    return experts.tolist(), moe.scale * (weights / weights.sum() if moe.normalize else weights)


def moe_block(layer: Any, w: Weights, prefix: str, x: Array) -> Array:
    """The sum of each token's experts, times their weights, and of the shared MLP."""
    moe = layer.moe
    logits = _linear(w, f"{prefix}.router", x)
    y = np.zeros_like(np.asarray(x, np.float64))
    for t, row in enumerate(logits):
        experts, weights = route(moe, row, w.get(f"{prefix}.selection_bias"))
        for e, weight in zip(experts, weights, strict=True):
            y[t] += weight * mlp(layer, w, f"{prefix}.experts.{e}", x[t : t + 1])[0]
    if not moe.d_ff_shared:
        return y
    shared = mlp(layer, w, f"{prefix}.shared", x)
    if moe.shared_gate:
        shared = shared / (1 + np.exp(-gemm(x, w[f"{prefix}.shared_gate"])))
    return y + shared


def block(spec: Any, layer: Any, w: Weights, prefix: str, h: Array, source: Array | None = None) -> Array:
    """One layer: attention and MLP with the norms where NormPlacement of csrc/model/spec.h has them; between
    them cross-attention to `source`, the hidden states of an encoder.
    """
    placement, scale = layer.norm_placement, layer.residual_scale

    def norm(name: str, x: Array) -> Array:
        return _norm(spec, w, f"{prefix}.{name}", x)

    def attend(x: Array) -> Array:
        return attention_block(spec, layer, w, prefix, x)

    def feed(x: Array) -> Array:
        return mlp_block(layer, w, prefix, x)

    if placement == "post":
        h = norm("attention_norm", h + scale * attend(h))
        if source is not None:
            h = norm("cross_norm", h + scale * cross_attention_block(layer, w, prefix, h, source))
        return norm("mlp_norm", h + scale * feed(h))
    if placement == "branch":
        h = h + scale * norm("attention_norm", attend(h))
        return h + scale * norm("mlp_norm", feed(h))
    if placement == "normed_residual":
        x = norm("attention_norm", h)
        x = norm("mlp_norm", x + scale * attend(x))
        return x + scale * feed(x)
    if placement in ("parallel", "parallel_two"):
        x = norm("attention_norm", h)
        return h + scale * attend(x) + scale * feed(norm("mlp_norm", h) if placement == "parallel_two" else x)
    if placement == "sandwich":
        h = h + scale * norm("post_attention_norm", attend(norm("attention_norm", h)))
        return h + scale * norm("post_mlp_norm", feed(norm("mlp_norm", h)))
    h = h + scale * attend(norm("attention_norm", h))
    if source is not None:
        h = h + scale * cross_attention_block(layer, w, prefix, norm("cross_norm", h), source)
    return h + scale * feed(norm("mlp_norm", h))


def forward(
    spec: Any, w: Weights, ids: Array, types: Array | None = None, source: Array | None = None
) -> dict[str, Array]:
    """Every hidden state of one sequence through a decoder or an encoder, by name.

    spec     a ModelSpec (any object with its fields)
    w        float arrays by tensor name; quantized weights dequantized
    types    token types, all 0 if not given
    source   token ids that the encoder of an encoder-decoder reads, of which these are its decoder's states
    returns  "hidden.0" (after the embedding), "hidden.i" (after layer i - 1), "final" (after the final norm,
             if there is one), and "logits" when the spec has a head
    """
    h = embed(spec, w, ids, np.zeros(len(ids), np.int64) if types is None else types)
    out = {"hidden.0": h}
    states = None
    if source is not None:
        own = {name.removeprefix("encoder."): x for name, x in w.items() if name.startswith("encoder.")}
        states = forward(spec.encoder, {"token_embedding": w["token_embedding"], **own}, source)["final"]
    for i, layer in enumerate(spec.layers):
        h = block(spec, layer, w, f"layers.{i}", h, states)
        out[f"hidden.{i + 1}"] = h
    out["final"] = _norm(spec, w, "final_norm", h) if spec.final_norm else h
    if spec.has_head:
        head = w["token_embedding" if spec.tied_head else "head"]
        final = out["final"]
        if spec.task_head.d_inner:
            final = ACTIVATIONS[spec.task_head.activation](_linear(w, "task_head.dense", final))
            final = _norm(spec, w, "task_head.norm", final)
        elif spec.d_embedding:
            final = gemm(final, w["embedding_out"])
        logits = gemm(final, head, w.get("head.bias")) * spec.logit_scale
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
