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
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_POST_NORMS,
    GGUF_WINDOW,
    decoder_config,
)
from tuili.loading.architectures.gemma import SANDWICH_NAMES
from tuili.loading.architectures.gemma import fold as fold
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf import Metadata

TENSOR_NAMES = SANDWICH_NAMES
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_POST_NORMS
GGUF_IGNORED_TENSORS = ()

_SCALED = 46  # layers of Gemma 2 27B, the one size whose attention scale is not 1 / sqrt(head_dim)


def spec(config: Config) -> ModelSpec:
    """Gemma2ForCausalLM."""
    size = gemma_sizes(config)
    length = window(config, 4096)
    usual = [LOCAL if (i + 1) % 2 else GLOBAL for i in range(size.n_layers)]
    bias = config.flag("attention_bias", False)
    layers = [
        layer_of(
            size,
            norm_placement="sandwich",
            activation=activation(config, "hidden_activation", "gelu_pytorch_tanh"),
            sliding_window=length if kind == LOCAL else 0,
            attention_scale=config.positive("query_pre_attn_scalar", 256.0) ** -0.5,
            score_softcap=softcap(config, "attn_logit_softcapping", 50.0),
            qkv_bias=bias,
            output_bias=bias,
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
    config.values = {**config.values, "head_dim": config.values.get("head_dim") or 256}
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


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "gemma2", whose scale of attention depends on the size."""
    caps = {key: key for key in ("attn_logit_softcapping", "final_logit_softcapping")}
    config = decoder_config(metadata, checkpoint, numbers=caps, integers=GGUF_WINDOW)
    size = sizes(config)
    scalar = size.d_model / size.n_heads if size.n_layers == _SCALED else size.head_dim
    config.values = {**config.values, "query_pre_attn_scalar": scalar}
    for key in (*caps, "sliding_window"):
        if key not in config:  # files of June 2024 leave them out
            del config.values[key]
    return config
