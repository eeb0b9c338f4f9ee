"""sentence-transformers' folders: how token vectors become one (modules.json and the modules' own files)."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from tuili import _core
from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading import safetensors_file
from tuili.loading.checkpoint import FLOATS
from tuili.loading.config import MAX_CONFIG_BYTES, MAX_MODEL, MAX_POSITIONS, Config, read_config
from tuili.loading.files import parse_json, read_file, shown
from tuili.loading.sentence_maps import (
    ACTIVATIONS,
    Dense,
    LayerNorm,
    Normalize,
    SentenceMap,
    torch_activation,
)
from tuili.loading.weights import to_float32

# Their name of a pooling -> ours: keys of old files, in the order in which their vectors are joined, and the
# values of pooling_mode in new ones.
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
_POOLINGS = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
# Of Transformer modules, in the names of their files: usually the first, whatever the model is.
_TRANSFORMERS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_FOLDER = r"[A-Za-z0-9_-]{1,64}"
MAX_PROMPTS = 256
MAX_NUMBERS = 1 << 20  # of a vector
# What gives the first vectors: of tokens, or of texts.
FIRST = ("Transformer", "StaticEmbedding")
_MODULES = (*FIRST, "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")


def read_modules(
    folder: str, base: str = "", *, inside: str | None = None
) -> tuple[dict[str, Any], list[SentenceMap]] | None:
    """What a sentence-transformers folder does with token vectors.

    base     the folder in it that holds the model itself
    returns  (settings, what maps sentence vectors, in order), or None if the folder has no modules.json. The
             settings: pooling, one name or several with " + " between them, whose vectors are joined;
             normalize, whether the vector is divided by its length at the end; max_seq_length, tokens or
             None; lower_case, whether texts become lower case; prompts by name, and default_prompt_name;
             include_prompt, false where their tokens are not pooled; truncate_dim, numbers of a vector that
             are kept; similarity_fn_name, what compares vectors where it is not the cosine
    raises   ModelFormatError, ModelUnsupportedError (module, pooling) for what is not done
    """
    modules = modules_of(folder, inside)
    if modules is None:
        return None
    settings: dict[str, Any] = {"pooling": "mean", "normalize": False, "max_seq_length": None}
    maps: list[SentenceMap] = []
    has_sentences = False
    for i, (module, kind) in enumerate(modules):
        _expect_place(kind, i, has_sentences=has_sentences)
        has_sentences = has_sentences or kind in ("Pooling", "StaticEmbedding")
        path = module.text("path") if kind in ("Pooling", "Dense", "LayerNorm") else module.text("path", "")
        if kind == "Pooling":
            own = _module_config(folder, path, inside)
            settings["pooling"] = _pooling(own)
            if not own.flag("include_prompt", True):
                settings["include_prompt"] = False
        elif kind == "Dense":
            maps.append(_dense(folder, path, inside))
        elif kind == "LayerNorm":
            maps.append(_layer_norm(folder, path, inside))
        elif kind == "Normalize":
            _expect_sentences(settings_of(folder, path, inside))
            maps.append(Normalize())
    while maps and isinstance(maps[-1], Normalize):  # which `embed` does, unless asked not to
        maps.pop()
        settings["normalize"] = True
    return settings | _text_settings(folder, os.path.join(folder, base), inside), maps


def _expect_place(kind: str, place: int, *, has_sentences: bool) -> None:
    """Refuse a module that is unknown, or has nothing to work on where it stands."""
    if kind not in _MODULES:
        raise ModelUnsupportedError(
            f"modules.json: module '{shown(kind)}' is not supported; supported: {', '.join(_MODULES)}",
            code="module",
        )
    if (kind in FIRST) != (place == 0):
        raise ModelUnsupportedError(
            f"modules.json: {kind} as module {place}; the first one, and no other, is {' or '.join(FIRST)}",
            code="module",
        )
    if kind not in FIRST and (kind != "Pooling") != has_sentences:
        where = "comes after another" if has_sentences else "needs a Pooling before it"
        raise ModelUnsupportedError(f"modules.json: {kind} {where}", code="module")


def first_module(folder: str, inside: str | None) -> tuple[str, str]:
    """The kind of the first module and the folder in `folder` where it lies, "" for that itself; of a folder
    without modules.json ("", "")."""
    found = modules_of(folder, inside)
    if not found or found[0][1] not in FIRST:
        return "", ""
    path = found[0][0].text("path", "")
    return found[0][1], "" if path in ("", ".") else _plain(path)


def modules_of(folder: str, inside: str | None) -> list[tuple[Config, str]] | None:
    """The modules and the names of their classes, None if the folder has no modules.json."""
    path = os.path.join(folder, "modules.json")
    if not os.path.lexists(path):
        return None
    modules = parse_json(read_file(path, MAX_CONFIG_BYTES, inside=inside), "modules.json")
    if (
        not isinstance(modules, list)
        or len(modules) > 16
        or not all(isinstance(item, dict) for item in modules)
    ):
        raise ModelFormatError("modules.json must be a list of up to 16 objects", code="config_type")
    configs = [Config(item, "modules.json") for item in modules]
    return [(module, module.text("type").rsplit(".", 1)[-1]) for module in configs]


def transformer_settings(folder: str, inside: str | None) -> Config | None:
    found = (read_config(folder, f"sentence_{kind}_config.json", inside=inside) for kind in _TRANSFORMERS)
    return next((config for config in found if config is not None), None)


def _text_settings(folder: str, base: str, inside: str | None) -> dict[str, Any]:
    """What happens to texts before: a limit, lower case, prompts."""
    settings: dict[str, Any] = {}
    limits = transformer_settings(base, inside)
    if limits is not None:
        expect_output(limits, "feature-extraction", "token_embeddings", "last_hidden_state")
        kinds = limits.section("modality_config")
        if kinds is not None and "message" in kinds:
            raise ModelUnsupportedError(
                f"{limits.what}: modality_config has message: texts would become messages of the chat "
                "template, which embedders do not have here",
                code="config_unsupported",
            )
        settings["max_seq_length"] = limits.integer("max_seq_length", 1, MAX_POSITIONS, None)
        if limits.flag("do_lower_case", False):
            settings["lower_case"] = True
    config = read_config(folder, "config_sentence_transformers.json", inside=inside)
    return settings if config is None else settings | prompts_of(config) | _similarities(config)


def _similarities(config: Config) -> dict[str, Any]:
    """How many numbers of a vector are kept, and what compares vectors, where it is not the cosine."""
    width = config.integer("truncate_dim", 1, MAX_NUMBERS, None)
    compared = config.choice("similarity_fn_name", ("cosine", "dot", "euclidean", "manhattan"), "cosine")
    return ({} if width is None else {"truncate_dim": width}) | (
        {} if compared == "cosine" else {"similarity_fn_name": compared}
    )


def prompts_of(config: Config) -> dict[str, Any]:
    """The words that may stand before a text: `prompts` by name, and `default_prompt_name`."""
    prompts = config.values.get("prompts") or {}
    if (
        not isinstance(prompts, dict)
        or len(prompts) > MAX_PROMPTS
        or not all(isinstance(prompt, str) for prompt in prompts.values())
    ):
        raise config.wrong("prompts", f"an object of up to {MAX_PROMPTS} strings")
    default = config.text("default_prompt_name", None)
    if default is not None and default not in prompts:
        raise config.wrong("default_prompt_name", "the name of a prompt")
    return {"prompts": prompts, "default_prompt_name": default}


def expect_output(config: Config, task: str, output: str, of_method: str) -> None:
    """Refuse a Transformer module that gives anything else; what its file leaves out is as it should be."""
    by_kind = config.section("modality_config")
    text = (by_kind.section("text") if by_kind is not None else None) or Config({}, config.what)
    for where, key, usual in (
        (config, "transformer_task", task),
        (config, "module_output_name", output),
        (text, "method", "forward"),
        (text, "method_output_name", of_method),
    ):
        where.choice(key, (usual,), usual)
    if "query_expansion" in config:
        raise ModelUnsupportedError(
            f"{config.what}: query_expansion is set, which is not supported", code="config_unsupported"
        )
    _expect_plain_texts(config)


def _expect_plain_texts(config: Config) -> None:
    """Refuse what changes how texts become tokens; padding does not, and long texts are cut on request."""
    given = config.section("processing_kwargs") or Config({}, config.what)
    for kind in ("common", "text"):
        words = given.section(kind) or Config({}, config.what)
        for key, value in words.values.items():
            if key != "padding" and not (key == "truncation" and value is True):
                raise ModelUnsupportedError(
                    f"{config.what}: processing_kwargs has {shown(key)} for {kind}, which is not supported",
                    code="config_unsupported",
                )


def _expect_sentences(config: Config) -> None:
    """Refuse a module that works on anything but the sentence's vector."""
    for key in ("module_input_name", "module_output_name"):
        config.choice(key, ("sentence_embedding",), "sentence_embedding")


