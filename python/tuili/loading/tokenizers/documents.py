"""Tokenizers of folders without tokenizer.json: vocab.txt, vocab.json with merges.txt, or sentencepiece's
*.model become the tokenizer.json that transformers would have written, which tokenizer_json.py then checks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tuili.errors import ModelUnsupportedError
from tuili.loading.files import parse_json, shown
from tuili.loading.tokenizers import translation
from tuili.loading.tokenizers.added_tokens import ROLES, flags_of, listed_tokens, more_specials, text_of
from tuili.loading.tokenizers.numbering import Numbering, numbering
from tuili.loading.tokenizers.parts import (
    ENDS,
    Json,
    Parts,
    Read,
    decoder_of,
    lines_of,
    metaspace,
    naming_roles,
    needed,
    pairs,
    pieces,
    unigram,
    vocabulary,
)
from tuili.loading.tokenizers.pre_tokenizers import QWEN2
from tuili.loading.tokenizers.sentencepiece_file import CONTROL, USER_DEFINED
from tuili.loading.tokenizers.tokenizer_json import bad, check_tokens, wrong
from tuili.loading.tokenizers.translation import FAIRSEQ
from tuili.loading.tokenizers.word_pairs import blenderbot_small, ctrl

JIEBA = "RoFormerTokenizer"
# What the library takes off the ends of lines: Unicode's White_Space, which lacks four of Python's.
_WHITE_SPACE = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c <= "\x1f")


@dataclass(frozen=True)
class Made:
    """json       a tokenizer.json
    numbering  the model's ids, where they are not the tokenizer's
    special    what special_tokens_map.json would say
    written    makes the same of what the model writes, if it cuts that in another way
    """

    json: bytes
    numbering: Numbering | None
    special: dict[str, str]
    written: Callable[[], Made] | None = None


def class_of(settings: Mapping[str, Any], model_type: str) -> str | None:
    """The name of the tokenizer's class, without "Fast"."""
    name = settings.get("tokenizer_class")
    return name.removesuffix("Fast") if isinstance(name, str) else _CLASSES_OF_MODELS.get(model_type)


def usual_roles(settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens of the settings' class where no file names others, as settings name them."""
    _, usual, _ = _KINDS.get(class_of(settings, "") or "", (None, {}, None))
    return {f"{role}_token": text for role, text in usual.items()}


def document(
    read: Read, settings: Mapping[str, Any], special_map: Mapping[str, Any], model_type: str
) -> Made:
    """The tokenizer of a folder that has no tokenizer.json.

    read         gives the bytes of a file of the folder
    settings     tokenizer_config.json
    special_map  special_tokens_map.json
    model_type   config.json's, for folders that do not name the tokenizer's class
    raises       TokenizerError, ModelUnsupportedError (tokenizer_class) for a class that is not known
    """
    name = class_of(settings, model_type)
    if name not in _KINDS:
        raise ModelUnsupportedError(
            f"there is no tokenizer.json, and the tokenizer's class is {shown(name or model_type)}; without "
            f"it these are supported: {', '.join(kind for kind in _KINDS if kind != JIEBA)}",
            code="tokenizer_class",
        )
    make, usual, more = _KINDS[name]
    given = {role: _token(role, settings, special_map) for role in ROLES}
    tokens = {role: text for role in ROLES if (text := given[role][0] or usual.get(role))}
    told = {role: flags for role, (_, flags) in given.items()}

    def made(make: Callable[[Parts, Read], Parts]) -> Made:
        parts = make(Parts(settings, dict(tokens), role_settings=told, **more), read)
        return _made(parts, read, None if parts.writer is None else partial(made, parts.writer))

    return made(make)


def _made(parts: Parts, read: Read, written: Callable[[], Made] | None) -> Made:
    added = _added_tokens(parts, read)
    ids = _ids(parts.model) | {token["content"]: token["id"] for token in added}
    whole = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": _sequence(parts.normalizers, "normalizers"),
        "pre_tokenizer": _sequence(parts.pre_tokenizers, "pretokenizers"),
        "post_processor": _post_processor(parts, ids),
        "decoder": parts.decoder,
        "model": parts.model,
    }
    data = json.dumps(whole, ensure_ascii=False).encode("utf-8", "surrogatepass")
    numbers = None
    if parts.vocab is not None:
        numbers = numbering(ids, parts.vocab, parts.target_vocab, parts.tokens["unk"])
    return Made(data, numbers, {f"{role}_token": text for role, text in parts.tokens.items()}, written)


