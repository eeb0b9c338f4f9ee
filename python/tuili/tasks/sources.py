"""Texts as an encoder-decoder reads them: in a language, and cut where that is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tuili.errors import CUTTING_HELPS, InvalidParameterError
from tuili.tasks.encoding import too_long

if TYPE_CHECKING:
    from tuili.llm import LLM
    from tuili.loading.tokenizers.languages import Languages
    from tuili.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Direction:
    """What a translation begins with: `opening` before the text, the token of the source's language, and the
    one that the answer must begin with, each if the model has it.
    """

    opening: str = ""
    source: str | None = None
    forced_bos_token_id: int | None = None


class SourceTokenizer:
    """Encodes what is to be translated or summarized."""

    def __init__(self, model: LLM) -> None:
        self._tokenizer: Tokenizer = model.tokenizer
        self.max_len: int = model.config["max_source_len"]
        # What is cut is as long as the tokenizer's files say, in a model that could read more.
        self.cut_len = min(self.max_len, model.tokenizer.loaded.max_tokens or self.max_len)
        self._target_is_set = model.config["sampling_defaults"].get("forced_bos_token_id") is not None
        self._start: int | None = model.config.get("decoder_start_token_id")

    @property
    def languages(self) -> Languages | None:
        """The languages that the model's tokens name."""
        return self._tokenizer.loaded.languages

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The tokens before and after every text."""
        inner = self._tokenizer.encode("a", add_special=False)
        whole = self._tokenizer.encode("a")
        at = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
        return whole[:at], whole[at + len(inner) :]

    def direction(self, source: object, target: object, *, known: bool, start: object = None) -> Direction:
        """The direction from one language to another.

        source, target  languages' codes, None for what the model's files say
        known           whether the codes must be the model's; otherwise others count as None
        start           the token that answers begin after, if not the model's own
        raises          InvalidParameterError (language) for a code the model has not, listing those it has
        """
        languages = self.languages
        if languages is None:
            return Direction()
        source, target = (code if known or code in languages.ids else None for code in (source, target))
        if languages.where == "text":
            if source is not None and known:
                raise InvalidParameterError(
                    "src_lang: this model is told the target's language only",
                    param="src_lang",
                    code="language",
                )
            if target is None:
                return Direction()
            languages.token(target, "tgt_lang")
            return Direction(opening=f">>{target}<< ")
        source = languages.source if source is None else source
        target = languages.target if target is None else target
        languages.token(source, "src_lang")
        start = self._start if start is None else start
        if target is None and (self._target_is_set or start in languages.ids.values()):
            return Direction(source=str(source))
        wanted = languages.token(target, "tgt_lang")  # which the answer may follow already, as mBART's did
        return Direction(source=str(source), forced_bos_token_id=None if wanted == start else wanted)

    def encode(self, text: str, direction: Direction, *, cut: int | None) -> tuple[list[int], bool]:
        """(ids, whether the text's end was cut off).

        cut     how many ids stay; None: all
        raises  PromptTooLongError if it is too long and cut is None; InvalidParameterError (language) for
                a text that opens with a language the model has not
        """
        before, after = self._around
        opening = "" if self._opens(text) else direction.opening
        if cut is None:
            self._tokenizer.check_fits(text, self.max_len, CUTTING_HELPS)
        most, whole = self.max_len if cut is None else cut, opening + text
        at_end = self._tokenizer.loaded.cut_side == "right"
        part = self._tokenizer.beginning(whole, most) if cut is not None and at_end else whole
        body = self._tokenizer.noticed(self._tokenizer.encode(part, add_special=False))
        room = most - len(before) - len(after)
        truncated = len(body) > room
        if truncated and (cut is None or room < 1):
            raise too_long(len(body) + most - room, most)
        ids = [*before, *(body[:room] if at_end else body[-room:]), *after]
        if direction.source is not None and self.languages is not None:
            ids = self.languages.with_source(ids, direction.source)
        return ids, truncated

    def _opens(self, text: str) -> bool:
        """Whether the text itself says what language it is to become."""
        languages = self.languages
        if languages is None or languages.where != "text" or not text.startswith(">>"):
            return False
        code, found, _ = text[2:].partition("<<")
        if found:
            languages.token(code, "the text's language")
        return bool(found)
