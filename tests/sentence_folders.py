"""sentence-transformers folders around tests/encoder_models.py: their modules and what is asked of them."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
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
    encoder_models.py, or the class of a T5 of seq2seq_models.py; base: where the model lies; residual: of
    all dense; order: of what follows pooling, as folders."""

    pooling: dict[str, Any]
    dense: list[tuple[int, int, str, bool]] = field(default_factory=list)
    normalize: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    case: str = "BertModel"
    normed: bool = False  # a LayerNorm after pooling
    base: str = ""
    residual: bool = False
    order: tuple[str, ...] | None = None


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
    "truncated by its files": Sentences(
        {"pooling_mode": "mean"},
        normalize=True,
        others={"config_sentence_transformers.json": {"truncate_dim": 12, "similarity_fn_name": "dot"}},
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
    "rows of dense": Sentences(
        {"pooling_mode_mean_tokens": False},
        [(D_MODEL, 20, "ELU", True), (20, 20, "LeakyReLU", False), (20, 24, "Softplus", True)],
        normed=True,
        order=("9_Normalize", "2_Dense", "5_Dropout", "9_Normalize", "3_Dense", "4_Dense"),
    ),
    "residual": Sentences(
        {"pooling_mode": "mean"}, [(D_MODEL, D_MODEL, "Mish", True), (D_MODEL, 12, "SELU", False)],
        residual=True, order=("2_Dense", "8_LayerNorm", "3_Dense", "5_Dropout", "9_Normalize"), normed=True,
    ),
    "weighted, without the prompt": Sentences(
        {"pooling_mode": ["weightedmean", "mean"], "include_prompt": False},
        options={"prompt_name": "query"},
        others={"config_sentence_transformers.json": {"prompts": {"query": "the good "}}},
    ),
    "weighted, normal, without the prompt": Sentences(
        {"pooling_mode_weightedmean_tokens": True, "include_prompt": False},
        normalize=True,
        options={"prompt_name": "query"},
        others={"config_sentence_transformers.json": {"prompts": {"query": "the good "}}},
    ),
    "a folder of its own": Sentences({"pooling_mode": "mean"}, base="0_Transformer"),
}  # fmt: skip
# Those of StaticEmbedding: where it lies, tensors, and the modules behind.
STATIC = {
    "static": ("0_StaticEmbedding", ("embedding.weight",), ("Normalize",)),
    "static at the root": ("", ("embedding.weight",), ("Dropout", "Dense")),
    "model2vec": (".", ("embeddings",), ("Normalize",)),
    "model2vec of few rows": (".", ("embeddings", "mapping", "weights"), ("Normalize", "LayerNorm")),
}
STATIC_PROMPTS = {"prompts": {"query": "the good "}, "default_prompt_name": "query"}


def write(name: str, folder: Path) -> Path:
    """The folder of one of FOLDERS."""
    if name in STATIC:
        return _write_static(name, folder)
    asked = FOLDERS[name]
    _write_model(asked.case, folder / asked.base)
    order = ["8_LayerNorm"] * asked.normed + [f"{i}_Dense" for i, _ in enumerate(asked.dense, 2)]
    order += ["9_Normalize"] * asked.normalize
    _write_modules(folder, [("Transformer", asked.base), "1_Pooling", *(asked.order or order)])
    (folder / "1_Pooling").mkdir()
    sizes = {"word_embedding_dimension": D_MODEL}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(sizes | asked.pooling))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for i, (n_in, n_out, activation, bias) in enumerate(asked.dense, 2):
        _write_dense(folder / f"{i}_Dense", (n_in, n_out, activation, bias), rng, residual=asked.residual)
    if asked.normed:
        _write_layer_norm(folder / "8_LayerNorm", D_MODEL, rng)
    for file, value in asked.others.items():
        (folder / file).write_text(json.dumps(value))
    return folder


def _write_modules(folder: Path, modules: Sequence[str | tuple[str, str]]) -> None:
    """modules.json. modules: folders, whose names say the kind, or pairs of kind and folder."""
    pairs = [(item.partition("_")[2], item) if isinstance(item, str) else item for item in modules]
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(pairs)
    ]
    (folder / "modules.json").write_text(json.dumps(rows))
    for kind, path in pairs:
        if kind == "Dropout":
            (folder / path).mkdir(exist_ok=True)
            (folder / path / "config.json").write_text('{"dropout": 0.2}')


def _write_dense(
    folder: Path, sizes: tuple[int, int, str, bool], rng: np.random.Generator, *, residual: bool = False
) -> None:
    n_in, n_out, activation, bias = sizes
    folder.mkdir()
    package = "linear" if activation == "Identity" else "activation"
    settings = {"in_features": n_in, "out_features": n_out, "bias": bias}
    settings |= {"activation_function": f"torch.nn.modules.{package}.{activation}"}
    settings |= {"use_residual": True} if residual else {}
    (folder / "config.json").write_text(json.dumps(settings))
    values = {"linear.weight": rng.standard_normal((n_out, n_in)) / np.sqrt(n_in)}
    if bias:
        values["linear.bias"] = rng.standard_normal(n_out)
    if residual and n_in != n_out:
        values["residual.weight"] = rng.standard_normal((n_out, n_in)) / np.sqrt(n_in)
    write_tensors(folder, values)


def _write_layer_norm(folder: Path, width: int, rng: np.random.Generator) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dimension": width}))
    gain, bias = 1 + rng.standard_normal(width) / 4, rng.standard_normal(width)
    write_tensors(folder, {"norm.weight": gain, "norm.bias": bias})


def _write_static(name: str, folder: Path) -> Path:
    base, tensors, behind = STATIC[name]
    _write_model("BertModel", folder / "bert")
    (folder / base).mkdir(exist_ok=True)
    tokenizer = (folder / "bert" / "tokenizer.json").read_text()
    shutil.rmtree(folder / "bert")
    (folder / base / "tokenizer.json").write_text(tokenizer)
    n_vocab = len(json.loads(tokenizer)["model"]["vocab"])
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    n_rows = 7 if "mapping" in tensors else n_vocab
    values = {
        tensors[0]: rng.standard_normal((n_rows, 16)).astype(np.float32),
        "mapping": rng.integers(0, n_rows, n_vocab),
        "weights": rng.random(n_vocab),
    }
    write_plain_tensors(folder / base, {key: values[key] for key in tensors})
    _write_modules(folder, [("StaticEmbedding", base), *(f"{i}_{kind}" for i, kind in enumerate(behind, 1))])
    if "Dense" in behind:
        _write_dense(folder / "2_Dense", (16, 8, "Sigmoid", True), rng)
    if "LayerNorm" in behind:
        _write_layer_norm(folder / "2_LayerNorm", 16, rng)
    if base == "":
        (folder / "config_sentence_transformers.json").write_text(json.dumps(STATIC_PROMPTS))
    return folder


def write_plain_tensors(folder: Path, values: dict[str, np.ndarray]) -> None:
    """A model.safetensors of these arrays, in their own types."""
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int8": "I8"}
    header, data = {}, b""
    for name, value in values.items():
        ends = [len(data), len(data) + value.nbytes]
        header[name] = {"dtype": names[value.dtype.name], "shape": list(value.shape), "data_offsets": ends}
        data += value.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


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
