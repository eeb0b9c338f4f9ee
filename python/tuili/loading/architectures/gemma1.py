"""Gemma 1: Llama with scaled embeddings and norms that multiply by 1 + w."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import ATTENTION_BIASES, LLAMA_NAMES, activation, layer_of
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, decoder_config
from tuili.loading.architectures.gemma import fold as fold
from tuili.loading.architectures.gemma2 import gemma, gemma_sizes
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

TENSOR_NAMES = LLAMA_NAMES | ATTENTION_BIASES
IGNORED_TENSORS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES


def spec(config: Config) -> ModelSpec:
    """GemmaForCausalLM, which means the tanh approximation when it says "gelu"."""
    size = gemma_sizes(config)
    config.ignore("hidden_activation", "gelu_pytorch_tanh")  # which function it is, hidden_act says
    given = activation(config, usual="gelu_pytorch_tanh")
    tanh = config.values.get("hidden_act") == "gelu"
    layer = layer_of(
        size, activation="gelu_tanh" if tanh else given, attention_bias=config.flag("attention_bias", False)
    )
    return gemma(config, size, [layer] * size.n_layers, logit_softcap=0.0)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "gemma"."""
    return decoder_config(metadata, checkpoint)
