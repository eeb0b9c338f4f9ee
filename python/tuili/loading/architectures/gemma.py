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
    activation,
    decoder,
    expect_only,
    layer_of,
    layer_types,
    rope_of_kind,
    rotary_head_dim,
    sizes,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_POST_NORMS,
    GGUF_QK_NORMS,
    GGUF_WINDOW,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_POSITIONS, Config
from tuili.loading.gguf import Metadata

SANDWICH_NAMES = (
    DECODER_NAMES
    | ATTENTION_BIASES
    | {
        "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.post_attention_norm",
        "model.layers.{i}.pre_feedforward_layernorm.weight": "layers.{i}.mlp_norm",
        "model.layers.{i}.post_feedforward_layernorm.weight": "layers.{i}.post_mlp_norm",
    }
)
TENSOR_NAMES = SANDWICH_NAMES | {
    "model.layers.{i}.self_attn.q_norm.weight": "layers.{i}.query_norm",
    "model.layers.{i}.self_attn.k_norm.weight": "layers.{i}.key_norm",
}
IGNORED_TENSORS = ()

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_QK_NORMS | GGUF_POST_NORMS
GGUF_IGNORED_TENSORS = ()

_SCALED = 62  # layers of Gemma 3 27B, the one size whose attention scale is not 1 / sqrt(head_dim)


def spec(config: Config) -> ModelSpec:
    """Gemma3ForCausalLM (config.json of transformers ≥ 4.50, and its version 5 spelling of RoPE)."""
    size = sizes(config)
    size = size._replace(head_dim=rotary_head_dim(config, size))
    pattern = config.integer("sliding_window_pattern", 1, 1024, 6)
    usual = [LOCAL if (i + 1) % pattern else GLOBAL for i in range(size.n_layers)]
    types = layer_types(config, size.n_layers, usual)
    window = config.integer("sliding_window", 1, MAX_POSITIONS) if LOCAL in types else 0
    if window and config.flag("use_bidirectional_attention", False):
        window = window // 2 + 1  # on each side
    expect_only(config, "attn_logit_softcapping")  # which transformers reads and does not apply
    bias = config.flag("attention_bias", False)

    def layer(kind: str) -> LayerSpec:
        return layer_of(
            size,
            norm_placement="sandwich",
            activation=activation(config, "hidden_activation", "gelu_pytorch_tanh"),
            qk_norm="heads",
            rope=0 if kind == GLOBAL else 1,
            sliding_window=0 if kind == GLOBAL else window,
            attention_scale=config.positive("query_pre_attn_scalar", 256.0) ** -0.5,
            qkv_bias=bias,
            output_bias=bias,
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


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "gemma3"."""
    config = decoder_config(metadata, checkpoint, integers=GGUF_WINDOW)
    size = sizes(config)
    scalar = size.d_model / size.n_heads if size.n_layers == _SCALED else size.head_dim
    config.values = {
        **config.values,
        "query_pre_attn_scalar": scalar,
        "final_logit_softcapping": metadata.get_f32("gemma3.final_logit_softcapping", None),
        "rope_local_base_freq": metadata.get_f32("gemma3.rope.freq_base_swa", None),
        "sliding_window_pattern": metadata.get_u32("gemma3.attention.sliding_window_pattern", None),
    }
    return config
