"""transformers' logits for every tiny model of tests/architecture_table.py, in float32, eagerly computed.

    python -m oracle.architectures [CASE …]     in tests/, with torch and transformers; writes the golden file

A case is refused unless transformers finds every tensor it needs under the name it expects, and nothing else.
Of each position, some logits and the range of all are kept.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from architecture_files import token_ids, write
from architecture_table import CASES, COLUMNS

_SINUSOIDS = ".embed_positions"
PATH = Path(__file__).parent.parent / "goldens" / "architectures.npz"


def logits_of(folder: Path) -> np.ndarray:
    """Logits [n_tokens, n_vocab] of the folder's model. Falcon's eager attention adds linear biases twice; it
    is asked for the other one."""
    import torch
    from transformers import AutoModelForCausalLM

    attention = "sdpa" if '"alibi": true' in (folder / "config.json").read_text("utf-8") else "eager"
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
    )
    # A decoder alone reads no source, its positions may be computed, and one bias may have two names.
    unread = (".encoder_attn", _SINUSOIDS, "lm_head.bias", "cls.predictions.bias")
    needless = {name for name in report["missing_keys"] if any(part in name for part in unread)}
    report["missing_keys"] = set(report["missing_keys"]) - needless
    wrong = {key: names for key, names in report.items() if names}
    assert not wrong, f"{folder}: {wrong}"
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([token_ids()])).logits[0].float().numpy()


def main() -> None:
    chosen = sys.argv[1:]
    kept = dict(np.load(PATH)) if PATH.exists() else {}
    names = {case.name for case in CASES}
    kept = {name: rows for name, rows in kept.items() if name in names}
    for case in CASES:
        if case.verified != "transformers":
            continue
        if chosen and not any(text in case.name for text in chosen):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                logits = logits_of(write(case, Path(folder)))
            except Exception as error:
                print(f"{case.name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
                continue
        spread = np.ptp(logits, axis=1, keepdims=True)
        kept[case.name] = np.concatenate([logits[:, COLUMNS], spread], axis=1)
        print(case.name, f"range {spread.max():.2f}", flush=True)
    np.savez_compressed(PATH, **{name: kept[name] for name in sorted(kept)})


if __name__ == "__main__":
    main()
