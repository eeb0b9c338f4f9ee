"""The weight formats and the integer GEMM in plain numpy: what every quantized byte means.

A format stores a row of k weights in blocks. `decode` takes the blocks apart into one common shape, `Codes`,
in which every GGUF type reads the same way; `dequantize` and `integer_gemm` are then written once. Written
from the block layouts of GGUF (the structs of ggml-common.h); tests compare with the `gguf` package's reader.
"""

from __future__ import annotations

import dataclasses

import numpy as np

GROUP = 32  # values of k that share one activation scale (csrc/base/packed.h)

# format -> (weights per block, bytes per block)
BLOCKS = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q8_0": (32, 34),
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
}
FLOAT_FORMATS = ("f32", "f16", "bf16")
QUANTIZED_FORMATS = tuple(name for name in BLOCKS if name not in FLOAT_FORMATS)


@dataclasses.dataclass
class Codes:
    """A quantized matrix, taken apart: weight[i, j] = scale · sub_scale · code - min · sub_min of j's group.

    code       int32 [n, k]; signed where the format is symmetric
    scale      float32 [n, k / 32], from the block's float16
    sub_scale  int32 [n, k / 16]; 1 where the format has none
    min        float32 [n, k / 32]; 0 where the format has none (Q4_1's and Q5_1's m, negated)
    sub_min    int32 [n, k / 32]; 1 where the format has none
    """

    code: np.ndarray
    scale: np.ndarray
    sub_scale: np.ndarray
    min: np.ndarray
    sub_min: np.ndarray


def row_bytes(format: str, k: int) -> int:
    """Bytes of one row of `k` weights; k must be a multiple of the block."""
    weights, size = BLOCKS[format]
    assert k % weights == 0, f"{format}: k = {k} is not a multiple of {weights}"
    return k // weights * size


def _halves(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 at byte `at` of each block, as float32 [n, n_blocks]."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0].astype(np.float32)


def _nibbles(bytes_: np.ndarray) -> np.ndarray:
    """Low nibbles, then high nibbles, along the last axis."""
    return np.concatenate([bytes_ & 15, bytes_ >> 4], axis=-1).astype(np.int32)


def _simple(blocks: np.ndarray, code: np.ndarray, scale: np.ndarray, min_: np.ndarray | None) -> Codes:
    n, n_blocks = blocks.shape[:2]
    ones = np.ones((n, n_blocks), np.int32)
    return Codes(
        code.reshape(n, -1),
        scale,
        np.ones((n, 2 * n_blocks), np.int32),
        np.zeros_like(scale) if min_ is None else -min_,
        ones,
    )


def _decode_q8_0(blocks: np.ndarray) -> Codes:
    return _simple(blocks, blocks[..., 2:].view(np.int8).astype(np.int32), _halves(blocks, 0), None)


def _decode_q4_0(blocks: np.ndarray) -> Codes:
    return _simple(blocks, _nibbles(blocks[..., 2:]) - 8, _halves(blocks, 0), None)


def _decode_q4_1(blocks: np.ndarray) -> Codes:
    return _simple(blocks, _nibbles(blocks[..., 4:]), _halves(blocks, 0), _halves(blocks, 2))


def _fifth_bits(bytes_: np.ndarray) -> np.ndarray:
    """Bit j of the little-endian word is worth 16 in code j."""
    return np.unpackbits(bytes_, axis=-1, bitorder="little").astype(np.int32) << 4


def _decode_q5_0(blocks: np.ndarray) -> Codes:
    code = _nibbles(blocks[..., 6:]) + _fifth_bits(np.ascontiguousarray(blocks[..., 2:6])) - 16
    return _simple(blocks, code, _halves(blocks, 0), None)


def _decode_q5_1(blocks: np.ndarray) -> Codes:
    code = _nibbles(blocks[..., 8:]) + _fifth_bits(np.ascontiguousarray(blocks[..., 4:8]))
    return _simple(blocks, code, _halves(blocks, 0), _halves(blocks, 2))


def _six_bit_pairs(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 8 (scale, min) pairs of 6 bits in a K block's 12 bytes: int32 [..., 8] each."""
    a, b, c = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scale = np.concatenate([a & 63, (c & 15) | ((a >> 6) << 4)], axis=-1)
    min_ = np.concatenate([b & 63, (c >> 4) | ((b >> 6) << 4)], axis=-1)
    return scale.astype(np.int32), min_.astype(np.int32)


def _k_block(blocks: np.ndarray, code: np.ndarray) -> Codes:
    """Q4_K and Q5_K: 8 groups of 32 with a 6-bit scale and min under one float16 pair."""
    n = blocks.shape[0]
    scale, min_ = _six_bit_pairs(blocks[..., 4:16])
    return Codes(
        code.reshape(n, -1),
        np.repeat(_halves(blocks, 0), 8, axis=1),
        np.repeat(scale.reshape(n, -1), 2, axis=1),
        np.repeat(_halves(blocks, 2), 8, axis=1),
        min_.reshape(n, -1),
    )


def _decode_q4_k(blocks: np.ndarray) -> Codes:
    quads = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)  # 32 bytes hold 64 weights: low nibbles first
    return _k_block(blocks, _nibbles(quads))


def _decode_q5_k(blocks: np.ndarray) -> Codes:
    low = _nibbles(blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32)).reshape(*blocks.shape[:2], 8, 32)
    shifts = np.arange(8)[:, None]  # bit g of byte l is the fifth bit of weight l in group g
    fifth = (blocks[..., None, 16:48].astype(np.int32) >> shifts) & 1
    return _k_block(blocks, low + (fifth << 4))


