"""Tiny models of the blocks that llama, gemma3 and bert do not have: specs only, not files."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tiny_models import N_VOCAB, Sizes, TinyModel, _layer_sizes, _Maker, inverse_frequencies, sizes_for

N_POSITIONS = 2048


def _model(name: str, make: _Maker, sizes: Sizes, layers: list[dict[str, Any]], **settings: Any) -> TinyModel:
    """Embedding, final norm and head around layers whose weights `make` holds."""
    make.matrix("token_embedding", N_VOCAB, sizes.d_model, 1.0)
    make.norm("final_norm", sizes.d_model, bias=settings.get("norm") == "layer")
    make.matrix("head", N_VOCAB, sizes.d_model, 0.25)
    spec = {
        "kind": "decoder",
        "n_vocab": N_VOCAB,
        "d_model": sizes.d_model,
        "max_positions": N_POSITIONS,
        "layers": layers,
        "ropes": [{"inv_freq": inverse_frequencies(sizes.head_dim, 10000.0)[:4], "interleaved": True}],
        **settings,
    }
    return TinyModel(f"{name}-{make.format}", {}, spec, make.weights)


def tiny_parallel(seed: int = 0, format: str = "f32") -> TinyModel:
    """Parallel halves with layer norms, one or two; linear biases in the first layer, partly rotated pairs in
    the second, where q and k are normed per head; clipped projections; nothing gated."""
    sizes, make = sizes_for(format), _Maker(seed, format)
    layers = []
    for i, placement in enumerate(("parallel", "parallel_two")):
        make.norm(f"layers.{i}.attention_norm", sizes.d_model, bias=True)
        if placement == "parallel_two":
            make.norm(f"layers.{i}.mlp_norm", sizes.d_model, bias=True)
        make.block(f"layers.{i}", sizes, gated=False, bias=True)
        for name, n in (("query", sizes.n_heads), ("key", sizes.n_kv_heads)):
            for head in range(n if i else 0):
                make.norm(f"layers.{i}.{name}_norms.{head}", sizes.head_dim, bias=True)
        layers.append(
            _layer_sizes(sizes)
            | {"norm_placement": placement, "activation": "relu_squared", "gated": False, "qkv_clip": 1.5}
            | {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "residual_scale": 0.7}
            | ({"rope": 0, "qk_norm": "layer"} if i else {"position_bias": 0})
        )
    distances = np.arange(-(N_POSITIONS - 1), N_POSITIONS + 64, dtype=np.float32)
    values = np.array([[0.5], [0.25], [0.125], [0.0625]], np.float32) * np.minimum(distances, 0)
    bias = {"values": values, "origin": N_POSITIONS - 1, "relative": True}
    return _model("parallel", make, sizes, layers, position_biases=[bias], norm="layer")


def tiny_experts(seed: int = 0, format: str = "f32") -> TinyModel:
    """Experts: by softmax with a shared one behind a gate, norms behind each half and of q and k as a whole;
    by sigmoid in groups with sinks, a bias of choice and clamped gates."""
    sizes, make = sizes_for(format), _Maker(seed, format)
    common = {"n_experts": 6, "n_used": 2, "d_ff": sizes.d_ff}
    moes: list[dict[str, Any]] = [
        common | {"normalize": True, "d_ff_shared": sizes.d_model, "shared_gate": True},
        common
        | {"scoring": "sigmoid", "scale": 1.5, "n_groups": 3, "n_groups_used": 2, "group_top": 2}
        | {"router_bias": True, "selection_bias": True, "clamp": 0.5, "steepness": 0.7},
    ]
    layers = []
    for i, moe in enumerate(moes):
        at = f"layers.{i}"
        make.norm(f"{at}.attention_norm", sizes.d_model)
        make.norm(f"{at}.mlp_norm", sizes.d_model)
        _experts(make, at, sizes, moe)
        if i == 0:
            make.norm(f"{at}.query_norm", sizes.n_heads * sizes.head_dim)
            make.norm(f"{at}.key_norm", sizes.n_kv_heads * sizes.head_dim)
        else:
            make.vector(f"{at}.sinks", sizes.n_heads, 0.5)
        layers.append(
            _layer_sizes(sizes)
            | {"norm_placement": "pre" if i else "branch", "activation": "quick_gelu" if i else "silu"}
            | {
                "rope": 0,
                "qk_norm": "none" if i else "whole",
                "sinks": i == 1,
                "mlp_bias": i == 1,
                "moe": moe,
            }
        )
    return _model("experts", make, sizes, layers)


def tiny_gates(seed: int = 0, format: str = "f32") -> TinyModel:
    """Gates of attention; an activation that is learned, and experts weighed among those near the best."""
    sizes, make = sizes_for(format), _Maker(seed, format)
    moe = {"n_experts": 6, "n_used": 2, "d_ff": sizes.d_ff, "scoring": "near_best", "near": 0.5}
    learned = {"activation": "identity", "gated": False}
    learned |= {"xielu": {"alpha_p": 0.75, "alpha_n": 1.25, "beta": 0.5}}
    layers = []
    for i, settings in enumerate((learned, {"activation": "silu", "moe": moe})):
        at = f"layers.{i}"
        make.norm(f"{at}.attention_norm", sizes.d_model)
        make.norm(f"{at}.mlp_norm", sizes.d_model)
        if i:
            _experts(make, at, sizes, moe)
        else:
            make.block(at, sizes, gated=False, bias=False)
        make.matrix(f"{at}.attention_gate", sizes.n_heads * sizes.head_dim, sizes.d_model)
        layers.append(_layer_sizes(sizes) | {"attention_gate": True, "rope": 0} | settings)
    return _model("gates", make, sizes, layers)


def _experts(make: _Maker, at: str, sizes: Sizes, moe: dict[str, Any]) -> None:
    """The attention of one layer, and a router, experts and what goes with them in the place of its MLP."""
    make.block(at, sizes, gated=True, bias=False)
    for name in ("gate", "up", "down"):
        del make.weights[f"{at}.{name}"]
    bias = moe.get("router_bias", False)
    make.matrix(f"{at}.router", moe["n_experts"], sizes.d_model, 2 / math.sqrt(sizes.d_model), "f32")
    if bias:
        make.vector(f"{at}.router.bias", moe["n_experts"], 0.0)
        make.vector(f"{at}.selection_bias", moe["n_experts"], 0.0)
    widths = {f"experts.{e}": moe["d_ff"] for e in range(moe["n_experts"])}
    if moe.get("d_ff_shared"):
        widths["shared"] = moe["d_ff_shared"]
        make.matrix(f"{at}.shared_gate", 1, sizes.d_model, format="f32")
    for name, width in widths.items():
        make.linear(f"{at}.{name}.gate", width, sizes.d_model, bias)
        make.linear(f"{at}.{name}.up", width, sizes.d_model, bias)
        make.linear(f"{at}.{name}.down", sizes.d_model, width, bias)


def tiny_latent(seed: int = 0, format: str = "f32") -> TinyModel:
    """Keys and values from small vectors, queries from another one in the second layer."""
    sizes, make = sizes_for(format), _Maker(seed, format)
    d, n, wide = sizes.d_model, sizes.n_heads, sizes.d_model // 2
    layers = []
    for i, query_rank in enumerate((0, d)):
        at = f"layers.{i}"
        make.norm(f"{at}.attention_norm", d)
        make.norm(f"{at}.mlp_norm", d)
        make.block(at, sizes, gated=True, bias=False)
        for name in ("query", "key", "value", "output"):
            del make.weights[f"{at}.{name}"]
        if query_rank:
            make.matrix(f"{at}.query_in", query_rank, d)
            make.norm(f"{at}.query_latent_norm", query_rank)
        make.matrix(f"{at}.query_nope", n * wide, d)
        make.matrix(f"{at}.query_rope", n * 8, d)
        make.matrix(f"{at}.latent", d, d)
        make.norm(f"{at}.latent_norm", d)
        make.matrix(f"{at}.key_rope", 8, d)
        make.matrix(f"{at}.key_nope", n * wide, d)
        make.matrix(f"{at}.value", n * wide, d)
        make.matrix(f"{at}.output", d, n * wide)
        latent = {"kv_rank": d, "query_rank": query_rank, "nope_dim": wide, "rope_dim": 8, "value_dim": wide}
        head = {"head_dim": wide + 8, "n_kv_heads": n, "attention_scale": (wide + 8) ** -0.5}
        layers.append(_layer_sizes(sizes) | head | {"activation": "silu", "rope": 0, "latent": latent})
    return _model("latent", make, sizes, layers)


VARIANTS = {"parallel": tiny_parallel, "experts": tiny_experts, "latent": tiny_latent, "gates": tiny_gates}
