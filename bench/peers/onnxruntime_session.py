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
    import torch
    import transformers

    bert = transformers.BertModel.from_pretrained(source, attn_implementation="eager", dtype=torch.float32)
    write(bert.eval(), ["last_hidden_state"], target, variant)
    shutil.copy(source / "tokenizer.json", target)


def write(bert: Any, outputs: Sequence[str], target: Path, variant: str) -> None:
    """The folder `target` with the fused graph of a BERT, or of one with a head: ids, mask and types to the
    named outputs."""
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            got = self.bert(ids, attention_mask=mask, token_type_ids=types)
            return tuple(got[name] for name in outputs)

    example = torch.ones((2, 8), dtype=torch.int64)
    target.mkdir()
    torch.onnx.export(
        Outputs(),
        (example, example, torch.zeros_like(example)),
        target / "exported.onnx",
        input_names=list(INPUTS),
        output_names=list(outputs),
        dynamic_axes={name: {0: "n_texts", 1: "n_tokens"} for name in (*INPUTS, *outputs)},
        opset_version=17,
        dynamo=False,
    )
    fused = optimizer.optimize_model(
        str(target / "exported.onnx"),
        model_type="bert",
        num_heads=bert.config.num_attention_heads,
        hidden_size=bert.config.hidden_size,
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
        (target / "fused.onnx").unlink()
    else:
        (target / "fused.onnx").rename(target / "model.onnx")
    (target / "exported.onnx").unlink()


def session_of(model: Path, threads: int) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    path = str(model / "model.onnx")
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def open(model: Path, variant: str, threads: int, options: dict[str, Any]) -> Encoder:
    return Encoder(session_of(model, threads), tokenizer(model))


class Encoder:
    def __init__(self, session: Any, encode: Any) -> None:
        self._session, self._encode = session, encode
        self._names = {one.name for one in session.get_inputs()}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        ids, mask = padded(self._encode(texts))
        feed = dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
        feed = {name: array for name, array in feed.items() if name in self._names}
        return pooled(self._session.run(["last_hidden_state"], feed)[0], mask)
