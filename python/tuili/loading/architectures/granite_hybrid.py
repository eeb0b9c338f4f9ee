"""Granite 4 where every layer has attention (micro, 1b, 350m); others have layers that are not here."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import ATTENTION_BIASES, GLOBAL, LLAMA_NAMES, sizes, without
from tuili.loading.architectures.granite import granite
from tuili.loading.config import MAX_EXPERTS, MAX_INNER, Config
from tuili.loading.files import shown
from tuili.loading.layout import Parts

_MLP = "model.layers.{i}.shared_mlp"
TENSOR_NAMES = (
    without(LLAMA_NAMES, ".mlp.")
    | ATTENTION_BIASES
    | {
        f"{_MLP}.input_linear.weight": Parts(("layers.{i}.gate", "layers.{i}.up")),
        f"{_MLP}.output_linear.weight": "layers.{i}.down",
    }
)
IGNORED_TENSORS = ()


def spec(config: Config) -> ModelSpec:
    """GraniteMoeHybridForCausalLM."""
    size = sizes(config)
    kinds = config.values.get("layer_types")
    if kinds not in [[name] * size.n_layers for name in ("attention", GLOBAL)]:
        raise ModelUnsupportedError(
            f"{config.what}: layer_types is {shown(kinds)}; supported: {size.n_layers} times attention",
            code="config_unsupported",
        )
    if n := config.integer("num_local_experts", 0, MAX_EXPERTS, 8):
        raise ModelUnsupportedError(
            f"{config.what}: num_local_experts is {n}, which is not supported in this class",
            code="config_unsupported",
        )
    rotates = config.choice("position_embedding_type", ("rope", "nope"), None) == "rope"
    d_ff = config.integer("shared_intermediate_size", 1, MAX_INNER)
    return granite(config, size, rotates=rotates, d_ff=d_ff)
