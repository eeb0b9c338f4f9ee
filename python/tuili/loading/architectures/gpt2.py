"""GPT-2: learned positions, layer norms, a fused and transposed projection."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    activation,
    decoder,
    expect_only,
    fused,
    in_layers,
    layer_of,
    renamed,
    sizes,
    unfused,
    with_biases,
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
from tuili.loading.layout import Parts

BASE_PREFIX = "transformer."
_TRANSPOSED = {"attn.c_proj": "output", "mlp.c_fc": "up", "mlp.c_proj": "down"}
_LAYER = {"ln_1": "attention_norm", "ln_2": "mlp_norm", **_TRANSPOSED}
TENSOR_NAMES = {
    "transformer.wte.weight": "token_embedding",
    "transformer.wpe.weight": "position_embedding",
    "lm_head.weight": "head",
    **fused("transformer.h.{i}.attn.c_attn", transposed=True),
    **with_biases(in_layers("transformer.h", _LAYER)),
    **with_biases([("transformer.ln_f", "final_norm")]),
    **{
        f"transformer.h.{{i}}.{theirs}.weight": Parts((f"layers.{{i}}.{ours}",), transposed=True)
        for theirs, ours in _TRANSPOSED.items()
    },
}
IGNORED_TENSORS = (r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",)

GGUF_TENSOR_NAMES = (
    DECODER_GGUF_NAMES | GGUF_BIASES | GGUF_NORM_BIASES | {"position_embd.weight": "position_embedding"}
)

NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}


def gpt_config(config: Config, names: dict[str, str] = NAMES) -> Config:
    """The settings of GPT-2 and its kin under their usual names."""
    unfused(config, names)
    d_model = config.values.get("hidden_size")
    if "intermediate_size" not in config and isinstance(d_model, int):
        config.update(intermediate_size=4 * d_model)
    return config


def spec(config: Config) -> ModelSpec:
    """GPT2LMHeadModel, and GPT2DoubleHeadsModel without its head for choices, of which a warning tells."""
    size = sizes(gpt_config(config))
    expect_only(config, "add_cross_attention", False)
    scale = size.head_dim**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    by_layer = config.flag("scale_attn_by_inverse_layer_idx", False)
    layers = [
        layer_of(
            size,
            activation=activation(config, "activation_function", "gelu_new"),
            gated=False,
            rope=-1,
            attention_scale=scale / (i + 1 if by_layer else 1),
            biases=True,
        )
        for i in range(size.n_layers)
    ]
    return decoder(
        config,
        size,
        layers,
        layer_norm_eps="layer_norm_epsilon",
        tied=True,
        n_positions_learned=size.max_positions,
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "gpt2"."""
    eps = {"layer_norm_epsilon": "attention.layer_norm_epsilon"}
    config = decoder_config(metadata, checkpoint, numbers=eps)
    return renamed(config, {theirs: ours for ours, theirs in NAMES.items()})
