"""Tiny random models, the same for every test: a spec, weights under our names, and a config.json.

Sizes are small but awkward on purpose: a vocabulary that is no multiple of a panel, a sliding window that a
ten-token prompt crosses. `tiny_files.py` writes them as Hugging Face folders and GGUF files.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from reference_formats import FLOAT_FORMATS, dequantize, encode_float, random_rows

N_VOCAB = 300


@dataclasses.dataclass
class Weight:
    """A stored matrix or vector: `rows` is uint8 [n, row_bytes(format, k)]; a vector is one row of f32."""

    format: str
    shape: tuple[int, ...]
    rows: np.ndarray

    def values(self) -> np.ndarray:
        """The exact values, float64, in `shape`."""
        return dequantize(self.format, self.rows).reshape(self.shape)


@dataclasses.dataclass
class TinyModel:
    """spec: the fields of ModelSpec, "layers" and "ropes" as lists of fields; config: config.json's."""

    name: str
    config: dict[str, Any]
    spec: dict[str, Any]
    weights: dict[str, Weight]

    def values(self) -> dict[str, np.ndarray]:
        """Every tensor as float64, for the reference."""
        return {name: weight.values() for name, weight in self.weights.items()}


@dataclasses.dataclass(frozen=True)
class Sizes:
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int


SMALL = Sizes(d_model=64, n_heads=4, n_kv_heads=2, head_dim=16, d_ff=96)
WIDE = Sizes(d_model=256, n_heads=4, n_kv_heads=2, head_dim=64, d_ff=512)  # K formats need rows of 256


def sizes_for(format: str) -> Sizes:
    """The smallest sizes whose rows the format can store."""
    return WIDE if format.endswith("_k") else SMALL


def inverse_frequencies(head_dim: int, theta: float) -> list[float]:
    """theta^(-2i / head_dim), computed in double so that every machine rounds to the same float32."""
    return [float(np.float32(theta ** (-i / head_dim))) for i in range(0, head_dim, 2)]


class _Maker:
    """Draws the tensors of one model in a fixed order, so that a seed is a model."""

    def __init__(self, seed: int, format: str) -> None:
        self.rng = np.random.default_rng(seed)
        self.format = format
        self.weights: dict[str, Weight] = {}

    def matrix(self, name: str, n: int, k: int, scale: float | None = None, format: str = "") -> None:
        format, scale = format or self.format, scale or 1 / math.sqrt(k)
        self.weights[name] = Weight(format, (n, k), random_rows(format, self.rng, n, k, scale))

    def vector(self, name: str, n: int, around: float) -> None:
        """Multiples of 1/128 near `around`: exact in bfloat16, and exact with 1 taken off (Gemma's norms)."""
        values = (around + np.round(self.rng.uniform(-0.25, 0.25, n) * 128) / 128).astype(np.float32)
        self.weights[name] = Weight("f32", (n,), encode_float("f32", values[None]))

    def norm(self, name: str, n: int, bias: bool = False) -> None:
        self.vector(name, n, 1.0)
        if bias:
            self.vector(f"{name}.bias", n, 0.0)

    def linear(self, name: str, n: int, k: int, bias: bool = False) -> None:
        self.matrix(name, n, k)
        if bias:
            self.vector(f"{name}.bias", n, 0.0)

    def block(self, prefix: str, sizes: Sizes, *, gated: bool, bias: bool) -> None:
        """The projections of one layer."""
        inner, kv = sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim
        self.linear(f"{prefix}.query", inner, sizes.d_model, bias)
        self.linear(f"{prefix}.key", kv, sizes.d_model, bias)
        self.linear(f"{prefix}.value", kv, sizes.d_model, bias)
        self.linear(f"{prefix}.output", sizes.d_model, inner, bias)
        if gated:
            self.linear(f"{prefix}.gate", sizes.d_ff, sizes.d_model, bias)
        self.linear(f"{prefix}.up", sizes.d_ff, sizes.d_model, bias)
        self.linear(f"{prefix}.down", sizes.d_model, sizes.d_ff, bias)


def _layer_sizes(sizes: Sizes) -> dict[str, Any]:
    return {
        "n_heads": sizes.n_heads,
        "n_kv_heads": sizes.n_kv_heads,
        "head_dim": sizes.head_dim,
        "d_ff": sizes.d_ff,
        "attention_scale": 1 / math.sqrt(sizes.head_dim),
    }


