"""BlenderbotSmall's and CTRL's tokenizers: pairs within words, where "@@" ends a piece that ends none."""

from __future__ import annotations

from tuili.loading.tokenizers.parts import Parts, Read, lines_of, needed, vocabulary
from tuili.loading.tokenizers.pre_tokenizers import END_BEHIND_WORD, WORD_AND_END

_CONTINUES, _ENDS = "@@", "</w>"


def blenderbot_small(parts: Parts, read: Read) -> Parts:
    """Small letters, words that end before punctuation; an end of line behind a word is a word, too, but not
    behind an apostrophe."""
    end = {"type": "Replace", "pattern": {"Regex": END_BEHIND_WORD}, "content": " __newln__"}
    parts.normalizers = [end, {"type": "Lowercase"}]
    behaviors = dict.fromkeys(".,!?()", "MergedWithNext") | {"'": "Isolated"}
    parts.pre_tokenizers = [{"type": "WhitespaceSplit"}] + [
        {"type": "Split", "pattern": {"String": char}, "behavior": behavior, "invert": False}
        for char, behavior in behaviors.items()
    ]
    return _within_words(parts, read)


def ctrl(parts: Parts, read: Read) -> Parts:
    """An end of line belongs to the word before it."""
    pattern = {"Regex": WORD_AND_END}
    parts.pre_tokenizers = [{"type": "Split", "pattern": pattern, "behavior": "Removed", "invert": True}]
    return _within_words(parts, read)


def _within_words(parts: Parts, read: Read) -> Parts:
    """merges.txt spells the pieces that end a word with "</w>", vocab.json the others with "@@"; what only
    the former has is unknown to the model."""
    lines = lines_of(needed(read, "merges.txt"), "merges.txt")
    merges = [line for line in lines[1:] if len(line.split()) == 2]
    special = set(parts.tokens.values())
    parts.vocab = {_spelt(text, special): i for text, i in vocabulary(read, "vocab.json").items()}
    made = [piece for line in merges for piece in (*line.split(), "".join(line.split()))]
    known = dict.fromkeys([*parts.vocab, *made])
    parts.model = {
        "type": "BPE",
        "vocab": {text: i for i, text in enumerate(known)},
        "merges": merges,
        "unk_token": parts.tokens["unk"],
        "end_of_word_suffix": _ENDS,
    }
    parts.decoder = {"type": "BPEDecoder", "suffix": _ENDS}
    return parts


def _spelt(text: str, special: set[str]) -> str:
    """A token of vocab.json as merges.txt has it."""
    if text in special:
        return text
    return text.removesuffix(_CONTINUES) if text.endswith(_CONTINUES) and text != _CONTINUES else text + _ENDS
