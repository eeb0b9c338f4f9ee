"""Jina's third embedder: XLM-RoBERTa with rotary positions in the place of a table of them."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import in_layers, rope, sizes, with_biases
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
)
from tuili.loading.architectures.roberta import HEADS
from tuili.loading.architectures.roberta import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.roberta import SECOND_NAMES as SECOND_NAMES
from tuili.loading.config import Config
from tuili.loading.layout import Names, Parts

_LAYER = {
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.o_proj": "output",
    "post_attention_layernorm": "attention_norm",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
    "post_mlp_layernorm": "mlp_norm",
}
# The same as its makers call it, and as transformers writes it.
_OWN_LAYER = {
    "mixer.out_proj": "output",
    "norm1": "attention_norm",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
    "norm2": "mlp_norm",
}
_BODY: Names = {
    "embeddings.word_embeddings.weight": "token_embedding",
    "embeddings.token_type_embeddings.weight": "token_type_embedding",
    **with_biases([("embeddings.LayerNorm", "embedding_norm"), *in_layers("layers", _LAYER)]),
    **with_biases([("emb_ln", "embedding_norm"), *in_layers("encoder.layers", _OWN_LAYER)]),
    **{
        f"encoder.layers.{{i}}.mixer.Wqkv.{theirs}": Parts(
            tuple(f"layers.{{i}}.{part}{ours}" for part in ("query", "key", "value"))
        )
        for theirs, ours in (("weight", ""), ("bias", ".bias"))
    },
}


def tensor_names(config: Config) -> Names:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY, "roberta.") | head_names(config, HEADS)


def spec(config: Config) -> ModelSpec:
    """JinaEmbeddingsV3Model and its heads; the one for words has the exact GELU whatever the layers have."""
    size = sizes(config)
    rotation, limit = rope(config, size, theta=20000.0)
    return post_norm_encoder(
        config,
        size,
        [bert_layer(size, activation(config), rope=0)] * size.n_layers,
        "gelu",
        usual_eps=1e-5,
        max_positions=limit,
        ropes=[rotation],
        n_token_types=config.integer("type_vocab_size", 1, 1024, 1),
    )
