"""Folders without tokenizer.json: which files and settings each has, for tests and for their oracle.

The files are in data/slow_tokenizers, made by tests/oracle/slow_tokenizers.py.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuili.loading.tokenizers import sentencepiece_file

DATA = Path(__file__).parent / "data" / "slow_tokenizers"


@dataclass(frozen=True)
class Slow:
    """files: name in the folder -> name in DATA; settings: tokenizer_config.json; others: more JSON files."""

    model_type: str
    files: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)


_WORDS = {"vocab.txt": "vocab.txt"}
_PAIRS = {"vocab.json": "vocab.json", "merges.txt": "merges.txt"}
_WORD_PAIRS = {"vocab.json": "word_vocab.json", "merges.txt": "word_merges.txt"}

FOLDERS = {
    "bert": Slow("bert", _WORDS, {"tokenizer_class": "BertTokenizer"}),
    "bert-cased": Slow("bert", _WORDS, {"do_lower_case": False, "tokenize_chinese_chars": False}),
    "bert-accents": Slow("electra", _WORDS, {"strip_accents": False}),
    "bert-added": Slow("bert", _WORDS, {}, {"added_tokens.json": {"<new>": 400, "Extra": 401}}),
    "distilbert": Slow("distilbert", _WORDS, {"tokenizer_class": "DistilBertTokenizer"}),
    "roberta": Slow("roberta", _PAIRS, {"tokenizer_class": "RobertaTokenizer"}),
    "roberta-space": Slow("roberta", _PAIRS, {"add_prefix_space": True}),
    "gpt2": Slow("gpt2", _PAIRS, {"tokenizer_class": "GPT2Tokenizer"}),
    "blenderbot-small": Slow("blenderbot-small", _WORD_PAIRS),
    "ctrl": Slow("ctrl", _WORD_PAIRS, {"tokenizer_class": "CTRLTokenizer"}),
    "qwen2": Slow("qwen2", _PAIRS, {"tokenizer_class": "Qwen2Tokenizer"}),
    "albert": Slow("albert", {"spiece.model": "albert.model"}),
    "albert-cased": Slow(
        "albert", {"spiece.model": "albert.model"}, {"do_lower_case": False, "keep_accents": True}
    ),
    "xlm-roberta": Slow(
        "xlm-roberta",
        {"sentencepiece.bpe.model": "unigram.model"},
        {"tokenizer_class": "XLMRobertaTokenizer"},
    ),
    "camembert": Slow("camembert", {"sentencepiece.bpe.model": "unigram.model"}),
    "deberta-v2": Slow("deberta-v2", {"spm.model": "deberta.model"}),
    "t5": Slow("t5", {"spiece.model": "t5.model"}, {"tokenizer_class": "T5Tokenizer", "extra_ids": 10}),
    "llama": Slow(
        "llama",
        {"tokenizer.model": "bpe.model"},
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False},
    ),
}

TEXTS = [
    "The cat sat on the mat, didn't it?",
    "Hello   world \t and\nnew lines ",
    "你好，世界！今天天气很好。",
    "Café naïve ÀÉÎ Straße",
    "``quoted'' and 'single' 3.14 1,000",
    "emoji 🙂 and \u0301combining e\u0301",
    "",
    " ",
    "a",
    "a.b (c)\n\nit's 'x'\n what?!\n",
    "\u3000全角　スペース ﬁ ligature ①",
    "x" * 120,
    "under_score #hash @at [brackets] <angle>",
]
PAIRS = [("The cat", "你好 world"), ("a b", "c")]


def write(slow: Slow, folder: Path) -> Path:
    """The folder, with a config.json that names the model's type."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in slow.files.items():
        shutil.copyfile(DATA / source, folder / name)
    for name, value in {
        "config.json": {"model_type": slow.model_type},
        "tokenizer_config.json": slow.settings,
        **slow.others,
    }.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def with_pieces(model: str, pieces: list[tuple[str, int]], *, byte_fallback: bool = False) -> bytes:
    """A model with more pieces, text and type, behind its own; their score is 0, so they are always taken."""
    data = (DATA / f"{model}.model").read_bytes()
    for text, kind in pieces:
        piece = bytes([0x0A, len(text.encode())]) + text.encode() + bytes([0x15, 0, 0, 0, 0, 0x18, kind])
        data += bytes([0x0A, len(piece)]) + piece
    if byte_fallback:
        (trainer,) = (value for field, value in sentencepiece_file._fields(data, model) if field == 2)
        trainer += b"\x98\x02\x01"
        data += bytes([0x12, len(trainer) & 0x7F | 0x80, len(trainer) >> 7]) + trainer
    return data
