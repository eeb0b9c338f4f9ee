"""BERT encoders (BertModel and its training heads, which are ignored)."""

from __future__ import annotations

from typing import Literal

from tuili._core import LayerSpec, ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import sizes
from tuili.loading.config import Config

_NAMES = {
    "embeddings.word_embeddings.weight": "token_embedding",
    "embeddings.position_embeddings.weight": "position_embedding",
    "embeddings.token_type_embeddings.weight": "token_type_embedding",
    "embeddings.LayerNorm.weight": "embedding_norm",
    "embeddings.LayerNorm.bias": "embedding_norm.bias",
} | {
    f"encoder.layer.{{i}}.{theirs}.{kind}": f"layers.{{i}}.{ours}{suffix}"
    for kind, suffix in (("weight", ""), ("bias", ".bias"))
    for theirs, ours in {
        "attention.self.query": "query",
        "attention.self.key": "key",
        "attention.self.value": "value",
        "attention.output.dense": "output",
        "attention.output.LayerNorm": "attention_norm",
        "intermediate.dense": "up",
        "output.dense": "down",
        "output.LayerNorm": "mlp_norm",
    }.items()
}
# Checkpoints of a head's class put "bert." before the encoder's names; old ones call a norm's vectors gamma
# and beta.
_OLD = {
    theirs.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): ours
    for theirs, ours in _NAMES.items()
}
TENSOR_NAMES = {prefix + theirs: ours for prefix in ("", "bert.") for theirs, ours in (_NAMES | _OLD).items()}
IGNORED_TENSORS = (r"(bert\.)?embeddings\.position_ids", r"(bert\.)?pooler\..*", r"cls\..*")


def spec(config: Config) -> ModelSpec:
    """BertModel (config.json of any transformers version)."""
    size = sizes(config)
    config.choice("position_embedding_type", ("absolute",), "absolute")
    for key in ("is_decoder", "add_cross_attention"):
        if config.flag(key, False):
            raise ModelUnsupportedError(f"{config.what}: {key} is true", code="config_unsupported")
    activations: dict[str, Literal["gelu", "gelu_tanh", "relu"]] = {
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "relu": "relu",
    }
    layer = LayerSpec(
        n_heads=size.n_heads,
        n_kv_heads=size.n_heads,
        head_dim=size.head_dim,
        d_ff=size.d_ff,
        norm_placement="post",
        activation=activations[config.choice("hidden_act", tuple(activations), "gelu")],
        gated=False,
        causal=False,
        attention_scale=size.head_dim**-0.5,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )
    return ModelSpec(
        kind="encoder",
        n_vocab=size.n_vocab,
        d_model=size.d_model,
        max_positions=size.max_positions,
        layers=[layer] * size.n_layers,
        n_positions_learned=size.max_positions,
        n_token_types=config.integer("type_vocab_size", 1, 65_536, 2),
        embedding_norm=True,
        norm="layer",
        norm_eps=config.number("layer_norm_eps", 1e-16, 1.0, 1e-12),
        final_norm=False,
        has_head=False,
    )
