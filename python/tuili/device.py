"""Where a model runs."""

from __future__ import annotations

from typing import cast

from tuili import _core
from tuili.errors import InvalidParameterError


def checked_device(device: object, compute: object) -> _core.Device:
    """ "cpu" or "cuda"; InvalidParameterError for anything else, for "cuda" where no device answers, and as
    `check_compute`."""
    if not isinstance(device, str) or device not in ("cpu", "cuda"):
        raise InvalidParameterError(
            'device must be "cpu" or "cuda"; CUDA_VISIBLE_DEVICES chooses among several devices',
            param="device",
        )
    if device == "cuda" and _core.build_info()["cuda"] == "none":
        raise InvalidParameterError(
            'device: this build of tuili has no CUDA; use device="cpu", or build with -DTUILI_CUDA=ON',
            param="device",
            code="no_cuda",
        )
    if device == "cuda" and _core.device_memory() is None:
        raise InvalidParameterError(
            "device: no CUDA device answers (is there a driver, and a GPU that this process may use?); "
            'device="cpu" works without one',
            param="device",
            code="no_device",
        )
    chosen = cast("_core.Device", device)
    check_compute(compute, chosen)
    return chosen


def check_compute(compute: object, device: _core.Device) -> None:
    """InvalidParameterError for another than "auto" on cuda, where every product is one of bfloat16."""
    if device == "cuda" and compute in ("int8", "float32"):
        raise InvalidParameterError(
            f'compute: "{compute}" needs device="cpu"; on cuda products are of bfloat16',
            param="compute",
            code="not_supported_yet",
        )


def named(device: _core.Device) -> str:
    """Where bits are made: equal names promise equal bits. "cpu", or "cuda" and what the device is called."""
    return device if device == "cpu" else f"cuda: {_core.device_name()}"


def placed(model: _core.Model, device: _core.Device, num_threads: int) -> _core.Model:
    """The model where it will run: itself, or its copy in device memory."""
    return model if device == "cpu" else model.upload(num_threads=num_threads)
