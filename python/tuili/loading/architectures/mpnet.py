"""MPNet: BERT whose attention adds a learned bias for the distance of query and key."""

from __future__ import annotations

from tuili._core import LayerSpec, ModelSpec
from tuili.loading.architectures import in_layers, sizes, with_biases
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
)
from tuili.loading.config import Config
from tuili.loading.position_bias import relative

_BODY = {
    "embeddings.word_embeddings.weight": "token_embedding",
    "embeddings.position_embeddings.weight": "position_embedding",
    "encoder.relative_attention_bias.weight": "position_biases.0",
} | with_biases(
    [
        ("embeddings.LayerNorm", "embedding_norm"),
        *in_layers(
            "encoder.layer",
            {
                "attention.attn.q": "query",
                "attention.attn.k": "key",
                "attention.attn.v": "value",
                "attention.attn.o": "output",
                "attention.LayerNorm": "attention_norm",
                "intermediate.dense": "up",
                "output.dense": "down",
                "output.LayerNorm": "mlp_norm",
            },
        ),
    ]
)
_HEADS = {
    "sequence": {"classifier.dense": "dense", "classifier.out_proj": "out"},
    "choices": {"mpnet.pooler.dense": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "spans": {"qa_outputs": "out"},
    "words": {"lm_head.dense": "dense", "lm_head.layer_norm": "norm", "lm_head.decoder": "out"},
}
SECOND_NAMES = {"lm_head.bias": "task_head.out.bias"}
IGNORED_TENSORS = (r"(mpnet\.)?embeddings\.position_ids", r"(mpnet\.)?pooler\..*", r"lm_head\..*")

_OFFSET = 2  # row of position 0, whatever pad_token_id says
_BUCKETS, _FARTHEST = 32, 128  # the model computes with these whatever the configuration says


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY, "mpnet.") | head_names(config, _HEADS)


def spec(config: Config) -> ModelSpec:
    """MPNetModel and its heads; the head for words has the exact GELU whatever the layers have."""
    size = sizes(config)
    n_buckets = config.integer("relative_attention_num_buckets", _BUCKETS, 1 << 16, _BUCKETS)
    if size.max_positions <= _OFFSET:
        raise config.wrong("max_position_embeddings", f"more than {_OFFSET}")
    n_positions = size.max_positions - _OFFSET
    bias = relative(size.n_heads, n_positions, _BUCKETS, _FARTHEST, both_sides=True, n_rows=n_buckets)
    layer: LayerSpec = bert_layer(size, activation(config), position_bias=0)
    return post_norm_encoder(
        config,
        size,
        [layer] * size.n_layers,
        "gelu",
        max_positions=n_positions,
        position_biases=[bias],
        n_positions_learned=size.max_positions,
        position_offset=_OFFSET,
        padding_id=_OFFSET - 1,
    )
