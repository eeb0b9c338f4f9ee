"""The bars: what tuili must reach beside which peer, and the verdict on a set of measurements.

A variant names a model and how its weights are stored, "smollm2-q4_1", and what `compute` they are used with
if not the default: "smollm2-q4_1+int8". A contestant is (peer, variant).
Measurements are {contestant: {work: [value of round 1, of round 2, …]}}; rates are better when higher,
latencies when lower.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

US = "tuili"

Contestant = tuple[str, str]
Values = Mapping[Contestant, Mapping[str, Sequence[float]]]
Reasons = Mapping[Contestant, Mapping[str, str]]  # why a work has no value


@dataclass(frozen=True)
class Work:
    """One thing to measure: the worker's request (see peers/worker.py) and the unit of its value."""

    request: Mapping[str, Any]
    unit: str
    better: Literal["higher", "lower"] = "higher"


def _decode(depth: int) -> Work:
    return Work({"run": "decode", "depth": depth, "n_new": 64}, "tok/s")


def _batch(n_seqs: int) -> Work:
    return Work({"run": "decode_batch", "n_seqs": n_seqs, "n_prompt": 128, "n_new": 64}, "tok/s")


WORKS = {
    "decode": _decode(0),
    "decode@1024": _decode(1024),
    "prefill 512": Work({"run": "prefill", "n_prompt": 512}, "tok/s"),
    "batch-16 decode": _batch(16),
    "batch-32 decode": _batch(32),
    "12 tokens": Work({"run": "latency", "n_tokens": 12, "n_calls": 100}, "ms", "lower"),
    "128 tokens": Work({"run": "latency", "n_tokens": 128, "n_calls": 30}, "ms", "lower"),
    "32 mixed": Work({"run": "throughput", "n_texts": 32, "shortest": 8, "longest": 200}, "texts/s"),
    "32 mixed answers": Work({"run": "answers", "n_texts": 32, "shortest": 10, "longest": 200}, "texts/s"),
    "cosine": Work({"run": "vectors", "n_texts": 32, "shortest": 8, "longest": 200}, "cosine"),
}


@dataclass(frozen=True)
class Bar:
    """`required` is a ratio ours / theirs of medians, or a bound of our own value.

    ours    variants of tuili of which the best counts
    rivals  contestants of which the best counts
    """

    table: str
    label: str
    work: str
    ours: tuple[str, ...]
    rivals: tuple[Contestant, ...]
    required: float
    judged: Literal["ratio", "value"] = "ratio"


LLAMA_CPP = "SmolLM2 and Gemma 3 against llama.cpp, the same GGUF file"
LIKE_FOR_LIKE = 'The same with compute="int8": activations of one byte alone, as the peers have them'
OTHERS = "SmolLM2 against the best of the others"
MINILM = "MiniLM (all-MiniLM-L6-v2), text to vector, against the best peer"

FLOAT_FILES = ("smollm2-f16", "smollm2-f32")
FOUR_BITS = ("smollm2-q4_1", "smollm2-q4_0")
EIGHT_BITS = (*FOUR_BITS, "smollm2-q8_0")
INT4_PEERS = (("onnxruntime-genai", "smollm2-int4"), ("openvino-genai", "smollm2-int4"))
INT8_PEERS = (*INT4_PEERS, ("ctranslate2", "smollm2-int8"), ("openvino-genai", "smollm2-int8"))
FLOAT_PEERS = tuple((peer, "smollm2-float32") for peer in ("ctranslate2", "openvino-genai", "torch"))
MINILM_PEERS = tuple(
    (peer, "minilm-float32")
    for peer in ("onnxruntime", "ctranslate2", "openvino", "torch", "sentence-transformers")
)
MINILM_INT8_PEERS = tuple((peer, "minilm-int8") for peer in ("onnxruntime", "ctranslate2", "openvino"))


def _beside_llama_cpp(variant: str, name: str, required: Mapping[str, float]) -> list[Bar]:
    rivals = (("llama.cpp", variant),)
    return [
        Bar(LLAMA_CPP, f"{name}: {work}", work, (variant,), rivals, ratio) for work, ratio in required.items()
    ]


def _like_for_like(bars: Sequence[Bar]) -> list[Bar]:
    """Those of the bars where the integer units are the limit, of which outliers take a tenth."""
    return [
        replace(bar, table=LIKE_FOR_LIKE, ours=tuple(f"{variant}+int8" for variant in bar.ours))
        for bar in bars
        if bar.ours[0] not in FLOAT_FILES and not bar.work.startswith("decode")
    ]


