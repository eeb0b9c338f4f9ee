"""GPT of 2018: learned positions, a layer norm behind each half, none behind all."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import decoder, layer_of, sizes
from tuili.loading.architectures.gpt2 import TENSOR_NAMES as _GPT2
from tuili.loading.architectures.gpt2 import gpt_config
from tuili.loading.config import Config

BASE_PREFIX = "transformer."
_LAYER = {theirs: ours for theirs, ours in _GPT2.items() if ".h." in theirs}
TENSOR_NAMES = _LAYER | {
    "transformer.tokens_embed.weight": "token_embedding",
    "transformer.positions_embed.weight": "position_embedding",
    "lm_head.weight": "head",
}
IGNORED_TENSORS = (r"(transformer\.)?h\.\d+\.attn\.bias", r"(transformer\.)?position_ids")
_ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}  # as the class reads


def spec(config: Config) -> ModelSpec:
    """OpenAIGPTLMHeadModel."""
    config.update(n_inner=None)  # of no effect
    size = sizes(gpt_config(config))
    layer = layer_of(
        size,
        activation=_ACTIVATIONS[config.choice("afn", tuple(_ACTIVATIONS), "gelu")],
        gated=False,
        norm_placement="post",
        rope=-1,
        biases=True,
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        layer_norm_eps="layer_norm_epsilon",
        tied=True,
        n_positions_learned=size.max_positions,
        final_norm=False,
    )
