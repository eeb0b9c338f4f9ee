"""Loads a model's tokenizer, from a Hugging Face folder's files or from a GGUF file's metadata.

Encoding is done by the `tokenizers` library, which is imported on first use. It is written in Rust, and a
panic in it arrives as a BaseException: every call goes through `call`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

from tuili.errors import ModelFormatError, TokenizerError
from tuili.loading.files import parse_json, shown
from tuili.loading.tokenizers import tokenizer_json
from tuili.loading.tokenizers.added_tokens import additions
from tuili.loading.tokenizers.calls import call
from tuili.loading.tokenizers.classes import settle
from tuili.loading.tokenizers.documents import usual_roles
from tuili.loading.tokenizers.languages import Languages, languages_of, template
from tuili.loading.tokenizers.numbering import NumberedBackend, Numbering
from tuili.loading.tokenizers.parts import naming_roles
from tuili.loading.tokenizers.token_bytes import (
    WORD_PIECE_PREFIX,
    TokenBytes,
    byte_level_bytes,
    decoder_bytes,
    token_bytes_by,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tuili.loading.gguf_metadata import Metadata
    from tuili.loading.tokenizers.gguf_vocab import SpecialIds

MAX_FILE_BYTES = 64 << 20  # of tokenizer.json
_NO_LENGTH = 10**9  # tokenizer_config.json writes 10^30 for "no limit"

CutSide = Literal["left", "right"]
_USUAL = {"cls": ("[CLS]", "<s>"), "mask": ("[MASK]", "<mask>")}


@dataclass(frozen=True)
class Backends:
    """Three tokenizers of the library that share their vocabulary and have no length settings.

    backend      recognises every added token
    plain        recognises no special token: for text that must not control the model
    plain_inner  `plain` for text that continues a text instead of beginning one
    """

    backend: Tokenizer
    plain: Tokenizer
    plain_inner: Tokenizer


class LazyBackends:
    """Backends that `make` makes when they are first asked for, once, whoever asks."""

    def __init__(self, make: Callable[[], Backends]) -> None:
        self._make = make
        self._made: Backends | None = None
        self._lock = threading.RLock()  # a signal's handler may ask while they are made

    def get(self) -> Backends:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make()
        return self._made


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer and what its files say about it.

    text_of      a token's text in the vocabulary, or None if there is no such id
    decoding     what `token_bytes` was made by, as token_bytes.py has it
    n_vocab      largest id + 1
    special      special tokens of what the model reads, id -> text
    literal      the ids of tokens that decode to their own text
    token_bytes  the bytes that any other token adds to a text: (token, first in the text?) -> bytes
    max_tokens   the length limit that the files give, or None
    cut_side     which end of a text that is too long is cut off
    tells_texts  whether the model is told which of two texts a token is of
    tidies       whether the files ask for no space before punctuation, where words are not of BPE
    languages    of a model that translates between several, if its tokens tell them
    numbering    how the ids follow from the library's, if they are others; `backends` know it
    written      makes the tokenizer of what the model writes, if it cuts that in another way
    """

    backends: LazyBackends
    text_of: Callable[[int], str | None]
    n_vocab: int
    special: dict[int, str]
    literal: frozenset[int]
    token_bytes: TokenBytes
    decoding: list[Any]
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    unk_id: int | None = None
    cls_id: int | None = None
    mask_id: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    max_tokens: int | None = None
    cut_side: CutSide = "right"
    tells_texts: bool = True
    tidies: bool = False
    languages: Languages | None = None
    numbering: Numbering | None = None
    written: Callable[[], LoadedTokenizer] | None = None

    @cached_property
    def hidden(self) -> dict[int, str]:
        """Special tokens of what the model writes, id -> text: `special`, but of a vocabulary of its own."""
        if self.numbering is None:
            return self.special
        texts = {*self.special.values()}
        return {i: text for i, text in enumerate(self.numbering.texts) if text in texts}

    @property
    def trims(self) -> bool:
        """Whether its own decoding leaves no space at either end: Marian's, and where spaces end words."""
        ends_words = self.decoding[0] == "decoder" and (self.decoding[1] or {}).get("type") == "BPEDecoder"
        return self.numbering is not None or ends_words

    @property
    def backend(self) -> Tokenizer:
        """See Backends; so with the next two."""
        return self.backends.get().backend

    @property
    def plain(self) -> Tokenizer:
        return self.backends.get().plain

    @property
    def plain_inner(self) -> Tokenizer:
        return self.backends.get().plain_inner


