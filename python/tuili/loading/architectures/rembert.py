"""RemBERT: BERT with narrow embeddings and a wide head for words, which has a matrix of its own."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import sizes, with_biases
from tuili.loading.architectures.bert import BODY_NAMES
from tuili.loading.architectures.encoders import (
    activation,
    bert_layer,
    head_names,
    post_norm_encoder,
    prefixed,
    refuse_flags,
)
from tuili.loading.config import MAX_MODEL, Config

_BODY = BODY_NAMES | with_biases([("encoder.embedding_hidden_mapping_in", "embedding_in")])
_WORDS = "cls.predictions"
_HEADS = {
    "sequence": {"rembert.pooler.dense": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "spans": {"qa_outputs": "out"},
    "words": {f"{_WORDS}.dense": "dense", f"{_WORDS}.LayerNorm": "norm", f"{_WORDS}.decoder": "out"},
}
IGNORED_TENSORS = (r"(rembert\.)?embeddings\.position_ids", r"(rembert\.)?pooler\..*", r"cls\..*")


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY, "rembert.") | head_names(config, _HEADS)


def spec(config: Config) -> ModelSpec:
    """RemBertModel and its heads."""
    size = sizes(config)
    refuse_flags(config, "is_decoder", "add_cross_attention")
    act = activation(config)
    config.fill({"tie_word_embeddings": False})
    width = config.integer("input_embedding_size", 1, MAX_MODEL, 256)
    return post_norm_encoder(
        config,
        size,
        [bert_layer(size, act)] * size.n_layers,
        act,
        words_width=config.integer("output_embedding_size", 1, MAX_MODEL, 1664),
        d_embedding=width,
        project_last=True,
        n_positions_learned=size.max_positions,
        n_token_types=config.integer("type_vocab_size", 1, 1024, 2),
    )
