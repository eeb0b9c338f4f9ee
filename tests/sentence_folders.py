"""sentence-transformers folders around tests/encoder_models.py: their modules and what is asked of them."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import seq2seq_models
from encoder_models import CASES, write_folder
from tiny_files import LLAMA_SPECIALS, _write_safetensors
from tiny_models import Weight

D_MODEL = 48
TEXTS = ["The cat is on the house.", "你好 world", "a dog, a good dog in the new river of York", "I"]


@dataclass(frozen=True)
class Sentences:
    """pooling: the module's config.json; dense: (n_in, n_out, activation, bias); options: of embed; case: of
    encoder_models.py, or the class of a T5 of seq2seq_models.py."""

    pooling: dict[str, Any]
    dense: list[tuple[int, int, str, bool]] = field(default_factory=list)
    normalize: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    case: str = "BertModel"
    normed: bool = False  # a LayerNorm after pooling


FOLDERS = {
    "cls": Sentences({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
    "max": Sentences({"pooling_mode_max_tokens": True}),
    "sqrt": Sentences({"pooling_mode": "mean_sqrt_len_tokens"}, normalize=True),
    "weighted": Sentences({"pooling_mode": "weightedmean"}),
    "last": Sentences({"pooling_mode_lasttoken": True}, normalize=True, case="LlamaModel"),
    "joined": Sentences({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, normalize=True),
    "dense": Sentences({"pooling_mode": "mean"}, [(D_MODEL, 20, "Tanh", True)], True),
    "two dense": Sentences(
        {"pooling_mode": ["max", "mean"]}, [(2 * D_MODEL, 64, "Identity", False), (64, 24, "ReLU", True)]
    ),
    "normed": Sentences({"pooling_mode": "mean"}, [(D_MODEL, 20, "GELU", True)], normed=True),
    "sentence-t5": Sentences(
        {"pooling_mode": "mean"}, [(64, 20, "Identity", False)], True, case="T5EncoderModel"
    ),
    "t5 with its decoder": Sentences({"pooling_mode": "mean"}, case="T5Model"),
    "mt5 with its head": Sentences({"pooling_mode": "mean"}, case="MT5ForConditionalGeneration"),
    "truncated": Sentences({"pooling_mode": "mean"}, normalize=True, options={"truncate_dim": 12}),
    "truncated, normal": Sentences(
        {"pooling_mode": "mean"}, normalize=True, options={"truncate_dim": 12, "normalize": True}
    ),
    "prompts": Sentences(
        {"pooling_mode": "mean"},
        options={"prompt_name": "query"},
        others={
            "config_sentence_transformers.json": {
                "prompts": {"query": "the good ", "plain": ""}, "default_prompt_name": "plain",
            }
        },
    ),
    "without the prompt": Sentences(
        {"pooling_mode": ["cls", "mean", "max", "mean_sqrt_len_tokens"], "include_prompt": False},
        options={"prompt_name": "query"},
        others={"config_sentence_transformers.json": {"prompts": {"query": "the good "}}},
    ),
    "without the prompt, last": Sentences(
        {"pooling_mode": ["lasttoken", "mean"], "include_prompt": False},
        others={
            "config_sentence_transformers.json": {"prompts": {"a": "I "}, "default_prompt_name": "a"}
        },
        case="LlamaModel",
    ),
    "default prompt": Sentences(
        {"pooling_mode": "mean"},
        others={
            "config_sentence_transformers.json": {"prompts": {"a": "in the "}, "default_prompt_name": "a"}
        },
    ),
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """The folder of one of FOLDERS."""
    asked = FOLDERS[name]
    _write_model(asked.case, folder)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules += [("LayerNorm", "8_LayerNorm")] * asked.normed
    modules += [("Dense", f"{i}_Dense") for i, _ in enumerate(asked.dense, 2)]
    modules += [("Normalize", "9_Normalize")] * asked.normalize
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "1_Pooling").mkdir()
    sizes = {"word_embedding_dimension": D_MODEL}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(sizes | asked.pooling))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for i, (n_in, n_out, activation, bias) in enumerate(asked.dense, 2):
        inner = folder / f"{i}_Dense"
        inner.mkdir()
        package = "linear" if activation == "Identity" else "activation"
        settings = {"in_features": n_in, "out_features": n_out, "bias": bias}
        settings["activation_function"] = f"torch.nn.modules.{package}.{activation}"
        (inner / "config.json").write_text(json.dumps(settings))
        values = {"linear.weight": rng.standard_normal((n_out, n_in)) / np.sqrt(n_in)}
        if bias:
            values["linear.bias"] = rng.standard_normal(n_out)
        write_tensors(inner, values)
    if asked.normed:
        (folder / "8_LayerNorm").mkdir()
        (folder / "8_LayerNorm" / "config.json").write_text(json.dumps({"dimension": D_MODEL}))
        write_tensors(
            folder / "8_LayerNorm",
            {"norm.weight": 1 + rng.standard_normal(D_MODEL) / 4, "norm.bias": rng.standard_normal(D_MODEL)},
        )
    for file, value in asked.others.items():
        (folder / file).write_text(json.dumps(value))
    return folder


def _write_model(name: str, folder: Path) -> None:
    if "T5" not in name:
        write_folder(CASES[name], folder)
        return
    case = seq2seq_models.by_name(f"{name.partition('T5')[0]}T5ForConditionalGeneration")
    seq2seq_models.write(case, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [name]}))
    special = {"pad_token": LLAMA_SPECIALS[0], "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


def write_tensors(folder: Path, values: dict[str, np.ndarray]) -> None:
    """A module's model.safetensors, in float32."""
    tensors = {
        key: Weight("f32", value.shape, value.astype(np.float32).reshape(len(value), -1).view(np.uint8))
        for key, value in values.items()
    }
    _write_safetensors(folder / "model.safetensors", tensors)
