"""GPT-NeoX and Pythia: parallel halves with a layer norm each, partly rotated heads, a fused projection."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    activation,
    decoder,
    fused,
    in_layers,
    layer_of,
    rope,
    sizes,
    unfused,
    with_biases,
)
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_BIASES,
    GGUF_NORM_BIASES,
    LAYER_NORM_EPS,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

_LAYER = {
    "input_layernorm": "attention_norm",
    "attention.dense": "output",
    "post_attention_layernorm": "mlp_norm",
    "mlp.dense_h_to_4h": "up",
    "mlp.dense_4h_to_h": "down",
}

BASE_PREFIX = "gpt_neox."
TENSOR_NAMES = {
    "gpt_neox.embed_in.weight": "token_embedding",
    "embed_out.weight": "head",
    "lm_head.weight": "head",
    **fused("gpt_neox.layers.{i}.attention.query_key_value", "heads"),
    **with_biases(in_layers("gpt_neox.layers", _LAYER)),
    **with_biases([("gpt_neox.final_layer_norm", "final_norm")]),
}
IGNORED_TENSORS = (r"(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",)

GGUF_TENSOR_NAMES = DECODER_GGUF_NAMES | GGUF_BIASES | GGUF_NORM_BIASES


def spec(config: Config) -> ModelSpec:
    """GPTNeoXForCausalLM."""
    names = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    size = sizes(unfused(config, names))
    rotation, limit = rope(config, size, partial=0.25, rounds_up=True)
    layer = layer_of(
        size,
        activation=activation(config, usual="gelu"),
        gated=False,
        norm_placement="parallel_two" if config.flag("use_parallel_residual", True) else "pre",
        attention_bias=config.flag("attention_bias", True),
        mlp_bias=True,
    )
    layers = [layer] * size.n_layers
    return decoder(config, size, layers, [rotation], layer_norm_eps="layer_norm_eps", max_positions=limit)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "gptneox"."""
    numbers = LAYER_NORM_EPS | {"rotary_emb_base": "rope.freq_base"}
    present = {"attention_bias": "attn_qkv.bias"}
    config = decoder_config(metadata, checkpoint, numbers=numbers, present=present, rotates="parts")
    config.update(
        rotary_pct=config.values["partial_rotary_factor"],
        use_parallel_residual=metadata.get_bool("gptneox.use_parallel_residual", True),
    )
    return config
