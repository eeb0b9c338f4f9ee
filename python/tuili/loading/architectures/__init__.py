"""One file per architecture: `spec(config)` and name maps, nothing that runs per token.

Each file has
    spec(config) -> ModelSpec                 from the settings of config.json
    TENSOR_NAMES                              names in Hugging Face folders -> ours, or Parts (layout.py)
    IGNORED_TENSORS                           regular expressions of known extras (optional)
    BASE_PREFIX                               of names, which some folders leave out, if it is not "model."
    constants(config)                         regular expressions of tensors of ours that folders do not hold
                                              -> their value (optional)
    UNTIES                                    False: a head in the files is used, whatever they say (optional)
    derive(checkpoint, config)                puts tensors in the place of those that they are made of
                                              (optional)
    fold(name, values) -> values              what a Hugging Face norm needs before it is ours (optional)
and, where GGUF files of it exist (from_gguf.py),
    config_from_gguf(metadata, checkpoint)    the same settings under the same names
    GGUF_TENSOR_NAMES                         or, for names that depend on them, gguf_tensor_names(config)
    GGUF_IGNORED_TENSORS                      (optional)
    unpermute(name, config) -> n_heads or 0   whose rows to put back in order (optional)
    embedding_from_gguf(metadata)             how token vectors become one (encoders)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from tuili._core import LayerSpec, ModelSpec, RopeSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.config import (
    MAX_EXPERTS,
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_INNER,
    MAX_LAYERS,
    MAX_MODEL,
    MAX_POSITIONS,
    MAX_VOCAB,
    Config,
)
from tuili.loading.files import shown
from tuili.loading.layout import Parts
from tuili.loading.rope import inverse_frequencies, longrope_factors, position_limit, rope_type

LOCAL, GLOBAL = "sliding_attention", "full_attention"

# transformers' names of activations -> ours.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
    "quick_gelu": "quick_gelu",
    "relu6": "relu6",
    "leaky_relu": "leaky_relu",
    "hardswish": "hardswish",
    "mish": "mish",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "linear": "identity",
}


class Sizes(NamedTuple):
    """Sizes that every transformer has, checked against each other."""

    n_vocab: int
    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    max_positions: int


def sizes(config: Config) -> Sizes:
    """The sizes of a config.json; raises ModelFormatError naming the key that cannot be."""
    d_model = config.integer("hidden_size", 1, MAX_MODEL)
    n_heads = config.integer("num_attention_heads", 1, MAX_HEADS)
    n_kv_heads = config.integer("num_key_value_heads", 1, n_heads, n_heads)
    if n_heads % n_kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of the {n_heads} heads")
    if "head_dim" not in config and d_model % n_heads:
        raise config.wrong("hidden_size", f"a multiple of the {n_heads} heads")
    return Sizes(
        n_vocab=config.integer("vocab_size", 1, MAX_VOCAB),
        n_layers=config.integer("num_hidden_layers", 1, MAX_LAYERS),
        d_model=d_model,
        d_ff=config.integer("intermediate_size", 1, MAX_INNER),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=config.integer("head_dim", 1, MAX_HEAD_DIM, d_model // n_heads),
        max_positions=config.integer("max_position_embeddings", 1, MAX_POSITIONS),
    )


def renamed(config: Config, names: Mapping[str, str]) -> Config:
    """`config` with the settings of `names` (usual name -> this family's) under their usual names too."""
    config.update(**{ours: config.values.get(theirs) for ours, theirs in names.items()})
    config.names = {**config.names, **names}
    return config


def activation(config: Config, key: str = "hidden_act", usual: str = "silu") -> Any:
    """Our name of the activation that `key` names."""
    return ACTIVATIONS[config.choice(key, tuple(ACTIVATIONS), usual)]


def expect_only(config: Config, key: str, *allowed: object) -> None:
    """Raise ModelUnsupportedError (config_unsupported) if a setting is there and not one of `allowed`."""
    value = config.values.get(key)
    if value is not None and value not in allowed:
        raise ModelUnsupportedError(
            f"{config.what}: {key} is {shown(value)}, which is not supported", code="config_unsupported"
        )


def layer_types(config: Config, n_layers: int, usual: Sequence[str]) -> list[str]:
    """ "sliding_attention" or "full_attention" per layer."""
    given = config.values.get("layer_types")
    if given is None:
        return list(usual)
    if (
        not isinstance(given, list)
        or len(given) != n_layers
        or not all(isinstance(kind, str) for kind in given)
        or not set(given) <= {LOCAL, GLOBAL}
    ):
        raise config.wrong("layer_types", f"{n_layers} times {LOCAL} or {GLOBAL}")
    return cast(list[str], given)


def window(config: Config, usual: int | None = None) -> int:
    """`sliding_window`, 0 for none; `usual` if the file does not mention it."""
    if "sliding_window" in config.values and config.values["sliding_window"] is None:
        return 0
    return config.integer("sliding_window", 1, MAX_POSITIONS, usual) or 0


def rope(
    config: Config,
    size: Sizes,
    *,
    theta: float = 10000.0,
    partial: float | None = None,
    interleaved: bool = False,
    rounds_up: bool = False,
) -> tuple[RopeSpec, int]:
    """Rotary positions by `rope_parameters`, or `rope_scaling` and `rope_theta`; and the positions they hold
    for.

    theta, partial  the family's own, if the file does not say; without `partial`, it rotates whole heads
    rounds_up       whether one coordinate more turns where their number is odd
    """
    scaling = rope_section(config)
    settings = [section for section in (scaling, config) if section is not None]

    def where(key: str) -> Config:
        return next((section for section in settings if key in section), config)

    fraction = where("partial_rotary_factor").number("partial_rotary_factor", 1e-3, 1.0, partial or 1.0)
    if partial is None and fraction != 1.0:
        raise ModelUnsupportedError(
            f"{config.what}: partial_rotary_factor is {fraction}; models of this kind rotate whole heads",
            code="config_unsupported",
        )
    n_turned = int(size.head_dim * fraction)
    odd = rounds_up and n_turned > 1 and rope_type(scaling) in ("default", "linear", "dynamic", "llama3")
    return rope_of(
        config, size, scaling, where("rope_theta"), theta, n_turned, interleaved=interleaved, odd=odd
    )


def rope_section(config: Config) -> Config | None:
    """The settings of rotary positions, with `original_max_position_embeddings` from beside them; the old
    spelling goes before the new one, as in transformers."""
    scaling = config.section("rope_scaling" if config.values.get("rope_scaling") else "rope_parameters")
    if scaling is not None and "original_max_position_embeddings" in config:
        original = config.values["original_max_position_embeddings"]
        scaling.update(original_max_position_embeddings=original)
    return scaling


def rope_of_kind(
    config: Config, size: Sizes, kind: str, theta: float, key: str, *, scaled: bool
) -> tuple[RopeSpec, int]:
    """The same of the layers of a kind, local or global, by `rope_parameters` under its name.

    theta, key  the family's own base, and where the old spelling has it
    scaled      whether `rope_scaling`, which goes before, is theirs
    """
    both = config.section("rope_parameters")
    if both is not None and not (LOCAL in both or GLOBAL in both):
        if "rope_scaling" in config:
            raise config.wrong("rope_parameters", f"parameters per layer type, {LOCAL} and {GLOBAL}")
        config.ignore("rope_parameters")  # of no layer type
        both = None
    parts = [both.section(kind) if both is not None else None]
    scaling = config.section("rope_scaling") if scaled else None
    if scaling is not None and both is None and "type" in scaling and "rope_type" not in scaling:
        config.ignore("rope_scaling")  # transformers reads rope_type here, and not its old spelling
        scaling = None
    parts.append(scaling)
    values = {name: x for part in parts if part is not None for name, x in part.values.items()}
    values.pop("truncate", None)  # transformers does not look for it here
    section = Config(values, f"{config.what}: rope_parameters: {kind}")
    old = Config({"rope_theta": config.values.get(key)}, config.what, {"rope_theta": key})
    section.defaults = old.defaults = config.defaults
    section.warnings = config.warnings
    theta_in = section if "rope_theta" in section else old
    return rope_of(config, size, section, theta_in, theta, size.head_dim)


def rope_of(
    config: Config,
    size: Sizes,
    scaling: Config | None,
    theta_in: Config,
    theta: float,
    n_turned: int,
    *,
    interleaved: bool = False,
    odd: bool = False,
) -> tuple[RopeSpec, int]:
    """The same by given settings, of which `theta_in` holds `rope_theta`; `odd` if n_turned may be."""
    if n_turned == 0 or (n_turned % 2 and not odd):
        raise ModelUnsupportedError(
            f"{config.what}: {n_turned} coordinates of a head are rotated (head_dim times "
            "partial_rotary_factor, or rotary_dim); supported: an even number from 2 on",
            code="config_unsupported",
        )
    base = theta_in.number("rope_theta", 1.001, 1e12, theta)
    factors = longrope_factors(scaling, size.max_positions, config.max_model_len)
    config.longrope = factors or config.longrope
    inverse, scale = inverse_frequencies(base, n_turned, scaling, size.max_positions, factors or "short")
    limit = size.max_positions if factors == "long" else position_limit(scaling, size.max_positions)
    return RopeSpec(inv_freq=inverse, scale=scale, interleaved=interleaved), limit


def layer_of(
    size: Sizes, *, biases: bool = False, attention_bias: bool = False, **settings: Any
) -> LayerSpec:
    """A layer of these sizes with rotary positions and gated unless `settings` say else.

    biases          whether all of its maps have biases
    attention_bias  whether those of attention have, query, key, value and output
    """
    usual: dict[str, Any] = {
        "n_heads": size.n_heads,
        "n_kv_heads": size.n_kv_heads,
        "head_dim": size.head_dim,
        "d_ff": size.d_ff,
        "rope": 0,
        "attention_scale": size.head_dim**-0.5,
        "qkv_bias": biases or attention_bias,
        "output_bias": biases or attention_bias,
        "mlp_bias": biases,
    }
    return LayerSpec(**(usual | settings))


def decoder(
    config: Config,
    size: Sizes,
    layers: Sequence[LayerSpec],
    ropes: Sequence[RopeSpec] = (),
    *,
    eps: str = "rms_norm_eps",
    usual_eps: float = 1e-6,
    layer_norm_eps: str | None = None,
    tied: bool = False,
    **settings: Any,
) -> ModelSpec:
    """A decoder of these layers; `eps` is the key of the RMS norms' epsilon, `layer_norm_eps` that of layer
    norms, which it then has, `tied` whether heads are usually tied."""
    if layer_norm_eps is not None:
        eps, usual_eps, settings = layer_norm_eps, 1e-5, {"norm": "layer", **settings}
    usual: dict[str, Any] = {
        "kind": "decoder",
        "n_vocab": size.n_vocab,
        "d_model": size.d_model,
        "max_positions": size.max_positions,
        "layers": layers,
        "ropes": ropes,
        "norm_eps": config.number(eps, 1e-12, 1.0, usual_eps),
        "tied_head": config.flag("tie_word_embeddings", tied),
    }
    return ModelSpec(**(usual | settings))


def rotary_sizes(config: Config) -> Sizes:
    """`sizes`, provided that all of a head can be rotated."""
    size = sizes(config)
    if size.head_dim % 2:
        raise config.wrong("head_dim" if "head_dim" in config else "hidden_size", "an even head size")
    if config.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
        raise ModelUnsupportedError(
            f"{config.what}: partial_rotary_factor is not 1", code="config_unsupported"
        )
    return size


# Names of the parts that Hugging Face's decoders share.
DECODER_NAMES = {
    "model.embed_tokens.weight": "token_embedding",
    "model.norm.weight": "final_norm",
    "lm_head.weight": "head",
    "model.layers.{i}.input_layernorm.weight": "layers.{i}.attention_norm",
    "model.layers.{i}.self_attn.q_proj.weight": "layers.{i}.query",
    "model.layers.{i}.self_attn.k_proj.weight": "layers.{i}.key",
    "model.layers.{i}.self_attn.v_proj.weight": "layers.{i}.value",
    "model.layers.{i}.self_attn.o_proj.weight": "layers.{i}.output",
    "model.layers.{i}.mlp.gate_proj.weight": "layers.{i}.gate",
    "model.layers.{i}.mlp.up_proj.weight": "layers.{i}.up",
    "model.layers.{i}.mlp.down_proj.weight": "layers.{i}.down",
}
LLAMA_NAMES = DECODER_NAMES | {"model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.mlp_norm"}

ATTENTION_BIASES = {
    "model.layers.{i}.self_attn.q_proj.bias": "layers.{i}.query.bias",
    "model.layers.{i}.self_attn.k_proj.bias": "layers.{i}.key.bias",
    "model.layers.{i}.self_attn.v_proj.bias": "layers.{i}.value.bias",
    "model.layers.{i}.self_attn.o_proj.bias": "layers.{i}.output.bias",
}
QK_NORMS = {
    "model.layers.{i}.self_attn.q_norm.weight": "layers.{i}.query_norm",
    "model.layers.{i}.self_attn.k_norm.weight": "layers.{i}.key_norm",
}
MLP_BIASES = {
    "model.layers.{i}.mlp.gate_proj.bias": "layers.{i}.gate.bias",
    "model.layers.{i}.mlp.up_proj.bias": "layers.{i}.up.bias",
    "model.layers.{i}.mlp.down_proj.bias": "layers.{i}.down.bias",
}


def without(names: Mapping[str, Any], *parts: str) -> dict[str, Any]:
    """The names that hold none of `parts`."""
    return {theirs: ours for theirs, ours in names.items() if not any(part in theirs for part in parts)}


def with_biases(names: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Their name -> ours for the weight and the bias of each."""
    pairs = list(names)
    return {f"{theirs}.weight": ours for theirs, ours in pairs} | {
        f"{theirs}.bias": f"{ours}.bias" for theirs, ours in pairs
    }


def in_layers(stem: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Their name -> ours for modules of every layer i, which lie at `stem`.i in theirs."""
    return ((f"{stem}.{{i}}.{theirs}", f"layers.{{i}}.{ours}") for theirs, ours in names.items())


def fused(
    theirs: str,
    order: Literal["rows", "heads"] = "rows",
    parts: Sequence[str] = ("query", "key", "value"),
    **stored: bool,
) -> dict[str, Any]:
    """Their name -> ours for the weight and the bias of a layer's maps that lie in one.

    stored  Parts' fields of the weight
    """
    ours = [f"layers.{{i}}.{part}" for part in parts]
    return {
        f"{theirs}.weight": Parts(tuple(ours), order, **stored),
        f"{theirs}.bias": Parts(tuple(f"{name}.bias" for name in ours), order),
    }


def unfused(config: Config, names: Mapping[str, str]) -> Config:
    """`renamed`, for a family in which every head has its own key and value."""
    return renamed(config, {**names, "num_key_value_heads": "no such key"})


def expert_names(where: str, gate: str, up: str, down: str) -> dict[str, str | Parts]:
    """Names of a router and its experts, which lie one by one or, as transformers 5 has them, stacked."""
    ours = "layers.{i}.experts.{e}."
    return {
        f"{where}.gate.weight": "layers.{i}.router",
        f"{where}.experts.{{e}}.{gate}.weight": f"{ours}gate",
        f"{where}.experts.{{e}}.{up}.weight": f"{ours}up",
        f"{where}.experts.{{e}}.{down}.weight": f"{ours}down",
        f"{where}.experts.gate_up_proj": Parts((f"{ours}gate", f"{ours}up"), stacked=True),
        f"{where}.experts.down_proj": Parts((f"{ours}down",), stacked=True),
    }


def shared_expert_names(stem: str) -> dict[str, str]:
    """Names of the expert that all tokens go through."""
    return {f"{stem}.{part}_proj.weight": f"layers.{{i}}.shared.{part}" for part in ("gate", "up", "down")}


def n_experts(config: Config, *keys: str, usual: int) -> int:
    """How many experts a layer has, by the first of `keys` that the file holds; `usual` if it holds none."""
    key = next((key for key in keys if key in config), keys[0])
    return int(config.integer(key, 1, MAX_EXPERTS, usual))


def n_used(config: Config, of: int) -> int:
    """How many of them a token goes through."""
    return int(config.integer("num_experts_per_tok", 1, of))
