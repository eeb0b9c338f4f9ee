"""GLM 4.5 and 4.6, and Solar Open: partly rotated heads, and experts as DeepSeek-V3 has them."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    QK_NORMS,
    activation,
    decoder,
    layer_of,
    rope,
    sizes,
    without,
)
from tuili.loading.architectures.glm import turned_part
from tuili.loading.architectures.routed import ROUTED_NAMES, behind_dense, routed
from tuili.loading.architectures.routed_gguf import GGUF_IGNORED_TENSORS as GGUF_IGNORED_TENSORS
from tuili.loading.architectures.routed_gguf import GLM_NAMES
from tuili.loading.architectures.routed_gguf import config_from_gguf as config_from_gguf
from tuili.loading.config import Config

TENSOR_NAMES = ROUTED_NAMES | without(ATTENTION_BIASES, "o_proj") | QK_NORMS
IGNORED_TENSORS = (
    r"model\.layers\.\d+\.(eh_proj|enorm|hnorm|embed_tokens|shared_head\.\w+)\.weight",  # guesses ahead
)

GGUF_TENSOR_NAMES = GLM_NAMES


def spec(config: Config) -> ModelSpec:
    """Glm4MoeForCausalLM; SolarOpenForCausalLM, which rotates whole heads and has experts in every layer."""
    solar = config.values["architectures"] == ["SolarOpenForCausalLM"]
    if solar:  # which reads none of these
        config.update(first_k_dense_replace=0, use_qk_norm=False, intermediate_size=1)
    size = sizes(config)
    theta, partial = (1_000_000.0, None) if solar else (10_000.0, turned_part(config))
    rotation, limit = rope(config, size, theta=theta, partial=partial, rounds_up=True)
    moe = routed(config, scale=1.0, normalize=True)
    layers = [
        layer_of(
            size,
            activation=activation(config),
            qk_norm="heads" if config.flag("use_qk_norm", False) else "none",
            qkv_bias=config.flag("attention_bias", False),
            moe=experts,
        )
        for experts in behind_dense(config, size.n_layers, moe, 1)
    ]
    return decoder(config, size, layers, [rotation], usual_eps=1e-5, max_positions=limit)
