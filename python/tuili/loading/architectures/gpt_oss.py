"""GPT-OSS: sinks in attention, windows in every other layer, experts with biases and a clamped gate."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    GLOBAL,
    LLAMA_NAMES,
    LOCAL,
    decoder,
    layer_of,
    layer_types,
    n_experts,
    n_used,
    rope,
    sizes,
    window,
    without,
)
from tuili.loading.architectures.gpt_oss_gguf import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.gpt_oss_gguf import config_from_gguf as config_from_gguf
from tuili.loading.config import Config
from tuili.loading.layout import Parts

_MLP, _OURS = "model.layers.{i}.mlp", "layers.{i}.experts.{e}."
_GATE_UP = (f"{_OURS}gate", f"{_OURS}up")
TENSOR_NAMES = (
    without(LLAMA_NAMES, ".mlp.")
    | ATTENTION_BIASES
    | {
        "model.layers.{i}.self_attn.sinks": "layers.{i}.sinks",
        f"{_MLP}.router.weight": "layers.{i}.router",
        f"{_MLP}.router.bias": "layers.{i}.router.bias",
        f"{_MLP}.experts.gate_up_proj": Parts(_GATE_UP, "interleaved", transposed=True, stacked=True),
        f"{_MLP}.experts.gate_up_proj_bias": Parts(
            tuple(f"{name}.bias" for name in _GATE_UP), "interleaved", stacked=True
        ),
        f"{_MLP}.experts.down_proj": Parts((f"{_OURS}down",), transposed=True, stacked=True),
        f"{_MLP}.experts.down_proj_bias": Parts((f"{_OURS}down.bias",), stacked=True),
    }
)

QUICK = 1.702  # the factor in a quick GELU's exponent

_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def spec(config: Config, *, interleaved: bool = False) -> ModelSpec:
    """GptOssForCausalLM. interleaved: how coordinates turn in pairs."""
    settings = {"head_dim": config.values.get("head_dim") or 64}
    if "rope_parameters" not in config and "rope_scaling" not in config:
        settings["rope_parameters"] = _YARN
    config.update(**settings)
    size = sizes(config)
    rotation, limit = rope(config, size, theta=150_000.0, interleaved=interleaved)
    n = n_experts(config, "num_local_experts", "num_experts", usual=128)
    moe = MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=size.d_ff,
        normalize=True,
        router_bias=True,
        clamp=config.positive("swiglu_limit", 7.0),
        steepness=config.positive("swiglu_alpha", QUICK) / QUICK,
    )
    length = window(config, 128)
    usual = [LOCAL if (i + 1) % 2 else GLOBAL for i in range(size.n_layers)]
    layers = [
        layer_of(
            size,
            activation="quick_gelu",
            sinks=True,
            sliding_window=length if kind == LOCAL else 0,
            attention_bias=config.flag("attention_bias", True),
            mlp_bias=True,
            moe=moe,
        )
        for kind in layer_types(config, size.n_layers, usual)
    ]
    return decoder(config, size, layers, [rotation], usual_eps=1e-5, max_positions=limit)
