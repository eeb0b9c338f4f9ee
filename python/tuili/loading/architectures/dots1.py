"""dots.llm1: Qwen 3's attention, and experts as DeepSeek-V3 has them."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    GLOBAL,
    LOCAL,
    QK_NORMS,
    activation,
    decoder,
    layer_of,
    layer_types,
    rope,
    sizes,
    window,
)
from tuili.loading.architectures.routed import ROUTED_NAMES, behind_dense, routed
from tuili.loading.architectures.routed_gguf import DOTS_NAMES
from tuili.loading.architectures.routed_gguf import GGUF_IGNORED_TENSORS as GGUF_IGNORED_TENSORS
from tuili.loading.architectures.routed_gguf import config_from_gguf as config_from_gguf
from tuili.loading.config import MAX_LAYERS, Config

TENSOR_NAMES = ROUTED_NAMES | ATTENTION_BIASES | QK_NORMS

GGUF_TENSOR_NAMES = DOTS_NAMES


def spec(config: Config) -> ModelSpec:
    """Dots1ForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    length, first = window(config, 4096), config.integer("max_window_layers", 0, MAX_LAYERS, 62)
    usual = [LOCAL if length and i >= first else GLOBAL for i in range(size.n_layers)]
    kinds = layer_types(config, size.n_layers, usual)
    moe = routed(config, scale=1.0, normalize=False)
    layers = [
        layer_of(
            size,
            activation=activation(config),
            qk_norm="heads",
            sliding_window=length if kind == LOCAL else 0,
            attention_bias=config.flag("attention_bias", False),
            moe=experts,
        )
        for kind, experts in zip(kinds, behind_dense(config, size.n_layers, moe, 0), strict=True)
    ]
    return decoder(config, size, layers, [rotation], max_positions=limit)
