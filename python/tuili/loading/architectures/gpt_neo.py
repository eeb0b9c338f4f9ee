"""GPT-Neo: GPT-2 with windows in every other layer, and scores that are not scaled."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, in_layers, layer_of, sizes, with_biases
from tuili.loading.architectures.gpt2 import gpt_config
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
    **with_biases(in_layers("transformer.h", _LAYER)),
    **with_biases([("transformer.ln_f", "final_norm")]),
}
IGNORED_TENSORS = (r"(transformer\.)?h\.\d+\.attn\.attention\.(masked_)?bias",)


def spec(config: Config) -> ModelSpec:
    """GPTNeoForCausalLM."""
    size = sizes(gpt_config(config, {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}))
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
    """ "global" or "local" per layer: `attention_layers`, which goes before as in transformers, or what
    `attention_types` make, which are lists of them and how often each repeats."""
    key = "attention_layers" if "attention_layers" in config else "attention_types"
    expected = f"global or local for each of {n_layers} layers"
    given: Any = config.values[key] if key in config else [[["global", "local"], 12]]
    if key == "attention_types":
        expected = f"pairs of a list of global and local, and a number, of {n_layers} layers"
        given = _repeated(given, MAX_LAYERS)
    if not isinstance(given, list) or len(given) != n_layers:
        raise config.wrong(key, expected)
    if not all(kind in ("global", "local") for kind in given):
        raise config.wrong(key, expected)
    return given


def _repeated(given: Any, most: int) -> list[Any] | None:
    """What the pairs of a list and a number of times make; None: they are none, or make more than `most`."""
    all_of: list[Any] = []
    for item in given if isinstance(given, list) else [None]:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], list)):
            return None
        kinds, times = item
        if type(times) is not int or not 0 <= times <= most or times * len(kinds) > most - len(all_of):
            return None
        all_of += kinds * times
    return all_of
