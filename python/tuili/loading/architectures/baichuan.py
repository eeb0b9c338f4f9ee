"""Baichuan: Llama with a fused projection; the small model rotates, the large one has linear biases."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import (
    LLAMA_NAMES,
    activation,
    decoder,
    layer_of,
    rope,
    sizes,
    unfused,
    without,
)
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, decoder_config
from tuili.loading.architectures.llama import unpermute as unpermute
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.layout import Parts
from tuili.loading.position_bias import alibi

TENSOR_NAMES = without(LLAMA_NAMES, "q_proj", "k_proj", "v_proj") | {
    "model.layers.{i}.self_attn.W_pack.weight": Parts(
        ("layers.{i}.query", "layers.{i}.key", "layers.{i}.value")
    )
}
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES

_LARGE = 40  # layers of the model with linear biases
_SECOND = 125_696  # words of Baichuan 2, whose head is normed row by row


def spec(config: Config) -> ModelSpec:
    """BaichuanForCausalLM, BaiChuanForCausalLM. transformers has no code of its own for it."""
    linear = "max_position_embeddings" not in config
    size = sizes(unfused(config, {"max_position_embeddings": "model_max_length"} if linear else {}))
    if size.n_vocab == _SECOND:
        raise ModelUnsupportedError(
            f"{config.what}: vocab_size is {_SECOND}: Baichuan 2, whose head is normed, is not supported",
            code="config_unsupported",
        )
    ropes, limit = [], size.max_positions
    if not linear:
        rotation, limit = rope(config, size)
        ropes = [rotation]
    layer = layer_of(
        size, activation=activation(config), rope=-1 if linear else 0, position_bias=0 if linear else -1
    )
    biases = [alibi(size.n_heads, limit)] if linear else []
    layers = [layer] * size.n_layers
    return decoder(config, size, layers, ropes, max_positions=limit, position_biases=biases)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "baichuan": its large model is the one of 40 layers."""
    config = decoder_config(metadata, checkpoint)
    if config.values["num_hidden_layers"] == _LARGE:
        length = config.values["max_position_embeddings"]
        config.update(max_position_embeddings=None, model_max_length=length)
    return config
