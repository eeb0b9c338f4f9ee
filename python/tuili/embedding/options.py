"""What `embed` may be asked for: poolings, prompts, precision, a width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from tuili import _core
from tuili.checks import described, invalid, one_of
from tuili.embedding.encoder import POOLINGS, Pooling
from tuili.errors import InvalidParameterError

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def poolings_of(defaults: dict[str, Any], pooling: object) -> list[Pooling]:
    """The poolings of one call; None stands for the model's own."""
    named = str(defaults["pooling"]) if pooling is None else one_of("pooling", pooling, POOLINGS)
    return cast(list[Pooling], named.split(" + "))


def in_precision(vectors: np.ndarray, precision: object, ranges: object) -> np.ndarray:
    """Vectors float32 [n, d] with fewer bits, as sentence-transformers' quantize_embeddings makes them.

    precision  "int8" and "uint8": 256 steps of each dimension between its least and largest number, which
               `ranges` float [2, d] gives, so that a vector does not depend on its neighbours; "binary" and
               "ubinary": whether each number is above 0, 8 to a byte, [n, ceil(d / 8)] int8 or uint8
    """
    precision = one_of("precision", precision, PRECISIONS)
    if ranges is not None and precision not in ("int8", "uint8"):
        invalid("ranges", f"are for precision int8 and uint8, not {precision}")
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        signed: np.ndarray = (bits.astype(np.int16) - 128).astype(np.int8)
        return signed if precision == "binary" else bits
    try:
        limits = np.asarray(() if ranges is None else ranges, np.float32)
    except (TypeError, ValueError):  # no numbers, or rows of several lengths
        limits = np.empty(0, np.float32)
    if limits.shape != (2, vectors.shape[1]) or not np.isfinite(limits).all():
        raise InvalidParameterError(
            f"{precision} needs ranges [2, {vectors.shape[1]}]: each dimension's least and largest number in "
            "a sample, such as numpy.stack([sample.min(0), sample.max(0)])",
            param="ranges",
        )
    steps = (limits[1] - limits[0]) / np.float32(255)
    steps = np.where(steps == 0, np.float32(1), steps)
    codes: np.ndarray = np.clip(np.floor((vectors - limits[0]) / steps), 0, 255)
    return codes.astype(np.uint8) if precision == "uint8" else (codes - 128).astype(np.int8)


def checked_texts(texts: object, name: str = "texts") -> list[str]:
    """A list of str, from one str or a list or tuple of them, which may be empty."""
    items = [texts] if isinstance(texts, str) else texts
    if not isinstance(items, list | tuple):
        invalid(name, f"must be a str or a list of str, not {described(texts)}")
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise InvalidParameterError(f"{name}: entry {i} is {described(item)}, not a str", param=name)
    return list(items)


def shortened(vectors: np.ndarray, width: int, *, normalize: bool) -> np.ndarray:
    """The first `width` numbers of each, made of length 1 again with `normalize`."""
    short = np.ascontiguousarray(vectors[:, :width])
    return _core.ops.l2_normalize(short) if normalize else short


def prompt_of(known: Mapping[str, Any], name: object, own: object = None) -> str:
    """The words that stand before a text; "" for none.

    known   prompts by name, and default_prompt_name, which counts if name is None
    own     words that are none of these
    raises  InvalidParameterError that lists the names, and for a name beside words
    """
    if own is not None:
        if not isinstance(own, str) or name is not None:
            wrong = (
                "not stand beside prompt_name" if isinstance(own, str) else f"be a str, not {described(own)}"
            )
            invalid("prompt", f"must {wrong}")
        return own
    prompts: Mapping[str, str] = known.get("prompts") or {}
    name = known.get("default_prompt_name") if name is None else name
    if name is None:
        return ""
    if not isinstance(name, str) or name not in prompts:
        shown = ", ".join(prompts) or "none"
        raise InvalidParameterError(f"prompt_name: the model's prompts are: {shown}", param="prompt_name")
    return prompts[name]
