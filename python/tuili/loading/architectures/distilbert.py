"""DistilBERT: half of BERT's layers under other names, without token types."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import Sizes, in_layers, with_biases
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
)
from tuili.loading.config import MAX_HEADS, MAX_INNER, MAX_LAYERS, MAX_MODEL, MAX_POSITIONS, MAX_VOCAB, Config

_BODY = {
    "embeddings.word_embeddings.weight": "token_embedding",
    "embeddings.position_embeddings.weight": "position_embedding",
} | with_biases(
    [
        ("embeddings.LayerNorm", "embedding_norm"),
        *in_layers(
            "transformer.layer",
            {
                "attention.q_lin": "query",
                "attention.k_lin": "key",
                "attention.v_lin": "value",
                "attention.out_lin": "output",
                "sa_layer_norm": "attention_norm",
                "ffn.lin1": "up",
                "ffn.lin2": "down",
                "output_layer_norm": "mlp_norm",
            },
        ),
    ]
)
_HEADS = {
    "sequence": {"pre_classifier": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "spans": {"qa_outputs": "out"},
    "words": {"vocab_transform": "dense", "vocab_layer_norm": "norm", "vocab_projector": "out"},
}
IGNORED_TENSORS = (r"(distilbert\.)?embeddings\.position_ids", r"vocab_.*", r"(pre_)?classifier\..*")


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY, "distilbert.") | head_names(config, _HEADS)


def spec(config: Config) -> ModelSpec:
    """DistilBertModel and its heads; the sinusoids of sinusoidal_pos_embds lie in the checkpoint."""
    d_model = config.integer("dim", 1, MAX_MODEL, 768)
    n_heads = config.integer("n_heads", 1, MAX_HEADS, 12)
    if d_model % n_heads:
        raise config.wrong("dim", f"a multiple of the {n_heads} heads")
    size = Sizes(
        n_vocab=config.integer("vocab_size", 1, MAX_VOCAB),
        n_layers=config.integer("n_layers", 1, MAX_LAYERS, 6),
        d_model=d_model,
        d_ff=config.integer("hidden_dim", 1, MAX_INNER, 3072),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=d_model // n_heads,
        max_positions=config.integer("max_position_embeddings", 1, MAX_POSITIONS, 512),
    )
    act = activation(config, "activation")
    return post_norm_encoder(
        config,
        size,
        [bert_layer(size, act)] * size.n_layers,
        act,
        sequence="relu",
        n_positions_learned=size.max_positions,
        norm_eps=1e-12,
    )
