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
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, decoder_config, longrope
from tuili.loading.architectures.llama import unpermute as unpermute
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_MODEL, Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = LLAMA_NAMES | ATTENTION_BIASES
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES
GGUF_IGNORED_TENSORS = (r"rope_factors_(short|long)\.weight",)


def spec(config: Config) -> ModelSpec:
    """MiniCPMForCausalLM. transformers has no code of its own for it."""
    expect_only(config, "num_experts", 0)
    expect_only(config, "sparse_config")
    size = sizes(config)
    rotation, limit = rope(config, size)
    layer = layer_of(
        size,
        activation=activation(config),
        residual_scale=config.positive("scale_depth", 1.0) / size.n_layers**0.5,
        attention_bias=config.flag("attention_bias", False),
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


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "minicpm"; those of 2024 leave out how it scales."""
    numbers = {"scale_emb": "embedding_scale", "residual": "residual_scale", "logits": "logit_scale"}
    integers = {"original_max_position_embeddings": "rope.scaling.original_context_length"}
    config = decoder_config(metadata, checkpoint, numbers=numbers, integers=integers)
    size = sizes(config)
    residual = config.positive("residual", 1.4 / size.n_layers**0.5)
    logits = config.positive("logits", size.d_model / 256)
    config.update(
        **longrope(metadata, checkpoint, size.head_dim // 2, 1.0),
        scale_emb=config.positive("scale_emb", 12.0),
        scale_depth=residual * size.n_layers**0.5,
        dim_model_base=round(size.d_model / logits),
    )
    return config
