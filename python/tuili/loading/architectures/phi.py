"""Phi-1, 1.5 and 2: parallel halves behind one layer norm, partly rotated heads, biases everywhere."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    DECODER_NAMES,
    activation,
    decoder,
    in_layers,
    layer_of,
    rope,
    sizes,
    with_biases,
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


_LAYER = {"self_attn.dense": "output", "mlp.fc1": "up", "mlp.fc2": "down"}
TENSOR_NAMES = (
    without(DECODER_NAMES, "o_proj", ".mlp.", "model.norm")
    | without(ATTENTION_BIASES, "o_proj")
    | head_norms("query")
    | head_norms("key")
    | {"model.layers.{i}.input_layernorm.bias": "layers.{i}.attention_norm.bias", "lm_head.bias": "head.bias"}
    | with_biases(in_layers("model.layers", _LAYER))
    | with_biases([("model.final_layernorm", "final_norm")])
)
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_BIASES | GGUF_NORM_BIASES | {"output.bias": "head.bias"}


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
        biases=True,
    )
    layers = [layer] * size.n_layers
    return decoder(
        config, size, layers, [rotation], layer_norm_eps="layer_norm_eps", max_positions=limit, head_bias=True
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "phi2"."""
    return decoder_config(metadata, checkpoint, numbers=LAYER_NORM_EPS, rotates="parts")
