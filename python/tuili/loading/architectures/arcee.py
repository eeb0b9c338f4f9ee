"""Arcee's AFM: Llama whose MLPs have no gate and squared ReLUs."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, layer_of, rope, rotary_sizes, without
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, decoder_config
from tuili.loading.architectures.llama import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.llama import TENSOR_NAMES as _LLAMA
from tuili.loading.architectures.llama import unpermute as unpermute
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = without(_LLAMA, "gate_proj")

GGUF_TENSOR_NAMES = without(DECODER_GGUF_NAMES, "ffn_gate")


def spec(config: Config) -> ModelSpec:
    """ArceeForCausalLM."""
    size = rotary_sizes(config)
    rotation, limit = rope(config, size)
    layer = layer_of(
        size,
        activation=activation(config, usual="relu2"),
        gated=False,
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
    )
    return decoder(config, size, [layer] * size.n_layers, [rotation], usual_eps=1e-5, max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "arcee"."""
    return decoder_config(metadata, checkpoint)
