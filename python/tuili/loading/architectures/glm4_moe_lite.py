"""GLM 4.7 Flash and Youtu: DeepSeek-V3's attention, with experts as it has them, or without."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures.deepseek import expect_turned, latent_decoder
from tuili.loading.architectures.deepseek_names import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.deepseek_names import TENSOR_NAMES as TENSOR_NAMES
from tuili.loading.architectures.routed import behind_dense, by_types, routed
from tuili.loading.config import MAX_LAYERS, Config


def spec(config: Config) -> ModelSpec:
    """Glm4MoeLiteForCausalLM, YoutuForCausalLM."""
    n_layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    interleaved = config.switch("rope_interleave", True)
    if config.values["architectures"] == ["YoutuForCausalLM"]:
        expect_turned(config)
        return latent_decoder(config, [None] * n_layers, interleaved=interleaved, tied=True)
    config.update(first_k_dense_replace=1)  # which the class does not read
    moe = routed(config, scale=1.8, normalize=True)
    experts = by_types(config, moe, behind_dense(config, n_layers, moe, 1))
    return latent_decoder(config, experts, interleaved=interleaved, usual_eps=1e-5)