def from_huggingface(
    data: bytes,
    config: object = None,
    special_map: object = None,
    *,
    n_vocab: int | None = None,
    numbering: Numbering | None = None,
    bare: bool = False,
    whole: bool = False,
    older: object = None,
) -> LoadedTokenizer:
    """The tokenizer of a Hugging Face folder.

    data         the content of tokenizer.json
    config       tokenizer_config.json, parsed
    special_map  special_tokens_map.json, parsed
    n_vocab      rows of the model's embedding table: no id may lie beyond
    numbering    the model's ids, if they are others
    bare         no tokens are put around texts, whatever the files say
    whole        `data` has all tokens that the other files name
    older        added_tokens.json, parsed, if there is one
    raises       TokenizerError, ModelFormatError for what is not JSON, ModelUnsupportedError
    """
    from tokenizers import processors

    document = _checked(data, n_vocab if numbering is None else None)
    token_bytes = decoder_bytes(document.get("decoder"))
    settings = _settings(config, "tokenizer_config.json")
    backend = _read(data, settings)
    if bare:
        backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    special_map = _settings(special_map, "special_tokens_map.json")
    if not whole:
        _add_listed(backend, additions(document, settings, special_map, older, n_vocab))
    added = document["added_tokens"]
    _check_ids(backend, added)
    ids = _special_ids(backend, _naming(settings, special_map, whole=whole), added)
    special = {token["id"]: token["content"] for token in added if token["special"]}
    languages = languages_of(settings, special)
    _put_around(backend, languages, ids["eos"])
    vocab = tokenizer_json.vocabulary(document["model"])
    loaded = _assemble(
        backend,
        n_vocab=1 + max(max(vocab.values()), *(t["id"] for t in added), 0),
        special=special,
        literal=frozenset(token["id"] for token in added) if token_bytes is byte_level_bytes else frozenset(),
        token_bytes=token_bytes,
        decoding=["decoder", document.get("decoder")],
        **{f"{role}_id": ids[role] for role in ("bos", "pad", "cls", "mask")},
        eos_ids=() if ids["eos"] is None else (ids["eos"],),
        unk_id=tokenizer_json.unknown_id(document["model"]) if ids["unk"] is None else ids["unk"],
        **_lengths(settings, document),
        tells_texts=_tells_texts(settings),
        tidies=settings.get("clean_up_tokenization_spaces") is True and document["model"]["type"] != "BPE",
        languages=languages,
    )
    return loaded if numbering is None else renumbered(loaded, numbering, n_vocab)


def _read(data: bytes, settings: Mapping[str, Any]) -> Tokenizer:
    """The library's tokenizer, as its class has it, and with no length settings."""
    from tokenizers import Tokenizer

    backend = call(Tokenizer.from_buffer, data)
    call(backend.no_padding)
    call(backend.no_truncation)
    settle(backend, settings)
    return backend


def _checked(data: bytes, n_vocab: int | None) -> dict[str, Any]:
    """What a tokenizer.json says."""
    if len(data) > MAX_FILE_BYTES:
        raise TokenizerError(
            f"tokenizer.json has {len(data)} bytes; the limit is {MAX_FILE_BYTES}", code="tokenizer_limit"
        )
    try:
        return tokenizer_json.check(parse_json(data, "tokenizer.json"), n_vocab)
    except (ModelFormatError, TokenizerError) as error:
        raise TokenizerError(f"tokenizer.json: {error}", code=error.code) from error


