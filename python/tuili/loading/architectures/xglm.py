"""XGLM: layer norms before each half, sinusoidal positions from row 2 on, scaled embeddings."""

from __future__ import annotations

import math
from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    activation,
    decoder,
    expect_only,
    in_layers,
    layer_of,
    sizes,
    unfused,
    with_biases,
)
from tuili.loading.architectures.biogpt import LAYER
from tuili.loading.architectures.m2m_100 import sinusoids
from tuili.loading.architectures.seq2seq import sinusoid_shape
from tuili.loading.config import Config

TENSOR_NAMES = {
    "model.embed_tokens.weight": "token_embedding",
    "lm_head.weight": "head",
    **with_biases(in_layers("model.layers", LAYER)),
    **with_biases([("model.layer_norm", "final_norm")]),
}
IGNORED_TENSORS = (r"model\.embed_positions\.weights?",)
_OFFSET = 2
_NAMES = {
    "hidden_size": "d_model",
    "intermediate_size": "ffn_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "attention_heads",
}


def spec(config: Config) -> ModelSpec:
    """XGLMForCausalLM."""
    if sinusoid_shape(config)[1] < 4:
        raise config.wrong("d_model", "at least 4")
    size = sizes(unfused(config, _NAMES))
    expect_only(config, "add_cross_attention", False)
    layer = layer_of(
        size, activation=activation(config, "activation_function", "gelu"), gated=False, rope=-1, biases=True
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        tied=True,
        norm="layer",
        norm_eps=1e-5,
        n_positions_learned=size.max_positions + _OFFSET,
        position_offset=_OFFSET,
        embedding_scale=math.sqrt(size.d_model) if config.flag("scale_embedding", True) else 1.0,
    )


def constants(config: Config) -> dict[str, Any]:
    """The positions; the row that has the number of the padding is of zeros."""
    n, d = sinusoid_shape(config)
    table = sinusoids(0, n + _OFFSET, d)
    padding = config.integer("pad_token_id", 0, 1 << 30, 1)
    if padding < len(table):
        table[padding] = 0
    return {"position_embedding": table}
