"""DeepSeek-V2 and V3: keys and values from one small vector per token, experts in groups, a shared one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tuili._core import LatentSpec, ModelSpec, MoeSpec
from tuili.loading.architectures import (
    activation,
    decoder,
    expect_only,
    layer_of,
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
from tuili.loading.architectures.routed import behind_dense, routed, routed_by_softmax
from tuili.loading.config import MAX_HEAD_DIM, MAX_LAYERS, MAX_MODEL, Config
from tuili.loading.rope import rope_type


def spec(config: Config) -> ModelSpec:
    """DeepseekV2ForCausalLM, DeepseekV3ForCausalLM."""
    n_layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    if config.values["architectures"] == ["DeepseekV2ForCausalLM"]:
        return latent_decoder(config, behind_dense(config, n_layers, routed_by_softmax(config), 0))
    expect_turned(config)
    experts = behind_dense(config, n_layers, routed(config, scale=2.5, normalize=True), 3)
    return latent_decoder(config, experts, interleaved=config.switch("rope_interleave", True))


def expect_turned(config: Config) -> None:
    """Refuse a `head_dim` beside `qk_rope_head_dim`: in some classes transformers turns by it."""
    expect_only(config, "head_dim", config.values.get("qk_rope_head_dim"))


def latent_decoder(
    config: Config,
    experts: Sequence[MoeSpec | None],
    *,
    interleaved: bool = True,
    residual_scale: float = 1.0,
    **settings: Any,
) -> ModelSpec:
    """One whose keys and values are made from small vectors, with these experts in its layers."""
    latent = LatentSpec(
        kv_rank=config.integer("kv_lora_rank", 1, MAX_MODEL),
        query_rank=config.integer("q_lora_rank", 1, MAX_MODEL, None) or 0,
        nope_dim=config.integer("qk_nope_head_dim", 1, MAX_HEAD_DIM // 2),
        rope_dim=config.integer("qk_rope_head_dim", 2, MAX_HEAD_DIM // 2),
        value_dim=config.integer("v_head_dim", 1, MAX_HEAD_DIM),
    )
    d_key = latent.nope_dim + latent.rope_dim
    config.update(num_key_value_heads=None, head_dim=d_key)
    size = sizes(config)._replace(head_dim=max(d_key, latent.value_dim))
    config.update(head_dim=None)
    scaling = rope_section(config)
    theta_in = scaling if scaling is not None and "rope_theta" in scaling else config
    rotation, limit = rope_of(
        config, size, scaling, theta_in, 10_000.0, latent.rope_dim, interleaved=interleaved
    )
    common: dict[str, Any] = {
        "activation": activation(config),
        "attention_scale": d_key**-0.5 * _sharpening(scaling),
        "latent": latent,
        "residual_scale": residual_scale,
        "attention_bias": config.flag("attention_bias", False),
        "mlp_bias": mlp_bias(config),
    }
    layers = [layer_of(size, **common, moe=moe) for moe in experts]
    return decoder(config, size, layers, [rotation], max_positions=limit, **settings)


def _sharpening(scaling: Config | None) -> float:
    """What the scale of attention is multiplied with besides, when positions are scaled."""
    if scaling is None or rope_type(scaling) == "default":
        return 1.0
    weight, factor = scaling.number("mscale_all_dim", 0, 1e6, 0.0), scaling.positive("factor", 1.0)
    return float((0.1 * weight * math.log(factor) + 1.0) ** 2) if weight and factor > 1 else 1.0
