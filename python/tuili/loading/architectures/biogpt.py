"""BioGPT: layer norms before each half, learned positions that begin at row 2, scaled embeddings."""

from __future__ import annotations

import math

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
from tuili.loading.config import Config

BASE_PREFIX = "biogpt."
LAYER = {
    "self_attn_layer_norm": "attention_norm",
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.out_proj": "output",
    "final_layer_norm": "mlp_norm",
    "fc1": "up",
    "fc2": "down",
}
TENSOR_NAMES = {
    "biogpt.embed_tokens.weight": "token_embedding",
    "biogpt.embed_positions.weight": "position_embedding",
    "output_projection.weight": "head",
    **with_biases(in_layers("biogpt.layers", LAYER)),
    **with_biases([("biogpt.layer_norm", "final_norm")]),
}
_OFFSET = 2


def spec(config: Config) -> ModelSpec:
    """BioGptForCausalLM, whose norms have the usual epsilon, whatever layer_norm_eps is."""
    unfused(config, {})
    expect_only(config, "add_cross_attention", False)
    size = sizes(config)
    layer = layer_of(size, activation=activation(config, usual="gelu"), gated=False, rope=-1, biases=True)
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        tied=True,
        norm="layer",
        norm_eps=1e-5,
        n_positions_learned=size.max_positions + _OFFSET,
        position_offset=_OFFSET,
        embedding_scale=math.sqrt(size.d_model) if config.switch("scale_embedding", True) else 1.0,
    )
