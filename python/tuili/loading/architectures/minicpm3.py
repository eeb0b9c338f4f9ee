"""MiniCPM 3: MiniCPM's scales around DeepSeek's attention, without experts."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures.deepseek import latent_decoder
from tuili.loading.architectures.deepseek_names import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.deepseek_names import TENSOR_NAMES as TENSOR_NAMES
from tuili.loading.config import MAX_HEADS, MAX_LAYERS, MAX_MODEL, Config


def spec(config: Config) -> ModelSpec:
    """MiniCPM3ForCausalLM. A scale that is null scales nothing."""
    config.fill({"scale_emb": 12.0, "scale_depth": 1.4})
    n_layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    d_model = config.integer("hidden_size", 1, MAX_MODEL)
    if "v_head_dim" not in config:
        config.update(v_head_dim=d_model // config.integer("num_attention_heads", 1, MAX_HEADS))
    return latent_decoder(
        config,
        [None] * n_layers,
        interleaved=False,
        residual_scale=config.positive("scale_depth", n_layers**0.5) / n_layers**0.5,
        tied=True,
        usual_eps=1e-5,
        embedding_scale=config.positive("scale_emb"),
        logit_scale=config.integer("dim_model_base", 1, MAX_MODEL, d_model) / d_model,
    )
