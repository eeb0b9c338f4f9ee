"""GPT-J: parallel halves behind one layer norm, partly rotated heads whose pairs are neighbours."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, layer_of, rope_of, sizes
from tuili.loading.architectures.gpt2 import gpt_config
from tuili.loading.config import MAX_HEAD_DIM, Config

BASE_PREFIX = "transformer."
TENSOR_NAMES = {
    "transformer.wte.weight": "token_embedding",
    "transformer.h.{i}.ln_1.weight": "layers.{i}.attention_norm",
    "transformer.h.{i}.ln_1.bias": "layers.{i}.attention_norm.bias",
    "transformer.h.{i}.attn.q_proj.weight": "layers.{i}.query",
    "transformer.h.{i}.attn.k_proj.weight": "layers.{i}.key",
    "transformer.h.{i}.attn.v_proj.weight": "layers.{i}.value",
    "transformer.h.{i}.attn.out_proj.weight": "layers.{i}.output",
    "transformer.h.{i}.mlp.fc_in.weight": "layers.{i}.up",
    "transformer.h.{i}.mlp.fc_in.bias": "layers.{i}.up.bias",
    "transformer.h.{i}.mlp.fc_out.weight": "layers.{i}.down",
    "transformer.h.{i}.mlp.fc_out.bias": "layers.{i}.down.bias",
    "transformer.ln_f.weight": "final_norm",
    "transformer.ln_f.bias": "final_norm.bias",
    "lm_head.weight": "head",
    "lm_head.bias": "head.bias",
}
IGNORED_TENSORS = (r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",)


def spec(config: Config) -> ModelSpec:
    """GPTJForCausalLM."""
    size = sizes(gpt_config(config))
    n_turned = config.integer("rotary_dim", 2, min(MAX_HEAD_DIM, size.head_dim), min(64, size.head_dim))
    config.ignore("rope_theta", 10_000.0)
    usual = Config({}, config.what)
    rotation, _ = rope_of(config, size, None, usual, 10_000.0, n_turned, interleaved=True)
    layer = layer_of(
        size,
        activation=activation(config, "activation_function", "gelu_new"),
        gated=False,
        norm_placement="parallel",
        mlp_bias=True,
    )
    layers = [layer] * size.n_layers
    return decoder(
        config,
        size,
        layers,
        [rotation],
        layer_norm_eps="layer_norm_epsilon",
        head_bias=True,
    )