def settings_of(folder: str, subfolder: str, inside: str | None) -> Config:
    """A module's settings; none where it has no file, as in old folders."""
    there = subfolder and os.path.lexists(os.path.join(folder, subfolder, "config.json"))
    return _module_config(folder, subfolder, inside) if there else Config({}, subfolder)


def _plain(subfolder: str) -> str:
    if not re.fullmatch(_FOLDER, subfolder):
        raise ModelFormatError(
            f"modules.json: path '{shown(subfolder)}' is not a plain name", code="config_value"
        )
    return subfolder


def _module_config(folder: str, subfolder: str, inside: str | None) -> Config:
    config = read_config(os.path.join(folder, _plain(subfolder)), "config.json", inside=inside)
    if config is None:
        raise ModelFormatError(f"{subfolder}/config.json is missing", code="config_key")
    config.what = f"{subfolder}/config.json"
    return config


def _pooling(config: Config) -> str:
    given = config.values.get("pooling_mode")
    if given is not None:
        modes = given if isinstance(given, list) else [given]
        if not modes or not all(isinstance(mode, str) and mode in _POOLINGS for mode in modes):
            raise ModelUnsupportedError(
                f"{config.what}: pooling_mode {shown(given)}; supported: {', '.join(_POOLINGS)}",
                code="pooling",
            )
        return " + ".join(_POOLINGS[mode] for mode in modes)
    chosen = [name for key, name in _OLD_POOLINGS.items() if config.flag(key, False)]
    return " + ".join(chosen or ["mean"])


