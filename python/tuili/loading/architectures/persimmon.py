"""Persimmon: layer norms, also of queries and keys, partly rotated heads, squared ReLUs."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    activation,
    decoder,
    fused,
    in_layers,
    layer_of,
    rope,
    sizes,
    unfused,
    with_biases,
)
from tuili.loading.architectures.phi import head_norms
from tuili.loading.config import Config

_LAYER = {
    "input_layernorm": "attention_norm",
    "self_attn.dense": "output",
    "post_attention_layernorm": "mlp_norm",
    "mlp.dense_h_to_4h": "up",
    "mlp.dense_4h_to_h": "down",
}
TENSOR_NAMES = {
    "model.embed_tokens.weight": "token_embedding",
    **fused("model.layers.{i}.self_attn.query_key_value", "heads"),
    **with_biases(in_layers("model.layers", _LAYER)),
    **with_biases([("model.final_layernorm", "final_norm")]),
    **head_norms("query"),
    **head_norms("key"),
    "lm_head.weight": "head",
}
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)


def spec(config: Config) -> ModelSpec:
    """PersimmonForCausalLM."""
    size = sizes(unfused(config, {}))
    rotation, limit = rope(config, size, partial=0.5)
    layer = layer_of(
        size,
        activation=activation(config, usual="relu2"),
        gated=False,
        qk_norm="layer" if config.flag("qk_layernorm", True) else "none",
        biases=True,
    )
    layers = [layer] * size.n_layers
    return decoder(config, size, layers, [rotation], layer_norm_eps="layer_norm_eps", max_positions=limit)
