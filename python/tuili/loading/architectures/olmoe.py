"""OLMoE: OLMo with experts, and norms of query and key as a whole."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    QK_NORMS,
    activation,
    decoder,
    expert_names,
    layer_of,
    n_experts,
    n_used,
    rope,
    sizes,
    without,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    EXPERT_KEYS,
    GGUF_EXPERTS,
    GGUF_QK_NORMS,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = (
    without(LLAMA_NAMES, ".mlp.")
    | ATTENTION_BIASES
    | expert_names("model.layers.{i}.mlp", "gate_proj", "up_proj", "down_proj")
    | QK_NORMS
)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_QK_NORMS | GGUF_EXPERTS


def spec(config: Config) -> ModelSpec:
    """OlmoeForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    n = n_experts(config, "num_experts", usual=64)
    normalize = config.flag("norm_topk_prob", False)
    layer = layer_of(
        size,
        activation=activation(config),
        qk_norm="whole",
        attention_bias=config.flag("attention_bias", False),
        qkv_clip=config.positive("clip_qkv", 0.0),
        moe=MoeSpec(n_experts=n, n_used=n_used(config, n), d_ff=size.d_ff, normalize=normalize),
    )
    return decoder(config, size, [layer] * size.n_layers, [rotation], usual_eps=1e-5, max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "olmoe"."""
    return decoder_config(metadata, checkpoint, integers=EXPERT_KEYS)
