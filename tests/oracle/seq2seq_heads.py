"""What transformers computes for tests/seq2seq_heads.py, in float32: tests/goldens/seq2seq_heads.json.

    python -m oracle.seq2seq_heads     in tests/, with torch and transformers

A case is refused unless transformers finds every tensor that it needs under the name that it expects, and
nothing else.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from oracle.encoder_goldens import summary
from oracle.pipeline_goldens import plain
from oracle.seq2seq import _MADE
from seq2seq_heads import CALLS, CASES, Case, write

PATH = Path(__file__).parent.parent / "goldens" / "seq2seq_heads.json"


def opened(case: Case, folder: Path) -> Any:
    """The model of the folder."""
    import torch
    import transformers

    auto = getattr(transformers, case.architecture)
    model, info = auto.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    missing = [key for key in info["missing_keys"] if not any(part in key for part in _MADE)]
    assert not missing and not info["unexpected_keys"], (case.architecture, info)
    return model.eval()


def answers(model: Any, case: Case) -> dict[str, Any]:
    """The last hidden states and the head's outputs; who does not shift the text is given it shifted."""
    import torch

    ids = torch.tensor([case.ids])
    asked = {"input_ids": ids}
    if case.architecture.endswith("Model") and "Bart" not in case.architecture:
        start = torch.tensor([[case.config["decoder_start_token_id"]]])
        asked["decoder_input_ids"] = torch.cat([start, ids[:, :-1]], dim=1)
    with torch.no_grad():
        got = model(**asked, output_hidden_states=True)
    if "start_logits" in got:
        rows = torch.stack([got.start_logits[0], got.end_logits[0]], dim=1)
    else:
        rows = got.logits[0] if "logits" in got else got.last_hidden_state[0]
    return summary(rows.double().numpy())


def main() -> None:
    import transformers

    found: dict[str, Any] = {"answers": {}, "calls": []}
    made = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            model = opened(case, write(case, Path(folder)))
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        found["answers"][name] = answers(model, case)
        made[name] = model, tokenizer
        print(name, found["answers"][name]["range"], flush=True)
    for name, task, args, kwargs in CALLS:
        model, tokenizer = made[name]
        pipe = transformers.pipeline(task, model=model, tokenizer=tokenizer)
        found["calls"].append(plain(pipe(*args, **kwargs)))
    PATH.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    print(f"{len(CASES)} cases, {len(CALLS)} calls, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
