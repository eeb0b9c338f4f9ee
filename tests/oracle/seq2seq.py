"""transformers' logits for every model of tests/seq2seq_models.py, in float32, and what it generates.

    python -m oracle.seq2seq     in tests/, with torch and transformers; writes tests/goldens/seq2seq.npz

A case is refused unless transformers finds every tensor that it needs under the name that it expects, and
nothing else. Of each position, some logits and the range of all are kept; and the tokens of beam searches.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from seq2seq_models import CASES, COLUMNS, N_NEW, SEARCHES, Case, source_ids, target_ids, write

PATH = Path(__file__).parent.parent / "goldens" / "seq2seq.npz"
# Made anew, or of several that share a tensor, or unused beside them or without tokens that all others see.
_MADE = ("_global", "embed_positions", "embed_tokens", "shared", "lm_head", "relative_attention_bias")


def opened(case: Case, folder: Path) -> Any:
    """The model of the folder."""
    import torch
    import transformers

    model, report = getattr(transformers, case.architecture).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    missing = [name for name in report["missing_keys"] if not any(part in name for part in _MADE)]
    assert not missing and not report["unexpected_keys"] and not report["mismatched_keys"], (
        case.name,
        report,
    )
    return model.eval()


def answers(case: Case, folder: Path) -> dict[str, np.ndarray]:
    """Rows of logits, their ranges, and the tokens and scores of SEARCHES."""
    import torch

    model, source = opened(case, folder), torch.tensor([source_ids()])
    with torch.no_grad():
        found = model(input_ids=source, decoder_input_ids=torch.tensor([target_ids(case)]))
    logits = found.logits[0].numpy()
    out = {"": np.concatenate([logits[:, COLUMNS], np.ptp(logits, axis=1, keepdims=True)], axis=1)}
    if "T5" in case.architecture:
        out[" encoder"] = found.encoder_last_hidden_state[0, :, ::8].numpy()
    for i, search in enumerate(SEARCHES):
        with torch.no_grad():
            got = model.generate(
                source,
                **{"max_new_tokens": N_NEW, "do_sample": False} | search,
                num_return_sequences=search["num_beams"],
                return_dict_in_generate=True,
                output_scores=True,
            )
        out[f" {i}"] = got.sequences[:, 1:].numpy().astype(np.int16)
        if search["num_beams"] > 1:
            out[f" {i} scores"] = got.sequences_scores.numpy()
    return out


def main() -> None:
    kept = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = answers(case, write(case, Path(folder)))
        print(case.name, f"range {found[''][:, -1].max():.2f}", found[" 1"].tolist()[0], flush=True)
        kept |= {case.name + part: rows for part, rows in found.items()}
    np.savez_compressed(PATH, **kept)


if __name__ == "__main__":
    main()
