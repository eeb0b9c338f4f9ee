"""Classification, NER, QA and fill-mask beside ONNX Runtime, on BERT with random weights, in one interleaved
run from text to answer; arguments as compare.py's.

    python bench/heads.py --python onnxruntime=PATH --only minilm

Random weights cost what trained ones do; the head for tokens finds entities as seldom as trained ones do.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import compare
import numpy as np
from bars import US, Bar
from model_files import ModelFiles, whole
from peers import Peer
from peers.heads import LABELS, head_of

SHAPES = {"minilm": (6, 384, 1536, 12), "base": (12, 768, 3072, 12)}  # layers, d_model, d_ff, heads
HEADS = {
    "sequence": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "spans": "ForQuestionAnswering",
    "words": "ForMaskedLM",
}
N_VOCAB, N_POSITIONS = 30522, 512
SCALE = 0.02  # of random weights
OFTEN = 2.8  # deviations of a logit by which O is ahead: 5 to 20 % of the words are of entities
REQUIRED = 1.3
PEERS = {US: Peer("tuili_heads", "folder"), "onnxruntime": Peer("onnxruntime_heads", "converted")}


def bars() -> list[Bar]:
    table = "BERT with random weights, text to answer, against ONNX Runtime"
    variants = [
        f"{shape}-{head}-{stored}" for shape in SHAPES for stored in ("float32", "int8") for head in HEADS
    ]
    return [
        Bar(table, variant, "32 mixed answers", (variant,), (("onnxruntime", variant),), REQUIRED)
        for variant in variants
    ]


class HeadFiles(ModelFiles):
    """Folders of random weights, with the tokenizer of the built-in BERT."""

    def tokenizer_json(self, variant: str) -> Path:
        return self.built_in("minilm") / "tokenizer.json"

    def folder(self, variant: str) -> Path:
        shape, head, _ = variant.split("-")
        target = self._work / f"{shape}-{head}-random"
        if not target.exists():
            with whole(target) as partial:
                _write(partial, shape, head_of(variant), self.built_in("minilm"))
        return target


def _write(folder: Path, shape: str, head: str, tokenizer: Path) -> None:
    from safetensors.numpy import save_file

    folder.mkdir()
    n_layers, d, f, n_heads = SHAPES[shape]
    config: dict[str, Any] = {
        "architectures": [f"Bert{HEADS[head]}"],
        "model_type": "bert",
        "vocab_size": N_VOCAB,
        "hidden_size": d,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "intermediate_size": f,
        "hidden_act": "gelu",
        "max_position_embeddings": N_POSITIONS,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    if head in ("sequence", "tokens"):
        config["id2label"] = {str(i): label for i, label in enumerate(LABELS)}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder)
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.standard_normal(sizes, dtype=np.float32) * SCALE + name.endswith("LayerNorm.weight"))
        for name, sizes in _shapes(n_layers, d, f, head)
    }
    if head == "tokens":
        tensors["classifier.bias"][0] += OFTEN * SCALE * np.sqrt(d)
    save_file({name: x.astype(np.float32) for name, x in tensors.items()}, folder / "model.safetensors")


def _shapes(n_layers: int, d: int, f: int, head: str) -> list[tuple[str, tuple[int, ...]]]:
    """What a checkpoint of BERT with this head holds."""
    tables = {"word": N_VOCAB, "position": N_POSITIONS, "token_type": 2}
    found: list[tuple[str, tuple[int, ...]]] = [
        (f"bert.embeddings.{name}_embeddings.weight", (n, d)) for name, n in tables.items()
    ]
    maps = [("bert.embeddings.LayerNorm", (d,))]
    for i in range(n_layers):
        at = f"bert.encoder.layer.{i}"
        maps += [(f"{at}.attention.self.{part}", (d, d)) for part in ("query", "key", "value")]
        maps += [(f"{at}.attention.output.dense", (d, d)), (f"{at}.attention.output.LayerNorm", (d,))]
        maps += [(f"{at}.intermediate.dense", (f, d)), (f"{at}.output.dense", (d, f))]
        maps.append((f"{at}.output.LayerNorm", (d,)))
    if head == "sequence":
        maps.append(("bert.pooler.dense", (d, d)))
    if head in ("sequence", "tokens"):
        maps.append(("classifier", (len(LABELS), d)))
    if head == "spans":
        maps.append(("qa_outputs", (2, d)))
    if head == "words":
        at = "cls.predictions"
        maps += [(f"{at}.transform.dense", (d, d)), (f"{at}.transform.LayerNorm", (d,))]
        found.append((f"{at}.bias", (N_VOCAB,)))
    return found + [
        (f"{name}.{part}", sizes if part == "weight" else sizes[:1])
        for name, sizes in maps
        for part in ("weight", "bias")
    ]


if __name__ == "__main__":
    sys.exit(compare.main(None, bars(), PEERS, HeadFiles))
