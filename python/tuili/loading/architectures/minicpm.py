"""MiniCPM: Llama with scaled embeddings, residuals and logits."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    activation,
    decoder,
    expect_only,
    layer_of,
    rope,
    sizes,
)
from tuili.loading.config import MAX_MODEL, Config

TENSOR_NAMES = LLAMA_NAMES | ATTENTION_BIASES
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)


def spec(config: Config) -> ModelSpec:
    """MiniCPMForCausalLM. transformers has no code of its own for it."""
    expect_only(config, "num_experts", 0)
    expect_only(config, "sparse_config")
    size = sizes(config)
    rotation, limit = rope(config, size)
    bias = config.flag("attention_bias", False)
    layer = layer_of(
        size,
        activation=activation(config),
        residual_scale=config.positive("scale_depth", 1.0) / size.n_layers**0.5,
        qkv_bias=bias,
        output_bias=bias,
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        [rotation],
        tied=True,
        max_positions=limit,
        embedding_scale=config.positive("scale_emb", 1.0),
        logit_scale=config.integer("dim_model_base", 1, MAX_MODEL, size.d_model) / size.d_model,
    )
