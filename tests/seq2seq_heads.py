"""Encoder-decoders under task heads, with random weights in Hugging Face's names, over seq2seq_models.py's.

tests/oracle/seq2seq_heads.py loads the same folders into transformers and keeps its answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import processors

import seq2seq_models
from architecture_files import values
from seq2seq_models import source_ids
from tiny_files import _write_safetensors, build_tokenizer
from tiny_models import TinyModel, Weight

LABELS = {"0": "contradiction", "1": "neutral", "2": "entailment"}
ROWS, COLUMNS = (0, 7, 22), 12  # as encoder_goldens.py keeps them
TEXT, OTHER = "The cat is on the house.", "a good dog, to the river!"

# (class, task, positional arguments, keywords): what transformers' pipelines are called with, too.
CALLS: list[tuple[str, str, list[Any], dict[str, Any]]] = [
    ("BartForSequenceClassification", "text-classification", [[TEXT, OTHER]], {"top_k": None}),
    ("BartForSequenceClassification", "zero-shot-classification", [TEXT, ["cat", "river", "dog"]], {}),
    ("BartForSequenceClassification", "zero-shot-classification", [OTHER, "cat, dog"], {"multi_label": True}),
    ("MBartForSequenceClassification", "zero-shot-classification", [TEXT, ["cat", "river"]], {}),
    ("T5ForSequenceClassification", "text-classification", [{"text": TEXT, "text_pair": OTHER}], {}),
    ("T5ForTokenClassification", "token-classification", ["the cat"], {"ignore_labels": []}),
    ("BartModel", "feature-extraction", ["cat"], {}),
]

# Class -> the case whose layers it has.
_BODIES = {
    "BartModel": "BartForConditionalGeneration: plain",
    "BartForSequenceClassification": "BartForConditionalGeneration: scaled uneven",
    "BartForQuestionAnswering": "BartForConditionalGeneration: plain",
    "MBartModel": "MBartForConditionalGeneration: plain",
    "MBartForSequenceClassification": "MBartForConditionalGeneration: plain",
    "MBartForQuestionAnswering": "MBartForConditionalGeneration: plain",
    "PLBartModel": "PLBartForConditionalGeneration: plain",
    "PLBartForSequenceClassification": "PLBartForConditionalGeneration: plain",
    "MvpModel": "MvpForConditionalGeneration: plain",
    "MvpForSequenceClassification": "MvpForConditionalGeneration: scaled",
    "MvpForQuestionAnswering": "MvpForConditionalGeneration: plain",
    "BlenderbotModel": "BlenderbotForConditionalGeneration: plain",
    "LEDModel": "LEDForConditionalGeneration: plain",
    "LEDForQuestionAnswering": "LEDForConditionalGeneration: windows",
    "LongT5Model": "LongT5ForConditionalGeneration: plain",
    "PegasusModel": "PegasusForConditionalGeneration: unscaled uneven",
    "MarianModel": "MarianMTModel: plain",
    "M2M100Model": "M2M100ForConditionalGeneration: plain",
    "T5Model": "T5ForConditionalGeneration: plain",
    "MT5Model": "MT5ForConditionalGeneration: plain",
    "UMT5Model": "UMT5ForConditionalGeneration: plain",
    "T5ForSequenceClassification": "T5ForConditionalGeneration: plain",
    "T5ForQuestionAnswering": "T5ForConditionalGeneration: gated",
    "T5ForTokenClassification": "T5ForConditionalGeneration: plain",
    "MT5ForSequenceClassification": "MT5ForConditionalGeneration: plain",
    "UMT5ForSequenceClassification": "UMT5ForConditionalGeneration: plain",
    "UMT5ForTokenClassification": "UMT5ForConditionalGeneration: plain",
}


@dataclass(frozen=True)
class Case:
    """One class; body: the encoder-decoder below the head."""

    architecture: str
    body: seq2seq_models.Case

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        own: dict[str, Any] = {"architectures": [self.architecture]}
        if not self.architecture.endswith("Answering"):
            own |= {"id2label": LABELS, "label2id": {label: int(i) for i, label in LABELS.items()}}
        return self.body.config | own

    @property
    def ids(self) -> list[int]:
        """A text in which two tokens end something, and mBART's language comes last."""
        ids, end = source_ids(), self.config["eos_token_id"]
        ids[20] = end
        ids[-2 if self.architecture.startswith(("MBart", "PLBart")) else -1] = end
        return ids


CASES = {name: Case(name, seq2seq_models.by_name(body)) for name, body in _BODIES.items()}


def tensors(case: Case) -> dict[str, np.ndarray]:
    """The layers under the names of the class, and the head."""
    name, d, found = case.architecture, case.config["d_model"], {}
    kept = ("encoder.", "shared.") if name.endswith("TokenClassification") else ("",)
    within = "transformer." if "T5" in name and not name.endswith(("Answering", "Model")) else ""
    for theirs, value in seq2seq_models.stored_tensors(case.body).items():
        if theirs.startswith(("lm_head", "final_logits_bias")) or not theirs.startswith(kept):
            continue
        found[
            within
            + (theirs.removeprefix("model.").removeprefix("led.") if name.endswith("Model") else theirs)
        ] = value
    maps = {
        "SequenceClassification": (("classification_head.dense", d), ("classification_head.out_proj", 3)),
        "QuestionAnswering": (("qa_outputs", 2),),
        "TokenClassification": (("classifier", 3),),
    }
    for linear, n in maps.get(name.partition("For")[2], ()):
        found |= {f"{linear}.weight": values(linear, (n, d)), f"{linear}.bias": values(f"{linear}.b", (n,))}
    return found


def write(case: Case, folder: Path) -> Path:
    """A Hugging Face folder of the case, whose tokenizer ends texts as the family does."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        name: Weight("f32", x.shape, x.reshape(x.shape[0], -1).view(np.uint8))
        for name, x in tensors(case).items()
    }
    _write_safetensors(folder / "model.safetensors", stored)
    (folder / "config.json").write_text(json.dumps(case.config | {"dtype": "float32"}), encoding="utf-8")
    tokenizer = build_tokenizer(TinyModel("", {"model_type": "llama"}, {}, {}))
    end, last = case.config["eos_token_id"], 7
    around = "E:0 L:0" if case.architecture.startswith("MBart") else "E:0"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A:0 {around}",
        pair=f"$A:0 E:0 $B:0 {around}",
        special_tokens=[
            {"id": letter, "ids": [token_id], "tokens": [tokenizer.id_to_token(token_id)]}
            for letter, token_id in (("E", end), ("L", last))
        ],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        f"{name}_token": tokenizer.id_to_token(case.config[f"{name}_token_id"]) for name in ("pad", "eos")
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names | {"model_max_length": 60}))
    return folder
