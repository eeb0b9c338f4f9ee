"""ONNX Runtime with BERT: its fused float32 graph, and dynamic int8 of that graph.

Converting needs torch, transformers, onnx and onnxscript in the same interpreter.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .inputs import padded, pooled, tokenizer

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def version() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def convert(source: Path, target: Path, variant: str) -> None:
    import onnx
    import torch
    import transformers
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    bert = transformers.BertModel.from_pretrained(source, attn_implementation="eager", dtype=torch.float32)

    class LastHiddenState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert.eval()

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return self.bert(
                ids, attention_mask=mask, token_type_ids=types, use_cache=False
            ).last_hidden_state

    example = torch.ones((2, 8), dtype=torch.int64)
    target.mkdir()
    torch.onnx.export(
        LastHiddenState(),
        (example, example, torch.zeros_like(example)),
        target / "exported.onnx",
        input_names=list(INPUTS),
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "n_texts", 1: "n_tokens"} for name in (*INPUTS, "last_hidden_state")},
        opset_version=17,
        dynamo=False,
    )
    config = bert.config
    fused = optimizer.optimize_model(
        str(target / "exported.onnx"),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=1,
    )
    fused.save_model_to_file(str(target / "fused.onnx"))
    if variant.endswith("int8"):
        quantize_dynamic(
            target / "fused.onnx",
            target / "model.onnx",
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # behind fused operators
        )
    else:
        (target / "fused.onnx").rename(target / "model.onnx")
    (target / "exported.onnx").unlink()
    shutil.copy(source / "tokenizer.json", target)


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Encoder:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        str(model / "model.onnx"), settings, providers=["CPUExecutionProvider"]
    )
    return Encoder(session, tokenizer(model))


class Encoder:
    def __init__(self, session: Any, encode: Any) -> None:
        self._session, self._encode = session, encode
        self._names = {one.name for one in session.get_inputs()}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        ids, mask = padded(self._encode(texts))
        feed = dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
        feed = {name: array for name, array in feed.items() if name in self._names}
        return pooled(self._session.run(["last_hidden_state"], feed)[0], mask)
