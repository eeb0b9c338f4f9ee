"""Qwen 2 and 2.5: biases on query, key and value, windows in the upper layers if asked for."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    GLOBAL,
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
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, GGUF_ATTENTION_BIASES, decoder_config
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_LAYERS, Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = LLAMA_NAMES | ATTENTION_BIASES
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_ATTENTION_BIASES


def spec(config: Config) -> ModelSpec:
    """Qwen2ForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    layers = [
        layer_of(size, activation=activation(config), qkv_bias=True, sliding_window=n)
        for n in windows(config, size.n_layers)
    ]
    return decoder(config, size, layers, [rotation], max_positions=limit)


def windows(config: Config, n_layers: int) -> list[int]:
    """The sliding window of each layer, 0 for none: the layers from max_window_layers on have one."""
    size = window(config, 4096) if config.flag("use_sliding_window", False) else 0
    first = config.integer("max_window_layers", 0, MAX_LAYERS, 28)
    usual = [LOCAL if size and i >= first else GLOBAL for i in range(n_layers)]
    return [size if kind == LOCAL else 0 for kind in layer_types(config, n_layers, usual)]


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "qwen2"."""
    return decoder_config(metadata, checkpoint)
