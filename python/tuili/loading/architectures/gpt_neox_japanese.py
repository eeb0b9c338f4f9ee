"""GPT-NeoX for Japanese: one half after the other, no biases but one, behind the last layer's attention."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, layer_of, rope, sizes, unfused
from tuili.loading.architectures.gpt_neox import TENSOR_NAMES as _NEOX
from tuili.loading.config import MAX_MODEL, Config

BASE_PREFIX = "gpt_neox_japanese."
TENSOR_NAMES = {
    theirs.replace("gpt_neox.", BASE_PREFIX): ours
    for theirs, ours in _NEOX.items()
    if "norm" in theirs or not theirs.endswith(".bias")
} | {"gpt_neox_japanese.layers.{i}.attention.dense_bias": "layers.{i}.output.bias"}
TENSOR_NAMES["gpt_neox_japanese.embed_in.weight"] = "token_embedding"


def spec(config: Config) -> ModelSpec:
    """GPTNeoXJapaneseForCausalLM."""
    width = config.integer("hidden_size", 1, MAX_MODEL)
    times = config.integer("intermediate_multiple_size", 1, 1024, 4)
    config.update(intermediate_size=width * times)
    names = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    size = sizes(unfused(config, names))
    rotation, limit = rope(config, size, partial=1.0)
    layers = [
        layer_of(
            size, activation=activation(config, usual="gelu"), gated=False, output_bias=i == size.n_layers - 1
        )
        for i in range(size.n_layers)
    ]
    return decoder(
        config, size, layers, [rotation], layer_norm_eps="layer_norm_eps", tied=True, max_positions=limit
    )
