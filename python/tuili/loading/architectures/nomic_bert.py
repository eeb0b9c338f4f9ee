"""NomicBERT as transformers has it: BERT with rotary positions and gated MLPs, without biases."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import expect_only, layer_of, renamed, rope, sizes
from tuili.loading.architectures.encoders import activation, task_head, words_head
from tuili.loading.architectures.encoders_from_gguf import embedding_from_gguf as embedding_from_gguf
from tuili.loading.architectures.encoders_from_gguf import encoder_config
from tuili.loading.architectures.nomic_bert_names import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.nomic_bert_names import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.nomic_bert_names import SECOND_NAMES as SECOND_NAMES
from tuili.loading.architectures.nomic_bert_names import tensor_names as tensor_names
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

_OWN_KEYS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
    "rope_theta": "rotary_emb_base",
}
# Settings of theirs that are no choice here.
_OWN_ONLY: dict[str, Any] = {
    "activation_function": "swiglu", "prenorm": False, "use_rms_norm": False, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
    "causal": False, "parallel_block": False,
}  # fmt: skip


def spec(config: Config) -> ModelSpec:
    """NomicBertModel and its heads, by transformers' settings or by those of the model's makers."""
    if "n_embd" in config:
        renamed(config, _OWN_KEYS)
        for key, value in _OWN_ONLY.items():
            expect_only(config, key, value)
        expect_only(config, "rotary_scaling_factor")
    size = sizes(config)
    rotation, limit = rope(config, size, theta=1000.0)
    act = activation(config, default="silu")
    layer = layer_of(size, norm_placement="post", activation=act, causal=False)
    return ModelSpec(
        kind="encoder",
        n_vocab=size.n_vocab,
        d_model=size.d_model,
        max_positions=limit,
        layers=[layer] * size.n_layers,
        ropes=[rotation],
        n_token_types=config.integer("type_vocab_size", 1, 1024, 2),
        embedding_norm=True,
        norm="layer",
        norm_eps=config.number("layer_norm_eps", 1e-16, 1.0, 1e-12),
        final_norm=False,
        has_head=False,
        task_head=task_head(
            config,
            {
                "sequence": {"rows": "first", "d_inner": size.d_model, "activation": "tanh"},
                "tokens": {},
                "words": words_head(config, size.d_model, act),
            },
        ),
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "nomic-bert"."""
    return encoder_config(metadata, {"rope_theta": "rope.freq_base"})
