"""Gemma 3, text only (Gemma3ForCausalLM)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tuili._core import LayerSpec, ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    DECODER_NAMES,
    GLOBAL,
    LOCAL,
    QK_NORMS,
    activation,
    decoder,
    layer_of,
    layer_types,
    rope_of_kind,
    rotary_sizes,
)
from tuili.loading.architectures.gemma_gguf import GEMMA3_NAMES, gemma3_config
from tuili.loading.config import MAX_POSITIONS, Config

SANDWICH_NAMES = (
    DECODER_NAMES
    | ATTENTION_BIASES
    | {
        "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.post_attention_norm",
        "model.layers.{i}.pre_feedforward_layernorm.weight": "layers.{i}.mlp_norm",
        "model.layers.{i}.post_feedforward_layernorm.weight": "layers.{i}.post_mlp_norm",
    }
)
TENSOR_NAMES = SANDWICH_NAMES | QK_NORMS

GGUF_TENSOR_NAMES, config_from_gguf = GEMMA3_NAMES, gemma3_config


def spec(config: Config) -> ModelSpec:
    """Gemma3ForCausalLM (config.json of transformers ≥ 4.50, and its version 5 spelling of RoPE)."""
    size = rotary_sizes(config)
    pattern = config.integer("sliding_window_pattern", 1, 1024, 6)
    usual = [LOCAL if (i + 1) % pattern else GLOBAL for i in range(size.n_layers)]
    types = layer_types(config, size.n_layers, usual)
    window = config.integer("sliding_window", 1, MAX_POSITIONS) if LOCAL in types else 0
    if window and config.flag("use_bidirectional_attention", False):
        window = window // 2 + 1  # on each side
    config.ignore("attn_logit_softcapping")

    def layer(kind: str) -> LayerSpec:
        return layer_of(
            size,
            norm_placement="sandwich",
            activation=activation(config, "hidden_activation", "gelu_pytorch_tanh"),
            qk_norm="heads",
            rope=0 if kind == GLOBAL else 1,
            sliding_window=0 if kind == GLOBAL else window,
            attention_scale=config.positive("query_pre_attn_scalar", 256.0) ** -0.5,
            attention_bias=config.flag("attention_bias", False),
        )

    layers = {kind: layer(kind) for kind in (GLOBAL, LOCAL)}
    ropes = [
        rope_of_kind(config, size, GLOBAL, 1_000_000.0, "rope_theta", scaled=True)[0],
        rope_of_kind(config, size, LOCAL, 10_000.0, "rope_local_base_freq", scaled=False)[0],
    ]
    return decoder(
        config,
        size,
        [layers[kind] for kind in types],
        ropes,
        tied=True,
        embedding_scale=float(np.float32(size.d_model**0.5)),
        logit_softcap=config.number("final_logit_softcapping", 1e-3, 1e6, 0.0),
    )


def fold(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gemma's norms multiply by 1 + w; ours multiply by w. (GGUF files already hold 1 + w.)"""
    return values + np.float32(1) if name.endswith("_norm") else values
