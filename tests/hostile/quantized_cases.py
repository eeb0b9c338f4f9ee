"""Row CF-07: settings of quantized checkpoints, and their tensors, that do not fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuili.errors import ModelFormatError, ModelUnsupportedError

from .cases import CONFIG, Case, Json, Write, folder, llama_shapes, st_file, st_header

F, U = ModelFormatError, ModelUnsupportedError
STEM = "model.layers.0.mlp.up_proj"
GPTQ: Json = {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": True, "desc_act": False}
AWQ: Json = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}
MXFP4: Json = {"quant_method": "mxfp4"}

_SIZES = {"F32": 4, "I32": 4, "F16": 2, "U8": 1, "I64": 8, "I16": 2}
Parts = dict[str, tuple[str, list[int]]]  # dtype and shape by name
_GPTQ_PARTS: Parts = {
    f"{STEM}.qweight": ("I32", [4, 32]),
    f"{STEM}.qzeros": ("I32", [2, 4]),
    f"{STEM}.scales": ("F16", [2, 32]),
    f"{STEM}.g_idx": ("I32", [32]),
}
_AWQ_PARTS: Parts = {
    f"{STEM}.qweight": ("I32", [32, 4]),
    f"{STEM}.qzeros": ("I32", [2, 4]),
    f"{STEM}.scales": ("F16", [2, 32]),
}
_MXFP4_PARTS: Parts = {"x_blocks": ("U8", [4, 32, 2, 16]), "x_scales": ("U8", [4, 32, 2])}


def model(settings: Any, parts: Parts, byte: int = 0, whole: str = f"{STEM}.weight", **changes: Any) -> Write:
    """CONFIG's model with these settings and tensors of `byte` in the place of the tensor `whole`.

    changes  of the tensors, by the end of their name; None takes one away
    """
    header = st_header({name: shape for name, shape in llama_shapes().items() if name != whole})
    at = begin = max(entry["data_offsets"][1] for entry in header.values())
    for name, (dtype, shape) in parts.items():
        changed = changes.get(name.rsplit(".", 1)[-1], (dtype, shape))
        if changed is None:
            continue
        dtype, shape = changed
        size = _SIZES[dtype]
        for dim in shape:
            size *= dim
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    content = st_file(header, 0) + bytes(begin) + bytes([byte]) * (at - begin)
    config = CONFIG if settings is None else CONFIG | {"quantization_config": settings}
    return folder(content, config)


def settings() -> Iterator[Case]:
    wrong: dict[str, list[Any]] = {
        "quant_method": ["bitsandbytes", "", 4, ["gptq"], None],
        "bits": [0, 3, 16, "4", None, 4.0, True],
        "group_size": [0, -2, 1 << 40, 1.5, "16"],
        "sym": ["yes", 1],
        "desc_act": [1],
        "checkpoint_format": ["marlin", 2],
        "format": ["gemm"],
        "pack_dtype": ["int8"],
    }
    for key, values in wrong.items():
        for value in values:
            write = model(GPTQ | {key: value}, _GPTQ_PARTS)
            yield Case("CF-07", f"gptq {key} {value!r}", write, U, "quantization_config")
    write = model(AWQ | {"bits": 8}, _AWQ_PARTS)
    yield Case("CF-07", "awq of 8 bits", write, U, "quantization_config")
    for key, value in (
        ("version", "gemv"),
        ("version", 1),
        ("checkpoint_format", "gemv"),
        ("format", "marlin"),
    ):
        write = model(AWQ | {key: value}, _AWQ_PARTS)
        yield Case("CF-07", f"awq {key} {value}", write, U, "quantization_config")
    yield Case("CF-07", "awq scales activations",
               model(AWQ, _AWQ_PARTS | {"model.layers.0.mlp.act.scales": ("F16", [32])}),
               U, "quantization_config")  # fmt: skip
    for name, parts in (("gptq", _GPTQ_PARTS), ("mxfp4", _MXFP4_PARTS)):
        yield Case("CF-07", f"{name} without settings", model(None, parts), F, "quantization_config")
    for found in (GPTQ, AWQ, MXFP4):
        name = found["quant_method"]
        yield Case("CF-07", f"{name} without tensors", model(found, {}, whole=""), F, "tensor_missing")
    for value in (True, [], 1.5):
        yield Case("CF-07", f"settings {value}", model(value, _GPTQ_PARTS), U, "quantization_config")


def tensors() -> Iterator[Case]:
    def gptq(name: str, error: Any, code: str, byte: int = 0, **changes: Any) -> Case:
        return Case("CF-07", f"gptq {name}", model(GPTQ, _GPTQ_PARTS, byte, **changes), error, code)

    shape, dtype, missing = "tensor_shape", "tensor_dtype", "tensor_missing"
    yield gptq("as it should be", None, "")
    yield gptq("without its index", None, "", g_idx=None)
    for part in ("qweight", "qzeros", "scales"):
        yield gptq(f"without {part}", F, missing, **{part: None})
    yield gptq("of one dimension", F, shape, qweight=("I32", [128]))
    yield gptq("of no input", F, shape, qweight=("I32", [0, 32]))
    none = _GPTQ_PARTS | {f"{STEM}.qweight": ("I32", [1 << 24, 0]), f"{STEM}.qzeros": ("I32", [1, 0])}
    yield Case("CF-07", "gptq of no output",
               model(GPTQ | {"group_size": -1}, none | {f"{STEM}.scales": ("F16", [1, 0])}, g_idx=None),
               F, shape)  # fmt: skip
    ordered = GPTQ | {"desc_act": True}
    yield Case("CF-07", "gptq without the index that it needs",
               model(ordered, _GPTQ_PARTS, g_idx=None), F, missing)  # fmt: skip
    yield gptq("of 30 outputs", F, shape, qweight=("I32", [4, 30]))
    yield gptq("of 64 inputs", F, shape, qweight=("I32", [8, 32]))
    yield gptq("of 64 outputs", F, shape, qweight=("I32", [4, 64]))
    yield gptq("of longer words", F, dtype, qweight=("I64", [4, 32]))
    yield gptq("of one group's zeros", F, shape, qzeros=("I32", [1, 4]))
    yield gptq("of three groups' scales", F, shape, scales=("F16", [3, 32]))
    yield gptq("of whole scales", F, dtype, scales=("I16", [2, 32]))
    yield gptq("of a short index", F, shape, g_idx=("I32", [16]))
    yield gptq("of groups above", F, "group_index", byte=1)
    yield gptq("of groups below", F, "group_index", byte=255)
    both = model(GPTQ, _GPTQ_PARTS, whole="")
    yield Case("CF-07", "gptq beside floats", both, F, "tensor_duplicate")
    lone = model(GPTQ, _GPTQ_PARTS | {"x.scales": ("F16", [2, 32])})
    yield Case("CF-07", "gptq with lone scales", lone, F, missing)
    other = _GPTQ_PARTS | {f"{STEM}.qweight": ("I32", [4, 64]), f"{STEM}.qzeros": ("I32", [2, 8])}
    yield Case("CF-07", "gptq wider than the model",
               model(GPTQ, other | {f"{STEM}.scales": ("F16", [2, 64])}), F, shape)  # fmt: skip
    yield Case("CF-07", "awq as it should be", model(AWQ, _AWQ_PARTS), None)
    yield Case("CF-07", "awq packed as gptq", model(AWQ, _GPTQ_PARTS), F, shape)

    def mxfp4(name: str, code: str, **changes: Any) -> Case:
        return Case("CF-07", f"mxfp4 {name}", model(MXFP4, _MXFP4_PARTS, whole="", **changes), F, code)

    yield mxfp4("without scales", missing, x_scales=None)
    yield mxfp4("of fewer scales", shape, x_scales=("U8", [4, 32, 1]))
    yield mxfp4("of half blocks", shape, x_blocks=("U8", [4, 32, 2, 8]))
    yield mxfp4("of two dimensions", shape, x_blocks=("U8", [2, 16]), x_scales=("U8", [2]))
    yield mxfp4("of no block", shape, x_blocks=("U8", [0, 2, 16]), x_scales=("U8", [0, 2]))
    yield mxfp4("of integers", dtype, x_blocks=("I32", [4, 32, 2, 16]))


CASES = [case for group in (settings, tensors) for case in group()]
