"""GPT-BigCode (SantaCoder, StarCoder): GPT-2 whose heads may share one key and value."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import (
    activation,
    decoder,
    expect_only,
    fused,
    in_layers,
    layer_of,
    sizes,
    with_biases,
)
from tuili.loading.architectures.gpt2 import GGUF_TENSOR_NAMES as GGUF_TENSOR_NAMES
from tuili.loading.architectures.gpt2 import config_from_gguf as _gpt2_from_gguf
from tuili.loading.architectures.gpt2 import gpt_config
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

BASE_PREFIX = "transformer."
_LAYER = {
    "ln_1": "attention_norm",
    "attn.c_proj": "output",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
}
TENSOR_NAMES = {
    "transformer.wte.weight": "token_embedding",
    "transformer.wpe.weight": "position_embedding",
    "lm_head.weight": "head",
    **fused("transformer.h.{i}.attn.c_attn", "heads"),
    **with_biases(in_layers("transformer.h", _LAYER)),
    **with_biases([("transformer.ln_f", "final_norm")]),
}
IGNORED_TENSORS = (r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",)


def spec(config: Config) -> ModelSpec:
    """GPTBigCodeForCausalLM."""
    expect_only(config, "add_cross_attention", False)
    gpt_config(config)
    config.update(num_key_value_heads=1 if config.switch("multi_query", True) else None)
    size = sizes(config)
    layer = layer_of(
        size,
        activation=activation(config, "activation_function", "gelu_pytorch_tanh"),
        gated=False,
        rope=-1,
        attention_scale=size.head_dim**-0.5 if config.switch("scale_attn_weights", True) else 1.0,
        biases=True,
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        layer_norm_eps="layer_norm_epsilon",
        tied=True,
        n_positions_learned=size.max_positions,
    )


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "starcoder"."""
    config = _gpt2_from_gguf(metadata, checkpoint)
    config.update(multi_query=config.values["num_key_value_heads"] == 1)
    return config
