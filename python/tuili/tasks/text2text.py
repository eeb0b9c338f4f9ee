"""Translation, summarization and other answers of an encoder-decoder, with transformers' results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from tuili.checks import MAX_INT, boolean, integer
from tuili.errors import InvalidParameterError, ModelUnsupportedError
from tuili.generation.params import OF_BEAMS, SamplingParams, of_each
from tuili.tasks.answers import WORDS, as_ids, cleaned
from tuili.tasks.encoding import checked_str
from tuili.tasks.generate_words import in_our_words, settled
from tuili.tasks.pipeline import DIRECTED, Pipeline, many, marked, refuse
from tuili.tasks.sources import Direction, SourceTokenizer

log = logging.getLogger("tuili")

KEYS = {
    "text2text-generation": "generated_text",
    "summarization": "summary_text",
    "translation": "translation_text",
}
_OWN = (
    *WORDS,
    "truncation",
    "src_lang",
    "tgt_lang",
    "max_length",
    "min_length",
    "min_new_tokens",
    "params",
)
_DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed")


class Task(Pipeline):
    """`pipe(inputs, truncation=False, src_lang=None, tgt_lang=None, **what LLM.generate takes)`, and
    the words of transformers' `generate`: see `generate_words`.

    inputs              a text or a list of texts; white space alone is translated and summarized as it stands
    truncation          cut a text's end that is longer than the model takes
    return_tensors      give "translation_token_ids", "summary_token_ids" or "generated_token_ids": a list
                        that begins with the decoder's first token; return_text is its opposite
    clean_up_tokenization_spaces
                        write no space before punctuation
    src_lang, tgt_lang  of a translation: the model's own codes, as transformers has them; or those of its
                        tasks in config.json (translation_en_to_de). By default as the task's name says, or
                        the first of these tasks, with a warning in the log
    max_length,         of the answer with the token it begins with; they go with what generation_config.json
    min_length          and config.json's task_specific_params have, which they replace
    returns             per input one dict of "translation_text", "summary_text" or "generated_text", or a
                        list of num_return_sequences dicts; of a single text always a list
    raises              InvalidParameterError (language) that lists the languages, PromptTooLongError, and
                        what LLM.generate raises
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {}

    def _known(self, options: dict[str, Any]) -> dict[str, Any]:
        return in_our_words(self.task, options, _OWN)

    def prepare(self) -> None:
        if self.model.kind != "encoder-decoder":
            refuse(self.task, self.model)
        self._sources = SourceTokenizer(self.model)
        self._tasks: dict[str, dict[str, Any]] = self.model.config["task_parameters"]
        self._named = DIRECTED.fullmatch(self.task)
        self._key = KEYS["translation" if self._named else self.task]
        self._directed = [name for name in self._tasks if DIRECTED.fullmatch(name)]
        known = not self._directed or self.task in self._directed
        if self._named and not known and self._sources.languages is None:
            raise ModelUnsupportedError(
                f"{self.task}: this model was made for {', '.join(self._directed)}", code="task"
            )

    def settings(self, chosen: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The task's own words, checked, and how the answer is made."""
        rest = settled(self.task, chosen, _OWN, self.model)
        own = {name: rest.pop(name, None) for name in (*WORDS, "src_lang", "tgt_lang")}
        as_ids(own)
        cleaned(own)
        for name in ("src_lang", "tgt_lang"):
            if own[name] is not None:
                checked_str(own[name], name)
        if (start := rest.get("decoder_start_token_id")) is not None:
            rest["decoder_start_token_id"] = integer("decoder_start_token_id", start, 0, MAX_INT)
        own["truncation"] = boolean("truncation", rest.pop("truncation", False))
        searching = _with_defaults(_lengths(dict(rest)), {})
        params = searching.pop("params", None)
        of_each(params, searching, len(params) if isinstance(params, list | tuple) else 1)
        return own, rest

    def answer(self, inputs: Any, **options: Any) -> Any:
        own, chosen = self.settings(self.options(options))
        cut, ids_wanted, tidy = own["truncation"], as_ids(own), cleaned(own)
        start = chosen.get("decoder_start_token_id")
        direction, task = self._direction(own["src_lang"], own["tgt_lang"], start)
        usual = {**self._tasks.get("", {}), **self._tasks.get(task, {})}
        prefix = str(usual.get("prefix", ""))
        texts = [checked_str(text, "inputs") for text in many(inputs)]
        searching = _with_defaults(_lengths(chosen), _lengths(usual))
        if direction.forced_bos_token_id is not None:
            searching.setdefault("forced_bos_token_id", direction.forced_bos_token_id)
        params = searching.pop("params", None)
        each = of_each(params, searching, len(texts))
        asked = [(text, one) for text, one in zip(texts, each, strict=True) if not self._stays(text)]
        encoded = [
            self._sources.encode(prefix + text, direction, cut=self._most(one, cut=cut))
            for text, one in asked
        ]
        if isinstance(params, list | tuple):
            params = [one for _, one in asked]
        if params is not None:
            searching["params"] = params
        outputs = self.model.generate([ids for ids, _ in encoded], **searching) if encoded else []
        answers = (
            marked(
                [
                    self._result(tidy(one.text), one.token_ids, self._begin(how) if ids_wanted else None)
                    for one in output.outputs
                ],
                truncated=truncated or output.truncated,
            )
            for output, (_, truncated), (_, how) in zip(outputs, encoded, asked, strict=True)
        )
        results = [
            [self._result(text, [], self._begin(one) if ids_wanted else None) for _ in range(one.n)]
            if self._stays(text)
            else next(answers)
            for text, one in zip(texts, each, strict=True)
        ]
        if isinstance(inputs, str):
            return results[0]
        return [entries[0] for entries in results] if all(len(one) == 1 for one in results) else results

    def _most(self, params: SamplingParams, *, cut: bool) -> int | None:
        """The tokens that stay of a source; None if it must not be cut, here. The engine cuts to fewer."""
        if params.truncate_prompt_tokens is not None:
            return self._sources.max_len
        return self._sources.cut_len if cut else None

    def elements(self, inputs: list[Any], *args: Any, **options: Any) -> list[Any]:
        found = self.answer(inputs, *args, **options)
        return [one if isinstance(one, list) else [one] for one in found]

    def _stays(self, text: str) -> bool:
        """Whether a text is its own answer: of nothing but an end of text a model makes anything."""
        return self._key != KEYS["text2text-generation"] and not text.strip()

    def _begin(self, params: SamplingParams) -> int | None:
        """The token that an answer begins after."""
        own: int | None = self.model.config.get("decoder_start_token_id")
        return own if params.decoder_start_token_id is None else params.decoder_start_token_id

    def _result(self, text: str, token_ids: list[int], begin: int | None) -> dict[str, Any]:
        """begin: of an answer that is to be token ids."""
        if begin is None:
            return {self._key: text}
        return {self._key.replace("_text", "_token_ids"): [begin, *token_ids]}

    def _direction(self, source: Any, target: Any, start: Any) -> tuple[Direction, str]:
        """The direction, and the name of the task in config.json."""
        if source is not None or target is not None:
            if self._sources.languages is None:
                return Direction(), self._task_of(source, target)
            return self._sources.direction(source, target, known=True, start=start), self.task
        if self._key == "translation_text":
            if self._named is None and self._directed and self._sources.languages is None:
                log.warning("translation: no languages are named, so it is %s", self._directed[0])
                return Direction(), self._directed[0]
            named = (None, None) if self._named is None else self._named.groups()
            return self._sources.direction(*named, known=False, start=start), self.task
        return Direction(), self.task

    def _task_of(self, source: Any, target: Any) -> str:
        """The task of config.json that turns one language into the other."""
        name = f"translation_{source}_to_{target}"
        if name in self._tasks:
            return name
        named = ", ".join(self._directed)
        which = f"its tasks are {named}" if named else "it has none to choose from"
        raise InvalidParameterError(
            f"src_lang and tgt_lang: this model's tokens name no languages, and {which}",
            param="src_lang" if target is None else "tgt_lang",
            code="language",
        )


def _lengths(options: dict[str, Any]) -> dict[str, Any]:
    """`options` without prefix, with lengths in new tokens: transformers' count the first one, too."""
    options.pop("prefix", None)
    for name, least in (("max", 1), ("min", 0)):
        new = f"{name}_tokens"
        length, n = options.pop(f"{name}_length", None), options.pop(f"{name}_new_tokens", None)
        if n is not None:
            options.setdefault(new, n)
        elif length is not None:
            options.setdefault(new, max(integer(f"{name}_length", length, least, MAX_INT) - 1, least))
    return options


def _with_defaults(given: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """`given`, with what config.json says of the task where nothing is given."""
    words = ("num_beams", "do_sample", *_DRAWING)
    asked = SamplingParams(**{name: given[name] for name in words if name in given})
    beams = usual.get("num_beams") if asked.num_beams is None else asked.num_beams
    if beams == 1 or any(getattr(asked, name) for name in _DRAWING):
        usual = {name: value for name, value in usual.items() if name not in OF_BEAMS}
    most = given.get("max_tokens")
    if "min_tokens" in usual and type(most) is int:
        usual["min_tokens"] = min(usual["min_tokens"], most)
    return {**usual, **given}
