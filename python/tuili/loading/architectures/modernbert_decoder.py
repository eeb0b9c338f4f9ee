"""ModernBERT's decoder (Ettin): the same layers, whose tokens see those before them alone."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec, TaskHead
from tuili.loading.architectures import decoder, fused, sizes, unfused, with_biases
from tuili.loading.architectures.modernbert import constants as constants
from tuili.loading.architectures.modernbert_layers import inner_head, layers_of, ropes_of
from tuili.loading.config import MAX_POSITIONS, Config

_INNER = (("dense", "task_head.dense"), ("norm", "task_head.norm"))
TENSOR_NAMES: dict[str, Any] = {
    "model.embeddings.tok_embeddings.weight": "token_embedding",
    **fused("model.layers.{i}.mlp.Wi", parts=("gate", "up")),
    **with_biases(
        [
            ("model.embeddings.norm", "embedding_norm"),
            ("model.layers.{i}.attn_norm", "layers.{i}.attention_norm"),
            ("model.layers.{i}.attn.q_proj", "layers.{i}.query"),
            ("model.layers.{i}.attn.k_proj", "layers.{i}.key"),
            ("model.layers.{i}.attn.v_proj", "layers.{i}.value"),
            ("model.layers.{i}.attn.Wo", "layers.{i}.output"),
            ("model.layers.{i}.mlp_norm", "layers.{i}.mlp_norm"),
            ("model.layers.{i}.mlp.Wo", "layers.{i}.down"),
            ("model.final_norm", "final_norm"),
            *((f"lm_head.{theirs}", ours) for theirs, ours in _INNER),
            ("decoder", "head"),
        ]
    ),
}
HEADS = {"sequence": {"head.dense": "dense", "head.norm": "norm", "classifier": "out"}}
IGNORED_TENSORS = (r"decoder\..*",)


def head_shapes(config: Config) -> dict[str, dict[str, Any]]:
    """The head for sequences, whose answer is the last token's."""
    out_bias = config.flag("classifier_bias", False)
    return {"sequence": inner_head(config) | {"tied": False, "out_bias": out_bias}}


def spec(config: Config) -> ModelSpec:
    """ModernBertDecoderForCausalLM; local_attention counts keys on both sides, of which half are seen, unless
    sliding_window, which transformers writes beside it, says how many."""
    size = sizes(unfused(config, {}))
    half = config.integer("local_attention", 2, MAX_POSITIONS, 128) // 2
    reach = config.integer("sliding_window", 1, MAX_POSITIONS, half)
    inner = inner_head(config)
    return decoder(
        config,
        size,
        layers_of(config, size, reach, causal=True),
        ropes_of(config, size),
        layer_norm_eps="norm_eps",
        tied=inner.pop("tied"),
        embedding_norm=True,
        head_bias=config.flag("decoder_bias", True),
        task_head=TaskHead(n_out=0, **inner),
    )
