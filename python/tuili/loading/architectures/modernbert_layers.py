"""What ModernBERT and its decoder share: layers, rotations, and what stands before every head."""

from __future__ import annotations

from typing import Any

from tuili._core import LayerSpec, RopeSpec
from tuili.loading.architectures import GLOBAL, LOCAL, Sizes, layer_of, layer_types, rope_of_kind
from tuili.loading.architectures.encoders import activation, words_head
from tuili.loading.config import MAX_MODEL, Config


def layers_of(config: Config, size: Sizes, reach: int, *, causal: bool) -> list[LayerSpec]:
    """The layers, of which those of local attention see less than `reach` keys on a side."""
    every = config.integer("global_attn_every_n_layers", 1, 1024, 3)
    types = layer_types(config, size.n_layers, [LOCAL if i % every else GLOBAL for i in range(size.n_layers)])
    act = activation(config, "hidden_activation")
    return [
        layer_of(
            size,
            activation=act,
            causal=causal,
            attention_norm=i > 0,
            rope=int(kind == LOCAL),
            sliding_window=reach if kind == LOCAL else 0,
            attention_bias=config.flag("attention_bias", False),
            mlp_bias=config.flag("mlp_bias", False),
        )
        for i, kind in enumerate(types)
    ]


def ropes_of(config: Config, size: Sizes) -> list[RopeSpec]:
    """Those of global and of local attention."""
    return [
        rope_of_kind(config, size, GLOBAL, 160_000.0, "global_rope_theta", scaled=True)[0],
        rope_of_kind(config, size, LOCAL, 10_000.0, "local_rope_theta", scaled=True)[0],
    ]


def inner_head(config: Config) -> dict[str, Any]:
    """The fields of what stands before every head."""
    act = activation(config, "classifier_activation")
    head = words_head(config, config.integer("hidden_size", 1, MAX_MODEL), act)
    return head | {"dense_bias": config.flag("classifier_bias", False)}
