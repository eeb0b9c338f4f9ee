"""Tokenizers of the encoder-decoders that translate and summarize, from sentencepiece's files."""

from __future__ import annotations

from collections.abc import Sequence

from tuili.loading.files import shown
from tuili.loading.tokenizers import language_codes
from tuili.loading.tokenizers.parts import (
    ENDS,
    Parts,
    Read,
    as_sentencepiece,
    pairs,
    pieces,
    spaced,
    unigram,
    vocabulary,
)
from tuili.loading.tokenizers.sentencepiece_file import BPE, CONTROL, UNUSED, USER_DEFINED, SentencePieces
from tuili.loading.tokenizers.tokenizer_json import wrong

FAIRSEQ = (("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0))


# ---- pieces with the model's own numbers


def marian(parts: Parts, read: Read) -> Parts:
    """source.spm cuts what the model reads, target.spm what it writes; vocab.json numbers the pieces of both,
    or target_vocab.json the latter's.
    """
    found = pieces(read, "source.spm")
    parts.vocab = vocabulary(read, "vocab.json")
    if parts.flag("separate_vocabs", False):
        parts.target_vocab = vocabulary(read, "target_vocab.json")
    if read("target.spm") is not None:
        parts.writer = _marian_writes
    return _numbered(parts, found)


def _marian_writes(parts: Parts, read: Read) -> Parts:
    apart = parts.flag("separate_vocabs", False)
    parts.vocab = vocabulary(read, "target_vocab.json" if apart else "vocab.json")
    return _numbered(parts, pieces(read, "target.spm"))


def m2m100(parts: Parts, read: Read) -> Parts:
    """vocab.json numbers the pieces, and the languages come after."""
    found = pieces(read, "sentencepiece.bpe.model")
    vocab = vocabulary(read, "vocab.json")
    lists = {"m2m100": language_codes.M2M100, "wmt21": language_codes.WMT21}
    chosen = parts.settings.get("language_codes") or "m2m100"
    if not isinstance(chosen, str) or chosen not in lists:
        wrong("language_codes", f"one of {', '.join(lists)}, not {shown(chosen)}")
    parts.own_specials = [f"__{code}__" for code in lists[chosen]]
    parts.vocab = {text: len(vocab) + i for i, text in enumerate(parts.own_specials)} | vocab
    return _numbered(parts, found)


def _numbered(parts: Parts, found: SentencePieces) -> Parts:
    # No text becomes these; with a space in front none can, since spaces are "▁" by then.
    hidden = [kind in (CONTROL, UNUSED) for _, _, kind in found.pieces]
    texts = [" " * hide + text for (text, _, _), hide in zip(found.pieces, hidden, strict=True)]
    as_sentencepiece(parts, found)
    if found.model_type == BPE:
        parts.model = pairs(parts, found, {text: i for i, text in enumerate(texts)})
        parts.model["unk_token"] = texts[found.unk_id]
        return parts
    parts.model = {
        "type": "Unigram",
        "unk_id": found.unk_id,
        "vocab": [[text, score] for text, (_, score, _) in zip(texts, found.pieces, strict=True)],
        "byte_fallback": found.byte_fallback,
    }
    return parts


# ---- fairseq's order, then languages


def mbart(parts: Parts, read: Read) -> Parts:
    """Pieces after their own normalizer, which transformers 5 leaves out and 4 did not."""
    return _with_languages(parts, pieces(read), language_codes.MBART)


def mbart50(parts: Parts, read: Read) -> Parts:
    found = pieces(read)
    return spaced(_with_languages(parts, found, language_codes.MBART50), found)


def _with_languages(parts: Parts, found: SentencePieces, codes: Sequence[str]) -> Parts:
    after = [(text, 0.0) for text in (*codes, parts.tokens["mask"])]
    unigram(parts, found, FAIRSEQ, 3, after, unk_id=3)
    parts.own_specials = list(codes)
    return parts


def nllb(parts: Parts, read: Read) -> Parts:
    """Pairs; languages are added tokens."""
    found = pieces(read)
    texts = dict.fromkeys([*(text for text, _ in FAIRSEQ), *(text for text, _, _ in found.pieces)])
    parts.model = pairs(parts, found, {text: i for i, text in enumerate(texts)})
    parts.own_specials, parts.own_words = list(language_codes.NLLB), found.of_type(USER_DEFINED)
    parts.fixed = ENDS
    spaced(parts, found)
    if not found.charsmap:  # transformers changes nothing then
        parts.normalizers = []
    return parts


# ---- Pegasus


def pegasus(parts: Parts, read: Read) -> Parts:
    """103 tokens for pretraining stand before the pieces."""
    offset = parts.settings.get("offset", 103)
    if type(offset) is not int or not 2 <= offset <= 1024:
        wrong("tokenizer_config.json: offset", f"2 to 1024, not {shown(offset)}")
    found = pieces(read)
    sentence = parts.settings.get("mask_token_sent", "<mask_1>")
    masks = [text for text in (sentence, parts.tokens["mask"]) if isinstance(text, str)]
    unknown = [f"<unk_{i}>" for i in range(2, offset)]
    before = [(text, 0.0) for text in (parts.tokens["pad"], parts.tokens["eos"], *masks)]
    before += [(text, -100.0) for text in unknown]
    unigram(parts, found, before, 2, unk_id=len(before) + found.unk_id - 2)
    parts.own_specials, parts.own_words, parts.fixed = [*masks, *unknown], [], ()
    spaced(parts, found)
    if not found.charsmap:  # which would make a space of the end of a line, too
        parts.normalizers.insert(0, {"type": "Replace", "pattern": {"String": "\n"}, "content": " "})
    return parts
