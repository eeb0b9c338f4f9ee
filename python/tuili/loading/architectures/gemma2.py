"""Gemma 1 and 2: scaled embeddings, norms that multiply by 1 + w; capped scores and windows in the second."""

from __future__ import annotations

import numpy as np

from tuili._core import LayerSpec, ModelSpec
from tuili.loading.architectures import (
    GLOBAL,
    LOCAL,
    Sizes,
    activation,
    decoder,
    expect_only,
    layer_of,
    layer_types,
    rope,
    sizes,
    window,
)
from tuili.loading.architectures.gemma import SANDWICH_NAMES
from tuili.loading.architectures.gemma import fold as fold
from tuili.loading.architectures.gemma_gguf import GEMMA2_NAMES, gemma2_config
from tuili.loading.config import Config

TENSOR_NAMES = SANDWICH_NAMES
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES, config_from_gguf = GEMMA2_NAMES, gemma2_config


def spec(config: Config) -> ModelSpec:
    """Gemma2ForCausalLM."""
    return gemma2(config, "sandwich")


def gemma2(config: Config, norm_placement: str) -> ModelSpec:
    """The same, with norms there."""
    size = gemma_sizes(config)
    length = window(config, 4096)
    usual = [LOCAL if (i + 1) % 2 else GLOBAL for i in range(size.n_layers)]
    layers = [
        layer_of(
            size,
            norm_placement=norm_placement,
            activation=activation(config, "hidden_activation", "gelu_pytorch_tanh"),
            sliding_window=length if kind == LOCAL else 0,
            attention_scale=config.positive("query_pre_attn_scalar", 256.0) ** -0.5,
            score_softcap=softcap(config, "attn_logit_softcapping", 50.0),
            attention_bias=config.flag("attention_bias", False),
        )
        for kind in layer_types(config, size.n_layers, usual)
    ]
    return gemma(config, size, layers, logit_softcap=softcap(config, "final_logit_softcapping", 30.0))


def softcap(config: Config, key: str, usual: float) -> float:
    """A cap, 0 for none; `usual` if the file does not mention it."""
    mentioned = key in config.values and config.values[key] is None
    return 0.0 if mentioned else float(config.number(key, 1e-3, 1e6, usual))


def gemma_sizes(config: Config) -> Sizes:
    """Sizes of Gemma 1 and 2, whose heads usually have 256 elements."""
    expect_only(config, "use_bidirectional_attention", False)
    config.update(head_dim=config.values.get("head_dim") or 256)
    return sizes(config)


def gemma(config: Config, size: Sizes, layers: list[LayerSpec], logit_softcap: float) -> ModelSpec:
    """What both have around their layers."""
    rotation, limit = rope(config, size)
    scale = float(np.float32(size.d_model**0.5))
    return decoder(
        config,
        size,
        layers,
        [rotation],
        tied=True,
        max_positions=limit,
        embedding_scale=scale,
        logit_softcap=logit_softcap,
    )
