"""Hunyuan: Llama with norms on query and key behind their rotation; some have experts and a shared one."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    activation,
    decoder,
    expert_names,
    layer_of,
    rope,
    rope_section,
    rotary_sizes,
    shared_expert_names,
)
from tuili.loading.architectures.hunyuan_gguf import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.hunyuan_gguf import config_from_gguf as config_from_gguf
from tuili.loading.config import MAX_EXPERTS, Config
from tuili.loading.rope import rope_type

_MLP = "model.layers.{i}.mlp"
TENSOR_NAMES = (
    LLAMA_NAMES
    | ATTENTION_BIASES
    | expert_names(_MLP, "gate_proj", "up_proj", "down_proj")
    | {
        "model.layers.{i}.self_attn.query_layernorm.weight": "layers.{i}.query_norm",
        "model.layers.{i}.self_attn.key_layernorm.weight": "layers.{i}.key_norm",
        f"{_MLP}.gate.wg.weight": "layers.{i}.router",
    }
    | shared_expert_names(f"{_MLP}.shared_mlp")
)


def spec(config: Config) -> ModelSpec:
    """HunYuanDenseV1ForCausalLM, HunYuanMoEV1ForCausalLM."""
    size = rotary_sizes(config)
    rotation, limit = rope(_stretched(config, size.head_dim), size)
    experts = config.values["architectures"] == ["HunYuanMoEV1ForCausalLM"]
    layers = [
        layer_of(
            size,
            activation=activation(config),
            qk_norm="rotated",
            attention_bias=config.flag("attention_bias", False),
            moe=_moe(config, size.d_ff, i) if experts else None,
        )
        for i in range(size.n_layers)
    ]
    return decoder(config, size, layers, [rotation], usual_eps=1e-5, max_positions=limit)


def _stretched(config: Config, head_dim: int) -> Config:
    """With the base that an `alpha` of dynamic scaling, which then does not depend on the text, makes."""
    scaling = rope_section(config)
    alpha = scaling.number("alpha", 0, 1e9, 0.0) if scaling is not None else 0.0
    if scaling is None or not alpha or rope_type(scaling) != "dynamic":
        return config
    if head_dim < 4:
        raise config.wrong("head_dim", "at least 4, for alpha")
    theta = (scaling if "rope_theta" in scaling else config).number("rope_theta", 1.001, 1e12, 10_000.0)
    base = theta * alpha ** (head_dim / (head_dim - 2))
    values = {**config.values, "rope_scaling": None, "rope_parameters": {"rope_theta": base}}
    stretched = Config(values, config.what, config.names)
    stretched.defaults, stretched.warnings = config.defaults, config.warnings
    return stretched


def _moe(config: Config, d_ff: int, i: int) -> MoeSpec:
    n = _of_layer(config, "num_experts", MAX_EXPERTS, i)
    n_used = _of_layer(config, "moe_topk", n, i)
    return MoeSpec(n_experts=n, n_used=n_used, d_ff=d_ff, normalize=True, d_ff_shared=d_ff)


def _of_layer(config: Config, key: str, most: int, i: int) -> int:
    """A number of layer i, where files have one for each or the same for all."""
    given = config.values.get(key)
    if isinstance(given, list) and len(given) > i:
        return int(Config({key: given[i]}, config.what).integer(key, 1, most))
    return int(config.integer(key, 1, most, 1))
