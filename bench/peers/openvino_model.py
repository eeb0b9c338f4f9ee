"""OpenVINO with BERT: optimum-intel's float32, and int8 by nncf's post-training quantization.

Converting needs torch, transformers and optimum-intel, and nncf for int8, in the same interpreter.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .inputs import mixed_texts, padded, pooled, tokenizer

N_CALIBRATION = 64


def version() -> str:
    import openvino

    return f"openvino {openvino.__version__}"


def convert(source: Path, target: Path, variant: str) -> None:
    from optimum.intel import OVModelForFeatureExtraction

    exported = OVModelForFeatureExtraction.from_pretrained(
        source, export=True, compile=False, load_in_8bit=False
    )
    if variant.endswith("int8"):
        exported.model = _quantized(exported.model, source)
    exported.save_pretrained(target)
    shutil.copy(source / "tokenizer.json", target)


def _quantized(model: Any, source: Path) -> Any:
    import nncf

    encode = tokenizer(source)
    texts = mixed_texts(source / "tokenizer.json", N_CALIBRATION, 8, 128, seed=1 << 41)
    data = nncf.Dataset([_feed(encode([one]))[0] for one in texts])
    return nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER)


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Encoder:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 otherwise, where the CPU has it
    }
    compiled = openvino.Core().compile_model(model / "openvino_model.xml", "CPU", settings)
    return Encoder(compiled.create_infer_request(), tokenizer(model))


def _feed(ids: list[list[int]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rows, mask = padded(ids)
    return {"input_ids": rows, "attention_mask": mask, "token_type_ids": np.zeros_like(rows)}, mask


class Encoder:
    def __init__(self, request: Any, encode: Any) -> None:
        self._request, self._encode = request, encode

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        feed, mask = _feed(self._encode(texts))
        return pooled(self._request.infer(feed)[0], mask)
