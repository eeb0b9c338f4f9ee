"""Write tests/goldens/translator_beams.json: transformers' beam search on the trained encoder-decoders.

    cd tests && PYTHONPATH=../python python -m oracle.translator_beams

Needs torch and transformers.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers

from translators import MODELS, NAMES, sources

GOLDEN = Path(__file__).resolve().parent.parent / "goldens" / "translator_beams.json"
WIDTHS = (1, 4, 8)
N_INPUTS, MAX_TOKENS = 12, 24


def opened(name: str) -> tuple[Any, Any]:
    """(model, tokenizer)"""
    transformers.logging.set_verbosity_error()  # of lengths that are given twice
    torch.set_num_threads(1)  # more only wait for each other in models so small
    folder = MODELS / name
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def goldens(model: Any, sources: list[list[int]], width: int) -> list[dict[str, Any]]:
    """All beams of each source, best first: their tokens after the first, and scores."""
    config = model.generation_config
    longest = max(map(len, sources))
    ids = torch.tensor([one + [config.pad_token_id] * (longest - len(one)) for one in sources])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in sources])
    with torch.no_grad():
        result = model.generate(
            ids, attention_mask=mask, num_beams=width, num_return_sequences=width, do_sample=False,
            max_new_tokens=MAX_TOKENS, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    rows = [_ended(row, config.eos_token_id) for row in result.sequences[:, 1:].tolist()]
    if width > 1:
        scores = result.sequences_scores.tolist()
    else:
        steps = model.compute_transition_scores(result.sequences, result.scores, normalize_logits=True)
        scores = [steps[i, : len(row)].sum().item() / len(row) for i, row in enumerate(rows)]
    return [
        {
            "ids": one,
            "width": width,
            "sequences": rows[i * width : (i + 1) * width],
            "scores": [round(score, 6) for score in scores[i * width : (i + 1) * width]],
        }
        for i, one in enumerate(sources)
    ]


def _ended(row: list[int], eos: int) -> list[int]:
    """Without what fills it up."""
    return row[: row.index(eos) + 1] if eos in row else row


def main() -> None:
    found: dict[str, Any] = {}
    for name in NAMES:
        model, tokenizer = opened(name)
        texts = sources(name, random.Random(1), N_INPUTS)
        encoded = [tokenizer(text)["input_ids"] for text in texts]
        found[name] = [one for width in WIDTHS for one in goldens(model, encoded, width)]
    GOLDEN.write_text(json.dumps(found, separators=(",", ":")).replace("},{", "},\n{") + "\n", "utf-8")
    print(GOLDEN.stat().st_size)


if __name__ == "__main__":
    main()