def _dense(folder: str, subfolder: str, inside: str | None) -> Dense:
    config = _module_config(folder, subfolder, inside)
    _expect_sentences(config)
    n_in, n_out = (config.integer(key, 1, MAX_MODEL) for key in ("in_features", "out_features"))
    path = config.text("activation_function", "torch.nn.modules.activation.Tanh")
    named = torch_activation(path)
    if named is None:
        raise ModelUnsupportedError(
            f"{config.what}: activation_function {shown(path)}; supported: torch.nn's "
            f"{', '.join(ACTIVATIONS)}",
            code="module",
        )
    residual = config.flag("use_residual", False)
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (n_out, n_in)}
    if config.flag("bias", True):
        shapes["linear.bias"] = (n_out,)
    if residual and n_in != n_out:
        shapes["residual.weight"] = (n_out, n_in)
    values = _tensors(folder, subfolder, shapes, inside)
    maps = {
        name: _core.PackedWeight("f32", n_out, n_in, values[name].view(np.uint8).reshape(n_out, -1))
        for name in shapes
        if name.endswith(".weight")
    }
    return Dense(
        n_in=n_in,
        n_out=n_out,
        activation=named,
        weight=maps["linear.weight"],
        bias=values.get("linear.bias"),
        residual=maps.get("residual.weight", residual),
    )


def _layer_norm(folder: str, subfolder: str, inside: str | None) -> LayerNorm:
    n = _module_config(folder, subfolder, inside).integer("dimension", 1, MAX_MODEL)
    values = _tensors(folder, subfolder, {"norm.weight": (n,), "norm.bias": (n,)}, inside)
    return LayerNorm(n, values["norm.weight"], values["norm.bias"])


def _tensors(
    folder: str, subfolder: str, shapes: dict[str, tuple[int, ...]], inside: str | None
) -> dict[str, np.ndarray]:
    """A module's own tensors as float32, flat, which must have these names and shapes."""
    values = {}
    with safetensors_file.open_folder(
        os.path.join(folder, subfolder), strict_paths=inside is not None
    ) as checkpoint:
        for name, shape in shapes.items():
            stored = checkpoint.tensors.get(name)
            if stored is None or stored.shape != shape or stored.format not in FLOATS:
                raise ModelFormatError(
                    f"{subfolder}: tensor {name} {list(shape)} is missing or another", code="tensor_shape"
                )
            values[name] = to_float32(checkpoint.read(name), stored.format)
    return values
