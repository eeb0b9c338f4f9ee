"""GLM-4: partly rotated heads whose pairs are neighbours, a fused gate; norms on both sides in Glm4."""

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
    GGUF_ATTENTION_BIASES,
    GGUF_FUSED_GATE,
    GGUF_POST_NORMS,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Parts

TENSOR_NAMES = (
    without(DECODER_NAMES, "gate_proj", "up_proj")
    | without(ATTENTION_BIASES, "o_proj")
    | {
        "model.layers.{i}.mlp.gate_up_proj.weight": Parts(("layers.{i}.gate", "layers.{i}.up")),
        "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.mlp_norm",
        "model.layers.{i}.post_self_attn_layernorm.weight": "layers.{i}.post_attention_norm",
        "model.layers.{i}.post_mlp_layernorm.weight": "layers.{i}.post_mlp_norm",
    }
)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_ATTENTION_BIASES | GGUF_POST_NORMS | GGUF_FUSED_GATE


def turned_part(config: Config) -> float:
    """How much of a head turns if `partial_rotary_factor` does not say: half, and all where it is null, as
    in transformers."""
    return 1.0 if config.values.get("partial_rotary_factor", 0.5) is None else 0.5


def spec(config: Config) -> ModelSpec:
    """GlmForCausalLM, Glm4ForCausalLM."""
    fourth = config.values["architectures"] == ["Glm4ForCausalLM"]
    size = sizes(config)
    rotation, limit = rope(config, size, partial=turned_part(config), interleaved=True, rounds_up=True)
    layer = layer_of(
        size,
        activation=activation(config),
        norm_placement="sandwich" if fourth else "pre",
        qkv_bias=config.flag("attention_bias", True),
    )
    layers = [layer] * size.n_layers
    return decoder(config, size, layers, [rotation], usual_eps=1.5625e-7, max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "chatglm" or "glm4"."""
    fourth = metadata.get_str("general.architecture") == "glm4"
    name = "Glm4ForCausalLM" if fourth else "GlmForCausalLM"
    config = decoder_config(metadata, checkpoint, name, rotates="parts")
    biased = any(f"blk.0.{part}.bias" in checkpoint.tensors for part in ("attn_q", "attn_qkv"))
    config.update(attention_bias=biased)
    return config