def _put_around(backend: Tokenizer, languages: Languages | None, eos_id: int | None) -> None:
    """Have sources end, and tell their language: tokenizer.json may have an older layout."""
    from tokenizers import processors

    if languages is None or languages.source is None or eos_id is None:
        return
    eos, language = (
        (str(call(backend.id_to_token, i)), i) for i in (eos_id, languages.ids[languages.source])
    )
    backend.post_processor = call(processors.TemplateProcessing, **template(languages, eos, language))


def renumbered(loaded: LoadedTokenizer, numbering: Numbering, n_vocab: int | None) -> LoadedTokenizer:
    """The tokenizer with the model's ids in place of the library's."""
    if n_vocab is not None and len(numbering.texts) > n_vocab:
        tokenizer_json.bad("vocab.json", f"an id is beyond the model's vocabulary of {n_vocab}", "vocab_size")
    numbers, languages = numbering.ids, loaded.languages
    one = ("bos_id", "pad_id", "unk_id", "cls_id", "mask_id")
    known = {name: token for name in one if (token := getattr(loaded, name)) is not None}
    own, unknown = numbering.unknown
    special = {
        numbers[i]: text for i, text in loaded.special.items() if i == own or numbers[i] != unknown
    }  # others are unknown to the model
    special |= {i: text for text, i in numbering.openings.items()}
    if languages is not None:
        languages = replace(languages, ids={code: numbers[i] for code, i in languages.ids.items()})
    elif numbering.openings:
        codes = {text.removeprefix(">>").removesuffix("<<"): i for text, i in numbering.openings.items()}
        languages = Languages(codes, "text")
    texts, backends = numbering.texts, loaded.backends
    return replace(
        loaded,
        backends=LazyBackends(lambda: numbered(backends.get(), numbering)),
        text_of=lambda i: texts[i] if 0 <= i < len(texts) else None,
        n_vocab=len(texts),
        special=special,
        eos_ids=tuple(numbers[i] for i in loaded.eos_ids),
        languages=languages,
        numbering=numbering,
        **{name: numbers[token] for name, token in known.items()},
    )


def numbered(backends: Backends, numbering: Numbering) -> Backends:
    """Backends that give the model's ids."""
    made = [
        NumberedBackend(inner, numbering, opens=inner is backends.backend)
        for inner in (backends.backend, backends.plain, backends.plain_inner)
    ]
    return Backends(*cast("list[Tokenizer]", made))  # what tokenization/ reads of one


def from_gguf(metadata: Metadata, n_vocab: int | None = None) -> LoadedTokenizer:
    """The tokenizer of a GGUF file, with the ids of the tokenizer that the file was made from.

    n_vocab  rows of the model's embedding table: the vocabulary must have as many tokens
    raises   TokenizerError, ModelUnsupportedError
    """
    from tuili.loading.tokenizers import gguf_vocab, sentencepiece_file

    backend, vocab, ids = gguf_vocab.read_tokenizer(metadata, n_vocab)
    special = vocab.of_type(sentencepiece_file.UNKNOWN, sentencepiece_file.CONTROL)
    user_defined = vocab.of_type(sentencepiece_file.USER_DEFINED)
    _add_tokens(backend, user_defined, special)
    _add_beginning_and_end(backend, ids)
    word_piece = metadata.get_str("tokenizer.ggml.model") == "bert"
    decoding = _gguf_decoding(metadata)
    return _assemble(
        backend,
        n_vocab=len(vocab.tokens),
        special={vocab.ids[token]: token for token in special},
        literal=frozenset(() if word_piece else (vocab.ids[token] for token in special + user_defined)),
        token_bytes=token_bytes_by(decoding),
        decoding=decoding,
        bos_id=ids.bos_id,
        eos_ids=ids.eos_ids,
        pad_id=ids.pad_id,
        unk_id=ids.unk_id,
    )


