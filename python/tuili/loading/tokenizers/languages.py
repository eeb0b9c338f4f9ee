"""The languages of a translation model: their tokens, and where one stands beside a source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tuili.errors import InvalidParameterError
from tuili.loading.files import shown
from tuili.loading.tokenizers.tokenizer_json import bad

Where = Literal["before", "after", "text"]

# Tokenizer's class -> how its special tokens spell a language, where that of a source stands beside it, and
# the language unless the files say another.
_CLASSES: dict[str, tuple[re.Pattern[str], Where, str]] = {
    "MBartTokenizer": (re.compile("([a-z]{2}_[A-Z]{2})"), "after", "en_XX"),
    "MBart50Tokenizer": (re.compile("([a-z]{2}_[A-Z]{2})"), "before", "en_XX"),
    "NllbTokenizer": (re.compile("([a-z]{3}_[A-Z][a-z]{3})"), "before", "eng_Latn"),
    "M2M100Tokenizer": (re.compile("__([a-z]{2,3})__"), "before", "en"),
}


@dataclass(frozen=True)
class Languages:
    """ids     language code -> the model's token
    where   the token of a source's language stands "before" it, or "after" it and its end; "text": the source
            begins with the language that it is to become, as Marian has it
    source  the code for a source whose caller names none; None for Marian
    target  the same for what it becomes; None if the caller must name it
    """

    ids: dict[str, int]
    where: Where
    source: str | None = None
    target: str | None = None

    def token(self, code: object, name: str) -> int:
        """The token of a language; InvalidParameterError (language) that lists all for another."""
        if not isinstance(code, str) or code not in self.ids:
            raise InvalidParameterError(
                f"{name}: {shown(code)} is not a language of this model, which has "
                f"{', '.join(sorted(self.ids))}",
                param=name,
                code="language",
            )
        return self.ids[code]

    def with_source(self, ids: list[int], code: object) -> list[int]:
        """The ids of an encoded source, in another language than `source`."""
        token = self.token(code, "src_lang")
        return [token, *ids[1:]] if self.where == "before" else [*ids[:-1], token]


def languages_of(settings: Mapping[str, Any], special: Mapping[int, str]) -> Languages | None:
    """The languages of a tokenizer; None if it knows of none.

    settings  tokenizer_config.json
    special   its special tokens, id -> text
    raises    TokenizerError (special_id) for a language of the settings that has no token
    """
    name = settings.get("tokenizer_class")
    name = name.removesuffix("Fast") if isinstance(name, str) else ""
    if name not in _CLASSES:
        return None
    spelled, where, usual = _CLASSES[name]
    found = {match[1]: i for i, text in special.items() if (match := spelled.fullmatch(text))}
    if not found:
        return None
    if name == "NllbTokenizer" and settings.get("legacy_behaviour") is True:
        where = "after"
    source, target = settings.get("src_lang") or usual, settings.get("tgt_lang")
    for key, code in (("src_lang", source), ("tgt_lang", target)):
        if code is not None and (not isinstance(code, str) or code not in found):
            bad(f"tokenizer_config.json: {key}", f"{shown(code)} has no token", "special_id")
    return Languages(found, where, source, target)


def template(languages: Languages, eos: tuple[str, int], language: tuple[str, int]) -> dict[str, Any]:
    """What a TemplateProcessing puts around a source. eos, language: the tokens' texts and ids."""
    before = [language[0]] if languages.where == "before" else []
    after = [eos[0]] if languages.where == "before" else [eos[0], language[0]]
    return {
        "single": [*before, "$A", *after],
        "pair": [*before, "$A", "$B", *after],
        "special_tokens": [eos, language],
    }
