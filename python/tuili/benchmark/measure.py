"""The measurements of `tuili bench`: a model loaded, run, and set beside the machine's limits."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tuili import __version__
from tuili.benchmark.machine import (
    decode_bytes,
    interleaved,
    layer_macs,
    limit_jobs,
    peak_memory,
    seconds_of,
    summary,
)
from tuili.cli.doctor import cpu_name
from tuili.errors import InvalidParameterError
from tuili.loading.checkpoint import FLOATS

if TYPE_CHECKING:
    from tuili.llm import LLM

Progress = Callable[[int, int, str], None]
Jobs = dict[str, Callable[[], float]]

SHORT_PROMPT = 8  # tokens before a decode at depth 0
EMBED_TEXTS = 32
EMBED_WORDS = ("the", "river", "flows", "past", "an", "old", "house", "where", "nobody", "has", "lived")


@dataclass(frozen=True)
class Plan:
    """What to measure.

    n_prompt       tokens of the prefill
    n_new          tokens of each decode
    depth          tokens before the deep decode
    batches        how many texts are decoded at once, each a point of the curve
    start_command  a program whose run is the start-up: a process that loads the model and gives one result
    """

    repeats: int = 5
    n_prompt: int = 512
    n_new: int = 64
    depth: int = 1024
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    start_command: tuple[str, ...] = ()


def measure(make: Callable[[], LLM], plan: Plan, on_progress: Progress | None = None) -> dict[str, Any]:
    """Load a model and run it; rates as {"median", "min", "max", "spread"}, see `machine.summary`.

    make  opens the model without prefix caching, which would make repeated prompts free
    """
    opened: list[LLM] = []
    load_s = seconds_of(lambda: opened.append(make()))
    with opened[0] as llm:
        result: dict[str, Any] = {
            "tuili": __version__,
            "cpu": cpu_name(),
            "isa": llm.config["isa"],
            "threads": llm.config["num_threads"],
            "model": os.path.basename(os.path.abspath(llm.name)).removesuffix(".gguf"),
            "architecture": llm.config["architecture"],
            "kind": llm.kind,
            "weight_bytes": llm.memory["weights"],
            "memory": dict(llm.memory),
            "load_s": load_s,
        }
        latencies: dict[str, list[float]] = {}
        make_jobs = _encoder_jobs if llm.kind == "encoder" else _decoder_jobs
        jobs = make_jobs(llm, plan, latencies)
        limits = limit_jobs(result["threads"], result["isa"])
        if plan.start_command:
            limits["start_s"] = lambda: seconds_of(lambda: _run_program(plan.start_command))
        on_run = _counted(on_progress, (len(jobs) + len(limits)) * (plan.repeats + 1))
        interleaved(jobs, 1, on_run)  # warms caches, pages, branch predictors
        result["peak_memory_bytes"] = peak_memory()  # before the read stream takes its share
        interleaved(limits, 1, on_run)
        samples = interleaved(jobs | limits, plan.repeats, on_run)
        result |= {name: summary(runs) for name, runs in samples.items()}
        result |= {name: summary(values[1:]) for name, values in latencies.items()}
        if llm.kind == "decoder":
            result |= _with_curve(result, plan) | _decoder_shares(llm, result, plan)
        elif llm.kind == "encoder":
            result |= _encoder_shares(llm, result)
        else:  # a step is one half's or the other's, or both: no one number says what it could take
            result |= _with_curve(result, plan)
    if on_progress is not None:
        on_progress(1, 1, "")
    return result


def _counted(on_progress: Progress | None, total: int) -> Callable[[str], None]:
    """Turns names of runs into progress."""
    done = itertools.count()

    def on_run(name: str) -> None:
        if on_progress is not None:
            on_progress(next(done), total, name)

    return on_run


def _run_program(command: tuple[str, ...]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)


# --- decoders, also those that read sources -----------------------------------------------------------------


def _decoder_jobs(llm: LLM, plan: Plan, latencies: dict[str, list[float]]) -> Jobs:
    """Rates in tokens per second; `latencies` gets those of the first token and of each further one.

    raises  InvalidParameterError if so many new tokens do not fit into the model
    """
    encoder, most_new = llm.loaded.spec.encoder, llm.config["max_model_len"] - 1
    n_vocab = llm.config["n_vocab"] if encoder is None else encoder.n_vocab
    most = most_new - plan.n_new if encoder is None else llm.config["max_source_len"]
    if most < SHORT_PROMPT or plan.n_new > most_new:
        raise InvalidParameterError(
            f"{plan.n_new} new tokens behind a prompt of {SHORT_PROMPT} do not fit into the model's "
            f"{llm.config['max_model_len']}; --new-tokens takes fewer",
            param="new_tokens",
        )
    n_prompt, depth = min(plan.n_prompt, most), min(plan.depth, most)
    random = np.random.default_rng(0)

    def ids(n: int) -> list[int]:
        drawn: list[int] = random.integers(0, n_vocab, n).tolist()
        return drawn

    def prefill() -> float:
        metrics = llm.generate(ids(n_prompt), max_tokens=1, ignore_eos=True, num_beams=1).metrics
        latencies.setdefault("first_token_ms", []).append(1e3 * (metrics["first_token_s"] or 0.0))
        return float(n_prompt / (metrics["prefill_s"] or 1e-9))

    def decode() -> float:
        rate = _decode_rate(llm, [ids(SHORT_PROMPT)], plan.n_new)
        latencies.setdefault("next_token_ms", []).append(1e3 / rate)
        return rate

    def batch(n: int) -> float:
        return _decode_rate(llm, [ids(SHORT_PROMPT) for _ in range(n)], plan.n_new)

    jobs: Jobs = {"prefill_tok_s": prefill, "decode_tok_s": decode}
    if depth > SHORT_PROMPT:
        jobs["decode_deep_tok_s"] = lambda: _decode_rate(llm, [ids(depth)], plan.n_new)
    for n in plan.batches:
        if n * (SHORT_PROMPT + plan.n_new) <= llm.config["kv_cache"]["tokens"]:
            jobs[f"batch_{n}"] = partial(batch, n)
    return jobs


def _decode_rate(llm: LLM, prompts: list[list[int]], n_new: int) -> float:
    """Tokens per second of all texts together, from the first one's first token to the end."""
    outputs = llm.generate(prompts, max_tokens=n_new, ignore_eos=True, temperature=0, num_beams=1)
    metrics = [output.metrics for output in outputs]
    n_tokens = sum(len(output.outputs[0].token_ids) - 1 for output in outputs)
    begin = min(times["first_token_time"] or 0.0 for times in metrics)
    end = max(times["finished_time"] or 0.0 for times in metrics)
    return n_tokens / max(end - begin, 1e-9)


