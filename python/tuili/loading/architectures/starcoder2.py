"""StarCoder 2: layer norms, biases, and an MLP without gate."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    activation,
    decoder,
    in_layers,
    layer_of,
    rope,
    sizes,
    window,
    with_biases,
    without,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_BIASES,
    GGUF_NORM_BIASES,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = (
    without(LLAMA_NAMES, ".mlp.")
    | ATTENTION_BIASES
    | {
        "model.norm.bias": "final_norm.bias",
        "model.layers.{i}.input_layernorm.bias": "layers.{i}.attention_norm.bias",
        "model.layers.{i}.post_attention_layernorm.bias": "layers.{i}.mlp_norm.bias",
    }
    | with_biases(in_layers("model.layers", {"mlp.c_fc": "up", "mlp.c_proj": "down"}))
)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_BIASES | GGUF_NORM_BIASES


def spec(config: Config) -> ModelSpec:
    """Starcoder2ForCausalLM."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    bias = config.flag("use_bias", True)
    layer = layer_of(
        size,
        activation=activation(config, usual="gelu_pytorch_tanh"),
        gated=False,
        sliding_window=window(config),
        biases=bias,
    )
    layers = [layer] * size.n_layers
    return decoder(
        config, size, layers, [rotation], layer_norm_eps="norm_epsilon", tied=True, max_positions=limit
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "starcoder2", which says nothing of windows."""
    eps = {"norm_epsilon": "attention.layer_norm_epsilon"}
    return decoder_config(metadata, checkpoint, numbers=eps, present={"use_bias": "attn_q.bias"})
