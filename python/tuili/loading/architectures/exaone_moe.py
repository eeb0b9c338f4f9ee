"""K-EXAONE: EXAONE 4's attention behind its norms, and experts as DeepSeek-V3 has them."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    GLOBAL,
    LOCAL,
    QK_NORMS,
    activation,
    decoder,
    layer_of,
    layer_types,
    rope,
    rotary_sizes,
    window,
)
from tuili.loading.architectures.routed import ROUTED_NAMES, behind_dense, by_types, routed
from tuili.loading.config import MAX_LAYERS, Config

TENSOR_NAMES = (
    ROUTED_NAMES | QK_NORMS | {"model.layers.{i}.mlp.e_score_correction_bias": "layers.{i}.selection_bias"}
)
IGNORED_TENSORS = (r"mtp\..*",)


def spec(config: Config) -> ModelSpec:
    """ExaoneMoeForCausalLM; without windows at all, every layer rotates."""
    names = {"n_routed_experts": "num_experts", "n_shared_experts": "num_shared_experts"}
    config.update(**{ours: config.values.get(own) for ours, own in names.items()})
    size = rotary_sizes(config)
    rotation, limit = rope(config, size)
    length = window(config, 4096)
    usual = [GLOBAL] * size.n_layers
    if length and "layer_types" not in config:
        every = config.integer("sliding_window_pattern", 1, MAX_LAYERS, 4)
        usual = [LOCAL if (i + 1) % every else GLOBAL for i in range(size.n_layers)]
    moe = routed(config, scale=2.5, normalize=True)
    experts = by_types(config, moe, behind_dense(config, size.n_layers, moe, 1))
    layers = [
        layer_of(
            size,
            activation=activation(config),
            qk_norm="heads",
            rope=0 if kind == LOCAL or not length else -1,
            sliding_window=length if kind == LOCAL else 0,
            moe=moe,
        )
        for kind, moe in zip(layer_types(config, size.n_layers, usual), experts, strict=True)
    ]
    return decoder(config, size, layers, [rotation], usual_eps=1e-5, max_positions=limit)
