"""Strings that tokenizers get wrong: a seeded stream of many kinds, the same on every machine."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

_POOLS: dict[str, list[str]] = json.loads(
    (Path(__file__).parent.parent / "data" / "words.json").read_text("utf-8")
)
_ENGLISH, _CHINESE, _OTHER_WORDS = _POOLS["english"], _POOLS["chinese"], _POOLS["other languages"]
_CODE, _EMOJI, _SPACES, _SPECIAL = _POOLS["code"], _POOLS["emoji"], _POOLS["spaces"], _POOLS["special"]
_COMBINING = [chr(c) for c in range(0x300, 0x36F)]
_N_PLANES = 17


def _character(rng: random.Random) -> str:
    """Any code point of any plane, surrogates and unassigned ones included."""
    return chr(rng.randrange(_N_PLANES) << 16 | rng.randrange(0x10000))


def _assigned(rng: random.Random) -> str:
    """A character that has been in Unicode long enough for every tokenizer's tables."""
    while True:
        c = chr(rng.randrange(0x20, 0x2FA20))
        if unicodedata.ucd_3_2_0.category(c)[0] != "C":
            return c


def _words(words: list[str], joint: str = " ") -> Callable[[random.Random], str]:
    return lambda rng: joint.join(rng.choice(words) for _ in range(rng.randint(1, 24)))


def _mixed(rng: random.Random) -> str:
    """Everything at once, with nothing or something between the pieces."""
    pools = list(_POOLS.values())
    pieces = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 16))]
    return "".join(piece + rng.choice(("", "", " ", "\n")) for piece in pieces)


def _english(rng: random.Random) -> str:
    text = _words(_ENGLISH)(rng)
    marks = rng.choice((".", "?!", ", ", "...", " -- ", ";", ":)", "'", '"', ""))
    return rng.choice((text, text.capitalize(), text.upper(), text.title())) + marks


def _numbers(rng: random.Random) -> str:
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 20)))
    return rng.choice(
        (
            digits,
            f"{rng.random():.9f}",
            f"-{digits},{digits}",
            f"{digits}%",
            f"${digits}.00",
            f" {digits} ",
            "٠١٢٣" + digits,
        )
    )


def _zalgo(rng: random.Random) -> str:
    return "".join(c + "".join(rng.choices(_COMBINING, k=rng.randint(0, 9))) for c in rng.choice(_ENGLISH))


def _repeated(rng: random.Random) -> str:
    return rng.choice([*_SPACES, *"aA0.,!-=_*#<的🙂ー", "ab", "\n ", " \n", "na", "哈"]) * rng.randint(2, 70)


def _spaced(rng: random.Random) -> str:
    return "".join(
        rng.choice(_SPACES) * rng.randint(1, 5) + rng.choice(["", "a", "the", "1", ".", "你"])
        for _ in range(8)
    )


def _controls(rng: random.Random) -> str:
    return "".join(
        chr(rng.choice((rng.randrange(32), rng.randrange(0x7F, 0xA0), 0xFFFE, 0xFFFF, 0xFFFD, 0x61)))
        for _ in range(8)
    )


def _surrogates(rng: random.Random) -> str:
    return "".join(
        rng.choice(("\ud83d", "\ude00", "a", " ", "你", "\udfff")) for _ in range(rng.randint(1, 8))
    )


def _right_to_left(rng: random.Random) -> str:
    return "\u200f" + _words(["שלום", "عربي", "abc", "123", "\u202e", "\u202c", "ـــ", "لا"])(rng)


def _bytes(rng: random.Random) -> str:
    return rng.randbytes(rng.randint(1, 24)).decode("utf-8", "replace")


KINDS: dict[str, Callable[[random.Random], str]] = {
    "English": _english,
    "Chinese": _words(_CHINESE, ""),
    "other languages": _words(_OTHER_WORDS),
    "mixed": _mixed,
    "code": _words(_CODE, "\n"),
    "emoji": _words(_EMOJI, ""),
    "numbers": _numbers,
    "white space": _spaced,
    "repetition": _repeated,
    "special spellings": _words(_SPECIAL, ""),
    "combining marks": _zalgo,
    "right to left": _right_to_left,
    "control characters": _controls,
    "lone surrogates": _surrogates,
    "broken UTF-8": _bytes,
    "assigned characters": lambda rng: "".join(_assigned(rng) for _ in range(12)),
    "any code points": lambda rng: "".join(_character(rng) for _ in range(6)),
}


def generate(per_kind: int, seed: int = 20240229) -> list[tuple[str, str]]:
    """(kind, string) pairs: `per_kind` strings of each kind, and the empty string."""
    strings = [("empty", "")]
    for kind, make in KINDS.items():
        rng = random.Random(f"{seed} {kind}")
        strings += [(kind, make(rng)) for _ in range(per_kind)]
    return strings
