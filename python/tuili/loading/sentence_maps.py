"""What maps sentence vectors behind pooling: sentence-transformers' Dense, LayerNorm and Normalize."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuili import _core

Rows = np.ndarray  # float32 [n, width]; what is made of a row does not depend on the others
_NORM_EPS = 1e-5  # torch's
_SELU_SCALE, _SELU_ALPHA = np.float32(1.0507009873554805), np.float32(1.6732632423543772)


@dataclass(frozen=True)
class Dense:
    """activation(x · weightᵀ + bias) of sentence vectors x [n, n_in].

    residual  is added: x itself, or its product with a matrix
    """

    n_in: int
    n_out: int
    activation: str
    weight: _core.PackedWeight
    bias: Rows | None
    residual: _core.PackedWeight | bool = False

    def __call__(self, x: Rows) -> Rows:
        x = np.ascontiguousarray(x)
        y = ACTIVATIONS[self.activation](_core.ops.gemm(x, self.weight, self.bias))
        if self.residual is False:
            return y
        return _core.ops.add(y, x if self.residual is True else _core.ops.gemm(x, self.residual))


@dataclass(frozen=True)
class LayerNorm:
    """The norm of sentence vectors [n, n_in], of its own gain and bias."""

    n_in: int
    gain: Rows
    bias: Rows

    @property
    def n_out(self) -> int:
        return self.n_in

    def __call__(self, x: Rows) -> Rows:
        return _core.ops.layer_norm(np.ascontiguousarray(x), self.gain, self.bias, _NORM_EPS)


class Normalize:
    """Vectors of length 1, where other maps follow."""

    n_in = n_out = None  # any

    def __call__(self, x: Rows) -> Rows:
        return _core.ops.l2_normalize(np.ascontiguousarray(x))


SentenceMap = Dense | LayerNorm | Normalize


# ---- activations, all from the core's own: a platform's exp and log may differ in the last bit


def _tanh(x: Rows) -> Rows:
    return _core.ops.softcap(np.ascontiguousarray(x, np.float32), 1.0)  # 1 · tanh(x / 1)


def _expm1(x: Rows) -> Rows:
    """exp(x) - 1 of x <= 0: 2 t / (1 - t) with t = tanh(x / 2)."""
    t = _tanh(np.minimum(x, 0) / 2)
    result: Rows = 2 * t / (1 - t)
    return result


def _softplus(x: Rows) -> Rows:
    """log(1 + exp(x)) = max(x, 0) + log(1 + u), u = exp(-|x|), which is 2 artanh(s) with s = u / (2 + u)."""
    u = 1 + _expm1(-np.abs(x))
    s = u / (2 + u)
    square, series = s * s, np.float32(0)
    for k in range(17, 0, -2):  # s <= 1/3
        series = series * square + np.float32(1 / k)
    result: Rows = np.maximum(x, 0) + 2 * s * series
    return result


def _elu(x: Rows) -> Rows:
    return np.where(x > 0, x, _expm1(x))


def _hard_sigmoid(x: Rows) -> Rows:
    result: Rows = np.clip(x + 3, 0, 6) / 6
    return result


# torch.nn's name -> what it does with the settings it has by itself
ACTIVATIONS: dict[str, Callable[[Rows], Rows]] = {
    "Identity": lambda x: x,
    "Tanh": _tanh,
    "ReLU": lambda x: _core.ops.activate(x, None, "relu"),
    "GELU": lambda x: _core.ops.activate(x, None, "gelu"),
    "SiLU": lambda x: _core.ops.activate(x, None, "silu"),
    "Sigmoid": lambda x: (1 + _tanh(x / 2)) / 2,
    "ELU": _elu,
    "CELU": _elu,
    "SELU": lambda x: _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * _expm1(x)),
    "Softplus": _softplus,
    "LogSigmoid": lambda x: -_softplus(-x),
    "Mish": lambda x: x * _tanh(_softplus(x)),
    "LeakyReLU": lambda x: np.where(x > 0, x, np.float32(0.01) * x),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Hardtanh": lambda x: np.clip(x, -1, 1),
    "Hardsigmoid": _hard_sigmoid,
    "Hardswish": lambda x: x * _hard_sigmoid(x),
    "Tanhshrink": lambda x: x - _tanh(x),
    "Softshrink": lambda x: x - np.clip(x, np.float32(-0.5), np.float32(0.5)),
    "Hardshrink": lambda x: np.where(np.abs(x) <= np.float32(0.5), np.float32(0), x),
}


def torch_activation(path: str) -> str | None:
    """Which of ACTIVATIONS a class of torch's is, by its full name; None for any other."""
    package, _, name = path.rpartition(".")
    known = re.fullmatch(r"torch\.nn(\.modules(\.[a-z]+)?)?", package) and name in ACTIVATIONS
    return name if known else None
