"""Trains the tiny models of test_trained_models.py: tests/models/{sentiment,entities}.

python tests/models/train_encoders.py [name …]      (needs torch and transformers; a minute each)
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

import sentences  # noqa: E402

TAGS = ["O", *(f"{begin}-{tag}" for tag in ("PER", "LOC", "ORG") for begin in "BI")]


def tokenizer() -> Any:
    """BERT's, over the makers' words alone."""
    from transformers import BertTokenizer

    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sentences.words()]
    return BertTokenizer(vocab={word: i for i, word in enumerate(vocab)}, do_lower_case=True), vocab


def batch(name: str, rng: random.Random, cut: Any, n: int) -> dict[str, Any]:
    """n examples as tensors, with what the head is to say of them."""
    import torch

    if name == "sentiment":
        texts, labels = zip(*(sentences.sentiment(rng) for _ in range(n)), strict=True)
        return {**cut(list(texts), padding=True, return_tensors="pt"),
                "labels": torch.tensor([int(label == "positive") for label in labels])}  # fmt: skip
    made = [sentences.entities(rng) for _ in range(n)]
    inputs = cut([text for text, _ in made], padding=True, return_tensors="pt")
    labels = torch.full(inputs["input_ids"].shape, -100)
    for i, (text, found) in enumerate(made):
        tags, at = ["O"] * len(text), 0
        for tag, words in found:
            at = text.index(words, at)
            tags[at : at + len(words)] = [f"B-{tag}", *[f"I-{tag}"] * (len(words) - 1)]
            at += len(words)
        encoding = inputs.encodings[i]
        for j, (begin, end) in enumerate(encoding.offsets):
            if end > begin:
                labels[i, j] = TAGS.index(tags[begin])
    return {**inputs, "labels": labels}


def train(name: str, n_steps: int) -> None:
    import torch
    import transformers

    torch.manual_seed(1)
    torch.set_num_threads(2)
    cut, vocab = tokenizer()
    labels = {"sentiment": ["negative", "positive"], "entities": TAGS}[name]
    config = transformers.BertConfig(
        vocab_size=len(vocab), hidden_size=96, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=192, max_position_embeddings=96, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, id2label=dict(enumerate(labels)),
    )  # fmt: skip
    kinds = {
        "sentiment": "SequenceClassification",
        "entities": "TokenClassification",
    }
    model = getattr(transformers, f"BertFor{kinds[name]}")(config)
    steps = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(steps, 1e-3, n_steps, pct_start=0.1)
    rng, start, smooth = random.Random(7), time.monotonic(), 1.0
    for step in range(n_steps):
        loss = model(**batch(name, rng, cut, 48)).loss
        steps.zero_grad()
        loss.backward()
        steps.step()
        schedule.step()
        smooth += 0.02 * (loss.item() - smooth)
        if step % 100 == 99:
            print(name, step + 1, f"loss {smooth:.5f}, {time.monotonic() - start:.0f} s", flush=True)
        if smooth < 3e-4 or time.monotonic() - start > 150:
            break
    folder = HERE / name
    model.half().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}) + "\n")


if __name__ == "__main__":
    steps = {"sentiment": 600, "entities": 800}
    for chosen in sys.argv[1:] or steps:
        train(chosen, steps[chosen])
