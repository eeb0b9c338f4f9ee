"""sentence-transformers' StaticEmbedding, Model2Vec's too: a vector per token, no layers."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.config import MAX_MODEL, MAX_VOCAB, Config

TENSOR_NAMES = {"embedding.weight": "token_embedding", "embeddings": "token_embedding"}
MAX_TOKENS = 1 << 20  # of one text: there are no positions


def spec(config: Config) -> ModelSpec:
    """The table's sizes, which `static_embeddings.py` takes from the tensor itself."""
    return ModelSpec(
        kind="encoder",
        n_vocab=config.integer("vocab_size", 1, MAX_VOCAB),
        d_model=config.integer("hidden_size", 1, MAX_MODEL),
        max_positions=MAX_TOKENS,
        layers=[],
        final_norm=False,
        has_head=False,
    )