DECODERS = (
    *_beside_llama_cpp(
        "smollm2-q4_1",
        "SmolLM2 Q4_1",
        {"decode": 2.2, "decode@1024": 3.5, "prefill 512": 4.5, "batch-16 decode": 4.0},
    ),
    *_beside_llama_cpp(
        "smollm2-q4_0", "SmolLM2 Q4_0", {"decode": 1.8, "prefill 512": 2.3, "batch-16 decode": 2.5}
    ),
    *_beside_llama_cpp("smollm2-q8_0", "SmolLM2 Q8_0", {"decode": 1.7, "prefill 512": 2.0}),
    *_beside_llama_cpp(
        "gemma3-q4_k_m", "Gemma 3 270M Q4_K_M", {"decode": 1.6, "prefill 512": 2.3, "batch-16 decode": 2.5}
    ),
    *_beside_llama_cpp("smollm2-f16", "SmolLM2 F16", {"decode": 1.4, "prefill 512": 1.5}),
    *_beside_llama_cpp("smollm2-f32", "SmolLM2 F32", {"decode": 1.1, "prefill 512": 2.1}),
    Bar(OTHERS, "4 bits: decode", "decode", FOUR_BITS, INT4_PEERS, 1.6),
    Bar(OTHERS, "4 bits: decode@1024", "decode@1024", FOUR_BITS, INT4_PEERS, 2.4),
    Bar(OTHERS, "8 bits or fewer: prefill 512", "prefill 512", EIGHT_BITS, INT8_PEERS, 1.4),
    Bar(OTHERS, "float32: decode", "decode", ("smollm2-f32",), FLOAT_PEERS, 1.4),
    Bar(OTHERS, "float32: prefill 512", "prefill 512", ("smollm2-f32",), FLOAT_PEERS, 1.3),
    Bar(OTHERS, "8 bits or fewer: batch-32 decode", "batch-32 decode", EIGHT_BITS, INT8_PEERS, 1.5),
)
BARS = (
    *DECODERS,
    *_like_for_like(DECODERS),
    Bar(MINILM, "float32: 12 tokens, p50", "12 tokens", ("minilm-float32",), MINILM_PEERS, 0.6),
    Bar(MINILM, "float32: 128 tokens, p50", "128 tokens", ("minilm-float32",), MINILM_PEERS, 0.8),
    Bar(MINILM, "float32: 32 mixed texts", "32 mixed", ("minilm-float32",), MINILM_PEERS, 1.8),
    Bar(MINILM, "int8: 12 tokens, p50", "12 tokens", ("minilm-int8",), MINILM_INT8_PEERS, 0.7),
    Bar(MINILM, "int8: 128 tokens, p50", "128 tokens", ("minilm-int8",), MINILM_INT8_PEERS, 0.75),
    Bar(MINILM, "int8: 32 mixed texts", "32 mixed", ("minilm-int8",), MINILM_INT8_PEERS, 2.0),
    Bar(
        MINILM, "int8: mean cosine to float32", "cosine", ("minilm-int8",), MINILM_INT8_PEERS, 0.995, "value"
    ),
)


# --- verdicts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """A contestant's values for one work."""

    contestant: Contestant
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Verdict:
    """`ratio` is that of the medians or our own median, `ratios` its smallest and largest in one round."""

    bar: Bar
    status: Literal["met", "missed", "not measured"]
    reason: str = ""
    ours: Side | None = None
    theirs: Side | None = None
    ratio: float | None = None
    ratios: tuple[float, float] | None = None
    absent: tuple[str, ...] = ()  # rivals that were not measured although others were


def judge(bar: Bar, values: Values, reasons: Reasons) -> Verdict:
    """A bar without a rival's value is "not measured"; one without ours is "missed", as we must run."""
    better = WORKS[bar.work].better
    ours = _best(((US, variant) for variant in bar.ours), bar.work, values, better)
    theirs = _best(bar.rivals, bar.work, values, better)
    absent = tuple(
        f"{_name(rival)}: {_reason(rival, bar.work, reasons)}"
        for rival in bar.rivals
        if not values.get(rival, {}).get(bar.work)
    )
    if ours is None:
        why = "; ".join(_reason((US, variant), bar.work, reasons) for variant in bar.ours)
        return Verdict(bar, "missed", f"{US}: {why}", theirs=theirs, absent=absent)
    if bar.judged == "ratio" and theirs is None:
        return Verdict(bar, "not measured", "; ".join(absent), ours=ours)
    rounds = ours.values
    ratio = ours.median
    if theirs is not None and bar.judged == "ratio":
        ratio /= theirs.median
        rounds = tuple(a / b for a, b in zip(ours.values, theirs.values, strict=False))
    met = ratio >= bar.required if better == "higher" else ratio <= bar.required
    status: Literal["met", "missed"] = "met" if met else "missed"
    return Verdict(bar, status, "", ours, theirs, ratio, (min(rounds), max(rounds)), absent)


def _best(
    contestants: Iterable[Contestant], work: str, values: Values, better: Literal["higher", "lower"]
) -> Side | None:
    sides = [Side(one, tuple(values[one][work])) for one in contestants if values.get(one, {}).get(work)]
    choose = max if better == "higher" else min
    return choose(sides, key=lambda side: side.median, default=None)


def _reason(contestant: Contestant, work: str, reasons: Reasons) -> str:
    return reasons.get(contestant, {}).get(work, "was not run")


def _name(contestant: Contestant) -> str:
    return " ".join(contestant)
