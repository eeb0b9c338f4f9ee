"""GPT-Neo: GPT-2 with windows in every other layer, and scores that are not scaled."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, layer_of, sizes, unfused
from tuili.loading.architectures.encoders import with_biases
from tuili.loading.config import MAX_LAYERS, MAX_POSITIONS, Config

BASE_PREFIX = "transformer."
_LAYER = {
    "ln_1": "attention_norm",
    "attn.attention.out_proj": "output",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
}
_ATTENTION = "transformer.h.{i}.attn.attention"
TENSOR_NAMES = {
    "transformer.wte.weight": "token_embedding",
    "transformer.wpe.weight": "position_embedding",
    "lm_head.weight": "head",
    **{
        f"{_ATTENTION}.{theirs}_proj.weight": f"layers.{{i}}.{ours}"
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"))
    },
    **with_biases(
        (f"transformer.h.{{i}}.{theirs}", f"layers.{{i}}.{ours}") for theirs, ours in _LAYER.items()
    ),
    **with_biases([("transformer.ln_f", "final_norm")]),
}
IGNORED_TENSORS = (r"(transformer\.)?h\.\d+\.attn\.attention\.(masked_)?bias",)


def spec(config: Config) -> ModelSpec:
    """GPTNeoForCausalLM."""
    unfused(config, {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"})
    d_model = config.values.get("hidden_size")
    if "intermediate_size" not in config and isinstance(d_model, int):
        config.values = {**config.values, "intermediate_size": 4 * d_model}
    size = sizes(config)
    window = config.integer("window_size", 1, MAX_POSITIONS, 256)
    layers = [
        layer_of(
            size,
            activation=activation(config, "activation_function", "gelu_new"),
            gated=False,
            rope=-1,
            attention_scale=1.0,
            sliding_window=window if kind == "local" else 0,
            output_bias=True,
            mlp_bias=True,
        )
        for kind in _kinds(config, size.n_layers)
    ]
    return decoder(
        config,
        size,
        layers,
        layer_norm_eps="layer_norm_epsilon",
        tied=True,
        n_positions_learned=size.max_positions,
    )


def _kinds(config: Config, n_layers: int) -> list[str]:
    """ "global" or "local" per layer: attention_types holds lists of them, and how often each repeats."""
    given: Any = config.values.get("attention_types") or [[["global", "local"], 12]]
    expected = f"pairs of a list of global and local, and a number, of {n_layers} layers"
    kinds: list[str] = []
    for item in given if isinstance(given, list) else [None]:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], list)):
            raise config.wrong("attention_types", expected)
        if type(item[1]) is not int or not 0 <= item[1] * len(item[0]) <= MAX_LAYERS - len(kinds):
            raise config.wrong("attention_types", expected)
        kinds += item[0] * item[1]
    if len(kinds) != n_layers or not all(kind in ("global", "local") for kind in kinds):
        raise config.wrong("attention_types", expected)
    return kinds
