"""Around vectors of texts: poolings, prompts, precision, similarity, ranking."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np

from tuili import _core
from tuili.checks import described, invalid, one_of
from tuili.embedding.encoder import POOLINGS, Pooling
from tuili.errors import InvalidParameterError
from tuili.tasks.scores import best

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


def checked_vectors(
    vectors: np.ndarray, width: int, name: str, *, entry: str = "", n_dims: Collection[int] = (1, 2)
) -> np.ndarray:
    """Finite floats [width] or [n, width]; InvalidParameterError for anything else.

    entry   of a list of this name, for the message
    n_dims  those that are taken
    """
    if (
        vectors.ndim not in n_dims
        or vectors.shape[-1] != width
        or not np.issubdtype(vectors.dtype, np.floating)
    ):
        shapes = " or ".join(f"[{width}]" if n == 1 else f"[n, {width}]" for n in n_dims)
        given = f"{vectors.dtype} {list(vectors.shape)}"
        raise InvalidParameterError(f"{name}{entry} must be a float array {shapes}, not {given}", param=name)
    if not np.isfinite(vectors).all():
        raise InvalidParameterError(f"{name}{entry} holds numbers that are not finite", param=name)
    return vectors


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of the angle between each row of a and each of b, float32 [n_a, n_b]; 0 where a vector is
    zero.
    """
    similar: np.ndarray = _unit(a) @ _unit(b).T
    return similar.astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    wide = np.divide(wide, largest, out=np.zeros_like(wide), where=largest > 0)  # squares stay in range
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    return unit


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


def ranking(scores: np.ndarray, documents: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The top_k documents by falling score, the earlier one first among equals."""
    return [{"index": i, "score": float(scores[i]), "text": documents[i]} for i in best(scores, top_k)]
