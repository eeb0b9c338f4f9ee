"""Folders of translation and summarization models without tokenizer.json, for tests and for their oracle.

As in slow_tokenizers.py; vocab.json leaves out some pieces, and has some that no text becomes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slow_tokenizers import DATA, Slow, write
from slow_tokenizers import TEXTS as COMMON
from tuili.loading.model_source import TokenizerFiles, _tokenizer_files
from tuili.loading.opening import from_files
from tuili.loading.tokenizers import language_codes, sentencepiece_file
from tuili.tokenization.tokenizer import Tokenizer

GOLDEN_FILE = Path(__file__).parent / "goldens" / "translation_tokenizers.json"
GOLDENS = json.loads(GOLDEN_FILE.read_text("utf-8")) if GOLDEN_FILE.exists() else {}


def numbered(model: str, first: list[str], last: list[str]) -> dict[str, int]:
    """A vocab.json for a model's pieces."""
    found = sentencepiece_file.parse((DATA / model).read_bytes(), model).pieces
    kept = [text for i, (text, _, kind) in enumerate(found) if kind == sentencepiece_file.NORMAL and i % 13]
    return {text: i for i, text in enumerate([*first, *kept, "▁zzz", "语", *last])}


def more_specials(texts: Iterable[str]) -> dict[str, Any]:
    """As the files of published models name them."""
    return {"additional_special_tokens": list(texts)}


_FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]
_CODES = [">>cmn<<", ">>fra<<"]
MARIAN: dict[str, Any] = {"vocab.json": numbered("unigram.model", ["</s>", "<unk>", *_CODES], ["<pad>"])}
SEPARATE = MARIAN | {"target_vocab.json": numbered("bpe.model", ["</s>", "<unk>"], ["<pad>"])}
SPM = {"source.spm": "unigram.model", "target.spm": "bpe.model"}
PIECES = {"sentencepiece.bpe.model": "unigram.model"}
_ADDED = [*_FAIRSEQ, *[None] * 497, *language_codes.NLLB, "<mask>"]
NLLB = {
    "tokenizer_class": "NllbTokenizer",
    "added_tokens_decoder": {
        str(i): {"content": text, "special": True, "lstrip": text == "<mask>"}
        for i, text in enumerate(_ADDED)
        if text is not None
    },
}
PAIRS = {"sentencepiece.bpe.model": "pairs.model"}

FOLDERS = {
    "marian": Slow("marian", SPM, {"tokenizer_class": "MarianTokenizer"}, MARIAN),
    "marian-separate": Slow("marian", SPM, {"separate_vocabs": True}, SEPARATE),
    "m2m100": Slow(
        "m2m_100",
        PIECES,
        {"tokenizer_class": "M2M100Tokenizer"}
        | more_specials(f"__{code}__" for code in language_codes.M2M100),
        {"vocab.json": numbered("unigram.model", _FAIRSEQ, [])},
    ),
    "m2m100-pairs": Slow(
        "m2m_100",
        PAIRS,
        {"language_codes": "wmt21", "src_lang": "de"}
        | more_specials(f"__{code}__" for code in language_codes.WMT21),
        {"vocab.json": numbered("pairs.model", _FAIRSEQ, [])},
    ),
    "mbart": Slow("mbart", PIECES, {"tokenizer_class": "MBartTokenizer", "src_lang": "zh_CN"}),
    "mbart50": Slow("mbart", PIECES, {"tokenizer_class": "MBart50Tokenizer"}),
    "nllb": Slow("m2m_100", PAIRS, NLLB | {"src_lang": "zho_Hans"}),
    "nllb-legacy": Slow("m2m_100", PAIRS, NLLB | {"legacy_behaviour": True}),
    "pegasus": Slow("pegasus", {"spiece.model": "t5.model"}, {"tokenizer_class": "PegasusTokenizer"}),
    "mt5": Slow("mt5", {"spiece.model": "t5.model"}, {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}),
    "bart": Slow("bart", {"vocab.json": "vocab.json", "merges.txt": "merges.txt"}),
}

# What transformers 5 does otherwise than the models were made for: it leaves out mBART's normalizer, and
# keeps a space before BART's <mask>.
DIFFERENT = {
    "mbart": (
        "你好，世界！今天天气很好。",
        "\u3000全角　スペース ﬁ ligature ①",
        "我在Paris住了3年，喜欢machine learning。",
    ),
    "bart": ("<s>hello</s> <unk> <pad> <mask>",),
}

# A language of each, other than the default one.
OTHER = {"m2m100": "zh", "m2m100-pairs": "zh", "mbart": "ro_RO", "mbart50": "sl_SI", "nllb": "fra_Latn",
         "nllb-legacy": "fra_Latn"}  # fmt: skip

TEXTS = [
    *COMMON,
    "我在Paris住了3年，喜欢machine learning。",
    "今天 weather 很好!  真的吗？",
    " leading and trailing ",
    "two  spaces   three",
    "line\nbreak\ttab\u00a0nbsp\u200bzero",
    ">>cmn<< hello world",
    ">>fra<<你好",
    ">>xyz<< hello << world",
    "a >>cmn<< b",
    ">> not a code",
    "<s>hello</s> <unk> <pad> <mask>",
    "__en__ hello __zh__",
    "en_XX hello zh_CN fra_Latn",
    "🙂🙃 unknown 𠀀𠀁 together",
    "Ünïcödé ＡＢＣ １２３",
    "▁low line ▁▁ twice",
    "语 zzz 語",
]


def files_of(slow: Slow, folder: Path) -> TokenizerFiles:
    """Its files, as they are read."""
    return _tokenizer_files(str(write(slow, folder)), None, slow.model_type)


def made(files: TokenizerFiles) -> Tokenizer:
    return Tokenizer(from_files(files))


def load(slow: Slow, folder: Path) -> Tokenizer:
    return made(files_of(slow, folder))