def _decode_q6_k(blocks: np.ndarray) -> Codes:
    n, n_blocks = blocks.shape[:2]
    # Each half of 128 weights: 64 bytes of nibbles (low nibbles first) and 32 bytes, of whose byte l the bits
    # 2i and 2i + 1 belong to weight 32i + l.
    low = _nibbles(blocks[..., :128].reshape(n, n_blocks, 2, 64)).reshape(n, n_blocks, 2, 4, 32)
    shifts = 2 * np.arange(4)[:, None]
    high = (blocks[..., 128:192].reshape(n, n_blocks, 2, 1, 32).astype(np.int32) >> shifts) & 3
    zeros = np.zeros((n, 8 * n_blocks), np.float32)
    return Codes(
        (low + (high << 4) - 32).reshape(n, -1),
        np.repeat(_halves(blocks, 208), 8, axis=1),
        blocks[..., 192:208].view(np.int8).astype(np.int32).reshape(n, -1),
        zeros,
        np.ones_like(zeros, np.int32),
    )


_DECODERS = {
    "q8_0": _decode_q8_0,
    "q4_0": _decode_q4_0,
    "q4_1": _decode_q4_1,
    "q5_0": _decode_q5_0,
    "q5_1": _decode_q5_1,
    "q4_k": _decode_q4_k,
    "q5_k": _decode_q5_k,
    "q6_k": _decode_q6_k,
}


def decode(format: str, rows: np.ndarray) -> Codes:
    """The blocks of a quantized matrix taken apart; `rows` is uint8 [n, row_bytes(format, k)]."""
    size = BLOCKS[format][1]
    return _DECODERS[format](np.ascontiguousarray(rows).reshape(len(rows), -1, size))


def dequantize(format: str, rows: np.ndarray) -> np.ndarray:
    """The exact values of a matrix stored in `format`: float64 [n, k] from uint8 [n, row_bytes(format, k)].

    Exact in float64; rounded once to float32 it equals what GGUF readers compute.
    """
    rows = np.ascontiguousarray(rows)
    if format == "f32":
        return rows.view("<f4").astype(np.float64)
    if format == "f16":
        return rows.view("<f2").astype(np.float64)
    if format == "bf16":
        return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    codes = decode(format, rows)
    sub_scale = np.repeat(codes.sub_scale, 16, axis=1) * codes.code
    scaled = np.repeat(codes.scale.astype(np.float64), GROUP, axis=1) * sub_scale
    return scaled - np.repeat(codes.min.astype(np.float64) * codes.sub_min, GROUP, axis=1)


def encode_float(format: str, values: np.ndarray) -> np.ndarray:
    """float32 [n, k] rounded to nearest even into f32, f16 or bf16: uint8 [n, row_bytes]."""
    values = np.ascontiguousarray(values, np.float32)
    if format == "f16":
        values = values.astype("<f2")
    if format == "bf16":
        bits = values.view(np.uint32)
        values = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return values.view(np.uint8).reshape(len(values), -1)


