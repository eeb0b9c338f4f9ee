"""Frequencies of rotary position embeddings, as transformers computes them (modeling_rope_utils.py), in
float32.

A power is computed in double and rounded once, so it is the float32 nearest to the true value on every
machine; transformers' own power may be one unit in the last place away.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelUnsupportedError
from tuili.loading.config import MAX_POSITIONS, Config
from tuili.loading.files import shown

f32 = np.float32


def powers(theta: float, head_dim: int) -> NDArray[np.float32]:
    """theta ** (2i / head_dim) for i in [0, head_dim / 2)."""
    exponents = np.arange(0, head_dim, 2, dtype=f32) / f32(head_dim)
    return np.array([math.pow(float(f32(theta)), float(exponent)) for exponent in exponents], f32)


def inverse_frequencies(
    theta: float, head_dim: int, scaling: Config | None, max_positions: int, factors: str = "short"
) -> tuple[list[float], float]:
    """The rotation per position of each pair of coordinates, in radians, and the factor on cos and sin.

    theta     more than 1
    head_dim  how many coordinates turn
    factors   "short" or "long": which of longrope's
    scaling   the object `rope_scaling` or `rope_parameters` of config.json: type default, linear, dynamic,
              llama3, yarn or longrope; the frequencies of dynamic and longrope hold up to `position_limit`
    raises    ModelFormatError naming the key, ModelUnsupportedError (rope_type)
    """
    kind = rope_type(scaling)
    inverse = f32(1) / powers(theta, head_dim)
    scale = 1.0
    if scaling is not None and kind == "linear":
        inverse = inverse / f32(scaling.positive("factor"))
    elif scaling is not None and kind == "llama3":
        inverse = _llama3(inverse, scaling, max_positions)
    elif scaling is not None and kind == "yarn":
        inverse, scale = _yarn(theta, head_dim, scaling, max_positions)
    elif scaling is not None and kind in _LONGROPE:
        inverse, scale = _longrope(theta, head_dim, scaling, max_positions, f"{factors}_factor")
    elif kind not in ("default", "dynamic"):
        raise ModelUnsupportedError(
            f"rope type '{shown(kind)}'; supported: default, linear, dynamic, llama3, yarn, longrope",
            code="rope_type",
        )
    return [float(x) for x in inverse], scale


_LONGROPE = ("longrope", "su")


def position_limit(scaling: Config | None, max_positions: int) -> int:
    """How many positions the frequencies hold for.

    Those of longrope (Phi-3) depend on whether the whole text is longer than the original context: keys that
    are computed can then not be kept. So texts end there, unless all have its long factors. The same goes for
    dynamic scaling, which begins where max_position_embeddings ends.
    """
    if scaling is None or rope_type(scaling) not in _LONGROPE:
        return max_positions
    return min(max_positions, _original_context(scaling, max_positions))


def longrope_factors(scaling: Config | None, max_positions: int, max_model_len: int | None) -> str | None:
    """Which factors of longrope count, "short" or "long"; None for another scaling.

    The long ones, for texts of any length, where texts may be longer than the original context.
    """
    if scaling is None or rope_type(scaling) not in _LONGROPE:
        return None
    return "long" if (max_model_len or 0) > position_limit(scaling, max_positions) else "short"


def _original_context(scaling: Config, max_positions: int) -> int:
    return int(scaling.integer("original_max_position_embeddings", 1, MAX_POSITIONS, max_positions))


def _longrope(
    theta: float, head_dim: int, scaling: Config, max_positions: int, key: str
) -> tuple[NDArray[np.float32], float]:
    """LongRoPE (Ding et al. 2024): each frequency has a divisor of its own, within the original context or,
    by another key, for texts that are longer."""
    divisors = scaling.values.get(key)
    if (
        not isinstance(divisors, list)
        or len(divisors) != head_dim // 2
        or not all(type(x) in (int, float) and 1e-6 < x < 1e9 for x in divisors)
    ):
        raise scaling.wrong(key, f"{head_dim // 2} positive numbers")
    old_context = _original_context(scaling, max_positions)
    factor = scaling.positive("factor", None) or max_positions / old_context
    scale = scaling.positive("attention_factor", None)
    if scale is None:
        if factor > 1 and old_context == 1:
            raise scaling.wrong("original_max_position_embeddings", "2 or more")
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(old_context))
    return f32(1) / (np.array(divisors, f32) * powers(theta, head_dim)), float(scale)


def rope_type(scaling: Config | None) -> str:
    """ "default", or the type that `rope_type` or else its old spelling `type` gives."""
    if scaling is None:
        return "default"
    kind, old = scaling.text("rope_type", None), scaling.text("type", None)
    if kind is not None and old not in (None, kind):
        scaling.warn(
            f"rope_type, '{shown(kind)}', goes before type, '{shown(old)}', as in transformers 5, not 4"
        )
    return str(kind or old or "default")


def _llama3(inverse: NDArray[np.float32], scaling: Config, max_positions: int) -> NDArray[np.float32]:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, a ramp between."""
    factor = scaling.positive("factor")
    low, high = scaling.positive("low_freq_factor"), scaling.positive("high_freq_factor")
    if not low < high:
        raise scaling.wrong("high_freq_factor", f"more than low_freq_factor, which is {low}")
    old_context = _original_context(scaling, max_positions)
    # A scalar divided by a tensor is the scalar times the reciprocal in torch: two roundings, kept here.
    wavelength = f32(1) / inverse * f32(2 * math.pi)
    scaled = np.where(wavelength > f32(old_context / low), inverse / f32(factor), inverse)
    smooth = (f32(1) / wavelength * f32(old_context) - f32(low)) / f32(high - low)
    smoothed = (f32(1) - smooth) * scaled / f32(factor) + smooth * scaled
    between = ~(wavelength < f32(old_context / high)) & ~(wavelength > f32(old_context / low))
    return np.where(between, smoothed, scaled).astype(f32)


def _yarn(
    theta: float, head_dim: int, scaling: Config, max_positions: int
) -> tuple[NDArray[np.float32], float]:
    """YaRN (Peng et al. 2023): interpolate slow rotations, keep fast ones, sharpen attention by a factor."""
    old_context = scaling.integer("original_max_position_embeddings", 1, MAX_POSITIONS, max_positions)
    factor = scaling.positive("factor", max_positions / old_context)
    fast, slow = scaling.positive("beta_fast", 32.0), scaling.positive("beta_slow", 1.0)

    def dimension(n_rotations: float) -> float:
        return head_dim * math.log(old_context / (n_rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(fast), dimension(slow)
    if scaling.switch("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(head_dim // 2, dtype=f32) - f32(low)) / f32(high - low), 0, 1)
    kept = f32(1) - ramp
    power = powers(theta, head_dim)
    inverse = f32(1) / (f32(factor) * power) * (f32(1) - kept) + f32(1) / power * kept
    return inverse.astype(f32), _yarn_scale(factor, scaling)


def _yarn_scale(factor: float, scaling: Config) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    given = scaling.positive("attention_factor", None)
    if given is not None:
        return float(given)
    above = scaling.number("mscale", 0, 1e6, None)
    below = scaling.number("mscale_all_dim", 0, 1e6, None)
    return mscale(above) / mscale(below) if above and below else mscale(1.0)
