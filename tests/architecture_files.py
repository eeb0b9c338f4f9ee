"""Tiny random checkpoints of every architecture, in Hugging Face's names, from numbers alone.

A tensor's values depend on its name only. Shapes and names come from the architecture's own file, turned
round: transformers, which reads the same folder for the goldens, finds out whether they are right.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from architecture_table import N_VOCAB, Case
from tiny_files import _write_safetensors, build_tokenizer
from tiny_models import TinyModel, Weight
from tuili._core import ModelBuilder
from tuili.loading.config import Config
from tuili.loading.layout import Parts, constant
from tuili.loading.registry import hf_architecture

N_TOKENS = 24
Arrays = dict[str, np.ndarray]


def token_ids() -> list[int]:
    """The text that every case is asked about."""
    return np.random.Generator(np.random.Philox(7)).integers(0, N_VOCAB, N_TOKENS).tolist()


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that let every part of a model matter: gains near 1, other vectors near 0, matrices that keep
    a vector's length."""
    rng = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    own = name.removeprefix("roberta_prelayernorm.")
    is_norm = re.search(r"norm|ln_|layernorm", own) is not None
    if is_norm and not name.endswith("bias"):
        return rng.uniform(0.75, 1.25, shape).astype(np.float32)
    if len(shape) == 1:
        return rng.uniform(-0.3, 0.3, shape).astype(np.float32)
    return (rng.standard_normal(shape) / np.sqrt(min(shape[-2:]))).astype(np.float32)


def stored_tensors(case: Case, config: Config, module: ModuleType) -> dict[str, np.ndarray]:
    """Every tensor of the checkpoint by its stored name."""
    learned = _learned(case, config)
    expected = {name: tuple(shape) for name, shape in ModelBuilder(module.spec(config)).expected()}
    missing = {name for name in expected if constant(name, module, config) is None}
    tensors = {}
    names = module.tensor_names(config) if hasattr(module, "tensor_names") else module.TENSOR_NAMES
    for pattern, ours in names.items():
        parts = Parts((ours,)) if isinstance(ours, str) else ours
        for theirs, filled in _filled(pattern, parts, config.values["num_hidden_layers"], expected):
            held = _held(filled, expected)
            if re.search(case.leave_out, theirs) or not set(held) <= missing:
                continue
            tensors[theirs] = values(theirs, _stored_shape(filled, expected))
            missing -= set(held)
    assert not missing, f"{case.name}: no name for {sorted(missing)}"
    return tensors | learned


def _learned(case: Case, config: Config) -> Arrays:
    """The numbers of Apertus's activation, of which a spec is made."""
    if case.architecture != "ApertusForCausalLM" or case.config.get("hidden_act", "xielu") != "xielu":
        return {}
    found: Arrays = {}
    for i in range(config.values["num_hidden_layers"]):
        at = f"model.layers.{i}.mlp.act_fn"
        found |= {f"{at}.{part}": values(f"{at}.{part}", (1,)) for part in ("alpha_p", "alpha_n")}
        found |= {f"{at}.beta": np.float32(0.5).reshape(()), f"{at}.eps": np.float32(-1e-6).reshape(())}
    numbers = [float(x.reshape(-1)[0]) for name, x in found.items() if not name.endswith("eps")]
    config.values = {**config.values, "xielu": np.reshape(numbers, (-1, 3)).tolist()}
    return found


def _filled(
    pattern: str, parts: Parts, n_layers: int, expected: Mapping[str, Any]
) -> Iterator[tuple[str, Parts]]:
    """A name of the table with numbers in the place of its marks."""
    for i in range(n_layers) if "{i}" in pattern else [0]:
        for e in range(1024) if "{e}" in pattern else [0]:
            filled = parts._replace(
                names=tuple(
                    name.replace("{i}", str(i))
                    if "{e}" not in pattern
                    else name.replace("{i}", str(i)).replace("{e}", str(e))
                    for name in parts.names
                )
            )
            if not _held(filled, expected):
                break
            yield pattern.replace("{i}", str(i)).replace("{e}", str(e)), filled


def _held(parts: Parts, expected: Mapping[str, Any]) -> list[str]:
    """Our tensors in a stored one, none if one of them is not expected."""
    names = [
        name.replace("{e}", str(e))
        for e in range(1024 if parts.stacked or parts.repeated else 1)
        for name in parts.names
        if e == 0 or name.replace("{e}", str(e)) in expected
    ]
    return names if all(name in expected for name in names) else []


def _stored_shape(parts: Parts, expected: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    shapes = [expected[name.replace("{e}", "0")] for name in parts.names]
    shape = (sum(part[0] for part in shapes), *shapes[0][1:])
    if parts.transposed:
        shape = shape[::-1]
    if parts.row:
        shape = (1, *shape)
    return (len(_held(parts, expected)) // len(shapes), *shape) if parts.stacked else shape


def write(case: Case, folder: Path, change: Callable[[Arrays], Arrays] = dict) -> Path:
    """A Hugging Face folder of the case.

    change  what becomes of its tensors
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = Config(dict(case.config), "config.json")
    _, module = hf_architecture(config)
    tensors = {
        name: Weight("f32", x.shape, x.reshape(x.shape[0] if x.ndim else 1, -1).view(np.uint8))
        for name, x in change(stored_tensors(case, config, module)).items()
    }
    _write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(case.config | {"dtype": "float32"}), encoding="utf-8")
    tokenizer = build_tokenizer(TinyModel("", {"model_type": "llama"}, {}, {}))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
