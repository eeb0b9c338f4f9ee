"""NomicBERT as transformers has it: BERT with rotary positions and gated MLPs, without biases."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import expect_only, layer_of, renamed, rope, sizes
from tuili.loading.architectures.encoders import (
    activation,
    head_names,
    prefixed,
    task_head,
    with_biases,
    words_head,
)
from tuili.loading.architectures.encoders_from_gguf import embedding_from_gguf as embedding_from_gguf
from tuili.loading.architectures.encoders_from_gguf import encoder_config
from tuili.loading.architectures.from_gguf import GGUF_FUSED_QKV
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf import Metadata
from tuili.loading.layout import Parts

_BODY: dict[str, Any] = {
    "embeddings.word_embeddings.weight": "token_embedding",
    "embeddings.token_type_embeddings.weight": "token_type_embedding",
    **{
        f"layers.{{i}}.{theirs}.weight": f"layers.{{i}}.{ours}"
        for theirs, ours in (
            ("self_attn.q_proj", "query"),
            ("self_attn.k_proj", "key"),
            ("self_attn.v_proj", "value"),
            ("self_attn.o_proj", "output"),
            ("mlp.gate_proj", "gate"),
            ("mlp.up_proj", "up"),
            ("mlp.down_proj", "down"),
        )
    },
    **with_biases(
        [
            ("embeddings.LayerNorm", "embedding_norm"),
            ("layers.{i}.post_attention_layernorm", "layers.{i}.attention_norm"),
            ("layers.{i}.post_mlp_layernorm", "layers.{i}.mlp_norm"),
        ]
    ),
}
# The same as its makers' own checkpoints, and version 5 of transformers, write it.
_OWN: dict[str, Any] = {
    "encoder.layers.{i}.attn.Wqkv.weight": Parts(("layers.{i}.query", "layers.{i}.key", "layers.{i}.value")),
    **{
        f"encoder.layers.{{i}}.{theirs}.weight": f"layers.{{i}}.{ours}"
        for theirs, ours in (
            ("attn.out_proj", "output"),
            ("mlp.fc11", "up"),
            ("mlp.fc12", "gate"),
            ("mlp.fc2", "down"),
        )
    },
    **with_biases(
        [
            ("emb_ln", "embedding_norm"),
            ("encoder.layers.{i}.norm1", "layers.{i}.attention_norm"),
            ("encoder.layers.{i}.norm2", "layers.{i}.mlp_norm"),
        ]
    ),
}
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
_HEADS = {
    "sequence": {"nomic_bert.pooler.dense": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "words": {
        "cls.predictions.transform.dense": "dense",
        "cls.predictions.transform.layer_norm": "norm",
        "cls.predictions.decoder": "out",
    },
}
SECOND_NAMES = {"cls.predictions.bias": "task_head.out.bias"}
IGNORED_TENSORS = (r"(nomic_bert\.)?pooler\..*", r"cls\..*")

GGUF_TENSOR_NAMES: dict[str, Any] = {
    "token_embd.weight": "token_embedding",
    "token_types.weight": "token_type_embedding",
    **GGUF_FUSED_QKV,
    **{
        f"blk.{{i}}.{theirs}.weight": f"layers.{{i}}.{ours}"
        for theirs, ours in (
            ("attn_output", "output"),
            ("ffn_up", "up"),
            ("ffn_gate", "gate"),
            ("ffn_down", "down"),
        )
    },
    **with_biases(
        [
            ("token_embd_norm", "embedding_norm"),
            ("blk.{i}.attn_output_norm", "layers.{i}.attention_norm"),
            ("blk.{i}.layer_output_norm", "layers.{i}.mlp_norm"),
        ]
    ),
}
GGUF_IGNORED_TENSORS = ()


def tensor_names(config: Config) -> dict[str, Any]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY | _OWN, "nomic_bert.") | head_names(config, _HEADS)


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