def _token(
    role: str, settings: Mapping[str, Any], special_map: Mapping[str, Any]
) -> tuple[str | None, dict[str, bool]]:
    """The text of the token with a role, None if no file names one, and what they say of how it is found."""
    listed = settings.get("added_tokens_decoder") is not None
    for source in naming_roles(settings, special_map):
        value = source.get(f"{role}_token")
        flags = (
            {name: on for name, on in flags_of(value).items() if name != "special"}
            if isinstance(value, dict)
            else {}
        )
        value = value.get("content") if isinstance(value, dict) else value
        if value is not None:
            if not isinstance(value, str) or not value:
                wrong(f"{role}_token", f"a token, not {shown(value)}")
            return str(value), {} if source is special_map and listed else flags
    return None, {}


def _sequence(items: list[Json], name: str) -> Json | None:
    if len(items) < 2:
        return items[0] if items else None
    return {"type": "Sequence", name: items}


def _ids(model: Json) -> dict[str, int]:
    vocab = model["vocab"]
    return vocab if isinstance(vocab, dict) else {text: i for i, (text, _) in enumerate(vocab)}


# ---- added tokens


def _added_tokens(parts: Parts, read: Read) -> list[Json]:
    """What is recognised in texts before they are cut: tokens with a role, and those that files add."""
    vocab, found = _ids(parts.model), dict[str, Json]()
    decoder = parts.settings.get("added_tokens_decoder") is not None
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)

    def add(text: str, token_id: int | None, **settings: bool) -> None:
        if token_id is None:
            token_id = found[text]["id"] if text in found else vocab.get(text)
        if token_id is None:
            token_id = 1 + max([*vocab.values(), *(token["id"] for token in found.values())])
        found[text] = {"id": token_id, "content": text, "special": True} | plain | settings

    older = None if decoder else read("added_tokens.json")
    tokens = listed_tokens(parts.settings, older and parse_json(older, "added_tokens.json"))
    for token in tokens:
        add(token.text, token.id if parts.vocab is None else None, **token.flags)
    if parts.vocab is not None:  # the ids are the model's, not the library's
        parts.vocab = {**parts.vocab, **{token.text: token.id for token in tokens}}
    listed = set(found)
    for text in parts.own_specials:
        if text not in listed:
            add(text, None)
    for text in parts.own_words:
        if text not in listed:
            add(text, None, special=False)
    for role in ROLES:
        if role not in parts.tokens:
            continue
        text = parts.tokens[role]
        if text in listed:
            found[text] |= {"special": True} if decoder else {"special": True, "normalized": False}
        else:
            add(text, None, **({"lstrip": True} if parts.lstrip_mask and role == "mask" else {}))
    told = {*listed, *parts.own_specials, *parts.fixed}
    if parts.vocab is None and any(parts.role_settings.values()):  # else the classes know of no such settings
        named = [(parts.tokens[role], role) for role in ROLES if role in parts.tokens]
        seen = []
        for name, role in named:
            strips = {"lstrip": True} if parts.lstrip_mask and role == "mask" else {}
            how = (name, strips | parts.role_settings[role])
            if name not in told and how not in seen:  # of one text's the last new one counts
                seen.append(how)
                found[name] |= plain | how[1]
    for item in more_specials(parts.settings):
        more = text_of(item)
        if more is not None and more not in listed:
            add(more, None)
    return sorted(found.values(), key=lambda token: int(token["id"]))


# ---- the tokens around a text


