"""Pipelines over random models of every family, from folders without tokenizer.json: transformers' texts.

    cd tests && PYTHONPATH=../python python compare_translations.py

Needs torch, transformers and sentencepiece. The exit status is 1 if a text differs.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

import tuili
from oracle.table import Table
from slow_tokenizers import write
from translation_folders import FOLDERS, OTHER

TEXT = "The cat sat on 你好 world."
BEAMS, MAX_TOKENS = (1, 3), 12
TARGETS = {"m2m100": "en", "m2m100-pairs": "en", "mbart": "zh_CN", "mbart50": "fr_XX", "nllb": "eng_Latn",
           "nllb-legacy": "eng_Latn"}  # fmt: skip
_SIZES = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "max_position_embeddings": 128, "init_std": 0.3,
}  # fmt: skip
_FAIRSEQ = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}


def model_of(model_type: str, n_vocab: int, n_written: int | None) -> Any:
    """A random one that fits the tokenizer. n_written: tokens of another vocabulary, of what it writes."""
    more: dict[str, Any] = {"vocab_size": n_vocab, **_SIZES}
    if model_type in ("m2m_100", "mbart", "bart"):
        more |= _FAIRSEQ
    elif model_type == "pegasus":
        more |= {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1}
    elif model_type == "marian":
        more |= {"decoder_vocab_size": n_written or n_vocab, "eos_token_id": 0, "forced_eos_token_id": 0}
        more |= {"pad_token_id": n_vocab - 1, "decoder_start_token_id": (n_written or n_vocab) - 1}
        if n_written is not None:
            more |= {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False}
    else:
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        more = {"vocab_size": n_vocab, **sizes, "decoder_start_token_id": 0, "tie_word_embeddings": False}
    config = transformers.AutoConfig.for_model(model_type, **more)
    return transformers.AutoModelForSeq2SeqLM.from_config(config)


def texts_of(name: str, folder: Path) -> tuple[list[str], list[str]]:
    """transformers' and ours, for each number of beams."""
    slow = FOLDERS[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(write(slow, folder))
    written = slow.others.get("target_vocab.json")
    n_written = None if written is None else 1 + max(written.values())
    model_of(slow.model_type, 1 + max(tokenizer.get_vocab().values()), n_written).save_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()  # some weights are not saved
    languages, forced = {}, {}
    if name in OTHER:
        target = TARGETS[name]
        languages = {"src_lang": OTHER[name], "tgt_lang": target}
        tokenizer.src_lang = OTHER[name]
        text = f"__{target}__" if name.startswith("m2m") else target
        forced = {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(text)}
    inputs = {key: torch.tensor([row]) for key, row in tokenizer(TEXT).items() if key != "token_type_ids"}
    theirs, ours = [], []
    with tuili.LLM(folder, dtype="float32", num_threads=1) as llm:
        pipe = tuili.pipeline("translation", llm, **languages)
        for beams in BEAMS:
            with torch.no_grad():
                ids = model.generate(**inputs, num_beams=beams, max_new_tokens=MAX_TOKENS, **forced)[0]
            theirs.append(tokenizer.decode(ids[1:], skip_special_tokens=True))
            ours.append(pipe(TEXT, num_beams=beams, max_new_tokens=MAX_TOKENS)[0]["translation_text"])
    return theirs, ours


def main() -> int:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    table = Table(folder=16, beams=8, equal=6)
    for name in FOLDERS:
        with tempfile.TemporaryDirectory() as folder:
            theirs, ours = texts_of(name, Path(folder))
        table.row([name, "1, 3", sum(map(str.__eq__, theirs, ours))], passed=theirs == ours)
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
