"""Folders of GPTQ, AWQ and MXFP4 checkpoints of tiny models, with the same models in float32 beside them.

The layouts are written here as AutoGPTQ, AutoAWQ and gpt-oss write them: code by code, in plain loops.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from architecture_files import stored_tensors
from architecture_table import CASES, Case
from tiny_files import build_tokenizer
from tiny_models import TinyModel
from tuili.loading.config import Config
from tuili.loading.registry import hf_architecture

Tensors = dict[str, np.ndarray]
LINEAR = re.compile(r"(.*(?:_proj|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj|lm_head))\.weight")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclasses.dataclass(frozen=True)
class Quantized:
    """How a matrix is stored: whose layout, inputs of a group, whether every zero is 8, whether inputs are
    in the groups in another order, and the types that the scales are rounded to, of which the last is
    stored, and the bits of a code."""

    method: str = "gptq"
    group_size: int = 32
    sym: bool = True
    desc_act: bool = False
    scales: tuple[Any, ...] = (np.float16,)
    bits: int = 4

    def config(self) -> dict[str, Any]:
        """quantization_config of config.json."""
        common = {"bits": self.bits, "group_size": self.group_size}
        if self.method == "awq":
            return common | {"quant_method": "awq", "version": "gemm", "zero_point": True}
        return common | {
            "quant_method": "gptq",
            "checkpoint_format": self.method,
            "sym": self.sym,
            "desc_act": self.desc_act,
        }


def packed(codes: np.ndarray, axis: int, bits: int = 4, order: Sequence[int] | None = None) -> np.ndarray:
    """As many codes along `axis` as an int32 holds, the one that `order` names first in the lowest bits."""
    codes, n = np.moveaxis(codes, axis, -1).astype(np.uint32), 32 // bits
    words = np.zeros((*codes.shape[:-1], codes.shape[-1] // n), np.uint32)
    for word in range(words.shape[-1]):
        for place, i in enumerate(order or range(n)):
            words[..., word] |= codes[..., word * n + i] << np.uint32(bits * place)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def quantized(stem: str, n_out: int, n_in: int, how: Quantized) -> tuple[Tensors, np.ndarray]:
    """Random tensors of a quantized matrix, and its values [n_out, n_in]."""
    rng = np.random.default_rng(zlib.crc32(stem.encode()))
    group = n_in if how.group_size == -1 else how.group_size
    n_groups = -(-n_in // group)
    n_values, size = 1 << how.bits, (n_groups, n_out)
    codes = rng.integers(0, n_values, (n_in, n_out))
    zeros = np.full(size, n_values // 2) if how.sym else rng.integers(0, n_values, size)
    scales = rng.uniform(0.5, 1.5, (n_groups, n_out)) / np.sqrt(n_values**2 / 12 * n_in)
    for rounded in how.scales:
        scales = scales.astype(rounded)
    index = np.arange(n_in, dtype=np.int32) // np.int32(group)
    if how.desc_act:
        index = rng.permutation(index)
    values = scales.astype(np.float64)[index] * (codes - zeros[index])
    if how.method == "awq":
        tensors = {name: packed(x, 1, 4, AWQ_ORDER) for name, x in (("qweight", codes), ("qzeros", zeros))}
    else:
        stored = (zeros - 1) % n_values if how.method == "gptq" else zeros
        tensors = {
            "qweight": packed(codes, 0, how.bits),
            "qzeros": packed(stored, 1, how.bits),
            "g_idx": index,
        }
    tensors["scales"] = scales
    return {f"{stem}.{name}": x for name, x in tensors.items()}, values.T.astype(np.float32)


def case_of(architecture: str, **settings: Any) -> Case:
    """The first case of an architecture, with these settings besides."""
    case = next(case for case in CASES if case.architecture == architecture)
    return dataclasses.replace(case, config=case.config | settings)


def tensors_of(case: Case) -> Tensors:
    """A case's tensors as a folder of floats holds them."""
    config = Config(dict(case.config), "config.json")
    _, module = hf_architecture(config)
    return stored_tensors(case, config, module)


def write_folder(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    """A Hugging Face folder."""
    folder.mkdir(parents=True)
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = build_tokenizer(TinyModel("", {"model_type": "llama"}, {}, {}))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_pair(case: Case, how: Quantized, folder: Path, *, conv1d: bool = False) -> tuple[Path, Path]:
    """The model with its linear maps quantized, and the same in float32.

    conv1d  the floats lie [n_in, n_out], as GPT-2 has them; quantized ones never do
    """
    stored: Tensors = {}
    floats: Tensors = {}
    for name, x in tensors_of(case).items():
        linear = LINEAR.fullmatch(name)
        if linear is None or x.shape[0] % 8 or x.shape[1] % 8:
            stored[name] = floats[name] = x
            continue
        turned = conv1d and "c_" in name
        n_out, n_in = x.shape[::-1] if turned else x.shape
        parts, values = quantized(linear[1], n_out, n_in, how)
        stored |= parts
        floats[name] = values.T if turned else values
    config = case.config | {"quantization_config": how.config()}
    return write_folder(folder / "quantized", config, stored), write_folder(
        folder / "floats", case.config, floats
    )


# ---- MXFP4

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def mxfp4(name: str, shape: tuple[int, ...]) -> tuple[Tensors, np.ndarray]:
    """Random blocks and scales, and their values in `shape`, [..., n_out, n_in]."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    nibbles = rng.integers(0, 16, shape, dtype=np.uint8)
    scales = rng.integers(121, 125, (*shape[:-1], shape[-1] // 32), dtype=np.uint8)
    pairs = nibbles.reshape(*shape[:-1], -1, 16, 2)
    values = E2M1[nibbles] * np.repeat(2.0 ** (scales.astype(np.int32) - 127.0), 32, axis=-1)
    tensors = {f"{name}_blocks": pairs[..., 0] | pairs[..., 1] << 4, f"{name}_scales": scales}
    return tensors, values.astype(np.float32)


def write_gpt_oss(folder: Path) -> tuple[Path, Path]:
    """GPT-OSS with MXFP4 experts, and the same in float32, where experts lie [n_in, n_out]."""
    case = case_of("GptOssForCausalLM")
    stored: Tensors = {}
    floats: Tensors = {}
    for name, x in tensors_of(case).items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stored[name] = floats[name] = x
            continue
        n_experts, n_in, n_out = x.shape
        parts, values = mxfp4(name, (n_experts, n_out, n_in))
        stored |= parts
        floats[name] = values.swapaxes(1, 2)
    config = case.config | {"quantization_config": {"quant_method": "mxfp4"}}
    return write_folder(folder / "quantized", config, stored), write_folder(
        folder / "floats", case.config, floats
    )
