"""What the tensors of Falcon are called in folders and in GGUF files."""

from __future__ import annotations

from typing import Any

from tuili.loading.architectures import fused, in_layers, with_biases
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, GGUF_NORM_BIASES
from tuili.loading.config import Config

_LAYER = {
    "input_layernorm": "attention_norm",
    "ln_attn": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
    "ln_mlp": "mlp_norm",
    "self_attention.dense": "output",
    "mlp.dense_h_to_4h": "up",
    "mlp.dense_4h_to_h": "down",
}

BASE_PREFIX = "transformer."
TENSOR_NAMES = {
    "transformer.word_embeddings.weight": "token_embedding",
    "lm_head.weight": "head",
    **fused("transformer.h.{i}.self_attention.query_key_value", "heads"),
    **with_biases(in_layers("transformer.h", _LAYER)),
    **with_biases([("transformer.ln_f", "final_norm")]),
}

_GGUF_NAMES = DECODER_GGUF_NAMES | GGUF_NORM_BIASES
# With two norms, the first of GGUF's is the MLP's.
_GGUF_TWO_NORMS = with_biases(in_layers("blk", {"attn_norm_2": "attention_norm", "attn_norm": "mlp_norm"}))


def gguf_tensor_names(config: Config) -> dict[str, Any]:
    """llama.cpp's names -> ours."""
    two = config.values["num_ln_in_parallel_attn"] == 2
    return _GGUF_NAMES | (_GGUF_TWO_NORMS if two else {})
