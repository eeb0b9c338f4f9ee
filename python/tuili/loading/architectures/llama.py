"""Llama 1 to 3.2, SmolLM2 and all that reuse LlamaForCausalLM."""

from __future__ import annotations

import numpy as np

from tuili._core import ModelSpec, RopeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    MLP_BIASES,
    activation,
    decoder,
    layer_of,
    rope,
    rotary_sizes,
    sizes,
)
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, GGUF_BIASES, decoder_config, divisors_of
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = LLAMA_NAMES | ATTENTION_BIASES | MLP_BIASES
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_BIASES
GGUF_IGNORED_TENSORS = (r"rope_freqs\.weight",)


def spec(config: Config, theta: float = 10_000.0) -> ModelSpec:
    """LlamaForCausalLM (config.json of transformers ≥ 4.31); `theta` if the file does not say."""
    size = rotary_sizes(config)
    rotation, limit = rope(config, size, theta=theta)
    layer = layer_of(
        size,
        activation=activation(config),
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
    )
    rotations = [divided(rotation, config)]
    return decoder(config, size, [layer] * size.n_layers, rotations, max_positions=limit)


def divided(rotation: RopeSpec, config: Config) -> RopeSpec:
    """With the divisors that `take_divisors` found; what a config.json has under their name means nothing."""
    factors = config.values.get("rope_frequency_factors")
    if not isinstance(factors, np.ndarray):
        return rotation
    inverse = [float(x) for x in np.array(rotation.inv_freq, np.float32) / factors]
    return RopeSpec(inv_freq=inverse, scale=rotation.scale)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "llama"."""
    present = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}
    return take_divisors(decoder_config(metadata, checkpoint, present=present), checkpoint)


def take_divisors(config: Config, checkpoint: Checkpoint) -> Config:
    """Llama 3's scaled frequencies come as a tensor of divisors, which becomes `rope_frequency_factors`."""
    divisors = divisors_of(checkpoint, "rope_freqs.weight", sizes(config).head_dim // 2)
    if divisors is not None:
        config.update(rope_frequency_factors=divisors)
    return config


def unpermute(name: str, config: Config) -> int:
    """How many heads a weight's rows are interleaved over in GGUF files: query's and key's heads, else 0."""
    if name.endswith((".query", ".query.bias")):
        return sizes(config).n_heads
    return sizes(config).n_kv_heads if name.endswith((".key", ".key.bias")) else 0
