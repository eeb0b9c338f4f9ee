"""Mistral: Llama with a sliding window in every layer."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import LLAMA_NAMES, activation, decoder, layer_of, rope, sizes, window
from tuili.loading.config import Config

TENSOR_NAMES = LLAMA_NAMES
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)


def spec(config: Config) -> ModelSpec:
    """MistralForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    layer = layer_of(size, activation=activation(config), sliding_window=window(config, 4096))
    return decoder(config, size, [layer] * size.n_layers, [rotation], max_positions=limit)
