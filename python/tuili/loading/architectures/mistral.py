"""Mistral: Llama with a sliding window in every layer."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    LLAMA_NAMES,
    LOCAL,
    activation,
    decoder,
    layer_of,
    layer_types,
    rope,
    sizes,
    window,
)
from tuili.loading.config import Config

TENSOR_NAMES = LLAMA_NAMES
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)


def spec(config: Config) -> ModelSpec:
    """MistralForCausalLM; MinistralForCausalLM, whose layers may be without a window."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    length, kinds = window(config, 4096), [LOCAL] * size.n_layers
    if config.values["architectures"] == ["MinistralForCausalLM"]:
        kinds = layer_types(config, size.n_layers, kinds)
    layers = [
        layer_of(size, activation=activation(config), sliding_window=length if kind == LOCAL else 0)
        for kind in kinds
    ]
    return decoder(config, size, layers, [rotation], max_positions=limit)