def _assemble(backend: Tokenizer, **fields: Any) -> LoadedTokenizer:
    """Add what follows from the backend alone, and try it once, so that what panics does so here."""
    around = call(backend.encode, "", add_special_tokens=True).ids
    fields["add_bos"] = fields["bos_id"] is not None and around[:1] == [fields["bos_id"]]
    fields["add_eos"] = bool(fields["eos_ids"]) and around[-1:] == [fields["eos_ids"][0]]
    backends = backends_of(backend)
    for tokenizer in (backend, backends.plain, backends.plain_inner):
        call(
            tokenizer.encode,
            "Try 12 words,\n\t\u00df\u4e2d \u0301\U0001f642 " + " ".join([*fields["special"].values()][:8]),
        )
    return LoadedTokenizer(
        backends=LazyBackends(lambda: backends),
        text_of=lambda token_id: call(backend.id_to_token, token_id),
        **fields,
    )


def backends_of(backend: Tokenizer) -> Backends:
    """`backend` and the two that follow from it."""
    _keep_no_words(backend)
    plain = _without_special(backend, inner=False)
    plain_inner = _without_special(backend, inner=True) if _prefixes_first_word(backend) else plain
    return Backends(backend, plain, plain_inner)


def _keep_no_words(backend: Tokenizer) -> None:
    """The library (0.23.3) keeps the words that a BPE model has cut, up to 10,000 for each thread, until the
    thread ends, however long the model is gone: megabytes for each that a host opens. It saves a
    quarter of the time of texts whose words it has.
    """
    from tokenizers import models

    if isinstance(backend.model, models.BPE) and (resize := getattr(backend.model, "_resize_cache", None)):
        call(resize, 0)


def _prefixes_first_word(backend: Tokenizer) -> bool:
    from tokenizers import pre_tokenizers

    pre = backend.pre_tokenizer
    return isinstance(pre, pre_tokenizers.Metaspace) and pre.prepend_scheme == "first"


def _without_special(backend: Tokenizer, *, inner: bool) -> Tokenizer:
    """A tokenizer over the same model that takes the texts of special tokens for ordinary text.

    inner  no space is put in front of the text, where otherwise the first word of a prompt gets one
    """
    from tokenizers import Tokenizer, pre_tokenizers

    plain = call(Tokenizer, backend.model)
    pre = backend.pre_tokenizer
    if inner:
        pre = pre_tokenizers.Metaspace(pre.replacement, prepend_scheme="never", split=pre.split)
    for name, part in (
        ("normalizer", backend.normalizer), ("pre_tokenizer", pre), ("post_processor",
        backend.post_processor),
    ):  # fmt: skip
        if part is not None:
            setattr(plain, name, part)
    # In the order of their ids, because the library numbers those that the model does not have.
    added = call(backend.get_added_tokens_decoder)
    call(plain.add_tokens, [token for _, token in sorted(added.items())])
    plain.encode_special_tokens = True
    return plain


# ---- GGUF


def _gguf_decoding(metadata: Metadata) -> list[Any]:
    kind = metadata.get_str("tokenizer.ggml.model")
    if kind == "gpt2":
        return ["byte_level"]
    if kind == "bert":
        return ["word_piece", WORD_PIECE_PREFIX]
    spaced = metadata.get_bool("tokenizer.ggml.add_space_prefix", True)
    if kind == "t5":
        scheme = "always" if spaced else "never"
        return ["decoder", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme}]
    return ["sentencepiece", spaced]


def _add_tokens(backend: Tokenizer, user_defined: list[str], special: list[str]) -> None:
    from tokenizers import AddedToken

    call(backend.add_tokens, [AddedToken(token, normalized=False) for token in user_defined])
    call(backend.add_special_tokens, [AddedToken(token, normalized=False, special=True) for token in special])


