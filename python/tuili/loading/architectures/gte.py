"""GTE (multilingual and v1.5) as transformers has it: BERT with rotary positions and gated MLPs."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import fused, in_layers, rope, sizes, with_biases
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
)
from tuili.loading.config import Config
from tuili.loading.layout import Parts

_BODY: dict[str, str] = {
    "embeddings.word_embeddings.weight": "token_embedding",
    "embeddings.token_type_embeddings.weight": "token_type_embedding",
    "layers.{i}.mlp.gate_proj.weight": "layers.{i}.gate",
    "layers.{i}.mlp.up_proj.weight": "layers.{i}.up",
} | with_biases(
    [
        ("embeddings.LayerNorm", "embedding_norm"),
        *in_layers(
            "layers",
            {
                "self_attn.q_proj": "query",
                "self_attn.k_proj": "key",
                "self_attn.v_proj": "value",
                "self_attn.o_proj": "output",
                "post_attention_layernorm": "attention_norm",
                "mlp.down_proj": "down",
                "post_mlp_layernorm": "mlp_norm",
            },
        ),
    ]
)
# As files have them, transformers' too; its model calls them by the names above.
_FUSED: dict[str, Any] = {
    **fused("encoder.layer.{i}.attention.qkv_proj"),
    "encoder.layer.{i}.mlp.up_gate_proj.weight": Parts(("layers.{i}.up", "layers.{i}.gate")),
} | with_biases(
    in_layers(
        "encoder.layer",
        {
            "attention.o_proj": "output",
            "attn_ln": "attention_norm",
            "mlp.down_proj": "down",
            "mlp_ln": "mlp_norm",
        },
    )
)
_HEADS = {
    "sequence": {"gte.pooler.dense": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "words": {"lm_head.dense": "dense", "lm_head.layer_norm": "norm", "lm_head.decoder": "out"},
}
SECOND_NAMES = {"lm_head.bias": "task_head.out.bias"}
IGNORED_TENSORS = (r"(gte\.)?pooler\..*", r"(gte\.)?embeddings\.position_ids", r"lm_head\..*")


def tensor_names(config: Config) -> dict[str, Any]:
    """Their names -> ours, with those of the head that the configuration has."""
    heads = head_names(config, _HEADS)
    stored = {theirs.replace("layer_norm", "norm"): ours for theirs, ours in heads.items()}
    return prefixed(_BODY | _FUSED, "gte.") | heads | stored


def constants(config: Config) -> dict[str, float]:
    """Gates have no biases, where what they let through has one."""
    return {r"layers\.\d+\.(gate|up)\.bias": 0.0}


def spec(config: Config) -> ModelSpec:
    """GteModel and its heads; the one for words has the exact GELU whatever the layers have."""
    size = sizes(config)
    rotation, limit = rope(config, size, theta=160_000.0)
    layer = bert_layer(size, activation(config), gated=True, rope=0)
    return post_norm_encoder(
        config,
        size,
        [layer] * size.n_layers,
        "gelu",
        spans=False,
        ropes=[rotation],
        max_positions=limit,
        n_token_types=config.integer("type_vocab_size", 0, 1024, 1),
    )
