"""What the tensors of NomicBERT are called in folders and in GGUF files."""

from __future__ import annotations

from typing import Any

from tuili.loading.architectures import with_biases
from tuili.loading.architectures.encoders import head_names, prefixed
from tuili.loading.architectures.from_gguf import GGUF_FUSED_QKV
from tuili.loading.config import Config
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


def tensor_names(config: Config) -> dict[str, Any]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY | _OWN, "nomic_bert.") | head_names(config, _HEADS)
