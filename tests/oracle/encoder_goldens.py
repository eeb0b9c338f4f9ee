"""What transformers computes for tests/encoder_models.py, in float32: tests/goldens/encoders.json.

python tests/oracle/encoder_goldens.py [CASE …]     (needs torch and transformers)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from encoder_models import CASES, CHOICES, QUESTION, Case, write_folder

GOLDENS = Path(__file__).parents[1] / "goldens" / "encoders.json"
ROWS = (0, 7, 22)  # of hidden states and of heads that answer for each token
COLUMNS = 12
OWN_KEYS = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
}  # fmt: skip


def answers(case: Case) -> dict[str, Any]:
    """The last hidden states and the head's outputs: COLUMNS numbers at ROWS, and the range of all."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as name:
        folder = write_folder(case, Path(name))
        if "n_embd" in case.config:  # transformers knows the tensors' own names, but not the settings'
            settings = json.loads((folder / "config.json").read_text())
            settings |= {theirs: settings[own] for theirs, own in OWN_KEYS.items()}
            settings["rope_parameters"] = {"rope_type": "default", "rope_theta": settings["rotary_emb_base"]}
            (folder / "config.json").write_text(json.dumps(settings))
        auto = getattr(transformers, case.config["architectures"][0])
        model, info = auto.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    missing = [key for key in info["missing_keys"] if "pooler" not in key and "embed_positions" not in key]
    assert not missing and not info["unexpected_keys"], (case.name, info)
    model.eval()
    inputs = {"input_ids": torch.tensor([case.ids])}
    if case.types is not None:
        inputs["token_type_ids"] = torch.tensor([case.types])
    if case.config["architectures"][0].endswith("ForMultipleChoice"):
        inputs = {name: ids[None] for name, ids in inputs.items()}  # one choice of one question
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])  # which ModernBERT's needs
    with torch.no_grad():
        got = model(**inputs, output_hidden_states=True)
    out = {"hidden": got.hidden_states[-1][0]}
    if "start_logits" in got:
        out["answer"] = torch.stack([got.start_logits[0], got.end_logits[0]], dim=1)
    elif "prediction_logits" in got:
        out["answer"] = got.prediction_logits[0]
    elif "logits" in got:
        out["answer"] = got.logits[0]
    return {key: summary(value.double().numpy()) for key, value in out.items()}


def shares(case: Case) -> list[float]:
    """Of CHOICES as answers to QUESTION."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as name:
        folder = write_folder(case, Path(name))
        model = getattr(transformers, case.config["architectures"][0]).from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([QUESTION] * len(CHOICES), CHOICES, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**{name: rows[None] for name, rows in inputs.items()}).logits
    return torch.softmax(logits[0].double(), dim=0).tolist()


def summary(values: Any) -> dict[str, Any]:
    rows = values[list(ROWS), :COLUMNS] if values.ndim == 2 else values[None, :COLUMNS]
    return {
        "range": float(f"{values.max() - values.min():.6g}") or 1.0,  # a number alone is of order 1
        "rows": [[float(f"{x:.7g}") for x in row] for row in rows],
    }


if __name__ == "__main__":
    kept = json.loads(GOLDENS.read_text()) if sys.argv[1:] else {}
    asked = sys.argv[1:] or CASES
    found = {name: answers(case) if name in asked else kept[name] for name, case in CASES.items()}
    found |= {"choices": kept.get("choices") or shares(CASES["BertForMultipleChoice"])}
    GOLDENS.write_text(json.dumps(found, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(f"{len(found)} cases, {GOLDENS.stat().st_size} bytes")
