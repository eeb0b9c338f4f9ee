"""Makes tests/data/slow_tokenizers and tests/goldens/slow_tokenizers.json: what transformers makes of them.

PYTHONPATH=python python tests/oracle/slow_tokenizers.py      (needs transformers and sentencepiece)

With --kept, of the vocabularies that are there.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from slow_tokenizers import DATA, FOLDERS, PAIRS, TEXTS, write

GOLDENS = Path(__file__).parents[1] / "goldens" / "slow_tokenizers.json"
TEXT_FILES = [DATA.parent / "english.txt", DATA.parent / "chinese.txt"]
RULES = "".join(
    f"{a:X}\t{b:X}\n" for a, b in ((0x3000, 0x20), (0xFF0C, 0x2C), (0xFB01, 0x66), (0x2460, 0x31))
)

ACCENTS = "".join(
    " ".join(f"{ord(c):X}" for c in text) + "\t" + " ".join(f"{ord(c):X}" for c in composed) + "\n"
    for text, composed in (("e\u0301", "é"), ("e\u0302", "ê"), ("e\u0302\u0301", "ế"), ("e\u0323", "ẹ"),
    ("e\u0323\u0302", "ệ"), ("\uff76", "カ"), ("\uff76\uff9e", "ガ"), ("\uff72", "イ"), ("\uff0c", ","))
)  # fmt: skip
ACCENTED = ["Tiếng Việt được viết", "ガイド カ ロ イ é ê ẹ", "\u05d0\u05bc, e"] * 3


def train() -> None:
    """Vocabularies of some hundred tokens."""
    import sentencepiece
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer

    lines = [line for path in TEXT_FILES for line in path.read_text("utf-8").split("\n") if line.strip()]
    temporary = partial(tempfile.NamedTemporaryFile, "w", suffix=".tsv")
    with temporary() as rules, temporary() as accents:
        rules.write(RULES)
        rules.flush()
        accents.write(ACCENTS)
        accents.flush()
        kinds: dict[str, dict[str, Any]] = {
            "unigram": {"model_type": "unigram", "normalization_rule_tsv": rules.name},
            "bpe": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
                    "remove_extra_whitespaces": False},
            "pairs": {"model_type": "bpe", "normalization_rule_tsv": rules.name},
            "albert": {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "bos_piece": "[CLS]",
                       "eos_piece": "[SEP]", "control_symbols": ["[MASK]"],
                       "normalization_rule_tsv": rules.name},
            "deberta": {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]",
                        "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]",
                        "normalization_rule_name": "identity"},
            "t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "normalization_rule_tsv": rules.name},
            "accents": {"normalization_rule_tsv": accents.name},
        }  # fmt: skip
        for name, options in kinds.items():
            out = io.BytesIO()
            size = {"bpe": 800, "pairs": 500, "accents": 60}.get(name, 400)
            texts = ACCENTED if name == "accents" else lines
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=out, vocab_size=size, hard_vocab_limit=False,
                character_coverage=1.0 if name == "accents" else 0.98, num_threads=1, minloglevel=2,
                **options,
            )  # fmt: skip
            (DATA / f"{name}.model").write_bytes(out.getvalue())
    pairs = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    pairs.train_from_iterator(lines, vocab_size=500, special_tokens=specials)
    pairs.save_model(str(DATA))
    train_within_words([line for line in lines if line.isascii()])
    words = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    words.train_from_iterator(lines, vocab_size=400, limit_alphabet=200)
    words.save_model(str(DATA))


def train_within_words(lines: list[str]) -> None:
    """Pairs as subword-nmt has them; some pieces of merges.txt are not in the vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    made = json.loads(tokenizer.to_str())["model"]
    pieces = [text for i, text in enumerate(made["vocab"]) if i % 13]
    spelt = [text.removesuffix("</w>") if text.endswith("</w>") else f"{text}@@" for text in pieces]
    specials = ["__null__", "__start__", "__end__", "__unk__", "<unk>", "__newln__"]
    vocab = {text: i for i, text in enumerate(dict.fromkeys(specials + spelt))}
    merges = "".join(" ".join(pair) + "\n" for pair in made["merges"])
    (DATA / "word_vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (DATA / "word_merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")


def main() -> None:
    from transformers import AutoTokenizer

    if sys.argv[1:] != ["--kept"]:
        train()
    results = {}
    for name, slow in FOLDERS.items():
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = AutoTokenizer.from_pretrained(write(slow, Path(folder)))
        pairs = [tokenizer(a, b, return_token_type_ids=True) for a, b in PAIRS]
        results[name] = {
            "class": type(tokenizer).__name__,
            "texts": [tokenizer(text)["input_ids"] for text in TEXTS],
            "pairs": [[pair["input_ids"], pair["token_type_ids"]] for pair in pairs],
            "decoded": [
                tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) for text in TEXTS[:3]
            ],
        }
    GOLDENS.write_text(json.dumps(results, ensure_ascii=False, separators=(",", ":")).replace("},", "},\n"))
    sizes = {path.name: path.stat().st_size for path in DATA.iterdir()}
    print({name: result["class"] for name, result in results.items()}, sizes, GOLDENS.stat().st_size)


if __name__ == "__main__":
    main()
