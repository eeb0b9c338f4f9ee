"""Helium: Llama whose rotated pairs are neighbours, with fewer biases."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, layer_of, rope, sizes
from tuili.loading.architectures.llama import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.llama import TENSOR_NAMES as TENSOR_NAMES
from tuili.loading.config import Config


def spec(config: Config) -> ModelSpec:
    """HeliumForCausalLM, whose heads together are as wide as the model."""
    config.fill({"num_key_value_heads": 20, "head_dim": 128})
    size = sizes(config)
    rotation, limit = rope(config, size, theta=100_000.0, interleaved=True)
    layer = layer_of(
        size,
        activation=activation(config),
        qkv_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
    )
    return decoder(config, size, [layer] * size.n_layers, [rotation], usual_eps=1e-8, max_positions=limit)
