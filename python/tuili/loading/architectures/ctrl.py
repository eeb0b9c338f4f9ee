"""CTRL: layer norms before each half, scaled embeddings, sinusoidal positions."""

from __future__ import annotations

import math
from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import decoder, expect_only, in_layers, layer_of, sizes, unfused, with_biases
from tuili.loading.architectures.pegasus import sinusoids
from tuili.loading.architectures.seq2seq import sinusoid_shape
from tuili.loading.config import MAX_LAYERS, Config

_LAYER = {
    "multi_head_attention.Wq": "query",
    "multi_head_attention.Wk": "key",
    "multi_head_attention.Wv": "value",
    "multi_head_attention.dense": "output",
    "layernorm1": "attention_norm",
    "layernorm2": "mlp_norm",
}
_MLP = {"ffn.0": "up", "ffn.2": "down"}
BASE_PREFIX = "transformer."
_NAMES = {
    "transformer.w.weight": "token_embedding",
    **with_biases(in_layers("transformer.h", _LAYER)),
    **with_biases([("transformer.layernorm", "final_norm"), ("lm_head", "head")]),
}
_SETTINGS = {
    "hidden_size": "n_embd",
    "intermediate_size": "dff",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
IGNORED_TENSORS = (r"transformer\.pos_encoding",)


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours; those of MLPs hold a second number, so that each layer's are listed."""
    layers = range(config.integer("n_layer", 1, MAX_LAYERS))
    mlps = [
        (f"transformer.h.{i}.{part}", f"layers.{i}.{ours}") for i in layers for part, ours in _MLP.items()
    ]
    return {**_NAMES, **with_biases(mlps)}


def spec(config: Config) -> ModelSpec:
    """CTRLLMHeadModel."""
    _shape(config)
    size = sizes(unfused(config, _SETTINGS))
    expect_only(config, "layer_norm_epsilon", 1e-6)  # of the last norm: the layers have it in any case
    layer = layer_of(size, activation="relu", gated=False, rope=-1, biases=True)
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        tied=True,
        norm="layer",
        norm_eps=1e-6,
        n_positions_learned=size.max_positions,
        embedding_scale=math.sqrt(size.d_model),
        head_bias=True,
    )


def constants(config: Config) -> dict[str, Any]:
    """The positions."""
    return {"position_embedding": sinusoids(*_shape(config))}


def _shape(config: Config) -> tuple[int, int]:
    named = {"d_model": "n_embd", "max_position_embeddings": "n_positions"}
    values = {ours: config.values.get(theirs) for ours, theirs in named.items()}
    return sinusoid_shape(Config(values, config.what, named))
