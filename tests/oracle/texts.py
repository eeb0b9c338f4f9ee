"""The texts of the acceptance scripts: original prose in English and Chinese, under tests/data/."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True)
class Prompt:
    """A named text; `language` is "en" or "zh"."""

    name: str
    language: str
    text: str


def prompts() -> list[Prompt]:
    """The ten prompts on which logits and greedy continuations are compared."""
    entries = json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))
    return [Prompt(e["name"], e["language"], e.get("text") or story(e["language"])) for e in entries]


def story(language: str) -> str:
    """A long text: about 1,700 tokens of English or 1,300 and more of Chinese with the built-in models."""
    name = {"en": "english.txt", "zh": "chinese.txt"}[language]
    return (DATA / name).read_text(encoding="utf-8").rstrip("\n")


def sentences() -> list[str]:
    """Forty single sentences, half English, half Chinese."""
    return (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()
