"""OLMo 2 and 3: norms after attention and MLP, and on query and key as a whole."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    DECODER_NAMES,
    GLOBAL,
    LOCAL,
    QK_NORMS,
    activation,
    decoder,
    layer_of,
    layer_types,
    rope,
    rope_of_kind,
    sizes,
    window,
    without,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_QK_NORMS,
    GGUF_WINDOW,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_LAYERS, Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = (
    without(DECODER_NAMES, "input_layernorm")
    | ATTENTION_BIASES
    | QK_NORMS
    | {
        "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.attention_norm",
        "model.layers.{i}.post_feedforward_layernorm.weight": "layers.{i}.mlp_norm",
    }
)

GGUF_TENSOR_NAMES = without(DECODER_GGUF_NAMES, ".attn_norm", ".ffn_norm") | {
    **GGUF_QK_NORMS,
    "blk.{i}.post_attention_norm.weight": "layers.{i}.attention_norm",
    "blk.{i}.post_ffw_norm.weight": "layers.{i}.mlp_norm",
}


def spec(config: Config) -> ModelSpec:
    """Olmo2ForCausalLM, Olmo3ForCausalLM: the latter with windows in three layers of four."""
    third = config.values["architectures"] == ["Olmo3ForCausalLM"]
    size = sizes(config)
    if third:
        pattern = [LOCAL if (i + 1) % 4 else GLOBAL for i in range(size.n_layers)]
        kinds, length = layer_types(config, size.n_layers, pattern), window(config, 4096)
        both = [
            rope_of_kind(config, size, GLOBAL, 500_000.0, "rope_theta", scaled=True),
            rope_of_kind(config, size, LOCAL, 500_000.0, "no such key", scaled=False),
        ]
        ropes, limit = [rotation for rotation, _ in both], min(limit for _, limit in both)
        if "rope_parameters" not in config and config.values.get("rope_theta") not in (None, 500_000.0):
            config.warn("rope_theta is not 500000, which layers with windows have, as in transformers")
    else:
        kinds, length = [GLOBAL] * size.n_layers, 0
        rotation, limit = rope(config, size)
        ropes = [rotation]
    layers = [
        layer_of(
            size,
            activation=activation(config),
            norm_placement="branch",
            qk_norm="whole",
            rope=0 if kind == GLOBAL else 1,
            sliding_window=length if kind == LOCAL else 0,
            attention_bias=config.flag("attention_bias", False),
        )
        for kind in kinds
    ]
    return decoder(config, size, layers, ropes, usual_eps=1e-5, max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "olmo2", which those of OLMo 3, with windows, have, too."""
    config = decoder_config(metadata, checkpoint, "Olmo2ForCausalLM", integers=GGUF_WINDOW)
    if "sliding_window" not in config:
        return config
    n = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    local = metadata.get_bool_array("olmo2.attention.sliding_window_pattern", n)
    theta = {"rope_theta": config.values["rope_theta"]}
    config.update(
        architectures=["Olmo3ForCausalLM"],
        layer_types=[LOCAL if windowed else GLOBAL for windowed in local],
        rope_parameters={GLOBAL: (config.values["rope_scaling"] or {}) | theta, LOCAL: theta},
    )
    return config
