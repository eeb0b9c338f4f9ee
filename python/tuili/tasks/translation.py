"""`LLM.translate` and `LLM.summarize`: the pipelines of an encoder-decoder, with texts for results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from tuili.checks import integer
from tuili.errors import InvalidParameterError
from tuili.generation.params import MAX_SEQUENCES
from tuili.tasks.answers import WORDS, as_ids
from tuili.tasks.encoding import checked_str
from tuili.tasks.pipeline import many
from tuili.tasks.text2text import KEYS, Task

if TYPE_CHECKING:
    from tuili.llm import LLM


@overload
def translate(
    self: LLM,
    texts: str,
    *,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    truncation: bool = False,
    **options: Any,
) -> str: ...
@overload
def translate(
    self: LLM,
    texts: list[str] | tuple[str, ...],
    *,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    truncation: bool = False,
    **options: Any,
) -> list[str]: ...
def translate(
    self: LLM,
    texts: Any,
    *,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    truncation: bool = False,
    **options: Any,
) -> Any:
    """The translation of a text (str), or of each of a list of texts (list of str, in order).

    src_lang, tgt_lang  the model's own codes: "en_XX", "fra_Latn", "zh"; for Marian the target's alone; for
                        T5 those of its tasks, translation_en_to_de in config.json
    truncation          cut a text's end that is longer than the model takes
    options             num_beams, max_tokens and what else `generate` takes, but n
    raises              ModelUnsupportedError (task), InvalidParameterError (language) that lists the
                        languages, PromptTooLongError, and what `generate` raises
    """
    languages = {"src_lang": src_lang, "tgt_lang": tgt_lang}
    return _texts(self, "translation", texts, {**options, **languages, "truncation": truncation})


@overload
def summarize(self: LLM, texts: str, *, truncation: bool = False, **options: Any) -> str: ...
@overload
def summarize(
    self: LLM, texts: list[str] | tuple[str, ...], *, truncation: bool = False, **options: Any
) -> list[str]: ...
def summarize(self: LLM, texts: Any, *, truncation: bool = False, **options: Any) -> Any:
    """The summary of a text, or of each of a list; as `translate`, without languages."""
    return _texts(self, "summarization", texts, {**options, "truncation": truncation})


def _texts(llm: LLM, task: str, texts: Any, options: dict[str, Any]) -> Any:
    for name in ("n", "num_return_sequences"):
        if options.get(name) is not None and integer(name, options[name], 1, MAX_SEQUENCES) != 1:
            raise InvalidParameterError(f"{name}: use a pipeline for several answers to a text", param=name)
    params = options.get("params")
    if any(getattr(one, "n", 1) != 1 for one in (params if isinstance(params, list | tuple) else [params])):
        raise InvalidParameterError("params: use a pipeline for several answers to a text", param="params")
    if as_ids({**dict.fromkeys(WORDS), **options}):
        problem = "return_tensors, return_text: use a pipeline for token ids"
        raise InvalidParameterError(problem, param="return_tensors")
    items = [checked_str(text, "texts") for text in many(texts, "texts")]
    found = [result[KEYS[task]] for result in Task(task, llm).answer(items, **options)]
    return found[0] if isinstance(texts, str) else found