def _with_curve(result: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The curve's points under one key, out of those of their own."""
    names = [(str(n), f"batch_{n}") for n in plan.batches]
    return {"batch_tok_s": {n: result.pop(name) for n, name in names if name in result}}


def _decoder_shares(llm: LLM, result: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What was reached of the machine's limits.

    decode   bytes read per second (see `decode_bytes`) / the read stream of as many threads
    prefill  multiply-adds of the layers' linear maps per second / the peak in registers: of exact int8 for
             quantized weights, of float otherwise. Attention takes time and is not counted.
    """
    model, kv_dtype = llm.loaded.model, llm.config["kv_cache"]["dtype"]
    read = result["read_gb_s"]["median"] * 1e9
    unit = "int8" if _computes_in_int8(llm) else "float"
    peak = result[f"{unit}_peak_gmac_s"]["median"] * 1e9
    macs = layer_macs(model.spec)
    shares: dict[str, Any] = {
        "prefill_unit": unit,
        "prefill_gmac_s": result["prefill_tok_s"]["median"] * macs / 1e9,
        "prefill_share_of_peak": result["prefill_tok_s"]["median"] * macs / peak,
    }
    middle = plan.n_new // 2
    for name, depth in (("decode", SHORT_PROMPT), ("decode_deep", plan.depth)):
        if f"{name}_tok_s" in result:
            n_bytes = decode_bytes(model, depth + middle, kv_dtype)
            shares[f"{name}_share_of_read"] = result[f"{name}_tok_s"]["median"] * n_bytes / read
    return shares


def _computes_in_int8(llm: LLM) -> bool:
    """Whether most of the weights are quantized and not asked to be computed in float."""
    formats: dict[str, int] = llm.config["weight_bytes"]
    quantized = sum(n for name, n in formats.items() if name not in FLOATS)
    return llm.config["compute"] != "float32" and 2 * quantized > sum(formats.values())


# --- encoders -----------------------------------------------------------------------------------------------


def _words(first: int, n: int) -> str:
    return " ".join(EMBED_WORDS[i % len(EMBED_WORDS)] for i in range(first, first + n))


def _mixed_texts() -> list[str]:
    """Texts of 6 to 125 words, unsorted."""
    return [_words(i, 6 + (i * 37) % 120) for i in range(EMBED_TEXTS)]


def _encoder_jobs(llm: LLM, plan: Plan, latencies: dict[str, list[float]]) -> Jobs:
    """Rates in texts per second; `latencies` gets those of a short and of a long text alone."""
    texts, short, long = _mixed_texts(), _words(0, 10), _words(0, 120)

    def embed_all() -> float:
        return len(texts) / seconds_of(lambda: llm.embed(texts, truncation=True))

    def alone(text: str, name: str) -> float:
        seconds = seconds_of(lambda: llm.embed(text, truncation=True))
        latencies.setdefault(name, []).append(1e3 * seconds)
        return 1 / seconds

    return {
        "texts_s": embed_all,
        "single_texts_s": lambda: alone(short, "text_ms"),
        "long_texts_s": lambda: alone(long, "long_text_ms"),
    }


def _encoder_shares(llm: LLM, result: dict[str, Any]) -> dict[str, Any]:
    """Multiply-adds of the layers' linear maps per second / the peak in registers, as `_decoder_shares`."""
    unit = "int8" if _computes_in_int8(llm) else "float"
    texts = _mixed_texts()
    n_tokens = sum(len(llm.tokenizer.encode(text)) for text in texts) / len(texts)
    macs = layer_macs(llm.loaded.spec) * n_tokens * result["texts_s"]["median"]
    return {"prefill_unit": unit, "texts_share_of_peak": macs / result[f"{unit}_peak_gmac_s"]["median"] / 1e9}
