"""ERNIE 4.5 with experts: the dense one's layers, and experts that are chosen with a bias."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import activation, decoder, expert_names, layer_of, n_experts, rope, sizes
from tuili.loading.architectures.ernie import TENSOR_NAMES as _ERNIE
from tuili.loading.architectures.ernie_moe_gguf import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.ernie_moe_gguf import config_from_gguf as config_from_gguf
from tuili.loading.config import MAX_INNER, MAX_LAYERS, Config
from tuili.loading.layout import Parts

_MLP = "model.layers.{i}.mlp"
_BIAS = Parts(("layers.{i}.selection_bias",), row=True)
TENSOR_NAMES = (
    _ERNIE
    | expert_names(_MLP, "gate_proj", "up_proj", "down_proj")
    | {
        "lm_head.bias": "head.bias",
        f"{_MLP}.moe_statics.e_score_correction_bias": _BIAS,
        f"{_MLP}.gate.moe_statics.e_score_correction_bias": _BIAS,  # as transformers calls it
    }
    | {
        f"{_MLP}.shared_experts.{part}_proj.{kind}": f"layers.{{i}}.shared.{part}{end}"
        for part in ("gate", "up", "down")
        for kind, end in (("weight", ""), ("bias", ".bias"))
    }
)
IGNORED_TENSORS = (r"model\.mtp_.*",)  # guesses ahead


def spec(config: Config) -> ModelSpec:
    """Ernie4_5_MoeForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size, theta=500_000.0, interleaved=True)
    bias = config.flag("use_bias", False)
    moe = _moe(config)
    first = config.integer("moe_layer_start_index", 0, MAX_LAYERS, 1)
    last = config.integer("moe_layer_end_index", -1, MAX_LAYERS, -1)
    last = size.n_layers - 1 if last == -1 else last
    every = config.integer("moe_layer_interval", 1, MAX_LAYERS, 1)
    layers = [
        layer_of(
            size,
            activation=activation(config),
            biases=bias,
            moe=moe if (i + 1) % every == 0 and first <= i <= last else None,
        )
        for i in range(size.n_layers)
    ]
    return decoder(
        config, size, layers, [rotation], usual_eps=1e-5, tied=True, max_positions=limit, head_bias=bias
    )


def _moe(config: Config) -> MoeSpec:
    n = n_experts(config, "moe_num_experts", usual=64)
    config.number("moe_norm_min", 0.0, 1e-6, 1e-12)  # far below what any sum of scores is
    d_ff = config.integer("moe_intermediate_size", 1, MAX_INNER)
    return MoeSpec(
        n_experts=n,
        n_used=config.integer("moe_k", 1, n, 6),
        d_ff=d_ff,
        normalize=True,
        selection_bias=True,
        d_ff_shared=d_ff * config.integer("moe_num_shared_experts", 0, 1024, 2),
    )


def constants(config: Config) -> dict[str, float]:
    """Routed experts have no biases where all others have them."""
    return {r"layers\.\d+\.experts\.\d+\.\w+\.bias": 0.0} if config.flag("use_bias", False) else {}