def _post_processor(parts: Parts, ids: Mapping[str, int]) -> Json | None:
    if parts.post_processor is not None or parts.single == "A":
        return parts.post_processor
    words = {*parts.single.split(), *parts.pair.split()} - {"A", "B:1", "B"}
    texts = {}
    for word in words:
        text = parts.tokens.get(word.split(":")[0])
        if text is None:
            bad(f"{word}_token", "missing, and texts begin or end with it", "special_id")
        texts[word.split(":")[0]] = text

    def pieces(template: str) -> list[Json]:
        made = []
        for word in template.split():
            name, _, kind = word.partition(":")
            place = {"id": name if name in "AB" else texts[name], "type_id": int(kind or 0)}
            made.append({"Sequence" if name in "AB" else "SpecialToken": place})
        return made

    special = {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in texts.values()}
    return {
        "type": "TemplateProcessing",
        "single": pieces(parts.single),
        "pair": pieces(parts.pair),
        "special_tokens": special,
    }


# ---- vocab.txt


def _word_piece(parts: Parts, read: Read) -> Parts:
    """BERT's word pieces."""
    lines = lines_of(needed(read, "vocab.txt"), "vocab.txt")
    tokens = [line.rstrip(_WHITE_SPACE) for line in (lines[:-1] if lines[-1] == "" else lines)]
    check_tokens(list(filter(None, tokens)), "vocab.txt")
    vocab = {token: i for i, token in enumerate(tokens) if token}  # of two lines alike the later counts
    parts.model = {
        "type": "WordPiece",
        "unk_token": parts.tokens["unk"],
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocab,
    }
    if parts.settings.get("word_tokenizer_type") not in (None, "basic") or not parts.flag(
        "do_basic_tokenize", True
    ):
        raise ModelUnsupportedError(
            "tokenizer_config.json: words that are not cut by BERT's own rules", code="tokenizer_component"
        )
    strip = parts.settings.get("strip_accents")
    parts.normalizers = [
        {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": parts.flag("tokenize_chinese_chars", True),
            "strip_accents": None if strip is None else parts.flag("strip_accents", True),
            "lowercase": parts.flag("do_lower_case", True),
        }
    ]
    parts.pre_tokenizers = [{"type": "BertPreTokenizer"}]
    parts.decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    return parts


def _jieba(parts: Parts, read: Read) -> Parts:
    raise ModelUnsupportedError(
        f"there is no tokenizer.json, and {JIEBA} cuts words with jieba, which is not here; give the folder "
        "a tokenizer.json or, if its words are single characters, name BertTokenizer as tokenizer_class in "
        "tokenizer_config.json",
        code="tokenizer_class",
    )


# ---- vocab.json and merges.txt


def _byte_level(parts: Parts, read: Read) -> Parts:
    """GPT-2's byte-level pairs."""
    vocab = vocabulary(read, "vocab.json")
    lines = lines_of(needed(read, "merges.txt"), "merges.txt")
    merges = [line for line in lines[int(lines[0].startswith("#version")) :] if line.strip()]
    parts.model = {"type": "BPE", "vocab": vocab, "merges": merges, "dropout": None}
    space = parts.flag("add_prefix_space", False)
    level = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": True}
    parts.pre_tokenizers, parts.decoder = [level], level
    return parts


def _gpt2(parts: Parts, read: Read) -> Parts:
    parts = _byte_level(parts, read)
    if parts.flag("add_bos_token", False):
        parts.single, parts.pair = "bos A", "bos A bos B:1"
    return parts


def _roberta(parts: Parts, read: Read) -> Parts:
    parts = _byte_level(parts, read)
    vocab = parts.model["vocab"]
    ends = {}
    for role in ("sep", "cls"):
        text = parts.tokens[role]
        if text not in vocab:
            bad(f"{role}_token", f"{shown(text)} is not in the vocabulary", "special_id")
        ends[role] = [text, vocab[text]]
    space = parts.flag("add_prefix_space", False)
    parts.post_processor = {
        "type": "RobertaProcessing",
        "trim_offsets": True,
        "add_prefix_space": space,
        **ends,
    }
    return parts


def _qwen2(parts: Parts, read: Read) -> Parts:
    parts = _byte_level(parts, read)
    parts.role_settings = {role: {} for role in ROLES}  # the class adds its tokens itself
    parts.normalizers = [{"type": "NFC"}]
    split = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
    parts.pre_tokenizers = [split, parts.pre_tokenizers[0] | {"use_regex": False}]
    return parts


