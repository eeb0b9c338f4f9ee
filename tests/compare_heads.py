"""Every decoder under every head that transformers has for it, in folders that transformers writes.

python tests/compare_heads.py [NAME …]      (needs torch and transformers)

Random weights in the first configuration of each family of architecture_table.py; a line for each class, with
the largest difference in shares of the range of its answers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from architecture_table import CASES, Case
from tiny_files import build_tokenizer
from tiny_models import TinyModel
from tuili import _core
from tuili.loading.model import load, plan_model
from tuili.tasks.head import last_row

ENDS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
IDS = [5, 9, 17, 30, 41, 60, 77, 100]
BOUND = 1e-5


def written(name: str, case: Case, folder: Path) -> Any:
    """transformers' model of the class, which it has saved to the folder."""
    import torch
    import transformers

    settings = {key: x for key, x in case.config.items() if key not in ("architectures", "model_type")}
    config = getattr(transformers, case.architecture).config_class(**settings, num_labels=3)
    config.pad_token_id = 0
    torch.manual_seed(1)
    model = getattr(transformers, name)(config).eval().float()
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, 0, weights.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    build_tokenizer(TinyModel("", {"model_type": "llama"}, {}, {})).save(str(folder / "tokenizer.json"))
    saved = json.loads((folder / "config.json").read_text()) | {"architectures": [name]}
    (folder / "config.json").write_text(json.dumps(saved))
    return model


def expected(model: Any) -> np.ndarray:
    """The head's answers, or without one the last hidden states, [n_rows, n]."""
    import torch

    with torch.no_grad():
        got = model(input_ids=torch.tensor([IDS]))
    if "start_logits" in got:
        rows = torch.stack([got.start_logits[0], got.end_logits[0]], 1)
    else:
        rows = got.logits if "logits" in got else got.last_hidden_state
    found: np.ndarray = rows.numpy()
    return found.reshape(-1, found.shape[-1])


def answered(folder: Path) -> np.ndarray:
    """The same, computed here."""
    loaded = load(plan_model(folder))
    runner = _core.Runner(loaded.model, num_threads=1)
    text = _core.Sequence(np.array(IDS, np.int32), collect_hidden=True)
    if loaded.head is None:
        runner.encode([text], "mean", False)
        return text.hidden_states()[-1]
    row = loaded.head.row
    return runner.answer([text], None if row is None else [[last_row(row, IDS)]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="all where none is given")
    names = parser.parse_args().names
    import transformers

    first: dict[str, Case] = {}
    for case in CASES:
        # Others' heads stand on two halves (test_seq2seq_heads.py), or see both sides (test_encoders.py).
        if not {"decoder_layers", "is_decoder"} & case.config.keys():
            first.setdefault(case.architecture, case)
    n_wrong = 0
    for architecture, case in first.items():
        stem = architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
        for name in (f"{stem}{end}" for end in ENDS):
            if not hasattr(transformers, name) or (names and name not in names):
                continue
            if name == "Gemma3Model":  # which sees images
                continue
            with tempfile.TemporaryDirectory() as folder:
                wanted = expected(written(name, case, Path(folder)))
                error = abs(answered(Path(folder)) - wanted).max() / np.ptp(wanted)
            n_wrong += not error <= BOUND
            print(f"{name:40} {error:.1e}{'' if error <= BOUND else '  WRONG'}", flush=True)
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
