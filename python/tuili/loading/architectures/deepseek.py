"""DeepSeek-V2 and V3: keys and values from one small vector per token, experts in groups, a shared one."""

from __future__ import annotations

import math
from typing import Any

from tuili._core import LatentSpec, ModelSpec, MoeSpec
from tuili.loading.architectures import (
    activation,
    decoder,
    expect_only,
    layer_of,
    n_experts,
    n_used,
    rope_of,
    rope_section,
    sizes,
)
from tuili.loading.architectures.deepseek_gguf import GGUF_IGNORED_TENSORS as GGUF_IGNORED_TENSORS
from tuili.loading.architectures.deepseek_gguf import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.deepseek_gguf import config_from_gguf as config_from_gguf
from tuili.loading.architectures.deepseek_names import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.deepseek_names import TENSOR_NAMES as TENSOR_NAMES
from tuili.loading.architectures.deepseek_names import constants as constants
from tuili.loading.architectures.deepseek_names import mlp_bias
from tuili.loading.config import MAX_HEAD_DIM, MAX_INNER, MAX_LAYERS, MAX_MODEL, Config
from tuili.loading.rope import rope_type


def spec(config: Config) -> ModelSpec:
    """DeepseekV2ForCausalLM, DeepseekV3ForCausalLM."""
    third = config.values["architectures"] == ["DeepseekV3ForCausalLM"]
    config.values = {**config.values, "num_key_value_heads": None, "head_dim": None}
    latent = LatentSpec(
        kv_rank=config.integer("kv_lora_rank", 1, MAX_MODEL),
        query_rank=config.integer("q_lora_rank", 1, MAX_MODEL, None) or 0,
        nope_dim=config.integer("qk_nope_head_dim", 1, MAX_HEAD_DIM // 2),
        rope_dim=config.integer("qk_rope_head_dim", 2, MAX_HEAD_DIM // 2),
        value_dim=config.integer("v_head_dim", 1, MAX_HEAD_DIM),
    )
    d_key = latent.nope_dim + latent.rope_dim
    size = sizes(config)._replace(head_dim=max(d_key, latent.value_dim))
    scaling = rope_section(config)
    theta_in = scaling if scaling is not None and "rope_theta" in scaling else config
    interleaved = config.switch("rope_interleave", True) if third else True
    rotation, limit = rope_of(
        config, size, scaling, theta_in, 10_000.0, latent.rope_dim, interleaved=interleaved
    )
    bias = config.flag("attention_bias", False)
    common: dict[str, Any] = {
        "activation": activation(config),
        "attention_scale": d_key**-0.5 * _sharpening(scaling),
        "latent": latent,
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": mlp_bias(config),
    }
    n_dense = min(config.integer("first_k_dense_replace", 0, MAX_LAYERS, 3 if third else 0), size.n_layers)
    layers = [layer_of(size, **common)] * n_dense
    if n_dense < size.n_layers:
        layers += [layer_of(size, **common, moe=_moe(config, third=third))] * (size.n_layers - n_dense)
    return decoder(config, size, layers, [rotation], max_positions=limit)


def _sharpening(scaling: Config | None) -> float:
    """What the scale of attention is multiplied with besides, when positions are scaled."""
    if scaling is None or rope_type(scaling) == "default":
        return 1.0
    weight, factor = scaling.number("mscale_all_dim", 0, 1e6, 0.0), scaling.positive("factor", 1.0)
    return float((0.1 * weight * math.log(factor) + 1.0) ** 2) if weight and factor > 1 else 1.0


def _moe(config: Config, *, third: bool) -> MoeSpec:
    n = n_experts(config, "n_routed_experts", usual=256 if third else 64)
    d_ff = config.integer("moe_intermediate_size", 1, MAX_INNER)
    grouped = third or config.choice("topk_method", ("greedy", "group_limited_greedy"), "greedy") != "greedy"
    n_groups = config.integer("n_group", 1, n, 8 if third else 1) if grouped else 1
    if n % n_groups or (third and n // n_groups < 2):
        raise config.wrong("n_group", f"a divisor of the {n} experts, with two in each group")
    if third:
        expect_only(config, "topk_method", "noaux_tc")
        expect_only(config, "scoring_func", "sigmoid")
    else:
        config.ignore("norm_topk_prob", False)
        expect_only(config, "scoring_func", "softmax")
    return MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=d_ff,
        scoring="sigmoid" if third else "softmax",
        normalize=config.switch("norm_topk_prob", True) if third else False,
        scale=config.positive("routed_scaling_factor", 2.5 if third else 1.0),
        n_groups=n_groups,
        n_groups_used=config.integer("topk_group", 1, n_groups, n_groups) if grouped else 1,
        group_top=2 if third else 1,
        selection_bias=third,
        d_ff_shared=d_ff * config.integer("n_shared_experts", 1, 1024, 1 if third else 2),
    )
