"""Tokens that the files beside a tokenizer.json add to it, as transformers 5 adds them.

tokenizer_config.json lists them under `added_tokens_decoder`; where it does not, special_tokens_map.json and
the older added_tokens.json count. Tokens with a role and more special tokens are added, too, if nothing lists
them. What is new gets the next id, whichever one the files say; what is there takes the newer settings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuili.loading.files import shown
from tuili.loading.tokenizers.parts import Json
from tuili.loading.tokenizers.tokenizer_json import (
    FLAGS,
    MAX_ADDED_TOKENS,
    bad,
    check_added_token,
    vocabulary,
    wrong,
)

logger = logging.getLogger("tuili")

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # the order in which missing ones get ids


@dataclass(frozen=True)
class Listed:
    """A token as a file lists it. flags: those that it says something of."""

    text: str
    id: int
    flags: dict[str, bool]


def listed_tokens(settings: Mapping[str, Any], older: object) -> list[Listed]:
    """The tokens of `added_tokens_decoder`; without it, those of added_tokens.json, which is `older`."""
    decoder = settings.get("added_tokens_decoder")
    if decoder is None:
        older = {} if older is None else older
        if not isinstance(older, dict) or not all(type(i) is int for i in older.values()):
            wrong("added_tokens.json", "an object of ids")
        return [Listed(text, i, {"normalized": True, "special": False}) for text, i in older.items()]
    if not isinstance(decoder, dict):
        wrong("added_tokens_decoder", f"an object, not {shown(decoder)}")
    listed = []
    for key, token in decoder.items():
        text = token.get("content") if isinstance(token, dict) else None
        if not isinstance(text, str) or not text or not key.isdecimal() or len(key) > 9:
            bad("added_tokens_decoder", f"{shown(key)}: {shown(token)} is not a token", "tokenizer_field")
        listed.append(Listed(text, int(key), flags_of(token)))
    return listed


def flags_of(token: Mapping[str, Any]) -> dict[str, bool]:
    return {name: token[name] for name in FLAGS if name in token}  # which tokenizer_json.py checks


def more_specials(settings: Mapping[str, Any]) -> list[Any]:
    """Special tokens without a role, as texts or objects: `extra_special_tokens`, which may name them, or
    what they were called before transformers 5.
    """
    newer, older = settings.get("extra_special_tokens"), settings.get("additional_special_tokens") or []
    items = (
        [*newer.values(), *older] if isinstance(newer, dict) and isinstance(older, list) else newer or older
    )
    if not isinstance(items, list) or not all(map(text_of, items)):
        wrong("extra_special_tokens", f"tokens, not {shown(items)}")
    return items


def text_of(token: object) -> str | None:
    """The text of a token or of its object; None for what is neither, and for no text."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def additions(
    document: Json,
    settings: Mapping[str, Any],
    special_map: Mapping[str, Any],
    older: object,
    n_vocab: int | None,
) -> list[Json]:
    """What is to be added to a checked tokenizer.json, in order; `document["added_tokens"]` then has it.

    n_vocab  rows of the model's embedding table: new tokens beyond it are left out, with a warning
    """
    vocab = vocabulary(document["model"])
    found: dict[str, Json] = {token["content"]: token for token in document["added_tokens"]}
    next_id = max(len(vocab), *(1 + token["id"] for token in found.values()), 0)
    added, beyond, renumbered = [], [], []
    taken: set[int] = set()
    for text, said_id, flags in _wanted(found, settings, special_map, older):
        token_id = found[text]["id"] if text in found else vocab.get(text)
        if token_id is None:
            if n_vocab is not None and next_id >= n_vocab:
                beyond.append(text)
                continue
            taken = taken or {*vocab.values()}
            if next_id in taken:  # of a vocabulary with gaps: the library would lose the other token
                bad("added tokens", f"{shown(text)} and another token claim id {next_id}", "added_token_id")
            token_id, next_id = next_id, next_id + 1
        if said_id not in (None, token_id):
            renumbered.append(f"{shown(text)} has the id {token_id}, not {shown(said_id)}")
        token: Json = {"id": token_id, "content": text, **dict.fromkeys(FLAGS, False), **flags}
        check_added_token(token)
        token["special"] |= text in found and found[text]["special"]  # as the library has it
        if found.get(text) != token:
            found[text] = token
            added.append(token)
    if len(found) > MAX_ADDED_TOKENS:
        bad("added tokens", f"{len(found)}; the limit is {MAX_ADDED_TOKENS}", "tokenizer_limit")
    if beyond:
        logger.warning("the model has no rows for added tokens, which are left out: %s", _some(beyond))
    if renumbered:
        logger.warning("added tokens have other ids than their files say: %s", _some(renumbered))
    document["added_tokens"] = sorted(found.values(), key=lambda token: int(token["id"]))
    return added


def _some(items: list[str]) -> str:
    """The first few, in one line."""
    more = f" and {len(items) - 8} more" if len(items) > 8 else ""
    return ", ".join(shown(item, 200) for item in items[:8]) + more


def _wanted(
    found: Mapping[str, Json], settings: Mapping[str, Any], special_map: Mapping[str, Any], older: object
) -> Iterator[tuple[str, int | None, dict[str, bool]]]:
    """(text, the id that a file says, settings) of what transformers would add. found: of tokenizer.json."""
    lists = settings.get("added_tokens_decoder") is not None
    sources = [settings] if lists else [settings, special_map]
    usual, own = _named(sources)
    named, extra = [*usual, *own], _unnamed(settings)
    listed = {token.id: token for token in listed_tokens(settings, older)}
    if not lists:
        extra += more_specials({"extra_special_tokens": special_map.get("extra_special_tokens")})
        special = {*map(text_of, usual), *map(text_of, extra)}
        extra = extra or more_specials(special_map)
        listed = {i: _of_older(token, special) for i, token in listed.items()}
        listed |= {token["id"]: Listed(text, token["id"], flags_of(token)) for text, token in found.items()}
    roles, known = {*map(text_of, named)}, {*found, *(token.text for token in listed.values())}
    for _, token in sorted(listed.items()):
        flags = token.flags | ({"special": True} if token.text in roles else {})
        yield token.text, token.id, {"normalized": not flags.get("special", False), **flags}
    seen = set()
    for item in [*named, *extra]:
        text, same = text_of(item), repr(item)
        if text is not None and text not in known and same not in seen:
            seen.add(same)
            yield text, None, (flags_of(item) if isinstance(item, dict) else {}) | {"special": True}


def _of_older(token: Listed, special: set[str | None]) -> Listed:
    """A token of added_tokens.json, which does not say whether it is special."""
    flags = {"special": token.text in special, "normalized": token.text not in special}
    return Listed(token.text, token.id, flags)


def _named(sources: list[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Tokens with a usual role, and with one that a model has for itself."""
    merged = {key: value for source in sources for key, value in source.items() if value is not None}
    roles = [f"{role}_token" for role in ROLES]
    own = [value for key, value in merged.items() if key.endswith("_token") and key not in roles]
    extra = merged.get("extra_special_tokens")
    own += extra.values() if isinstance(extra, dict) else ()
    return [merged[key] for key in roles if text_of(merged.get(key))], [*filter(text_of, own)]


def _unnamed(settings: Mapping[str, Any]) -> list[Any]:
    """`more_specials` without those that have names."""
    items = more_specials(settings)
    names = settings.get("extra_special_tokens")
    return items[len(names) :] if isinstance(names, dict) else [*items]
