"""The trained encoder-decoders of tests/models, and texts for them."""

from __future__ import annotations

import random
import sys
from pathlib import Path

MODELS = Path(__file__).parent / "models"
sys.path.insert(0, str(MODELS))
import number_words  # noqa: E402

NAMES = ("t5-numbers", "marian-numbers")
PREFIXES = {
    "t5-numbers": {"zh": "write in Chinese: ", "en": "write in English: "},
    "marian-numbers": {"zh": ">>cmn<< ", "en": ">>eng<< "},
}
WORDS = number_words.WORDS
HELD_OUT = sorted(number_words.HELD_OUT)


def sources(name: str, rng: random.Random, n: int) -> list[str]:
    """n numbers as the model reads them, the two languages in turn; half of them were not trained on."""
    texts = []
    for i in range(n):
        number = rng.choice(HELD_OUT) if i % 4 < 2 else rng.randrange(10_000)
        texts.append(f"{PREFIXES[name]['zh' if i % 2 else 'en']}{number}")
    return texts
