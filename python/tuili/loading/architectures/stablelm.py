"""StableLM: layer norms, partly rotated heads, optionally parallel halves and norms on query and key."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    activation,
    decoder,
    layer_of,
    rope,
    sizes,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_ATTENTION_BIASES,
    GGUF_NORM_BIASES,
    GGUF_QK_NORMS_OF_HEADS,
    LAYER_NORM_EPS,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = (
    LLAMA_NAMES
    | ATTENTION_BIASES
    | {
        "model.norm.bias": "final_norm.bias",
        "model.layers.{i}.input_layernorm.bias": "layers.{i}.attention_norm.bias",
        "model.layers.{i}.post_attention_layernorm.bias": "layers.{i}.mlp_norm.bias",
        "model.layers.{i}.self_attn.q_layernorm.norms.{e}.weight": "layers.{i}.query_norms.{e}",
        "model.layers.{i}.self_attn.k_layernorm.norms.{e}.weight": "layers.{i}.key_norms.{e}",
    }
)
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_ATTENTION_BIASES | GGUF_NORM_BIASES | GGUF_QK_NORMS_OF_HEADS


def spec(config: Config) -> ModelSpec:
    """StableLmForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size, partial=0.25)
    layer = layer_of(
        size,
        activation=activation(config),
        norm_placement="parallel" if config.flag("use_parallel_residual", False) else "pre",
        qk_norm="layer" if config.flag("qk_layernorm", False) else "none",
        qkv_bias=config.flag("use_qkv_bias", False),
    )
    layers = [layer] * size.n_layers
    return decoder(config, size, layers, [rotation], layer_norm_eps="layer_norm_eps", max_positions=limit)


def constants(config: Config) -> dict[str, float]:
    """The norms of query and key have no bias."""
    return {r"layers\.\d+\.(query|key)_norms\.\d+\.bias": 0.0}


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "stablelm"."""
    present = {"use_qkv_bias": "attn_q.bias", "qk_layernorm": "attn_q_norm.weight"}
    config = decoder_config(metadata, checkpoint, numbers=LAYER_NORM_EPS, present=present, rotates="parts")
    # As llama.cpp takes it: files say true where the class's usual value, false, was meant.
    parallel = "blk.0.ffn_norm.weight" not in checkpoint.tensors
    config.update(use_parallel_residual=parallel)
    return config
