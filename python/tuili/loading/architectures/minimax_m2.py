"""MiniMax M2: Mixtral with sigmoid scores, biases to choose experts by, and partly rotated heads."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    QK_NORMS,
    activation,
    decoder,
    layer_of,
    n_experts,
    n_used,
    rope,
    sizes,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    EXPERT_KEYS,
    GGUF_EXPERTS,
    GGUF_QK_NORMS,
    decoder_config,
)
from tuili.loading.architectures.mixtral import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.mixtral import TENSOR_NAMES as _MIXTRAL
from tuili.loading.architectures.routed_gguf import expect_sigmoids
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_HEAD_DIM, Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = (
    _MIXTRAL
    | QK_NORMS
    | {
        "model.layers.{i}.block_sparse_moe.e_score_correction_bias": "layers.{i}.selection_bias",
        "model.layers.{i}.mlp.e_score_correction_bias": "layers.{i}.selection_bias",
    }
)

GGUF_TENSOR_NAMES = (
    DECODER_GGUF_NAMES
    | GGUF_QK_NORMS
    | GGUF_EXPERTS
    | {"blk.{i}.exp_probs_b.bias": "layers.{i}.selection_bias"}
)


def spec(config: Config) -> ModelSpec:
    """MiniMaxM2ForCausalLM; files of its makers say how much of a head turns by `rotary_dim`."""
    size = sizes(config)
    n_turned = config.integer("rotary_dim", 1, MAX_HEAD_DIM, size.head_dim)
    rotation, limit = rope(
        config, size, theta=5_000_000.0, partial=min(1.0, n_turned / size.head_dim), rounds_up=True
    )
    n = n_experts(config, "num_local_experts", usual=256)
    moe = MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=size.d_ff,
        scoring="sigmoid",
        normalize=True,
        selection_bias=True,
    )
    layer = layer_of(size, activation=activation(config), qk_norm="whole", moe=moe)
    return decoder(config, size, [layer] * size.n_layers, [rotation], max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "minimax-m2"."""
    expect_sigmoids(metadata)
    integers = EXPERT_KEYS | {"num_local_experts": "expert_count"}
    config = decoder_config(metadata, checkpoint, integers=integers, rotates="parts")
    width = config.values["moe_intermediate_size"] or config.values["intermediate_size"]
    config.update(intermediate_size=width)
    return config
