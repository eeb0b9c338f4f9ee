"""docs/architectures.md, from the table that the tests run over.

python tests/write_architectures.py
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from architecture_table import CASES
from encoder_models import CASES as ENCODERS
from gguf_families import GGUF_NAMES
from seq2seq_heads import CASES as SEQ2SEQ_HEADS
from seq2seq_models import CASES as SEQ2SEQ
from tuili.loading.language_part import PARTS, STEMS

PATH = Path(__file__).parent.parent / "docs" / "architectures.md"
_HEAD = """# Architectures

Every decoder that a Hugging Face folder may hold, and what `tests/test_architectures.py` checks for each:
the logits of a tiny random model with these settings, of a whole prompt and of cached decoding, to 1e-4 of
their range. "transformers" means against transformers 5 in float32, "reference" against `tests/reference.py`,
where transformers has no code of its own. A setting that is not supported is an error that names it.
The last column is `general.architecture` of GGUF files, whose logits `tests/test_gguf_families.py` compares
with the folder's, bit for bit, and `tests/compare_gguf.py` with llama.cpp's (within 2 % of their range).
A key of a file that would change the result, and that models of its kind do not have here, is an error.
Keys and values are float16 by default, which decides near ties: of 400 greedy texts of 24 tokens of the tiny
Llama, with `encoder_repetition_penalty` from 0.5 to 2, 8 part from transformers' in float32, where two logits
are less than 0.0005 apart; with `kv_cache_dtype="float32"` none does.
A text ends with `eos_token_id` of generation_config.json, or without one with config.json's, or with the
tokenizer's own; where there is a generation_config.json without one, transformers ends it with none.
YaRN follows the folder: its betas count in every file, and GPT-OSS's rounds nothing; llama.cpp differs.

Folders may hold GPTQ (2, 4 and 8 bits, versions 1 and 2, any groups, act-order), AWQ (GEMM) or, for GPT-OSS,
MXFP4 tensors: `tests/test_quantized_checkpoints.py` compares with the same values in float32, bit for bit.

This page is written by `python tests/write_architectures.py`.

| `architectures` of config.json | checked against | with | GGUF |
|---|---|---|---|
"""
_FOOT = """
Dynamic and LongRoPE scaling hold up to the context that the frequencies do not depend on the length of the
text for: `max_position_embeddings`, and `original_max_position_embeddings` for LongRoPE. Longer texts are
refused, since keys that are already cached would have to change. `LLM(…, max_model_len=…)` beyond LongRoPE's
original context (Phi-3 and Phi-4 mini of 128k) gives all texts its long factors: those that are longer have
transformers' logits then, and shorter ones those of the long factors, where transformers has the short ones.
A text that generation takes across that line ends there (`stop_reason` "max_model_len"), unless all have the
long factors; transformers computes Phi-3's anew at the line, with long factors from its first token on.
Phi-3.5-MoE's end at the original context: beyond it transformers scales by `long_mscale`, with short factors.

Ministral 3's queries grow behind `original_max_position_embeddings`, which is not here: texts end there.
No token of LED's source or of a Longformer's text sees all others, as where transformers is given no
`global_attention_mask`; Longformer's heads that give some such a sight (for sequences, spans and choices) are
not read. LongT5 is read where `encoder_attention_type` is "local".
BigBird takes texts for which transformers turns its sparse attention into a full one: of
(5 + 2 `num_random_blocks`) · `block_size` tokens, 704 usually, or all with `attention_type` "original_full".

BERT and its kin write where `is_decoder` is true: without it transformers lets their tokens see both sides,
which is an error here, as is `add_cross_attention`. RoBERTa and its kin count positions from `pad_token_id`
+ 1 on, as transformers' `forward` does; its `generate` (5.24) hands them 0, 1, 2, …: its texts may differ.
A padding token in a prompt has the padding's row and is not counted, as in `forward` of a whole text.
Youtu keeps the row of its `pad_token_id`, which transformers 5.24 empties while it loads a folder.

Of models that also see or hear the decoder is read, and nothing else, with a warning that says so. It has the
bits of the same decoder in a folder of its own (`tests/test_language_part.py`), but that only HyperCLOVA X's
whole scales logits; `tests/compare_language_parts.py` compares with transformers. With
`ForConditionalGeneration` behind each name, they are
{wholes},
where `model_type` of `text_config` is
{parts}.
"""
_ENCODERS = """
## Encoders and heads

Hidden states and heads of a tiny random model with these settings equal transformers' in float32 to 1e-5 of
their range (`tests/test_encoders.py`). BERT and NomicBERT are read from GGUF files (`bert`,
`nomic-bert`), too. Any decoder above is an embedder as `…Model` or in a sentence-transformers folder, and
takes the heads `…ForSequenceClassification`, `…ForTokenClassification` and `…ForQuestionAnswering`
(`tests/compare_heads.py` compares all that transformers has, to 1e-5 of their range); tokens see both sides
where `is_causal` is false or, in Gemma 3, `use_bidirectional_attention` is true. `GPT2DoubleHeadsModel` is
read without its head for choices, `ElectraForPreTraining` as the encoder alone.

| `architectures` of config.json | with |
|---|---|
"""
_SEQ2SEQ = """
## Encoder-decoders

Logits of a tiny random model with these settings, of a whole decoder text and of cached decoding, equal
transformers' in float32 to 1e-4 of their range, and beam searches find the same tokens with the same scores
(`tests/test_seq2seq.py`). Flan-T5 is T5, NLLB is M2M100. GGUF files of T5 (`t5`) and of its encoder alone
(`t5encoder`; in folders `T5EncoderModel`, `MT5EncoderModel`, `UMT5EncoderModel`, which make vectors) give the
folder's bits (`tests/test_gguf_t5.py`). They do not say how far distances reach: 128, as llama.cpp takes it.

| `architectures` of config.json | with |
|---|---|
"""
_SEQ2SEQ_HEADS = """
Under a task head both halves are an encoder: the first reads the text, and the second reads it again, shifted
by a token; of T5's tokens only the first. As `…Model`, without a head, they give the
second's states; in sentence-transformers' folders T5, mT5 and UMT5 are their encoder alone. Answers equal
transformers' in float32 to 1e-5 of their range (`tests/test_seq2seq_heads.py`): {}.
"""


def seq2seq() -> str:
    """The table of encoder-decoders, and their heads."""
    return "".join(
        f"| {architecture} | {'; '.join(case.tries for case in cases)} |\n"
        for architecture, cases in groupby(SEQ2SEQ, lambda case: case.architecture)
    ) + _SEQ2SEQ_HEADS.format(", ".join(SEQ2SEQ_HEADS))


def encoders() -> str:
    """The table of encoders."""
    tried: dict[str, list[str]] = {}
    for name in ENCODERS:
        architecture, _, note = name.partition("-")
        tried.setdefault(architecture, []).append(note or "plain")
    return "".join(f"| {architecture} | {'; '.join(notes)} |\n" for architecture, notes in tried.items())


def _list(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), 110, break_long_words=False)


def page() -> str:
    """The whole page."""
    rows = []
    for architecture, cases in groupby(CASES, lambda case: case.architecture):
        tried = list(cases)
        against = " and ".join(sorted({case.verified for case in tried}))
        file = GGUF_NAMES.get(architecture, "")
        rows.append(f"| {architecture} | {against} | {'; '.join(case.tries for case in tried)} | {file} |")
    foot = _FOOT.format(wholes=_list(STEMS), parts=_list(PARTS))
    return _HEAD + "\n".join(rows) + "\n" + foot + _ENCODERS + encoders() + _SEQ2SEQ + seq2seq()


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
