"""Trains the GPT-2 of test_trained_models.py: tests/models/adder.

python tests/models/train_adder.py      (needs torch and transformers; 8 minutes)

Goes on with what is in the folder, if there is one.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import sums  # noqa: E402

END = len(sums.VOCAB) - 1
LIMIT_S = 430.0


def batch(rng: random.Random, n: int) -> dict[str, Any]:
    """n sums; only what follows "=" is learned."""
    import torch

    places = {token: i for i, token in enumerate(sums.VOCAB)} | {" ": sums.VOCAB.index("Ġ")}
    pairs = [sums.summands(rng) for _ in range(n)]
    rows = torch.tensor(
        [[places[c] for c in sums.prompt(a, b) + sums.answer(a, b)] + [END] for a, b in pairs]
    )
    labels = rows.clone()
    labels[:, : len(sums.prompt(0, 0))] = -100
    return {"input_ids": rows, "labels": labels}


def train(n_steps: int) -> None:
    import torch
    import transformers

    torch.manual_seed(1)
    torch.set_num_threads(1)
    config = transformers.GPT2Config(
        vocab_size=len(sums.VOCAB), n_embd=96, n_layer=2, n_head=4, n_positions=16,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=END, eos_token_id=END,
        initializer_range=0.1,
    )  # fmt: skip
    folder = HERE / "adder"
    if folder.exists():
        model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    else:
        model = transformers.GPT2LMHeadModel(config)
    steps = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98))
    rng, start, smooth = random.Random(), time.monotonic(), 2.0
    for step in range(n_steps):
        gone = max(step / n_steps, (time.monotonic() - start) / LIMIT_S)
        if gone >= 1 or smooth < 1e-4:
            break
        rate = 2e-3 * min(1.0, (step + 1) / 100, max(0.02, 2 * (1 - gone)))
        for group in steps.param_groups:
            group["lr"] = rate
        loss = model(**batch(rng, 128)).loss
        steps.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        smooth += 0.02 * (loss.item() - smooth)
        if step % 100 == 99:
            print(step + 1, f"loss {smooth:.5f}, {time.monotonic() - start:.0f} s", flush=True)
    model.half().save_pretrained(folder)
    vocab = {token: i for i, token in enumerate(sums.VOCAB)}
    (folder / "vocab.json").write_text(json.dumps(vocab) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")


if __name__ == "__main__":
    train(8000)
