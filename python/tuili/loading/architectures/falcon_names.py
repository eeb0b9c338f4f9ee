"""What the tensors of Falcon are called in folders and in GGUF files."""

from __future__ import annotations

from typing import Any

from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, GGUF_NORM_BIASES
from tuili.loading.config import Config
from tuili.loading.layout import Parts

_QKV = ("layers.{i}.query", "layers.{i}.key", "layers.{i}.value")

BASE_PREFIX = "transformer."
TENSOR_NAMES = {
    "transformer.word_embeddings.weight": "token_embedding",
    "transformer.h.{i}.input_layernorm.weight": "layers.{i}.attention_norm",
    "transformer.h.{i}.input_layernorm.bias": "layers.{i}.attention_norm.bias",
    "transformer.h.{i}.ln_attn.weight": "layers.{i}.attention_norm",
    "transformer.h.{i}.ln_attn.bias": "layers.{i}.attention_norm.bias",
    "transformer.h.{i}.post_attention_layernorm.weight": "layers.{i}.mlp_norm",
    "transformer.h.{i}.post_attention_layernorm.bias": "layers.{i}.mlp_norm.bias",
    "transformer.h.{i}.ln_mlp.weight": "layers.{i}.mlp_norm",
    "transformer.h.{i}.ln_mlp.bias": "layers.{i}.mlp_norm.bias",
    "transformer.h.{i}.self_attention.query_key_value.weight": Parts(_QKV, "heads"),
    "transformer.h.{i}.self_attention.query_key_value.bias": Parts(
        tuple(f"{name}.bias" for name in _QKV), "heads"
    ),
    "transformer.h.{i}.self_attention.dense.weight": "layers.{i}.output",
    "transformer.h.{i}.self_attention.dense.bias": "layers.{i}.output.bias",
    "transformer.h.{i}.mlp.dense_h_to_4h.weight": "layers.{i}.up",
    "transformer.h.{i}.mlp.dense_h_to_4h.bias": "layers.{i}.up.bias",
    "transformer.h.{i}.mlp.dense_4h_to_h.weight": "layers.{i}.down",
    "transformer.h.{i}.mlp.dense_4h_to_h.bias": "layers.{i}.down.bias",
    "transformer.ln_f.weight": "final_norm",
    "transformer.ln_f.bias": "final_norm.bias",
    "lm_head.weight": "head",
}
IGNORED_TENSORS = ()

_GGUF_NAMES = DECODER_GGUF_NAMES | GGUF_NORM_BIASES
# With two norms, the first of GGUF's is the MLP's.
_GGUF_TWO_NORMS = {
    f"blk.{{i}}.{theirs}.{part}": f"layers.{{i}}.{ours}{end}"
    for theirs, ours in (("attn_norm_2", "attention_norm"), ("attn_norm", "mlp_norm"))
    for part, end in (("weight", ""), ("bias", ".bias"))
}
GGUF_IGNORED_TENSORS = ()


def gguf_tensor_names(config: Config) -> dict[str, Any]:
    """llama.cpp's names -> ours."""
    two = config.values["num_ln_in_parallel_attn"] == 2
    return _GGUF_NAMES | (_GGUF_TWO_NORMS if two else {})
