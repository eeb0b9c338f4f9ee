"""Granite with windows in most layers, sinks in attention, and a base of its rotation for each layer; some
have experts."""

from __future__ import annotations

from tuili._core import ModelSpec, RopeSpec
from tuili.loading.architectures import (
    ATTENTION_BIASES,
    GLOBAL,
    LLAMA_NAMES,
    LOCAL,
    MLP_BIASES,
    Sizes,
    layer_types,
    rope,
    rope_of,
    rope_section,
    rotary_sizes,
    window,
)
from tuili.loading.architectures.granite import granite
from tuili.loading.architectures.granite_moe import TENSOR_NAMES as _MOE_NAMES
from tuili.loading.architectures.granite_moe import experts
from tuili.loading.config import Config

TENSOR_NAMES = (
    LLAMA_NAMES
    | ATTENTION_BIASES
    | MLP_BIASES
    | _MOE_NAMES
    | {"model.layers.{i}.self_attn.sinks": "layers.{i}.sinks"}
)


def spec(config: Config) -> ModelSpec:
    """GraniteSWAForCausalLM, GraniteMoeSWAForCausalLM."""
    size = rotary_sizes(config)
    dense = config.values["architectures"] == ["GraniteSWAForCausalLM"]
    length = window(config, 128)
    usual = [LOCAL if i % 4 else GLOBAL for i in range(size.n_layers)]
    kinds = layer_types(config, size.n_layers, usual)
    rotations, limit, places = _rotations(config, size)
    own = [
        {"rope": place, "sinks": True, "sliding_window": length if kind == LOCAL else 0}
        for place, kind in zip(places, kinds, strict=True)
    ]
    if dense:
        return granite(
            config,
            size,
            rotations,
            limit,
            own,
            usual_eps=1e-5,
            tied=True,
            mlp_bias=config.flag("mlp_bias", False),
        )
    return granite(config, size, rotations, limit, own, moe=experts(config, size, shared=True))


def _rotations(config: Config, size: Sizes) -> tuple[list[RopeSpec], int, list[int]]:
    """The rotations, the positions that they hold for, and which of them each layer has: -1 for none."""
    thetas = config.values.get("layer_rope_theta")
    if thetas is None:
        rotation, limit = rope(config, size)
        return [rotation], limit, [0] * size.n_layers
    if not isinstance(thetas, list) or len(thetas) != size.n_layers:
        raise config.wrong("layer_rope_theta", f"{size.n_layers} numbers, 0 for no rotation")
    bases: list[float] = []
    places, limit, rotations = [], size.max_positions, []
    for theta in thetas:
        if type(theta) in (int, float) and theta == 0:
            places.append(-1)
            continue
        one = Config({"rope_theta": theta}, f"{config.what}: layer_rope_theta")
        base = one.number("rope_theta", 1.001, 1e12)
        if base not in bases:
            bases.append(base)
            rotation, limit = rope_of(config, size, rope_section(config), one, base, size.head_dim)
            rotations.append(rotation)
        places.append(bases.index(base))
    return rotations, limit, places