def _llama_config(sizes: Sizes, n_layers: int, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": N_VOCAB,
        "hidden_size": sizes.d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": sizes.n_heads,
        "num_key_value_heads": sizes.n_kv_heads,
        "head_dim": sizes.head_dim,
        "intermediate_size": sizes.d_ff,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def tiny_llama(seed: int = 0, format: str = "f32", tied: bool = False, n_layers: int = 2) -> TinyModel:
    """Llama: grouped-query attention, gated SiLU, RMS norms before each half; head tied or not."""
    sizes = sizes_for(format)
    make = _Maker(seed, format)
    make.matrix("token_embedding", N_VOCAB, sizes.d_model, 1.0)
    for i in range(n_layers):
        make.norm(f"layers.{i}.attention_norm", sizes.d_model)
        make.norm(f"layers.{i}.mlp_norm", sizes.d_model)
        make.block(f"layers.{i}", sizes, gated=True, bias=False)
    make.norm("final_norm", sizes.d_model)
    if not tied:
        make.matrix("head", N_VOCAB, sizes.d_model, 0.25)
    layer = _layer_sizes(sizes) | {"activation": "silu", "gated": True, "causal": True, "rope": 0}
    spec = {
        "kind": "decoder",
        "n_vocab": N_VOCAB,
        "d_model": sizes.d_model,
        "max_positions": 2048,
        "layers": [layer] * n_layers,
        "ropes": [{"inv_freq": inverse_frequencies(sizes.head_dim, 10000.0)}],
        "norm": "rms",
        "norm_eps": 1e-5,
        "tied_head": tied,
    }
    return TinyModel(
        f"llama{'-tied' if tied else ''}-{format}", _llama_config(sizes, n_layers, tied), spec, make.weights
    )


GEMMA_WINDOW = 8
GEMMA_LAYERS = 6  # the sixth layer is the first global one: GGUF files have the pattern built in


def _gemma3_config(sizes: Sizes) -> dict[str, Any]:
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": N_VOCAB,
        "hidden_size": sizes.d_model,
        "num_hidden_layers": GEMMA_LAYERS,
        "num_attention_heads": sizes.n_heads,
        "num_key_value_heads": sizes.n_kv_heads,
        "head_dim": sizes.head_dim,
        "intermediate_size": sizes.d_ff,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window": GEMMA_WINDOW,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        "query_pre_attn_scalar": sizes.head_dim,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def tiny_gemma3(seed: int = 0, format: str = "f32") -> TinyModel:
    """Gemma 3: five sliding-window layers and a global one, q/k and sandwich norms, scaled tied embedding."""
    sizes = dataclasses.replace(sizes_for(format), n_kv_heads=1)
    make = _Maker(seed, format)
    make.matrix("token_embedding", N_VOCAB, sizes.d_model, 0.25)
    layers = []
    for i in range(GEMMA_LAYERS):
        for norm in ("attention_norm", "post_attention_norm", "mlp_norm", "post_mlp_norm"):
            make.norm(f"layers.{i}.{norm}", sizes.d_model)
        make.norm(f"layers.{i}.query_norm", sizes.head_dim)
        make.norm(f"layers.{i}.key_norm", sizes.head_dim)
        make.block(f"layers.{i}", sizes, gated=True, bias=False)
        full = i % 6 == 5
        layers.append(
            _layer_sizes(sizes)
            | {
                "activation": "gelu_tanh",
                "gated": True,
                "causal": True,
                "qk_norm": "heads",
                "norm_placement": "sandwich",
            }
            | {"rope": int(full), "sliding_window": 0 if full else GEMMA_WINDOW}
        )
    make.norm("final_norm", sizes.d_model)
    spec = {
        "kind": "decoder",
        "n_vocab": N_VOCAB,
        "d_model": sizes.d_model,
        "max_positions": 2048,
        "layers": layers,
        "ropes": [{"inv_freq": inverse_frequencies(sizes.head_dim, theta)} for theta in (10000.0, 1000000.0)],
        "norm": "rms",
        "norm_eps": 1e-6,
        "embedding_scale": math.sqrt(sizes.d_model),
        "tied_head": True,
    }
    return TinyModel(f"gemma3-{format}", _gemma3_config(sizes), spec, make.weights)


def tiny_bert(seed: int = 0, format: str = "f32", n_layers: int = 2) -> TinyModel:
    """BERT: learned positions, token types, norms after each half, biases everywhere, GELU by erf."""
    sizes = dataclasses.replace(sizes_for(format), n_kv_heads=4)
    n_positions = 64
    make = _Maker(seed, format)
    make.matrix("token_embedding", N_VOCAB, sizes.d_model, 0.5)
    table_format = format if format in FLOAT_FORMATS else "f32"  # small tables are never quantized
    make.matrix("position_embedding", n_positions, sizes.d_model, 0.5, table_format)
    make.matrix("token_type_embedding", 2, sizes.d_model, 0.5, table_format)
    make.norm("embedding_norm", sizes.d_model, bias=True)
    for i in range(n_layers):
        make.block(f"layers.{i}", sizes, gated=False, bias=True)
        make.norm(f"layers.{i}.attention_norm", sizes.d_model, bias=True)
        make.norm(f"layers.{i}.mlp_norm", sizes.d_model, bias=True)
    layer = _layer_sizes(sizes) | {
        "norm_placement": "post",
        "activation": "gelu",
        "gated": False,
        "causal": False,
    }
    layer |= {"rope": -1, "qkv_bias": True, "output_bias": True, "mlp_bias": True}
    spec = {
        "kind": "encoder",
        "n_vocab": N_VOCAB,
        "d_model": sizes.d_model,
        "max_positions": n_positions,
        "layers": [layer] * n_layers,
        "ropes": [],
        "n_positions_learned": n_positions,
        "n_token_types": 2,
        "embedding_norm": True,
        "norm": "layer",
        "norm_eps": 1e-12,
        "final_norm": False,
        "has_head": False,
    }
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": N_VOCAB,
        "hidden_size": sizes.d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": sizes.n_heads,
        "intermediate_size": sizes.d_ff,
        "hidden_act": "gelu",
        "max_position_embeddings": n_positions,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
    }
    return TinyModel(f"bert-{format}", config, spec, make.weights)


FAMILIES = {"llama": tiny_llama, "gemma3": tiny_gemma3, "bert": tiny_bert}
