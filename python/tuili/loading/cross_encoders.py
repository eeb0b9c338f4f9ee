"""Cross-encoders as sentence-transformers 6 writes them: how a query and a document are read, and what scores
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tuili.errors import ModelUnsupportedError
from tuili.loading.config import MAX_POSITIONS, MAX_VOCAB, Config, read_config
from tuili.loading.files import shown
from tuili.loading.sentence_modules import (
    expect_output,
    modules_of,
    prompts_of,
    settings_of,
    transformer_settings,
)

_FORMATS = ("flat", "structured")
# Of what transformers' apply_chat_template takes for itself, that which is not for templates.
_NO_VARIABLES = (
    "chat_template",
    "continue_final_message",
    "max_length",
    "messages",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tools",
    "truncation",
)


@dataclass(frozen=True)
class CrossEncoder:
    """What such a folder says.

    activation  torch's name of what makes scores of outputs, or None
    prompts     before the query, or what the system says; as `prompts_of`
    format      of the messages that a pair becomes for the chat template; None: two texts
    words       that a decoder judges by: the token for it and, if there is one, the token against it
    variables   of the chat template, besides the messages: add_generation_prompt, and any that it knows
    max_len     most tokens of a pair, None if the file does not say
    """

    activation: str | None
    prompts: Mapping[str, Any]
    format: Literal["flat", "structured"] | None
    words: tuple[int, ...] = ()
    variables: Mapping[str, str | float | bool] = field(default_factory=dict)
    max_len: int | None = None


def cross_encoder(folder: str, *, inside: str | None = None) -> CrossEncoder | None:
    """The cross-encoder of a folder; None for another folder, also for an older one's.

    raises  ModelUnsupportedError (module, config_unsupported), ModelFormatError for what is not done
    """
    config = read_config(folder, "config_sentence_transformers.json", inside=inside)
    modules = modules_of(folder, inside)
    if config is None or modules is None or config.text("model_type", None) != "CrossEncoder":
        return None
    kinds = [kind for _, kind in modules]
    if kinds not in (["Transformer"], ["Transformer", "LogitScore"]):
        raise ModelUnsupportedError(
            f"modules.json: {shown(', '.join(kinds))}; a cross-encoder's: Transformer, LogitScore or none",
            code="module",
        )
    settings = transformer_settings(folder, inside) or Config({}, "sentence_bert_config.json")
    words: tuple[int, ...] = ()
    if len(kinds) == 1:
        expect_output(settings, "sequence-classification", "scores", "logits")
    else:
        expect_output(settings, "text-generation", "causal_logits", "logits")
        words = _words(settings_of(folder, modules[1][0].text("path"), inside))
    prompts = prompts_of(config)
    format = _format(settings)
    variables = {} if format is None else _variables(settings)
    if settings.flag("do_lower_case", False):
        raise ModelUnsupportedError(
            f"{settings.what}: do_lower_case is true, which is not supported; set it to false and give "
            "texts in lower case",
            code="config_unsupported",
        )
    max_len = settings.integer("max_seq_length", 1, MAX_POSITIONS, None)
    return CrossEncoder(config.text("activation_fn", None), prompts, format, words, variables, max_len)


def _words(config: Config) -> tuple[int, ...]:
    config.choice("module_input_name", ("causal_logits",), "causal_logits")
    against = config.integer("false_token_id", 0, MAX_VOCAB, None)
    word = config.integer("true_token_id", 0, MAX_VOCAB)
    return (word,) if against is None else (word, against)


def _format(settings: Config) -> Literal["flat", "structured"] | None:
    """Pairs are messages wherever the module takes any."""
    kinds = settings.section("modality_config")
    message = kinds.section("message") if kinds is not None else None
    if message is None:
        return None
    message.choice("method", ("forward",), "forward")
    message.choice("method_output_name", ("logits",), "logits")
    return "flat" if message.choice("format", _FORMATS) == "flat" else "structured"


def _variables(settings: Config) -> dict[str, str | float | bool]:
    """The file's variables that change a pair's text; how a long one is cut does not, as none is."""
    given = settings.section("processing_kwargs")
    words = given.section("chat_template") if given is not None else None
    found: dict[str, str | float | bool] = {}
    for key, value in words.values.items() if words is not None else ():
        if key in ("padding", "restore_suffix") or (key == "truncation" and value is True):
            continue
        scalar = isinstance(value, bool if key == "add_generation_prompt" else (str, int, float))
        if key in _NO_VARIABLES or not key.isidentifier() or key.startswith("_") or not scalar:
            raise ModelUnsupportedError(
                f"{settings.what}: processing_kwargs has {shown(key)} for chat_template, which is not "
                "supported",
                code="config_unsupported",
            )
        found[key] = value
    return found
