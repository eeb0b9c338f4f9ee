"""Llama 1 to 3.2, SmolLM2 and all that reuse LlamaForCausalLM."""

from __future__ import annotations

import numpy as np

from tuili._core import LayerSpec, ModelSpec, RopeSpec
from tuili.errors import ModelFormatError
from tuili.loading.architectures import (
    DECODER_GGUF_NAMES,
    DECODER_NAMES,
    decoder_config,
    rotary_head_dim,
    sizes,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf import Metadata
from tuili.loading.rope import inverse_frequencies

TENSOR_NAMES = DECODER_NAMES | {
    "model.layers.{i}.self_attn.q_proj.bias": "layers.{i}.query.bias",
    "model.layers.{i}.self_attn.k_proj.bias": "layers.{i}.key.bias",
    "model.layers.{i}.self_attn.v_proj.bias": "layers.{i}.value.bias",
    "model.layers.{i}.self_attn.o_proj.bias": "layers.{i}.output.bias",
    "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.mlp_norm",
    "model.layers.{i}.mlp.gate_proj.bias": "layers.{i}.gate.bias",
    "model.layers.{i}.mlp.up_proj.bias": "layers.{i}.up.bias",
    "model.layers.{i}.mlp.down_proj.bias": "layers.{i}.down.bias",
}
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES
GGUF_IGNORED_TENSORS = (r"rope_freqs\.weight",)


def spec(config: Config) -> ModelSpec:
    """LlamaForCausalLM (config.json of transformers ≥ 4.31)."""
    size = sizes(config)
    head_dim = rotary_head_dim(config, size)
    scaling = config.section("rope_parameters") or config.section("rope_scaling")
    inner = scaling if scaling is not None and "rope_theta" in scaling else config
    theta = inner.number("rope_theta", 1.001, 1e12, 10000.0)
    inverse, scale = inverse_frequencies(theta, head_dim, scaling, size.max_positions)
    factors = config.values.get("rope_frequency_factors")
    if factors is not None:
        inverse = [float(x) for x in np.array(inverse, np.float32) / factors]
    attention_bias = config.flag("attention_bias", False)
    layer = LayerSpec(
        n_heads=size.n_heads,
        n_kv_heads=size.n_kv_heads,
        head_dim=head_dim,
        d_ff=size.d_ff,
        activation=config.choice("hidden_act", ("silu",), "silu"),
        rope=0,
        attention_scale=head_dim**-0.5,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=config.flag("mlp_bias", False),
    )
    return ModelSpec(
        kind="decoder",
        n_vocab=size.n_vocab,
        d_model=size.d_model,
        max_positions=size.max_positions,
        layers=[layer] * size.n_layers,
        ropes=[RopeSpec(inv_freq=inverse, scale=scale)],
        norm_eps=config.number("rms_norm_eps", 1e-12, 1.0, 1e-6),
        tied_head=config.flag("tie_word_embeddings", False),
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "llama".

    Llama 3's scaled frequencies come as a tensor of divisors, which becomes `rope_frequency_factors`.
    """
    config = decoder_config(metadata, checkpoint)
    divisors = checkpoint.tensors.get("rope_freqs.weight")
    if divisors is not None:
        head_dim = sizes(config).head_dim
        if divisors.format != "f32" or divisors.shape != (head_dim // 2,):
            raise ModelFormatError(
                f"{metadata.what}: rope_freqs.weight is {divisors.format} {divisors.shape}, "
                f"expected f32 ({head_dim // 2},)",
                code="tensor_shape",
            )
        values = checkpoint.read("rope_freqs.weight").view(np.float32)
        if not (np.isfinite(values) & (values > 0)).all():
            raise ModelFormatError(
                f"{metadata.what}: rope_freqs.weight holds a factor ≤ 0", code="config_value"
            )
        config.values = {**config.values, "rope_frequency_factors": values}
    return config


def unpermute(name: str, config: Config) -> int:
    """How many heads a weight's rows are interleaved over in GGUF files: query's and key's heads, else 0."""
    if name.endswith(".query"):
        return sizes(config).n_heads
    return sizes(config).n_kv_heads if name.endswith(".key") else 0
