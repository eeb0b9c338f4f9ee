"""Trains the tiny models of test_trained_models.py: tests/models/{sentiment,entities,questions}.

python tests/models/train_encoders.py [name …]      (needs torch and transformers; minutes)

Goes on with what is in the folder, if there is one.
"""

from __future__ import annotations

import json
import math
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
    if name == "questions":
        return questions(rng, cut, n)
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


def questions(rng: random.Random, cut: Any, n: int) -> dict[str, Any]:
    """n questions with their contexts, and the first and last token of each answer."""
    import torch

    texts, contexts, answers, begins = zip(*(sentences.question(rng) for _ in range(n)), strict=True)
    inputs = cut(list(texts), list(contexts), padding=True, return_tensors="pt")
    ends = [begin + len(answer) - 1 for begin, answer in zip(begins, answers, strict=True)]
    first, last = (
        torch.tensor([inputs.encodings[i].char_to_token(at, 1) for i, at in enumerate(places)])
        for places in (begins, ends)
    )
    return {**inputs, "start_positions": first, "end_positions": last}


def begin_alike(model: Any) -> None:
    """What answers by names need, and what would take thousands of steps to arise.

    Half of the first layer's heads begin with keys equal to queries, which do not see the type: a word then
    meets itself in the other text. Half of the second layer's look at neighbours, by positions that begin as
    sinusoids (Vaswani et al. 2017), so that a step is the same map everywhere.
    """
    import torch

    table = model.bert.embeddings.position_embeddings.weight
    types = model.bert.embeddings.token_type_embeddings.weight
    first, second = (model.bert.encoder.layer[i].attention.self for i in (0, 1))
    n, d = table.shape
    angles = torch.arange(n)[:, None] * 0.5 / 25.0 ** (torch.arange(0, d, 2)[None, :] / d)
    with torch.no_grad():
        table.copy_(0.05 * torch.cat([angles.sin(), angles.cos()], dim=1))
        apart = (types[1] - types[0]) / (types[1] - types[0]).norm()
        places = torch.linalg.svd(table - table.mean(dim=0)).Vh[:8]
        alike = first.query.weight[: d // 2]
        alike.sub_(torch.outer(alike @ apart, apart)).mul_(2)
        near = second.query.weight[: d // 2]
        near.copy_(5 * near @ places.T @ places)
        first.key.weight[: d // 2], second.key.weight[: d // 2] = alike, near


def train(name: str, n_steps: int, limit_s: float) -> None:
    import torch
    import transformers

    torch.manual_seed(1)
    torch.set_num_threads(1)
    cut, vocab = tokenizer()
    labels = {"sentiment": ["negative", "positive"], "entities": TAGS}.get(name, ["LABEL_0", "LABEL_1"])
    config = transformers.BertConfig(
        vocab_size=len(vocab), hidden_size=96, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=192, max_position_embeddings=96, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, id2label=dict(enumerate(labels)),
        # 0.02 is for rows of 768 numbers; with few, attention would begin nearly flat.
        initializer_range=0.1 if name == "questions" else 0.02,
    )  # fmt: skip
    kinds = {
        "sentiment": "SequenceClassification",
        "entities": "TokenClassification",
        "questions": "QuestionAnswering",
    }
    folder, kind = HERE / name, getattr(transformers, f"BertFor{kinds[name]}")
    model = kind.from_pretrained(folder, dtype=torch.float32) if folder.exists() else kind(config)
    if name == "questions" and not folder.exists():
        begin_alike(model)
    steps = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    rng, start, smooth = random.Random(), time.monotonic(), 1.0
    for step in range(n_steps):
        gone = max(step / n_steps, (time.monotonic() - start) / limit_s)
        if gone >= 1 or smooth < 3e-4:
            break
        for group in steps.param_groups:
            group["lr"] = 1e-3 * min(1, (gone + 1e-3) / 0.1, (1 + math.cos(math.pi * gone)) / 1.5)
        loss = model(**batch(name, rng, cut, 16)).loss
        steps.zero_grad()
        loss.backward()
        steps.step()
        smooth += 0.02 * (loss.item() - smooth)
        if step % 100 == 99:
            print(name, step + 1, f"loss {smooth:.5f}, {time.monotonic() - start:.0f} s", flush=True)
    model.half().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}) + "\n")


if __name__ == "__main__":
    steps = {"sentiment": (1400, 100.0), "entities": (4000, 110.0), "questions": (9000, 430.0)}
    for chosen in sys.argv[1:] or steps:
        train(chosen, *steps[chosen])
