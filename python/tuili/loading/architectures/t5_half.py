"""What T5's encoder and decoder share: RMS norms before, no biases, unscaled attention with a bias for
distances."""

from __future__ import annotations

from typing import Any

from tuili._core import LayerSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import ACTIVATIONS, activation
from tuili.loading.config import MAX_HEAD_DIM, MAX_HEADS, MAX_INNER, MAX_LAYERS, MAX_POSITIONS, Config
from tuili.loading.position_bias import relative

_MOST_BIASES = 1 << 24  # of all heads and positions: they take memory before a tensor is looked at


def is_a(config: Config, stem: str) -> bool:
    """Whether the class is one of T5's, MT5's, UMT5's or LongT5's."""
    return str(config.values["architectures"][0]).startswith(stem)


def longest(config: Config) -> int:
    """Distances are in buckets, so any length is the model's; tables are made for as many tokens."""
    return 16384 if is_a(config, "LongT5") else 4096


def norm(config: Config) -> dict[str, Any]:
    """ModelSpec's fields for the norms."""
    return {"norm": "rms", "norm_eps": config.number("layer_norm_epsilon", 1e-12, 1.0, 1e-6)}


def half(config: Config, name: str) -> tuple[list[LayerSpec], list[Any]]:
    """The layers of "encoder" or "decoder", and their biases; UMT5 has one in every layer."""
    n_heads, n = config.integer("num_heads", 1, MAX_HEADS), n_layers(config, name)
    n_buckets = config.integer("relative_attention_num_buckets", 4, 1 << 16, 32)
    farthest = config.integer("relative_attention_max_distance", n_buckets // 2 + 1, 1 << 24, 128)
    own = is_a(config, "UMT5")
    most = _MOST_BIASES // longest(config)
    if n_heads * (n if own else 1) > most:
        raise config.wrong("num_heads", f"at most {most} biases of heads")
    bias = relative(n_heads, longest(config), n_buckets, farthest, both_sides=name == "encoder")
    gated, act = feed_forward(config)
    layers = [
        LayerSpec(
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=config.integer("d_kv", 1, MAX_HEAD_DIM),
            d_ff=config.integer("d_ff", 1, MAX_INNER),
            activation=act,
            gated=gated,
            position_bias=i if own else 0,
            causal=name == "decoder",
            cross_attention=name == "decoder",
            sliding_window=_window(config) if name == "encoder" else 0,
            attention_scale=1.0,
        )
        for i in range(n)
    ]
    return layers, [bias] * (n if own else 1)


def _window(config: Config) -> int:
    """How far LongT5's encoder sees, and that it sees nothing besides; 0 of others."""
    if not is_a(config, "LongT5"):
        return 0
    config.choice("encoder_attention_type", ("local",), "local")
    return int(config.integer("local_radius", 1, MAX_POSITIONS, 127)) + 1


def n_layers(config: Config, name: str) -> int:
    """num_hidden_layers, where files have it, goes before num_layers, but not in the decoder's place."""
    n = config.integer("num_layers", 1, MAX_LAYERS)
    key = "num_decoder_layers" if name == "decoder" else "num_hidden_layers"
    return int(config.integer(key, 1, MAX_LAYERS, n))


def feed_forward(config: Config) -> tuple[bool, Any]:
    """Whether the MLP is gated, and its activation: "relu", "gated-gelu", which approximates, and so on. What
    transformers writes down beside it, is_gated_act and dense_act_fn, goes before, as it does there."""
    given = config.text(
        "feed_forward_proj", "relu" if is_a(config, "T5") or is_a(config, "LongT5") else "gated-gelu"
    )
    gated, name = given.startswith("gated-"), given.removeprefix("gated-")
    if name not in ACTIVATIONS:
        raise ModelUnsupportedError(
            f"{config.what}: feed_forward_proj is not an activation, or gated- and one",
            code="config_unsupported",
        )
    usual = "gelu_new" if given == "gated-gelu" else name
    return config.flag("is_gated_act", gated), activation(config, "dense_act_fn", usual)
