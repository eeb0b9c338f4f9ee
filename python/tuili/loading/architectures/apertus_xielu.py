"""The numbers of Apertus's activation (Huang & Schlag 2025), which each layer has learned."""

from __future__ import annotations

import numpy as np

from tuili._core import Xielu
from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.architectures import sizes
from tuili.loading.checkpoint import FLOATS, Checkpoint
from tuili.loading.config import Config
from tuili.loading.weights import to_float32

PARTS = ("alpha_p", "alpha_n", "beta")


def is_learned(config: Config) -> bool:
    """Whether the file asks for it, as it does where it is silent."""
    return config.values.get("hidden_act") in (None, "xielu")


def derive(checkpoint: Checkpoint, config: Config) -> None:
    """They lie among the tensors, and become a setting."""
    if is_learned(config):
        layers = range(sizes(config).n_layers)
        for i in layers:
            _check_eps(checkpoint, i)
        found = [[_number(checkpoint, i, part) for part in PARTS] for i in layers]
        config.update(xielu=found)


def _check_eps(checkpoint: Checkpoint, layer: int) -> None:
    """transformers computes e^x - 1 of min(x, eps): of x for an eps near 0, as all files have it."""
    name = f"layers.{layer}.mlp.act_fn.eps"
    if name in checkpoint.tensors or f"model.{name}" in checkpoint.tensors:
        checked_eps(_number(checkpoint, layer, "eps"), f"tensor 'model.{name}'")


def _number(checkpoint: Checkpoint, layer: int, part: str) -> float:
    name = f"layers.{layer}.mlp.act_fn.{part}"
    stored = checkpoint.tensors.get(f"model.{name}") or checkpoint.tensors.get(name)
    if stored is None:
        raise ModelFormatError(f"tensor 'model.{name}' is missing", code="tensor_missing")
    if stored.format not in FLOATS or stored.shape not in ((), (1,)):
        raise ModelFormatError(
            f"tensor '{stored.name}' must be one number, f32, f16 or bf16, not {stored.format} "
            f"{list(stored.shape)}",
            code="tensor_shape",
        )
    with checkpoint:
        value = float(to_float32(checkpoint.read(stored.name), stored.format)[0])
    return checked_factor(value, f"tensor '{stored.name}'")


def checked_factor(value: float, where: str) -> float:
    """raises  ModelFormatError (config_value)"""
    if not abs(value) < 1e4:  # nor is it not a number
        raise ModelFormatError(f"{where} holds {value}, not a factor", code="config_value")
    return value


def checked_eps(eps: float, where: str) -> None:
    """raises  ModelUnsupportedError (config_unsupported), for what transformers computes otherwise"""
    if not -1e-5 < eps <= 0:
        raise ModelUnsupportedError(f"{where} holds {eps}, not -1e-6", code="config_unsupported")


def xielu(config: Config, layer: int) -> Xielu:
    """Files hold what softplus makes positive; below zero beta is added. Without files: as it begins."""
    if "xielu" not in config:
        return Xielu(alpha_p=0.8, alpha_n=0.8, beta=0.5)
    alpha_p, alpha_n, beta = config.values["xielu"][layer]
    above, below = (float(np.logaddexp(0.0, value)) for value in (alpha_p, alpha_n))
    return Xielu(alpha_p=above, alpha_n=beta + below, beta=beta)
