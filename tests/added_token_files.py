"""Random files of tokenizers whose companions add tokens to tokenizer.json, or change those that it has."""

from __future__ import annotations

import random
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

TOKENS = ["<a>", "<b>", "<c>", "<d>", "<e>", "<p>", "<q>", "<r>", "hello", "world"]
ROLES = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"]
N_TEXTS = 6

Json = dict[str, Any]


def files(seed: int) -> dict[str, Json]:
    """name -> content of a folder's tokenizer files."""
    rng = random.Random(seed)
    made: dict[str, Json] = {"tokenizer_config.json": _config(rng)}
    if rng.random() < 0.7:
        made["tokenizer_config.json"]["added_tokens_decoder"] = _listed(rng)
    if rng.random() < 0.5:
        made["special_tokens_map.json"] = {
            role: token if rng.random() < 0.5 else _flags(rng, special=False) | {"content": token}
            for role, token in _roles(rng).items()
        }
        if rng.random() < 0.5:
            made["special_tokens_map.json"]["additional_special_tokens"] = rng.sample(TOKENS, 2)
    if rng.random() < 0.4:
        tokens = rng.sample(TOKENS, 3)
        made["added_tokens.json"] = {token: i for i, token in enumerate(tokens, rng.choice([20, 28, 30, 40]))}
    return {"tokenizer.json": _document(rng), **made}


def texts(seed: int) -> list[str]:
    """Texts in which those tokens stand, as they are and otherwise, among words."""
    rng = random.Random(seed)
    words = [*TOKENS, *TOKENS, *(token.swapcase() for token in TOKENS), "ab", "ba", "a", "b", " ", "  "]
    return ["".join(rng.choice(words) + rng.choice(["", " "]) for _ in range(12)) for _ in range(N_TEXTS)]


def _document(rng: random.Random) -> Json:
    import json

    letters = [*"abcdehlorwpq<>", "Ġ", *(token for token in TOKENS if rng.random() < 0.3)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(letters)}, []))
    backend.normalizer = rng.choice([None, normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for token in rng.sample(TOKENS, rng.randrange(6)):
        backend.add_tokens([AddedToken(token, **_flags(rng))])
    document: Json = json.loads(backend.to_str())
    return document


def _flags(rng: random.Random, **own: bool) -> dict[str, bool]:
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {name: rng.random() < (0.5 if name in ("normalized", "special") else 0.2) for name in names} | own


def _roles(rng: random.Random) -> dict[str, str]:
    return {role: rng.choice(TOKENS) for role in ROLES if rng.random() < 0.3}


def _config(rng: random.Random) -> Json:
    config: Json = {"tokenizer_class": "PreTrainedTokenizerFast", **_roles(rng)}
    if rng.random() < 0.3:
        config["image_token"] = rng.choice(TOKENS)
    more = rng.choice([None, "additional_special_tokens", "extra_special_tokens", "named"])
    if more == "named":
        config["extra_special_tokens"] = {"audio_token": rng.choice(TOKENS)}
    elif more is not None:
        config[more] = rng.sample(TOKENS, 2)
    return config


def _listed(rng: random.Random) -> Json:
    ids = rng.sample(range(10, 60), rng.randrange(5))
    tokens = rng.sample(TOKENS, len(ids))
    listed: Json = {str(i): {"content": token} | _flags(rng) for i, token in zip(ids, tokens, strict=True)}
    for token in listed.values():
        if rng.random() < 0.3:
            del token["normalized"]
    return listed
