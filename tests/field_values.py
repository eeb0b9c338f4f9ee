"""Which settings of a class of transformers' compare_fields.py changes, and what they become.

Those are the fields of its configuration class, their second names, and whatever its code or tuili's asks
the settings for; their values are made of those that they have and of the strings that the code compares
them with.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from typing import Any

from tuili.loading.config import Config

Values = dict[str, Any]

# What says nothing about the numbers, or is about files and texts.
_OTHERS = {
    *("architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "name_or_path"),
    *("vocab_size", "quantization_config", "label2id", "id2label", "attribute_map", "sub_configs"),
    *("output_hidden_states", "output_attentions", "return_dict", "tokenizer_class", "auto_map"),
    *("distributed_config", "gradient_checkpointing", "initializer_range", "use_cache"),
}
_LONG = {"type": "longrope", "long_factor": [2.0] * 8, "short_factor": [1.5] * 8}
# Settings that every class is asked about, whether its class has a field of the name or not.
_ALWAYS: dict[str, tuple[Any, ...]] = {
    "rope_theta": (50.0,),
    "partial_rotary_factor": (0.5,),
    "rope_scaling": (
        {"rope_type": "linear", "factor": 2.0},
        {"type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {"type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 0.5, "attention_factor": 1.5},
        {"type": "dynamic", "factor": 2.0, "alpha": 3.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {**_LONG, "original_max_position_embeddings": 64},
        {"rope_type": "proportional", "partial_rotary_factor": 0.5},
    ),
    "rope_parameters": (
        {"rope_type": "default", "rope_theta": 50.0},
        {"rope_type": "default"},
        {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5},
        {"rope_type": "default", "rope_theta": 50.0, "factor": 2.0, "mscale": 2.0, "mscale_all_dim": 1.0},
        {"rope_type": "linear", "rope_theta": 50.0, "factor": 2.0},
        {"rope_type": "dynamic", "rope_theta": 50.0, "factor": 2.0},
        {"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 1.0},
        {"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "mscale_all_dim": 1.0},
        {"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "attention_factor": 1.5, "truncate": False},
        {
            "full_attention": {"rope_type": "default", "rope_theta": 50.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 9.0},
        },
        {
            "full_attention": {"rope_type": "linear", "rope_theta": 50.0, "factor": 3.0},
            "sliding_attention": {"rope_type": "yarn", "rope_theta": 9.0, "factor": 2.0, "truncate": False},
        },
    ),
    "per_layer_config": (
        {"1": {"sliding_window": 4}},
        {"1": {"hidden_act": "relu"}},
        {"0": {"rms_norm_eps": 0.5}},
    ),
    "is_causal": (False, True),
    "is_decoder": (True, False),
    "use_bidirectional_attention": (True, "all", "vision"),
    "num_labels": (3, 1),
    "problem_type": ("regression", "multi_label_classification"),
    "scale_attn_weights": (False,),
    "original_max_position_embeddings": (16,),
    "chunk_size_feed_forward": (4,),
}
_ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "swish", "gelu_10", "laplace")
_KINDS = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention", "attention")


_WHO_COMPUTES = re.compile(
    r"models|modeling_|masking_utils|cache_utils|activations|pytorch_utils|integrations"
)


class Asked:
    """The names of the settings that tuili, or code of transformers' that computes, asks for, while
    `listening`."""

    def __init__(self) -> None:
        self.ours: set[str] = set()
        self.theirs: set[str] = set()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        from transformers import PreTrainedConfig

        def told(function: Any) -> Any:
            @functools.wraps(function)
            def asking(config: Any, key: str, *rest: Any, **more: Any) -> Any:
                if type(config) is Config:
                    self.ours.add(key)
                elif _WHO_COMPUTES.search(sys._getframe(1).f_code.co_filename):
                    self.theirs.add(key)
                return function(config, key, *rest, **more)

            return asking

        getters = ("integer", "number", "flag", "switch", "text", "section", "ignore", "__contains__")
        places = [(Config, name) for name in getters] + [(PreTrainedConfig, "__getattribute__")]
        kept = [(place, name, getattr(place, name)) for place, name in places]
        for place, name, function in kept:
            setattr(place, name, told(function))
        try:
            yield
        finally:
            for place, name, function in kept:
                setattr(place, name, function)


def names_of(config: Any, asked: set[str]) -> list[str]:
    """The settings to change of a configuration of transformers, of which somebody `asked` for some."""
    second = type(config).attribute_map
    known = set(dir(type(config))) - {field.name for field in dataclasses.fields(config)}
    found = {name for name in asked - known if not re.search("^_(?!remove)|drop", name)}
    found |= {name for name, first in second.items() if {name, first} & asked} | set(second.values()) & asked
    if hasattr(config, "encoder_layers"):  # goes before it here: see class_defaults.first_names
        found.discard("num_hidden_layers")
    return sorted((found | _ALWAYS.keys()) - _OTHERS)


def others(name: str, now: Any, strings: set[str], n_layers: int) -> list[Any]:
    """Plausible values of a setting but for the one that it has; `strings` that it is compared with."""
    if name in _ALWAYS:
        found: list[Any] = [*_ALWAYS[name]]
    elif name == "layer_types":
        found = [[kind] * n_layers for kind in _KINDS]
        found += [list(itertools.islice(itertools.cycle(_KINDS[i : i + 2]), n_layers)) for i in (0, 1)]
        found += [list(itertools.islice(itertools.cycle(_KINDS[1::-1]), n_layers)), _KINDS[:1]]
    elif name == "mlp_layer_types":
        kinds = ("dense", "sparse")
        found = [[kind] * n_layers for kind in kinds]
        found += [list(itertools.islice(itertools.cycle(kinds[::step]), n_layers)) for step in (1, -1)]
    elif name.endswith("_token_id"):
        found = [0, 5]
    elif isinstance(now, bool):
        found = [not now]
    elif isinstance(now, int):
        found = [0, 1, 4, 2 * now, now // 2, -1]
    elif isinstance(now, float):
        found = [0.0, 0.1, 1.0, 2 * now]
    elif isinstance(now, str) and (now in _ACTIVATIONS or now.startswith("gelu")):
        found = [*_ACTIVATIONS, *strings]
    elif isinstance(now, str):
        found = [*strings, "relu", "none"]
    elif isinstance(now, (list, tuple)):
        found = [[], [0], [1], *([item] * len(now) for item in (0, 1)), [*now[::-1]]]
    else:
        found = [True, False, 0, 4, 0.3, 1.5, [1], *strings]
    return [value for value in [*found, None] if value != now or type(value) is not type(now)]


def compared_strings(*classes: type) -> dict[str, set[str]]:
    """Setting -> the strings that the files of the classes compare it with, or have under its name."""
    found: dict[str, set[str]] = {}
    for module in {cls.__module__ for cls in classes}:
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                strings = {
                    item.value
                    for side in sides
                    for item in ast.walk(side)
                    if isinstance(item, ast.Constant) and isinstance(item.value, str)
                }
                for side in sides:
                    name = getattr(side, "attr", getattr(side, "id", None))
                    if name is not None and strings:
                        found.setdefault(name, set()).update(strings)
            elif isinstance(node, ast.AnnAssign) and "Literal" in ast.dump(node.annotation):
                strings = {x.value for x in ast.walk(node.annotation) if isinstance(x, ast.Constant)}
                found.setdefault(getattr(node.target, "id", ""), set()).update(
                    x for x in strings if isinstance(x, str)
                )
    return found


def changes(
    config: Values, theirs: Any, names: list[str], strings: dict[str, set[str]]
) -> Iterator[tuple[str, Values]]:
    """Each setting with each other value: what was changed, in words, and the config.json.

    theirs  transformers' configuration of `config`
    """
    n_layers = next(
        (x for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")
         if isinstance(x := getattr(theirs, key, None), int)), 2,
    )  # fmt: skip
    for name in names:
        now = config.get(name, getattr(theirs, name, None))
        if dataclasses.is_dataclass(now) or (isinstance(now, dict) and name not in _ALWAYS):
            within = (
                now
                if isinstance(now, dict)
                else {f.name: getattr(now, f.name) for f in dataclasses.fields(now)}
            )
            for key in set(within) - _OTHERS:
                for value in others(key, within[key], strings.get(key, set()), n_layers):
                    yield (
                        f"{name}.{key} = {value!r}",
                        config | {name: (config.get(name) or {}) | {key: value}},
                    )
            continue
        for value in others(name, now, strings.get(name, set()), n_layers):
            yield f"{name} = {value!r}", config | {name: value}
        if name in config:
            yield f"no {name}", {key: x for key, x in config.items() if key != name}
