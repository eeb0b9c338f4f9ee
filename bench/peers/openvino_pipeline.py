"""OpenVINO GenAI's LLMPipeline, float32, int8 or int4 weights, made by optimum-intel.

Converting needs torch, transformers, optimum-intel and nncf in the same interpreter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .inputs import prompt_ids


def version() -> str:
    import openvino_genai

    return f"openvino-genai {openvino_genai.__version__}"


def convert(source: Path, target: Path, variant: str) -> None:
    """int8 per channel, or int4 in groups of 64 with an int8 head."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    settings: dict[str, Any] = {"load_in_8bit": False}
    if variant.endswith("int8"):
        settings = {"quantization_config": OVWeightQuantizationConfig(bits=8)}
    if variant.endswith("int4"):
        settings = {
            "quantization_config": OVWeightQuantizationConfig(bits=4, sym=False, group_size=64, ratio=1.0)
        }
    model = OVModelForCausalLM.from_pretrained(source, export=True, compile=False, **settings)
    model.save_pretrained(target)


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Generator:
    import openvino_genai

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "ATTENTION_BACKEND": "SDPA"}
    if variant.endswith("float32"):
        settings["INFERENCE_PRECISION_HINT"] = "f32"  # bfloat16 otherwise, where the CPU has it
    return Generator(openvino_genai.LLMPipeline(str(model), "CPU", **settings))


class Generator:
    """Times are the pipeline's own, of each token."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def prefill(self, n_prompt: int, seed: int) -> float:
        metrics = self._generate([prompt_ids(n_prompt, seed)], 1)
        return n_prompt / (metrics.get_ttft().mean / 1e3)

    def decode(self, depth: int, n_new: int, seed: int) -> float:
        return self._rate([prompt_ids(max(depth, 1), seed)], n_new)

    def decode_batch(self, n_seqs: int, n_prompt: int, n_new: int, seed: int) -> float:
        return self._rate([prompt_ids(n_prompt, seed, i) for i in range(n_seqs)], n_new)

    def _rate(self, prompts: list[list[int]], n_new: int) -> float:
        metrics = self._generate(prompts, n_new + 1)
        times = [float(one) for one in metrics.raw_metrics.m_new_token_times]
        if len(times) != n_new + 1:
            raise RuntimeError(f"openvino-genai made {len(times)} steps, not {n_new + 1}")
        return len(prompts) * n_new / ((times[-1] - times[0]) / 1e3)

    def _generate(self, prompts: list[list[int]], n_new: int) -> Any:
        import openvino
        import openvino_genai

        ids = np.array(prompts, dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        config = openvino_genai.GenerationConfig(
            max_new_tokens=n_new, min_new_tokens=n_new, ignore_eos=True, do_sample=False
        )
        return self._pipeline.generate(inputs, config).perf_metrics