def _albert(parts: Parts, read: Read) -> Parts:
    quotes = [{"type": "Replace", "pattern": {"String": two}, "content": '"'} for two in ("``", "''")]
    parts.normalizers = quotes
    if not parts.flag("keep_accents", False):
        parts.normalizers += [{"type": "NFKD"}, {"type": "StripAccents"}]
    if parts.flag("do_lower_case", True):
        parts.normalizers.append({"type": "Lowercase"})
    return unigram(parts, pieces(read))


def _xlm_roberta(parts: Parts, read: Read) -> Parts:
    """fairseq put four tokens of its own in the place of sentencepiece's three."""
    return unigram(parts, pieces(read), FAIRSEQ, 3, [("<mask>", 0.0)], unk_id=3)


def _camembert(parts: Parts, read: Read) -> Parts:
    before = [(text + "NOTUSED" * (text in ("<s>", "</s>")), score) for text, score in FAIRSEQ]
    before.append(("<unk>NOTUSED", -100.0))
    parts = unigram(parts, pieces(read), before, 1, [("<mask>", 0.0)], unk_id=3)
    parts.own_specials = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]
    return parts


def _deberta(parts: Parts, read: Read) -> Parts:
    found = pieces(read)
    if parts.flag("do_lower_case", False):
        parts.normalizers.append({"type": "Lowercase"})
    parts = unigram(parts, found)
    parts.normalizers = [one for one in parts.normalizers if one["type"] != "Precompiled"]
    space = {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    parts.normalizers += [space, {"type": "NFC"}, strip]
    split = [{"type": "Punctuation", "behavior": "Isolated"}] if parts.flag("split_by_punct", False) else []
    parts.pre_tokenizers = [*split, metaspace(parts)]
    return parts


def _t5(parts: Parts, read: Read) -> Parts:
    n_extra = parts.settings.get("extra_ids", 100)
    if type(n_extra) is not int or not 0 <= n_extra <= 1024:
        wrong("tokenizer_config.json: extra_ids", f"0 to 1024, not {shown(n_extra)}")
    extra = [f"<extra_id_{i}>" for i in range(n_extra - 1, -1, -1)]
    parts = unigram(parts, pieces(read), after=[(text, 0.0) for text in extra])
    parts.own_specials += extra
    return parts


def _llama(parts: Parts, read: Read) -> Parts:
    """Pairs by score, bytes for what has no piece."""
    found = pieces(read)
    vocab = {text: i for i, (text, _, _) in enumerate(found.pieces)}
    parts.model = pairs(parts, found, vocab) | {"byte_fallback": True}
    scheme = "always" if parts.flag("legacy", False) else "first"
    space = metaspace(parts, scheme) | {"split": False}
    parts.pre_tokenizers = [space]
    parts.decoder = decoder_of(space, byte_fallback=True)
    parts.own_specials, parts.own_words = found.of_type(CONTROL), found.of_type(USER_DEFINED)
    parts.fixed = ENDS
    if parts.flag("add_bos_token", True):
        parts.single, parts.pair = "bos A", "bos A bos:1 B:1"
    if parts.flag("add_eos_token", False):
        parts.single, parts.pair = parts.single + " eos", parts.pair.replace("A", "A eos") + " eos:1"
    return parts


# ---- files


_BERT_TOKENS = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_SP_TOKENS = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_ROBERTA_TOKENS = _SP_TOKENS | {"sep": "</s>", "cls": "<s>", "pad": "<pad>", "mask": "<mask>"}
_ALBERT_TOKENS = _BERT_TOKENS | {"bos": "[CLS]", "eos": "[SEP]", "unk": "<unk>", "pad": "<pad>"}
_DEBERTA_TOKENS = _BERT_TOKENS | {"bos": "[CLS]", "eos": "[SEP]"}
_PARLAI_TOKENS = {"bos": "__start__", "eos": "__end__", "unk": "__unk__", "pad": "__null__"}
_END = "<|endoftext|>"

_BERT_ENDS: Json = {"single": "cls A sep", "pair": "cls A sep B:1 sep:1"}
_FAIRSEQ_ENDS: Json = {"single": "cls A sep", "pair": "cls A sep sep B sep", "lstrip_mask": True}
_T5_TOKENS = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
_T5_ENDS: Json = {"single": "A eos", "pair": "A eos B eos"}

# Class -> what makes its parts, its special tokens unless the files name others, and fields of Parts.
_KINDS: dict[str, tuple[Callable[[Parts, Read], Parts], Mapping[str, str], Json]] = {
    "BertTokenizer": (_word_piece, _BERT_TOKENS, _BERT_ENDS),
    "DistilBertTokenizer": (_word_piece, _BERT_TOKENS, _BERT_ENDS),
    "ElectraTokenizer": (_word_piece, _BERT_TOKENS, _BERT_ENDS),
    JIEBA: (_jieba, _BERT_TOKENS, {}),
    "MPNetTokenizer": (_word_piece, _ROBERTA_TOKENS | {"unk": "[UNK]"}, _FAIRSEQ_ENDS),
    "RobertaTokenizer": (_roberta, _ROBERTA_TOKENS, {"lstrip_mask": True}),
    "BartTokenizer": (_roberta, _ROBERTA_TOKENS, {"lstrip_mask": True}),
    "GPT2Tokenizer": (_gpt2, {"bos": _END, "eos": _END, "unk": _END}, {}),
    "BlenderbotSmallTokenizer": (blenderbot_small, _PARLAI_TOKENS, {}),
    "CTRLTokenizer": (ctrl, {"unk": "<unk>"}, {}),
    "Qwen2Tokenizer": (_qwen2, {"eos": _END, "unk": _END, "pad": _END}, {}),
    "AlbertTokenizer": (_albert, _ALBERT_TOKENS, _BERT_ENDS | {"lstrip_mask": True}),
    "XLMRobertaTokenizer": (_xlm_roberta, _ROBERTA_TOKENS, _FAIRSEQ_ENDS),
    "CamembertTokenizer": (_camembert, _ROBERTA_TOKENS, _FAIRSEQ_ENDS),
    "DebertaV2Tokenizer": (_deberta, _DEBERTA_TOKENS, _BERT_ENDS),
    "T5Tokenizer": (_t5, _T5_TOKENS, _T5_ENDS),
    "LlamaTokenizer": (_llama, _SP_TOKENS, {}),
    "MarianTokenizer": (translation.marian, _T5_TOKENS, {"single": "A eos", "pair": "A B eos"}),
    "PegasusTokenizer": (
        translation.pegasus, _T5_TOKENS | {"mask": "<mask_2>"}, {"single": "A eos", "pair": "A B eos"},
    ),
    # languages.py puts tokens around the texts of these
    "MBartTokenizer": (translation.mbart, _ROBERTA_TOKENS, {"lstrip_mask": True}),
    "MBart50Tokenizer": (translation.mbart50, _ROBERTA_TOKENS, {"lstrip_mask": True}),
    "NllbTokenizer": (translation.nllb, _ROBERTA_TOKENS, {"lstrip_mask": True}),
    "M2M100Tokenizer": (translation.m2m100, _T5_TOKENS | {"bos": "<s>", "sep": "</s>"}, {}),
}  # fmt: skip
_CLASSES_OF_MODELS = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "mpnet": "MPNetTokenizer",
    "nomic_bert": "BertTokenizer",
    "ernie": "BertTokenizer",
    "megatron-bert": "BertTokenizer",
    "roformer": JIEBA,
    "roberta": "RobertaTokenizer",
    "data2vec-text": "RobertaTokenizer",
    "roberta-prelayernorm": "RobertaTokenizer",
    "bart": "BartTokenizer",
    "gpt2": "GPT2Tokenizer",
    "opt": "GPT2Tokenizer",
    "blenderbot-small": "BlenderbotSmallTokenizer",
    "ctrl": "CTRLTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "albert": "AlbertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "marian": "MarianTokenizer",
    "pegasus": "PegasusTokenizer",
    "mbart": "MBartTokenizer",
    "m2m_100": "M2M100Tokenizer",
}
