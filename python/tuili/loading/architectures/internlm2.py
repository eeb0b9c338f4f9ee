"""InternLM 2: Llama with a fused projection, grouped by key-value head."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, fused, layer_of, rope, sizes, with_biases
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, decoder_config
from tuili.loading.architectures.llama import unpermute as unpermute
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = {
    "model.tok_embeddings.weight": "token_embedding",
    "model.layers.{i}.attention_norm.weight": "layers.{i}.attention_norm",
    **fused("model.layers.{i}.attention.wqkv", "heads"),
    **with_biases([("model.layers.{i}.attention.wo", "layers.{i}.output")]),
    "model.layers.{i}.ffn_norm.weight": "layers.{i}.mlp_norm",
    "model.layers.{i}.feed_forward.w1.weight": "layers.{i}.gate",
    "model.layers.{i}.feed_forward.w3.weight": "layers.{i}.up",
    "model.layers.{i}.feed_forward.w2.weight": "layers.{i}.down",
    "model.norm.weight": "final_norm",
    "output.weight": "head",
}
IGNORED_TENSORS = (r"model\.layers\.\d+\.attention\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES


def spec(config: Config) -> ModelSpec:
    """InternLM2ForCausalLM. transformers has no code of its own for it."""
    size = sizes(config)
    rotation, limit = rope(config, size)
    layer = layer_of(size, activation=activation(config), attention_bias=config.flag("bias", True))
    return decoder(config, size, [layer] * size.n_layers, [rotation], max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "internlm2"."""
    config = decoder_config(metadata, checkpoint)
    config.update(bias=False)
    return config
