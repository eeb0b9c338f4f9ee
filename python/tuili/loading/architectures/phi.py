"""Phi-1, 1.5 and 2: parallel halves behind one layer norm, partly rotated heads, biases everywhere."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    DECODER_NAMES,
    activation,
    decoder,
    layer_of,
    rope,
    sizes,
    without,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_BIASES,
    GGUF_NORM_BIASES,
    LAYER_NORM_EPS,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Parts


def head_norms(which: str) -> dict[str, Parts]:
    """The norm of query or key, which is one for all heads."""
    stored = "model.layers.{i}.self_attn." + which[0] + "_layernorm"
    ours = "layers.{i}." + which + "_norms.{e}"
    return {
        f"{stored}.weight": Parts((ours,), repeated=True),
        f"{stored}.bias": Parts((f"{ours}.bias",), repeated=True),
    }


TENSOR_NAMES = (
    without(DECODER_NAMES, "o_proj", ".mlp.", "model.norm")
    | without(ATTENTION_BIASES, "o_proj")
    | head_norms("query")
    | head_norms("key")
    | {
        "model.layers.{i}.input_layernorm.bias": "layers.{i}.attention_norm.bias",
        "model.layers.{i}.self_attn.dense.weight": "layers.{i}.output",
        "model.layers.{i}.self_attn.dense.bias": "layers.{i}.output.bias",
        "model.layers.{i}.mlp.fc1.weight": "layers.{i}.up",
        "model.layers.{i}.mlp.fc1.bias": "layers.{i}.up.bias",
        "model.layers.{i}.mlp.fc2.weight": "layers.{i}.down",
        "model.layers.{i}.mlp.fc2.bias": "layers.{i}.down.bias",
        "model.final_layernorm.weight": "final_norm",
        "model.final_layernorm.bias": "final_norm.bias",
        "lm_head.bias": "head.bias",
    }
)
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_BIASES | GGUF_NORM_BIASES | {"output.bias": "head.bias"}
GGUF_IGNORED_TENSORS = ()


def spec(config: Config) -> ModelSpec:
    """PhiForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size, partial=0.5)
    layer = layer_of(
        size,
        activation=activation(config, usual="gelu_new"),
        gated=False,
        norm_placement="parallel",
        qk_norm="layer" if config.flag("qk_layernorm", False) else "none",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )
    layers = [layer] * size.n_layers
    return decoder(
        config,
        size,
        layers,
        [rotation],
        layer_norm_eps="layer_norm_eps",
        max_positions=limit,
        head_bias=True,
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "phi2"."""
    return decoder_config(metadata, checkpoint, numbers=LAYER_NORM_EPS, rotates="parts")
