"""What heads are asked, the same for every engine."""

from __future__ import annotations

from pathlib import Path

from .inputs import mixed_texts, text

MASK = "[MASK]"
QUESTION_TOKENS = 8
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def head_of(variant: str) -> str:
    """ "sequence" of "minilm-sequence-float32"."""
    return variant.split("-")[1]


def inputs_of(
    head: str, tokenizer_json: Path, n: int, shortest: int, longest: int, seed: int
) -> list[tuple[str, str | None]]:
    """Texts of these lengths in tokens; for heads for spans a question and a context, together as long."""
    if head != "spans":
        return [(one, None) for one in mixed_texts(tokenizer_json, n, shortest, longest, seed)]
    contexts = mixed_texts(tokenizer_json, n, shortest, longest - QUESTION_TOKENS, seed)
    return [(text(tokenizer_json, QUESTION_TOKENS, seed + n, i), one) for i, one in enumerate(contexts)]
