"""Cross-encoders as sentence-transformers 6 writes them: how a query and a document are read, and what scores
them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuili.errors import ModelUnsupportedError
from tuili.loading.config import MAX_VOCAB, Config, read_config
from tuili.loading.files import shown
from tuili.loading.sentence_modules import (
    expect_output,
    modules_of,
    prompts_of,
    settings_of,
    transformer_settings,
)

_FORMATS = ("flat", "structured")


@dataclass(frozen=True)
class CrossEncoder:
    """What such a folder says.

    activation  torch's name of what makes scores of outputs, or None
    prompt      before the query, or what the system says, or None
    format      of the messages that a pair becomes for the chat template; None: two texts
    words       that a decoder judges by: the token for it and, if there is one, the token against it
    """

    activation: str | None
    prompt: str | None
    format: Literal["flat", "structured"] | None
    words: tuple[int, ...] = ()


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
    prompt = prompts["prompts"].get(prompts["default_prompt_name"])
    return CrossEncoder(config.text("activation_fn", None), prompt, _format(settings), words)


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
