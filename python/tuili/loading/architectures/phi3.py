"""Phi-3, Phi-3.5 and Phi-4: fused projections, rotary positions by LongRoPE."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    LLAMA_NAMES,
    activation,
    decoder,
    layer_of,
    rope,
    sizes,
    window,
    without,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_FUSED_GATE,
    GGUF_WINDOW,
    decoder_config,
    longrope,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Parts

TENSOR_NAMES = without(LLAMA_NAMES, "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj") | {
    "model.layers.{i}.self_attn.qkv_proj.weight": Parts(
        ("layers.{i}.query", "layers.{i}.key", "layers.{i}.value")
    ),
    "model.layers.{i}.mlp.gate_up_proj.weight": Parts(("layers.{i}.gate", "layers.{i}.up")),
}
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_FUSED_GATE
GGUF_IGNORED_TENSORS = (r"rope_factors_(short|long)\.weight",)


def spec(config: Config) -> ModelSpec:
    """Phi3ForCausalLM. "su" and "yarn" are old names of LongRoPE here."""
    for key in ("rope_parameters", "rope_scaling"):
        old = config.values.get(key)
        if isinstance(old, dict) and old.get("rope_type", old.get("type")) in ("su", "yarn"):
            config.update(**{key: {**old, "rope_type": "longrope", "type": "longrope"}})
    if "original_max_position_embeddings" not in config:
        config.update(original_max_position_embeddings=4096)
    size = sizes(config)
    rotation, limit = rope(config, size, partial=1.0, rounds_up=True)
    layer = layer_of(size, activation=activation(config), sliding_window=window(config))
    return decoder(config, size, [layer] * size.n_layers, [rotation], usual_eps=1e-5, max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "phi3", with the divisors of LongRoPE if it has them."""
    integers = {"original_max_position_embeddings": "rope.scaling.original_context_length"} | GGUF_WINDOW
    config = decoder_config(metadata, checkpoint, integers=integers, rotates="parts")
    n_pairs = int(sizes(config).head_dim * config.values["partial_rotary_factor"]) // 2
    config.update(**longrope(metadata, checkpoint, n_pairs))
    return config
