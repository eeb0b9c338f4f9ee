"""SmolLM 3: layers without positions among those with rotary ones."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    GLOBAL,
    LLAMA_NAMES,
    LOCAL,
    MLP_BIASES,
    activation,
    decoder,
    layer_of,
    layer_types,
    rope,
    sizes,
    window,
)
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, decoder_config
from tuili.loading.architectures.llama import unpermute as unpermute
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_LAYERS, Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = LLAMA_NAMES | ATTENTION_BIASES | MLP_BIASES

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES


def spec(config: Config) -> ModelSpec:
    """SmolLM3ForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size, theta=2_000_000.0)
    rotated = _rotated(config, size.n_layers)
    length = window(config)
    local = length and config.flag("use_sliding_window", False)
    usual = [LOCAL if local and not turns else GLOBAL for turns in rotated]
    layers = [
        layer_of(
            size,
            activation=activation(config),
            rope=0 if turns else -1,
            sliding_window=length if kind == LOCAL else 0,
            attention_bias=config.flag("attention_bias", False),
            mlp_bias=config.flag("mlp_bias", False),
        )
        for turns, kind in zip(rotated, layer_types(config, size.n_layers, usual), strict=True)
    ]
    return decoder(config, size, layers, [rotation], tied=True, max_positions=limit)


def _rotated(config: Config, n_layers: int) -> list[bool]:
    """Whether a layer's queries and keys turn."""
    given = config.values.get("no_rope_layers")
    if given is None:
        interval = config.integer("no_rope_layer_interval", 1, MAX_LAYERS, 4)
        return [(i + 1) % interval != 0 for i in range(n_layers)]
    if not isinstance(given, list) or len(given) < n_layers or not all(x in (0, 1) for x in given):
        raise config.wrong("no_rope_layers", f"{n_layers} times 0 or 1")
    return [bool(x) for x in given[:n_layers]]


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "smollm3", where every fourth layer has no positions."""
    return decoder_config(metadata, checkpoint)
