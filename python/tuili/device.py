"""Where a model runs."""

from __future__ import annotations

import re

from tuili import _core
from tuili.checks import invalid
from tuili.errors import InvalidParameterError
from tuili.loading.files import shown


def checked_device(device: object, compute: object) -> _core.Device:
    """ "cpu", "cuda" or "cuda:N"; InvalidParameterError for anything else, for a device that does not answer,
    and as `check_compute`."""
    if not isinstance(device, str) or not re.fullmatch("cpu|cuda(:(0|[1-9][0-9]{0,3}))?", device):
        invalid("device", f'must be "cpu", "cuda" (the first CUDA device) or "cuda:N", not {shown(device)}')
    if device != "cpu":
        _check_answers(device)
    check_compute(compute, device)
    return device


def _check_answers(device: _core.Device) -> None:
    if _core.build_info()["cuda"] == "none":
        raise InvalidParameterError(
            'device: this build of tuili has no CUDA; use device="cpu", or build with -DTUILI_CUDA=ON',
            param="device",
            code="no_cuda",
        )
    n_devices = _core.device_count()
    if n_devices == 0:
        raise InvalidParameterError(
            "device: no CUDA device answers (is there a driver, and a GPU that this process may use?); "
            'device="cpu" works without one',
            param="device",
            code="no_device",
        )
    _, _, ordinal = device.partition(":")
    if int(ordinal or 0) >= n_devices:
        raise InvalidParameterError(
            f'device: there is no "{device}"; the CUDA devices that answer are {n_devices}, from "cuda:0" on',
            param="device",
            code="no_device",
        )


def check_compute(compute: object, device: _core.Device) -> None:
    """InvalidParameterError for another than "auto" on cuda, where every product is one of bfloat16."""
    if device != "cpu" and compute in ("int8", "float32"):
        raise InvalidParameterError(
            f'compute: "{compute}" needs device="cpu"; on cuda products are of bfloat16',
            param="compute",
            code="not_supported_yet",
        )


def named(device: _core.Device) -> str:
    """Where bits are made; equal names promise equal bits: "cpu", or "cuda" and what the device is called."""
    return device if device == "cpu" else f"cuda: {_core.device_name(device)}"


def placed(model: _core.Model, device: _core.Device, num_threads: int) -> _core.Model:
    """The model where it will run: itself, or its copy in device memory."""
    return model if device == "cpu" else model.upload(device, num_threads=num_threads)
