"""Granite 3 with experts, and in some a shared one besides."""

from __future__ import annotations

from tuili._core import ModelSpec, MoeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    Sizes,
    n_experts,
    n_used,
    rope,
    sizes,
    without,
)
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, EXPERT_KEYS, GGUF_EXPERTS
from tuili.loading.architectures.granite import config_from_gguf as granite_from_gguf
from tuili.loading.architectures.granite import granite
from tuili.loading.architectures.llama import unpermute as unpermute
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_INNER, Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Parts

_MOE, _SHARED = "model.layers.{i}.block_sparse_moe", "model.layers.{i}.shared_mlp"
_EXPERT = "layers.{i}.experts.{e}."
_GATE_UP = Parts((f"{_EXPERT}gate", f"{_EXPERT}up"), stacked=True)
_DOWN = Parts((f"{_EXPERT}down",), stacked=True)
TENSOR_NAMES = (
    without(LLAMA_NAMES, ".mlp.")
    | ATTENTION_BIASES
    | {
        f"{_MOE}.router.layer.weight": "layers.{i}.router",
        f"{_MOE}.input_linear.weight": _GATE_UP,
        f"{_MOE}.output_linear.weight": _DOWN,
        f"{_SHARED}.input_linear.weight": Parts(("layers.{i}.shared.gate", "layers.{i}.shared.up")),
        f"{_SHARED}.output_linear.weight": "layers.{i}.shared.down",
        # As transformers 5 calls them.
        f"{_MOE}.router.weight": "layers.{i}.router",
        f"{_MOE}.experts.gate_up_proj": _GATE_UP,
        f"{_MOE}.experts.down_proj": _DOWN,
    }
)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_EXPERTS


def spec(config: Config) -> ModelSpec:
    """GraniteMoeForCausalLM, GraniteMoeSharedForCausalLM."""
    size = sizes(config)
    shared = config.values["architectures"] == ["GraniteMoeSharedForCausalLM"]
    rotation, limit = rope(config, size)
    return granite(config, size, [rotation], limit, moe=experts(config, size, shared=shared))


def experts(config: Config, size: Sizes, *, shared: bool) -> MoeSpec:
    """Those of a layer, with a shared one besides if the class has it."""
    n = n_experts(config, "num_local_experts", "num_experts", usual=8)
    return MoeSpec(
        n_experts=n,
        n_used=n_used(config, n),
        d_ff=size.d_ff,
        normalize=True,
        d_ff_shared=config.integer("shared_intermediate_size", 0, MAX_INNER, 0) if shared else 0,
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "granitemoe"."""
    config = granite_from_gguf(metadata, checkpoint, EXPERT_KEYS)
    shared = config.values.get("shared_expert_intermediate_size")
    name = "GraniteMoeSharedForCausalLM" if shared else "GraniteMoeForCausalLM"
    config.update(architectures=[name], shared_intermediate_size=shared)
    return config
