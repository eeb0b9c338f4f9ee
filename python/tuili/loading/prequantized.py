"""Checkpoints that others have quantized: which method config.json names, and its tensors as ours."""

from __future__ import annotations

from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading import group_quantized, mxfp4
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_INNER, Config, read_config
from tuili.loading.files import shown

_METHODS = ("gptq", "awq", "mxfp4")
_BITS = {"gptq": (2, 4, 8), "awq": (4,)}
# Where programs wrote these settings before config.json held them, and whose they are.
_OLD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
# How transformers makes floats of what it reads and we do not, for errors.
_DEQUANTIZED = {
    "bitsandbytes": "from_pretrained(…).dequantize()",
    "compressed-tensors": "from_pretrained(…, quantization_config=CompressedTensorsConfig(dequantize=True))",
    "fp8": "from_pretrained(…, quantization_config=FineGrainedFP8Config(dequantize=True))",
}
# Tensors by which such checkpoints scale activations, which nothing here does.
_SCALED = ".act.scales"


def replace_tensors(checkpoint: Checkpoint, config: Config, folder: str, inside: str | None) -> None:
    """Put weights into the place of the tensors that hold quantized ones; nothing if there are none.

    raises  ModelUnsupportedError (quantization_config) for other methods, bits and layouts;
            ModelFormatError (tensor_missing, tensor_shape, tensor_dtype, group_index)
    """
    settings, method = _settings(config, folder, inside)
    if settings is None:
        lone = next((name for name in checkpoint.tensors if name.endswith((".qweight", "_blocks"))), None)
        if lone is not None:
            raise ModelFormatError(
                f"{config.what}: tensor '{shown(lone)}' is quantized, but there is no quantization_config",
                code="quantization_config",
            )
        return
    if method not in _METHODS:
        by = _DEQUANTIZED.get(str(method))
        floats = f"; transformers makes floats of it: {by}, then save_pretrained" if by else ""
        raise _unsupported(settings, f"supported methods: {', '.join(_METHODS)}{floats}")
    if method == "mxfp4":
        mxfp4.replace_tensors(checkpoint, settings.what)
        return
    scaled = next((name for name in checkpoint.tensors if name.endswith(_SCALED)), None)
    if scaled is not None:
        raise _unsupported(settings, f"tensor '{shown(scaled)}' scales activations")
    bits = _integer(settings, ("bits", "w_bit"), None)
    if bits not in _BITS[method]:
        raise _unsupported(settings, f"supported bits: {', '.join(map(str, _BITS[method]))}")
    group_size = _integer(settings, ("group_size", "q_group_size"), 128)
    if group_size != -1 and not 1 <= group_size <= MAX_INNER:
        raise _unsupported(settings, f"a group has 1 to {MAX_INNER} inputs, or all of them: -1")
    layout = _awq(settings) if method == "awq" else _gptq(settings)
    packing = group_quantized.Packing(layout, bits)
    ordered = method == "awq" or not settings.values.get("desc_act")
    group_quantized.replace_weights(checkpoint, packing, group_size, settings.what, ordered=ordered)


def _settings(config: Config, folder: str, inside: str | None) -> tuple[Config | None, object]:
    """The settings and the method."""
    if config.values.get("quantization_config") is not None:
        value = config.values["quantization_config"]
        if not isinstance(value, dict):
            raise ModelUnsupportedError(
                f"{config.what}: quantization_config {shown(value)} is not supported",
                code="quantization_config",
            )
        return Config(value, f"{config.what}: quantization_config"), value.get("quant_method")
    for name, method in _OLD_FILES.items():
        found = read_config(folder, name, inside=inside)
        if found is not None:
            return found, found.values.get("quant_method", method)
    return None, None


def _unsupported(settings: Config, why: str) -> ModelUnsupportedError:
    return ModelUnsupportedError(
        f"{settings.what} {shown(settings.values, 256)} is not supported: {why}; or load the model's "
        "folder of floats with quantization='int8' or 'int4'",
        code="quantization_config",
    )


def _integer(settings: Config, keys: tuple[str, ...], usual: int | None) -> int:
    value = next((settings.values[key] for key in keys if settings.values.get(key) is not None), usual)
    if type(value) is not int:
        raise _unsupported(settings, f"{keys[0]} is {shown(value)}, not an integer")
    return value


def _gptq(settings: Config) -> group_quantized.Layout:
    for key in ("sym", "desc_act"):  # what they say is in the tensors, too
        if not isinstance(settings.values.get(key, False), bool):
            raise _unsupported(settings, f"{key} is {shown(settings.values[key])}, not true or false")
    layout = settings.values.get("checkpoint_format", settings.values.get("format", "gptq"))
    if layout not in ("gptq", "gptq_v2"):
        raise _unsupported(settings, f"checkpoint_format {shown(layout)}; supported: gptq, gptq_v2")
    if settings.values.get("pack_dtype", "int32") != "int32":
        raise _unsupported(settings, "pack_dtype int32 is supported")
    return "gptq" if layout == "gptq" else "gptq_v2"


def _awq(settings: Config) -> group_quantized.Layout:
    for key in ("version", "checkpoint_format", "format"):  # GPTQModel's files call it by the other two
        version = settings.values.get(key, "gemm")
        if not isinstance(version, str) or version.lower() != "gemm":
            raise _unsupported(settings, f"{key} {shown(version)}; supported: gemm")
    return "awq"
