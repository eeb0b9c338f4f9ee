"""HyperCLOVA X SEED: Granite with a norm behind each half, too, and logits that are multiplied."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import rope, sizes
from tuili.loading.architectures.granite import TENSOR_NAMES as _GRANITE
from tuili.loading.architectures.granite import granite
from tuili.loading.config import Config

TENSOR_NAMES = _GRANITE | {
    "model.layers.{i}.post_norm1.weight": "layers.{i}.post_attention_norm",
    "model.layers.{i}.post_norm2.weight": "layers.{i}.post_mlp_norm",
}


def spec(config: Config) -> ModelSpec:
    """HyperCLOVAXForCausalLM."""
    size = sizes(config)
    scale = config.positive("logits_scaling", 1.0)
    attention = config.positive("attention_multiplier", size.head_dim**-0.5)
    config.update(logits_scaling=1 / scale, attention_multiplier=attention)
    rotation, limit = rope(config, size)
    return granite(
        config,
        size,
        [rotation],
        limit,
        mlp_bias=config.flag("mlp_bias", False),
        norm_placement="sandwich" if config.flag("use_post_norm", True) else "pre",
    )
