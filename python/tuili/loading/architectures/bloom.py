"""BLOOM: attention biased by distance instead of positions, a norm behind the embedding."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    decoder,
    expect_only,
    fused,
    in_layers,
    layer_of,
    sizes,
    unfused,
    with_biases,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_BIASES,
    GGUF_NORM_BIASES,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_POSITIONS, Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.position_bias import alibi

_LAYER = {
    "input_layernorm": "attention_norm",
    "self_attention.dense": "output",
    "post_attention_layernorm": "mlp_norm",
    "mlp.dense_h_to_4h": "up",
    "mlp.dense_4h_to_h": "down",
}

BASE_PREFIX = "transformer."
TENSOR_NAMES = {
    "transformer.word_embeddings.weight": "token_embedding",
    "lm_head.weight": "head",
    **fused("transformer.h.{i}.self_attention.query_key_value", "heads"),
    **with_biases(in_layers("transformer.h", _LAYER)),
    **with_biases(
        [("transformer.word_embeddings_layernorm", "embedding_norm"), ("transformer.ln_f", "final_norm")]
    ),
}
# A second name of each, and what the class fills in where a file has neither.
_SIZES = {
    "hidden_size": ("n_embed", 64),
    "num_hidden_layers": ("n_layer", 2),
    "num_attention_heads": ("n_head", 8),
}

GGUF_TENSOR_NAMES = (
    DECODER_GGUF_NAMES
    | GGUF_BIASES
    | GGUF_NORM_BIASES
    | {"token_embd_norm.weight": "embedding_norm", "token_embd_norm.bias": "embedding_norm.bias"}
)


def spec(config: Config) -> ModelSpec:
    """BloomForCausalLM. Distances are not limited; `seq_length` is what it was trained with."""
    config.fill({ours: usual for ours, (theirs, usual) in _SIZES.items() if theirs not in config})
    unfused(config, {ours: theirs for ours, (theirs, _) in _SIZES.items() if theirs in config})
    if config.integer("pretraining_tp", 1, MAX_POSITIONS, 1) > 1:
        expect_only(config, "slow_but_exact", False)  # where transformers leaves biases out
    d_model = config.values["hidden_size"]
    config.update(
        intermediate_size=4 * d_model if isinstance(d_model, int) else None,
        max_position_embeddings=config.integer("seq_length", 1, MAX_POSITIONS, 2048),
    )
    size = sizes(config)
    normed = config.flag("apply_residual_connection_post_layernorm", False)
    layer = layer_of(
        size,
        activation="gelu_tanh",
        gated=False,
        norm_placement="normed_residual" if normed else "pre",
        rope=-1,
        position_bias=0,
        biases=True,
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        layer_norm_eps="layer_norm_epsilon",
        tied=True,
        embedding_norm=True,
        position_biases=[alibi(size.n_heads, size.max_positions)],
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "bloom"."""
    numbers = {"layer_norm_epsilon": "attention.layer_norm_epsilon"}
    return decoder_config(metadata, checkpoint, numbers=numbers, integers={"seq_length": "context_length"})
