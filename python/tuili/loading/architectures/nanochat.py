"""nanochat: norms without weights, also behind the embedding and behind the rotation of queries and keys,
which turn the other way round; MLPs without gates, capped logits."""

from __future__ import annotations

from tuili._core import ModelSpec, RopeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    LLAMA_NAMES,
    activation,
    decoder,
    layer_of,
    rope,
    rotary_sizes,
    without,
)
from tuili.loading.architectures.gemma2 import softcap
from tuili.loading.config import Config

TENSOR_NAMES = (
    without(LLAMA_NAMES, ".mlp.", "norm")
    | ATTENTION_BIASES
    | {
        "model.layers.{i}.mlp.fc1.weight": "layers.{i}.up",
        "model.layers.{i}.mlp.fc2.weight": "layers.{i}.down",
    }
)


def spec(config: Config) -> ModelSpec:
    """NanoChatForCausalLM."""
    size = rotary_sizes(config)
    forth, limit = rope(config, size)
    back = RopeSpec(inv_freq=[-x for x in forth.inv_freq], scale=forth.scale)
    layer = layer_of(
        size,
        activation=activation(config, usual="relu2"),
        gated=False,
        qk_norm="rotated",
        attention_bias=config.flag("attention_bias", False),
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        [back],
        max_positions=limit,
        embedding_norm=True,
        logit_softcap=softcap(config, "final_logit_softcapping", 15.0),
    )


def constants(config: Config) -> dict[str, float]:
    """No norm has weights."""
    return {r"(.*\.)?\w+_norm": 1.0}
