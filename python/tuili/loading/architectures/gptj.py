"""GPT-J: parallel halves behind one layer norm, partly rotated heads whose pairs are neighbours."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, in_layers, layer_of, rope_of, sizes, with_biases
from tuili.loading.architectures.gpt2 import gpt_config
from tuili.loading.config import MAX_HEAD_DIM, Config

BASE_PREFIX = "transformer."
TENSOR_NAMES = {
    "transformer.wte.weight": "token_embedding",
    "transformer.h.{i}.attn.q_proj.weight": "layers.{i}.query",
    "transformer.h.{i}.attn.k_proj.weight": "layers.{i}.key",
    "transformer.h.{i}.attn.v_proj.weight": "layers.{i}.value",
    "transformer.h.{i}.attn.out_proj.weight": "layers.{i}.output",
    **with_biases(
        in_layers("transformer.h", {"ln_1": "attention_norm", "mlp.fc_in": "up", "mlp.fc_out": "down"})
    ),
    **with_biases([("transformer.ln_f", "final_norm"), ("lm_head", "head")]),
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
    return decoder(config, size, layers, [rotation], layer_norm_eps="layer_norm_epsilon", head_bias=True)
