"""Command R: parallel halves behind one layer norm without bias, pairs that are neighbours, scaled logits."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    DECODER_NAMES,
    GLOBAL,
    LOCAL,
    activation,
    decoder,
    layer_of,
    layer_types,
    rope,
    sizes,
    window,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_QK_NORMS_OF_HEADS,
    GGUF_WINDOW,
    LAYER_NORM_EPS,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_LAYERS, Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Parts

TENSOR_NAMES = (
    DECODER_NAMES
    | ATTENTION_BIASES
    | {
        "model.layers.{i}.self_attn.q_norm.weight": Parts(("layers.{i}.query_norms.{e}",), stacked=True),
        "model.layers.{i}.self_attn.k_norm.weight": Parts(("layers.{i}.key_norms.{e}",), stacked=True),
    }
)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_QK_NORMS_OF_HEADS


def spec(config: Config) -> ModelSpec:
    """CohereForCausalLM; Cohere2ForCausalLM, whose global layers have no positions."""
    second = config.values["architectures"] == ["Cohere2ForCausalLM"]
    size = sizes(config)
    rotation, limit = rope(config, size, theta=10_000.0 if second else 500_000.0, interleaved=True)
    kinds = [GLOBAL] * size.n_layers
    if second:
        pattern = config.integer("sliding_window_pattern", 1, MAX_LAYERS, 4)
        usual = [LOCAL if (i + 1) % pattern else GLOBAL for i in range(size.n_layers)]
        kinds = layer_types(config, size.n_layers, usual)
    length = window(config, 4096) if LOCAL in kinds else 0
    layers = [
        layer_of(
            size,
            activation=activation(config),
            norm_placement="parallel",
            qk_norm="layer" if not second and config.flag("use_qk_norm", False) else "none",
            rope=-1 if second and (kind == GLOBAL or not length) else 0,
            sliding_window=length if kind == LOCAL else 0,
            attention_bias=config.flag("attention_bias", False),
        )
        for kind in kinds
    ]
    return decoder(
        config,
        size,
        layers,
        [rotation],
        layer_norm_eps="layer_norm_eps",
        tied=True,
        max_positions=limit,
        logit_scale=config.positive("logit_scale", 0.0625),
    )


def constants(config: Config) -> dict[str, float]:
    """No norm has a bias."""
    return {r".*_norm\.bias": 0.0, r".*_norms\.\d+\.bias": 0.0}


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "command-r" or "cohere2"."""
    second = metadata.get_str("general.architecture") == "cohere2"
    name = "Cohere2ForCausalLM" if second else "CohereForCausalLM"
    numbers = LAYER_NORM_EPS | {"logit_scale": "logit_scale"}
    windows = GGUF_WINDOW | {"sliding_window_pattern": "attention.sliding_window_pattern"} if second else {}
    present = {"use_qk_norm": "attn_q_norm.weight"}
    return decoder_config(metadata, checkpoint, name, numbers=numbers, integers=windows, present=present)
