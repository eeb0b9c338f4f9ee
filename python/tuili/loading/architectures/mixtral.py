"""Mixtral: Mistral with experts."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    LLAMA_NAMES,
    activation,
    decoder,
    expert_names,
    layer_of,
    n_experts,
    n_used,
    rope,
    sizes,
    window,
    without,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    EXPERT_KEYS,
    GGUF_EXPERTS,
    decoder_config,
)
from tuili.loading.architectures.llama import divided, take_divisors
from tuili.loading.architectures.llama import unpermute as unpermute
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = (
    without(LLAMA_NAMES, ".mlp.")
    | expert_names("model.layers.{i}.block_sparse_moe", "w1", "w3", "w2")
    | expert_names("model.layers.{i}.mlp", "gate_proj", "up_proj", "down_proj")
)
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_EXPERTS
GGUF_IGNORED_TENSORS = (r"rope_freqs\.weight",)


def spec(config: Config) -> ModelSpec:
    """MixtralForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size, theta=1_000_000.0)
    n = n_experts(config, "num_local_experts", "num_experts", usual=8)
    moe = MoeSpec(n_experts=n, n_used=n_used(config, n), d_ff=size.d_ff, normalize=True)
    layer = layer_of(size, activation=activation(config), sliding_window=window(config), moe=moe)
    layers, rotations = [layer] * size.n_layers, [divided(rotation, config)]
    return decoder(config, size, layers, rotations, usual_eps=1e-5, max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "llama" with experts."""
    return take_divisors(decoder_config(metadata, checkpoint, integers=EXPERT_KEYS), checkpoint)