def random_rows(format: str, rng: np.random.Generator, n: int, k: int, scale: float = 0.05) -> np.ndarray:
    """A random valid matrix of any format, weights of about size `scale` and mean zero: uint8 [n, row_bytes].

    Every code and every 6-bit scale occurs: the blocks are drawn as bytes, not quantized from floats.
    """
    if format in FLOAT_FORMATS:
        width = scale * 3**0.5  # uniform: the same bits on every machine, which a normal's tails are not
        return encode_float(format, rng.uniform(-width, width, (n, k)).astype(np.float32))
    weights, size = BLOCKS[format]
    blocks = rng.integers(0, 256, (n, k // weights, size), dtype=np.uint8)

    def put(at: int, typical: float, signed: bool) -> np.ndarray:
        value = typical * rng.uniform(0.5, 1.5, blocks.shape[:2])
        if signed:
            value *= rng.choice([-1, 1], value.shape)
        value = value.astype("<f2")
        blocks[..., at : at + 2] = value[..., None].view(np.uint8)
        return value

    # scale / (standard deviation of one code), so that weights have about the size asked for
    spread = {
        "q8_0": 74,
        "q4_0": 4.6,
        "q4_1": 4.6,
        "q5_0": 9.2,
        "q5_1": 9.2,
        "q4_k": 400,
        "q5_k": 700,
        "q6_k": 1370,
    }
    typical = scale / spread[format]
    if format in ("q8_0", "q4_0", "q5_0"):
        put(0, typical, signed=True)
    elif format in ("q4_1", "q5_1"):
        d = put(0, typical, signed=False)
        middle = 7.5 if format == "q4_1" else 15.5
        blocks[..., 2:4] = (-middle * d.astype(np.float32)).astype("<f2")[..., None].view(np.uint8)
    elif format == "q6_k":
        put(208, typical, signed=True)
    else:
        put(0, typical, signed=False)
        put(2, typical * (7.5 if format == "q4_k" else 15.5), signed=False)
    return blocks.reshape(n, -1)


# ---- exact float32 arithmetic, so that bits can be compared


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """float32 fused multiply-add, rounded once: the product exact in float64, the sum rounded to odd there.

    Source: Boldo & Melquiond 2008, "Emulation of FMA and correctly rounded sums".
    """
    product = np.asarray(a, np.float32).astype(np.float64) * np.asarray(b, np.float32).astype(np.float64)
    addend = np.asarray(c, np.float32).astype(np.float64)
    total = product + addend
    virtual = total - product  # TwoSum (Knuth): error is exactly what `total` lost
    error = (product - (total - virtual)) + (addend - virtual)
    even = (total.view(np.uint64) & 1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    odd = np.where((error != 0) & even, np.nextafter(total, towards), total)
    return odd.astype(np.float32)


def quantize_activations(
    x: np.ndarray, *, keep_outliers: bool = True, group: int = GROUP
) -> tuple[np.ndarray, np.ndarray]:
    """Activations as integers with one scale per row and group (csrc/base/packed.h).

    x        float32 [m, k]; a tail of the last group counts as zeros
    keep_outliers  False: no value is one
    group    values of one scale: 32, or 128 beside weights with wide scales
    returns  int32 codes [m, k in whole groups], in ±127 but for outliers, in ±16256, and float32 scales
             [m, groups]; a group whose amax is below 2^-100 is zero; one that holds NaN or infinity has
             codes 0 and scale NaN
    """
    x = np.asarray(x, np.float32)
    padded = np.zeros((len(x), -(-x.shape[1] // group) * group), np.float32)
    padded[:, : x.shape[1]] = x
    groups = padded.reshape(len(x), -1, group)
    finite = np.isfinite(groups).all(axis=-1)
    size = abs(np.where(finite[..., None], groups, 0))
    amax = size.max(axis=-1)
    limit = np.full(len(x), np.inf, np.float32)
    if keep_outliers:
        limit = _outlier_limits(size, np.where(finite, amax, np.nan))
    rest = np.where(size > limit[:, None, None], 0, size).max(axis=-1)
    base = np.maximum(rest, amax / np.float32(128))
    base = np.where(rest > np.float32(0.75) * amax, amax, base)
    base[amax < np.float32(2.0**-100)] = 0
    inverse = np.float32(127) / np.where(base > 0, base, np.float32(np.inf))
    codes = np.rint(np.where(finite[..., None], groups, 0) * inverse[..., None]).astype(np.int32)
    return codes.reshape(padded.shape), np.where(finite, base / np.float32(127), np.float32(np.nan))


def _outlier_limits(size: np.ndarray, amax: np.ndarray) -> np.ndarray:
    """Above which magnitude a value of a row is an outlier: the mean amax, doubled until few enough are."""
    n_groups = amax.shape[1]
    limit = (np.add.accumulate(amax.astype(np.float64), axis=1)[:, -1] / n_groups).astype(np.float32)
    while (many := (size > limit[:, None, None]).sum(axis=(1, 2)) > n_groups).any():
        limit = np.where(many, np.where(limit > 0, 2 * limit, np.float32(2.0**-149)), limit)
    return limit


def outlier_quads(codes: np.ndarray) -> np.ndarray:
    """Which quads of 4 codes are split into low and high parts: bool [m, k / 4]."""
    return (abs(codes) > 127).reshape(len(codes), -1, 4).any(axis=-1)


def quantize_kv(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys or values as int8 pages hold them (csrc/kernels/cpu/kernels.h: kv_write).

    x        float32 [n_tokens, n_kv_heads, head_dim]; what is beyond ±2^127 counts as that
    returns  int32 codes of that shape in ±127, float32 scales [n_tokens, n_kv_heads], NaN where x holds one
    """
    x = np.clip(np.asarray(x, np.float32), -(2.0**127), 2.0**127).astype(np.float32)
    finite = np.isfinite(x).all(axis=-1)
    amax = np.where(finite, abs(x).max(axis=-1), 0).astype(np.float32)
    amax[amax < np.float32(2.0**-100)] = 0
    inverse = np.float32(127) / np.where(amax > 0, amax, np.float32(np.inf))
    codes = np.rint(np.where(finite[..., None], x, 0) * inverse[..., None]).astype(np.int32)
    return codes, np.where(finite, amax / np.float32(127), np.float32(np.nan))


def has_wide_scales(w: Codes) -> bool:
    """Whether each 128 weights of a row have one scale."""
    n_groups = w.scale.shape[1]
    return n_groups % 4 == 0 and bool((w.scale == w.scale[:, ::4].repeat(4, axis=1)).all())


def integer_gemm(
    x: np.ndarray,
    format: str,
    rows: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    keep_outliers: bool = True,
) -> np.ndarray:
    """y[m, n] = x · wᵀ as the core computes it with integer activations, to the bit: float32 [m, n].

    Per output, groups of 32 in ascending order (of 128 where the scales of the weights are such, and nothing
    is kept of outliers): the exact integer sum of the low parts and one fma with scale_w · scale_a, then, in
    formats with a min, one fma of the min with scale_a · Σ codes. After the groups the high parts of outlier
    quads, each with an fma of its own. Every rounding is spelled out.
    """
    w = decode(format, rows)
    group = 128 if format == "q8_0" and not keep_outliers and has_wide_scales(w) else GROUP
    codes, scale = quantize_activations(x, keep_outliers=keep_outliers, group=group)
    split = outlier_quads(codes)
    high = np.where(np.repeat(split, 4, axis=1), (codes + 64) >> 7, 0)
    low = codes - 128 * high
    weight = (w.code * np.repeat(w.sub_scale, 16, axis=1)).astype(np.int64)  # sub-scales in: still integers
    min_w = -(w.min * w.sub_min.astype(np.float32))  # exact: 11 bits by 6 bits
    has_min = format in ("q4_1", "q5_1", "q4_k", "q5_k")
    y = np.zeros((len(x), len(weight)), np.float32)
    for g in range(scale.shape[1]):
        at = slice(g * group, (g + 1) * group)
        isum = (low[:, at] @ weight[:, at].T).astype(np.float32)
        y = fma32(w.scale[None, :, g * group // GROUP] * scale[:, None, g], isum, y)
        if has_min:
            scaled_sum = scale[:, g] * codes[:, at].sum(axis=1).astype(np.float32)
            y = fma32(min_w[None, :, g], scaled_sum[:, None], y)
    for quad in np.flatnonzero(split.any(axis=0)):
        at, g = slice(4 * quad, 4 * quad + 4), 4 * quad // GROUP
        isum = (high[:, at] @ weight[:, at].T).astype(np.float32)
        with np.errstate(invalid="ignore"):  # infinite weights: a quad that is not split adds nothing
            sums = fma32(w.scale[None, :, g] * (128 * scale[:, None, g]), isum, y)
        y = np.where(split[:, quad, None], sums, y)
    return y if bias is None else y + np.asarray(bias, np.float32)


def float_gemm(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """y[m, n] = x · wᵀ in float32 to the bit: one fma chain per block of 512 k, block sums added in order."""
    x, w = np.asarray(x, np.float32), np.asarray(w, np.float32)
    y: np.ndarray | None = None
    for begin in range(0, x.shape[1], 512):
        block = np.zeros((len(x), len(w)), np.float32)
        for i in range(begin, min(begin + 512, x.shape[1])):
            block = fma32(x[:, None, i], w[None, :, i], block)
        y = block if y is None else y + block
    assert y is not None
    return y if bias is None else y + np.asarray(bias, np.float32)
