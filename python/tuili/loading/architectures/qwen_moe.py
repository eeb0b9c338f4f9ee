"""Qwen 2 and 3 with experts: the second with a shared one besides, the third with norms on query and key."""

from __future__ import annotations

from collections.abc import Sequence

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    GLOBAL,
    LLAMA_NAMES,
    LOCAL,
    QK_NORMS,
    Sizes,
    activation,
    decoder,
    expert_names,
    layer_of,
    layer_types,
    n_experts,
    n_used,
    rope,
    shared_expert_names,
    sizes,
    window,
)
from tuili.loading.architectures.qwen_moe_gguf import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.qwen_moe_gguf import config_from_gguf as config_from_gguf
from tuili.loading.config import MAX_INNER, MAX_LAYERS, Config

_SHARED = "model.layers.{i}.mlp.shared_expert"
TENSOR_NAMES = (
    LLAMA_NAMES
    | ATTENTION_BIASES
    | expert_names("model.layers.{i}.mlp", "gate_proj", "up_proj", "down_proj")
    | QK_NORMS
    | shared_expert_names(_SHARED)
    | {f"{_SHARED}_gate.weight": "layers.{i}.shared_gate"}
)


def spec(config: Config) -> ModelSpec:
    """Qwen2MoeForCausalLM, Qwen3MoeForCausalLM."""
    third = config.values["architectures"] == ["Qwen3MoeForCausalLM"]
    size = sizes(config)
    rotation, limit = rope(config, size)
    moe = _moe(config, shared=not third)
    bias = config.flag("attention_bias", False) if third else config.flag("qkv_bias", True)
    length = window(config, 4096) if config.flag("use_sliding_window", False) else 0
    layers = [
        layer_of(
            size,
            activation=activation(config),
            qk_norm="heads" if third else "none",
            sliding_window=length if kind == LOCAL else 0,
            qkv_bias=bias,
            output_bias=bias and third,
            moe=moe if sparse else None,
        )
        for kind, sparse in zip(_kinds(config, size, third=third), sparse_layers(config, size), strict=True)
    ]
    return decoder(config, size, layers, [rotation], max_positions=limit)


def _moe(config: Config, *, shared: bool) -> MoeSpec:
    n = n_experts(config, "num_experts", usual=60 if shared else 128)
    return MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=config.integer("moe_intermediate_size", 1, MAX_INNER),
        normalize=config.flag("norm_topk_prob", False),
        d_ff_shared=config.integer("shared_expert_intermediate_size", 1, MAX_INNER) if shared else 0,
        shared_gate=shared,
    )


def _kinds(config: Config, size: Sizes, *, third: bool) -> list[str]:
    """Which layers have windows, if there are any: all of the third, by default every other of the second."""
    if third:
        return [LOCAL] * size.n_layers
    first = config.integer("max_window_layers", 0, MAX_LAYERS, 28)
    usual = [LOCAL if (i + 1) % 2 and i < first else GLOBAL for i in range(size.n_layers)]
    return layer_types(config, size.n_layers, usual)


def sparse_layers(config: Config, size: Sizes, usual: Sequence[int] = ()) -> list[bool]:
    """Whether a layer has experts; `usual`: those that have none where `mlp_only_layers` does not say."""
    step = config.integer("decoder_sparse_step", 1, MAX_LAYERS, 1)
    plain = config.values.get("mlp_only_layers")
    plain = list(usual) if plain is None else plain
    if not isinstance(plain, list) or not all(type(i) is int for i in plain):
        raise config.wrong("mlp_only_layers", "a list of layers")
    return [i not in plain and (i + 1) % step == 0 for i in range(size.n_layers)]
