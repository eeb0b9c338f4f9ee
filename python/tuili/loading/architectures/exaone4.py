"""EXAONE 4: norms of what each half adds, and of queries and keys; layers without a window do not rotate."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    GLOBAL,
    LOCAL,
    activation,
    decoder,
    layer_of,
    layer_types,
    rope,
    rotary_sizes,
    window,
)
from tuili.loading.architectures.from_gguf import GGUF_WINDOW, decoder_config
from tuili.loading.architectures.llama import GGUF_IGNORED_TENSORS as GGUF_IGNORED_TENSORS
from tuili.loading.architectures.llama import divided, take_divisors
from tuili.loading.architectures.olmo2 import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.olmo2 import TENSOR_NAMES as _OLMO
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_LAYERS, Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = {theirs: ours for theirs, ours in _OLMO.items() if not theirs.endswith(".bias")}


def spec(config: Config) -> ModelSpec:
    """Exaone4ForCausalLM; without windows at all, every layer rotates."""
    size = rotary_sizes(config)
    rotation, limit = rope(config, size)
    length = window(config, 4096)
    usual = [GLOBAL] * size.n_layers
    if length and "layer_types" not in config:
        every = config.integer("sliding_window_pattern", 1, MAX_LAYERS, 4)
        usual = [LOCAL if (i + 1) % every else GLOBAL for i in range(size.n_layers)]
    layers = [
        layer_of(
            size,
            activation=activation(config),
            norm_placement="branch",
            qk_norm="heads",
            rope=0 if kind == LOCAL or not length else -1,
            sliding_window=length if kind == LOCAL else 0,
        )
        for kind in layer_types(config, size.n_layers, usual)
    ]
    rotations = [divided(rotation, config)]
    return decoder(config, size, layers, rotations, usual_eps=1e-5, max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "exaone4"."""
    config = decoder_config(metadata, checkpoint, integers=GGUF_WINDOW)
    pattern = "exaone4.attention.sliding_window_pattern"
    if "sliding_window" in config and pattern in metadata.values():
        local = metadata.get_bool_array(pattern, config.integer("num_hidden_layers", 1, MAX_LAYERS))
        config.update(layer_types=[LOCAL if windowed else GLOBAL for windowed in local])
    return take_divisors(config, checkpoint)