def _add_beginning_and_end(backend: Tokenizer, ids: SpecialIds) -> None:
    """Let `encode(…, add_special_tokens=True)` put the tokens around a text that the file asks for."""
    from tokenizers import processors

    before = [ids.bos_id] if ids.add_bos and ids.bos_id is not None else []
    after = [ids.eos_ids[0]] if ids.add_eos else []
    if before or after:
        # Names without spaces, since a template is written as words.
        named = {f"<{token_id}>": token_id for token_id in before + after}
        names = [f"<{token_id}>" for token_id in before], [f"<{token_id}>" for token_id in after]
        backend.post_processor = processors.TemplateProcessing(
            single=[*names[0], "$A", *names[1]],
            pair=[*names[0], "$A", *names[1], *names[0], "$B", *names[1]],
            special_tokens=list(named.items()),
        )


# ---- Hugging Face


def _settings(value: object, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        tokenizer_json.wrong(what, "an object")
    return value


def _add_listed(backend: Tokenizer, tokens: list[dict[str, Any]]) -> None:
    """Have the library recognise `tokens`, in this order."""
    from tokenizers import AddedToken

    flags = [{name: token[name] for name in tokenizer_json.FLAGS} for token in tokens]
    made = [AddedToken(token["content"], **on) for token, on in zip(tokens, flags, strict=True)]
    call(backend.add_tokens, made)


def _check_ids(backend: Tokenizer, added: list[dict[str, Any]]) -> None:
    """The library must have given the added tokens the ids that the file gives them."""
    for token in added:
        if call(backend.token_to_id, token["content"]) != token["id"]:
            tokenizer_json.bad("added_tokens", f"id {token['id']} leaves a gap", "added_token_id")


def _naming(
    settings: Mapping[str, Any], special_map: Mapping[str, Any], *, whole: bool
) -> list[Mapping[str, Any]]:
    """What names the tokens with a role, in the order of belief: files, then the tokenizer's class."""
    sources = list(naming_roles(settings, special_map))
    if not whole and sources[0] is settings:
        del sources[1:]  # older than what lists the added tokens
    return [*sources, usual_roles(settings)]


def _special_ids(
    backend: Tokenizer, sources: Iterable[Mapping[str, Any]], added: list[dict[str, Any]]
) -> dict[str, int | None]:
    """The ids of the tokens with a role."""
    ids = {
        name: _special_id(backend, sources, f"{name}_token")
        for name in ("bos", "eos", "pad", "unk", "cls", "mask")
    }
    for name, usual in _USUAL.items():  # for files that do not name them
        if ids[name] is None:
            ids[name] = next((token["id"] for token in added if token["content"] in usual), None)
    return ids


def _special_id(backend: Tokenizer, sources: Iterable[Mapping[str, Any]], name: str) -> int | None:
    """The id of the token that the first of `sources` to name one calls `name`."""
    for source in sources:
        token = source.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if token is None:
            continue
        if not isinstance(token, str):
            tokenizer_json.wrong(name, f"a token, not {shown(token)}")
        token_id: int | None = call(backend.token_to_id, token)
        return token_id  # None: the model has no row for it, which was said
    return None


def _max_tokens(config: Mapping[str, Any]) -> int | None:
    limit = config.get("model_max_length")
    if limit is None or (type(limit) in (int, float) and limit >= _NO_LENGTH):
        return None
    if type(limit) is not int or limit < 1:
        tokenizer_json.wrong("model_max_length", f"a positive integer, not {shown(limit)}")
    return limit


def _lengths(config: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """max_tokens and cut_side, of which the library has its own where the settings are silent."""
    side = config.get("truncation_side")
    if side is None:
        side = ((document.get("truncation") or {}).get("direction") or "Right").lower()
    if side not in ("left", "right"):
        tokenizer_json.wrong("truncation_side", f"left or right, not {shown(side)}")
    return {"max_tokens": _max_tokens(config), "cut_side": side}


def _tells_texts(config: Mapping[str, Any]) -> bool:
    """Whether token types are an input by the files' names; without names they are, as in transformers 4."""
    names = config.get("model_input_names")
    if names is None:
        return True
    if not isinstance(names, list):
        tokenizer_json.wrong("model_input_names", f"a list, not {shown(names)}")
    return "token_type_ids" in names
