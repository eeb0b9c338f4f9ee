"""Settings files of a model folder, read strictly: config.json, generation_config.json,
sentence-transformers' files.

No arithmetic on a value happens before its getter has checked type and range.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import Any

from tuili.errors import ModelFormatError, ModelLimitError, ModelUnsupportedError
from tuili.loading.files import parse_json, read_file, shown
from tuili.loading.registry import (
    DECODERS_ALONE,
    ENCODERS,
    GGUF_ARCHITECTURES,
    HF_ARCHITECTURES,
    HF_SEQ2SEQ,
    TASKS,
)

MAX_CONFIG_BYTES = 4 << 20
MAX_EOS_IDS = 64

# Limits that no real model comes near, the same as in csrc/model/spec.cc; here the error can name the key.
MAX_LAYERS = 1024
MAX_MODEL = 1 << 17
MAX_INNER = 1 << 20
MAX_HEADS = 1024
MAX_HEAD_DIM = 1024
MAX_VOCAB = 1 << 22
MAX_EXPERTS = 1024
MAX_POSITIONS = 1 << 24

_REQUIRED: Any = object()


class Config:
    """Typed access to one JSON object of settings.

    Each getter takes a key, a range, and a default for when the key is absent or null; without default that
    is an error. `defaults` collects the defaults taken, for `llm.config`. `names` says how the file itself
    spells a key, for error messages (GGUF). `head` is the kind of the model's task head (heads.py), `tensors`
    the names of what the files hold, `max_model_len` the longest text that was asked for; `longrope` becomes
    which of its factors count (rope.py), `warnings` what settings have no effect.
    raises  ModelFormatError (config_key, config_type, config_value) naming file, key and value
    """

    def __init__(self, values: Mapping[str, Any], what: str, names: Mapping[str, str] | None = None) -> None:
        self.values = values
        self.what = what
        self.names = names or {}
        self.defaults: dict[str, Any] = {}
        self.head: str | None = None
        self.tensors: Collection[str] = ()
        self.max_model_len: int | None = None
        self.longrope: str | None = None
        self.warnings: list[str] = []

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def fill(self, usual: Mapping[str, int]) -> None:
        """Take `usual` for the settings that the file does not mention; one that is null stays null."""
        missing = {key: value for key, value in usual.items() if key not in self.values}
        self.values = {**self.values, **missing}
        self.defaults.update(missing)

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is _REQUIRED:
                raise ModelFormatError(
                    f"{self.what}: {self.names.get(key, key)} is missing", code="config_key"
                )
            self.defaults[key] = default
        return value

    def wrong(self, key: str, expected: str, *, code: str = "config_value") -> ModelFormatError:
        """The error that says what `key` should have been."""
        name, value = self.names.get(key, key), shown(self.values.get(key))
        return ModelFormatError(f"{self.what}: {name} is {value}, expected {expected}", code=code)

    def integer(self, key: str, low: int, high: int, default: Any = _REQUIRED) -> Any:
        """An int in [low, high]; floats, strings and booleans are refused."""
        value = self._get(key, default)
        if value is None:
            return default
        if type(value) is not int:
            raise self.wrong(key, "an integer", code="config_type")
        if not low <= value <= high:
            raise self.wrong(key, f"{low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: Any = _REQUIRED) -> Any:
        """A finite float in [low, high]; an int is taken as float."""
        value = self._get(key, default)
        if value is None:
            return default
        if type(value) not in (int, float):
            raise self.wrong(key, "a number", code="config_type")
        if not low <= value <= high:  # also refuses not-a-number
            raise self.wrong(key, f"{low} to {high}")
        return float(value)

    def positive(self, key: str, default: Any = _REQUIRED) -> Any:
        """A float that is finite and at least 1e-30."""
        return self.number(key, 1e-30, 1e30, default)

    def flag(self, key: str, default: Any = _REQUIRED) -> Any:
        """A bool."""
        value = self._get(key, default)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.wrong(key, "true or false", code="config_type")
        return value

    def switch(self, key: str, usual: bool) -> bool:
        """A bool, `usual` where the key is absent and off where it is null, as transformers reads it."""
        self.fill({key: usual})
        return bool(self.flag(key, False))

    def ignore(self, key: str, *usual: object) -> None:
        """Warn, if `key` is there and is none of `usual`, that it has no effect, as in transformers."""
        value = self.values.get(key)
        text = f"{self.what}: {key} is {shown(value)}, which has no effect, as in transformers"
        if value is not None and value not in usual and text not in self.warnings:
            self.warnings.append(text)

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        """A str of at most 4096 characters."""
        value = self._get(key, default)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > 4096:
            raise self.wrong(key, "a short string", code="config_type")
        return value

    def choice(self, key: str, allowed: Sequence[str], default: Any = _REQUIRED) -> Any:
        """One of `allowed`; another string is ModelUnsupportedError (config_unsupported)."""
        value = self.text(key, default)
        if value not in allowed and value is not default:
            raise ModelUnsupportedError(
                f"{self.what}: {key} is '{shown(value)}'; supported: {', '.join(allowed)}",
                code="config_unsupported",
            )
        return value

    def section(self, key: str) -> Config | None:
        """A nested object, or None if absent; its defaults are listed with this object's."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "an object", code="config_type")
        section = Config(value, f"{self.what}: {key}")
        section.defaults, section.warnings = self.defaults, self.warnings
        return section

    def token_ids(self, key: str, n_vocab: int) -> tuple[int, ...] | None:
        """One token id or a list of up to 64, each in [0, n_vocab); None if absent."""
        value = self.values.get(key)
        if value is None:
            return None
        ids = value if isinstance(value, list) else [value]
        if len(ids) > MAX_EOS_IDS:
            raise ModelLimitError(
                f"{self.what}: {key} lists {len(ids)} ids; the limit is {MAX_EOS_IDS}", code="eos_ids"
            )
        if not all(type(item) is int and 0 <= item < n_vocab for item in ids):
            raise self.wrong(key, f"token ids from 0 to {n_vocab - 1}")
        return tuple(ids)


def read_config(folder: str, name: str, *, inside: str | None = None) -> Config | None:
    """One settings file of a folder as a Config; None if there is no such file."""
    path = os.path.join(folder, name)
    if not os.path.lexists(path):
        return None
    values = parse_json(read_file(path, MAX_CONFIG_BYTES, inside=inside), name)
    if not isinstance(values, dict):
        raise ModelFormatError(f"{name}: not a JSON object", code="config_type")
    return Config(values, name)


# ---- architectures


def _architecture(table: Mapping[str, str], name: str, where: str) -> ModuleType:
    stem = re.sub(f"({'|'.join(WORDS)})$", "", name)
    both = any(f"{stem}{words}" in table for words in WORDS)
    if name not in table and stem != name and stem in ENCODERS and not both:
        raise ModelUnsupportedError(
            f"{where} is '{name}', and {stem} is read as an encoder alone: with {', '.join(TASKS)}",
            code="architecture",
        )
    if name not in table:
        raise ModelUnsupportedError(
            f"{where} is '{shown(name)}'; supported: {_supported(table)}", code="architecture"
        )
    return importlib.import_module(f"tuili.loading.architectures.{table[name]}")


def _supported(table: Mapping[str, str]) -> str:
    """The names of a table in short: what the classes of a family begin with, and what they may end in."""
    if table is not HF_ARCHITECTURES:
        return ", ".join(table)
    decoders = [name.removesuffix("ForCausalLM") for name in table if "CausalLM" in name or "LMHead" in name]
    apart = (*DECODERS_ALONE, *ENCODERS, "BertLMHeadModel")
    decoders = [name for name in decoders if name not in apart]
    heads = f"{', '.join(decoders)} with ForCausalLM; {', '.join(ENCODERS)}; both with {', '.join(TASKS)}"
    both = [name.removesuffix("ForConditionalGeneration") for name in HF_SEQ2SEQ]
    return (
        f"{heads}; {', '.join(both)} with ForConditionalGeneration or Model; docs/architectures.md has more"
    )


WORDS = ("ForCausalLM", "LMHeadModel")  # what the name of a decoder that writes ends in
_PLAIN_ENDS = r"(For(CausalLM|ConditionalGeneration)|LMHeadModel|MTModel|Model)$"
_TEXT_ALONE = {"Gemma3": "Gemma3Text"}  # those whose plain model_type also sees images


def with_architecture(config: Config) -> Config:
    """`config`, which may leave `architectures` out: then it is the class that has the name of `model_type`,
    with a head for words if it writes. So are files that `config.save_pretrained` writes."""

    def letters(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower())

    kind = config.values.get("model_type")
    is_name = isinstance(kind, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kind)
    if config.values.get("architectures") is None and is_name:
        for name in HF_ARCHITECTURES:
            stem = re.sub(_PLAIN_ENDS, "", name)
            if letters(_TEXT_ALONE.get(stem, stem)) == letters(str(kind)):
                config.defaults["architectures"] = [name]
                config.values = {**config.values, "architectures": [name]}
                break
    return config


def as_embedder(config: Config) -> Config:
    """The configuration of a sentence-transformers folder, which may name another class than it is read as:
    of a decoder with a head for words the layers alone, of T5 and its kin the encoder."""
    names = config.values.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        name = re.sub(r"^(M?|UM)T5(Model|ForConditionalGeneration)$", r"\1T5EncoderModel", names[0])
        stems = [name.removesuffix(words) for words in WORDS if name.endswith(words)]
        if stems and name in HF_ARCHITECTURES and stems[0] not in DECODERS_ALONE:
            name = f"{stems[0]}Model"
        config.values = {**config.values, "architectures": [name]}
    return config


def _headed(name: str) -> str | None:
    """The decoder or encoder-decoder under the head that `name` ends in, or None if there is none."""
    from tuili.loading.architectures.decoder_heads import ENDS
    from tuili.loading.architectures.seq2seq_heads import CLASSES

    if name in CLASSES:
        return CLASSES[name]
    for end in ENDS:
        for stem in (name.removesuffix(end), name.removesuffix(f"Text{end}")):
            for words in WORDS if stem not in DECODERS_ALONE else ():
                if name != stem and f"{stem}{words}" in HF_ARCHITECTURES:
                    return f"{stem}{words}"
    return None


def _expect_known(config: Config, key: str, pattern: str) -> None:
    value = config.values.get(key)
    if value is not None and not (isinstance(value, str) and re.fullmatch(pattern, value)):
        raise ModelUnsupportedError(
            f"{config.what}: {key} is {shown(value)}, which is unknown", code="config_unsupported"
        )


def hf_architecture(config: Config) -> tuple[str, ModuleType]:
    """Name and file of the architecture that a config.json asks for, whose usual settings are filled in."""
    names = config.values.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise config.wrong("architectures", "a list of one name")
    # The weights speak for themselves, in their own headers; a setting that means nothing is still an error.
    _expect_known(config, "model_type", r"[A-Za-z0-9_.-]{1,64}")
    for key in ("torch_dtype", "dtype"):
        _expect_known(config, key, r"auto|(torch\.)?(float(16|32|64)|bfloat16|half)")
    from tuili.loading.architectures import class_defaults, decoder_heads, seq2seq_heads

    headed = _headed(names[0]) if names[0] not in HF_ARCHITECTURES else None
    module: Any = _architecture(HF_ARCHITECTURES, headed or names[0], f"{config.what}: architectures")
    config.values = class_defaults.first_names(config.values, HF_ARCHITECTURES[headed or names[0]])
    config.fill(class_defaults.usual_of(headed or names[0]))
    if headed in HF_SEQ2SEQ:
        module = seq2seq_heads.HeadedSeq2seq(module, headed)
    elif headed is not None:
        module = decoder_heads.HeadedDecoder(module, headed)
    elif names[0].endswith(WORDS):
        for key, usual in (("is_causal", True), ("use_bidirectional_attention", False)):
            if config.flag(key, usual) is not usual:
                raise ModelUnsupportedError(
                    f"{config.what}: {key} is {shown(not usual)}, and {names[0]} writes from left to right",
                    code="config_unsupported",
                )
    return names[0], module


def gguf_architecture(name: str, what: str, *, experts: bool = False) -> ModuleType:
    """The file of the architecture that a GGUF file asks for; Mixtral's files call themselves Llama."""
    if not re.fullmatch(r"[a-z0-9_-]{1,64}", name):
        raise ModelFormatError(
            f"{what}: general.architecture is '{shown(name)}', not a name", code="architecture"
        )
    if experts and f"{name} with experts" in GGUF_ARCHITECTURES:
        name = f"{name} with experts"
    return _architecture(GGUF_ARCHITECTURES, name, f"{what}: general.architecture")


# ---- generation_config.json

_GENERATION_NUMBERS = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 1e3),
    "encoder_repetition_penalty": (1e-3, 1e3),
}
_GENERATION_INTEGERS = {
    "top_k": (0, MAX_VOCAB),
    "max_new_tokens": (1, MAX_POSITIONS),
    "no_repeat_ngram_size": (0, MAX_POSITIONS),
    "encoder_no_repeat_ngram_size": (0, MAX_POSITIONS),
    "num_beams": (1, 1024),
}
_GENERATION_TOKENS = ("forced_bos_token_id", "forced_eos_token_id")
_BANS = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias")
_SEARCHING = (
    "length_penalty",
    "early_stopping",
    "renormalize_logits",
    "exponential_decay_length_penalty",
)


def _banned(config: Config, key: str, n_vocab: int) -> list[Any]:
    """Token ids; of bad_words_ids lists of them, of sequence_bias pairs of these and a number."""
    given = config.values[key]
    if not isinstance(given, list) or len(given) > 1024:
        raise config.wrong(key, "a list of up to 1024")
    pairs = key == "sequence_bias"
    if pairs and not all(isinstance(item, list) and len(item) == 2 for item in given):
        raise config.wrong(key, "a list of [token ids, number]")
    lists = [item[0] if pairs else item if key == "bad_words_ids" else [item] for item in given]
    if not all(isinstance(ids, list) and 1 <= len(ids) <= 64 for ids in lists):
        raise config.wrong(key, "lists of 1 to 64 token ids")
    if not all(type(token_id) is int and 0 <= token_id < n_vocab for ids in lists for token_id in ids):
        raise config.wrong(key, f"token ids from 0 to {n_vocab - 1}")
    return given


def _searching(config: Config, key: str) -> Any:
    value = config.values[key]
    if key == "length_penalty":
        return config.number(key, -10.0, 10.0)
    if key != "exponential_decay_length_penalty":
        return value if key == "early_stopping" and value == "never" else config.flag(key)
    if not isinstance(value, list) or len(value) != 2:
        raise config.wrong(key, "a list of two numbers")
    pair = Config({key: value[0], "factor": value[1]}, config.what, {"factor": key})
    return [pair.integer(key, 0, MAX_POSITIONS), pair.number("factor", 1e-6, 1e6)]


def _length(config: Config, key: str) -> tuple[str, int]:
    """An encoder-decoder's max_length or min_length, which count the first token, too: (name, number)."""
    n = config.integer(key, 0, MAX_POSITIONS) - 1
    return ("max_new_tokens", max(1, n)) if key == "max_length" else ("min_tokens", max(0, n))


def generation_defaults(
    config: Config | None, n_vocab: int, *, seq2seq: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Sampling defaults that the model's makers chose, and the keys of the file that have no effect here.

    The defaults keep transformers' names; `generation/params.py` maps and applies them.
    """
    if config is None:
        return {}, []
    result: dict[str, Any] = {}
    seen: set[str] = set()
    for key in config.values:
        if key not in config:
            continue
        if key in _GENERATION_NUMBERS:
            result[key] = config.number(key, *_GENERATION_NUMBERS[key])
        elif key in _GENERATION_INTEGERS:
            value = config.integer(key, *_GENERATION_INTEGERS[key])
            if seq2seq or key != "num_beams":
                result[key] = value
        elif key in _GENERATION_TOKENS and (seq2seq or key != "forced_bos_token_id"):
            # transformers forces the second token of all, which a decoder's prompt has
            ids = config.token_ids(key, n_vocab) or ()
            result[key] = ids[0] if len(ids) == 1 else list(ids)
        elif key in _BANS:
            result[key] = _banned(config, key, n_vocab)
        elif key in _SEARCHING:
            result[key] = _searching(config, key)
        elif key == "do_sample":
            result[key] = config.flag(key)
        elif key == "min_new_tokens":
            seen.add(key)
            result["min_tokens"] = config.integer(key, 0, MAX_POSITIONS)
        elif seq2seq and key in ("max_length", "min_length"):
            seen.add(key)
            name, n = _length(config, key)
            if f"{key[:3]}_new_tokens" not in config:  # which goes before
                result[name] = n
    if result.get("num_beams", 1) > 1 and result.get("do_sample"):
        del result["do_sample"]  # a search draws nothing here
    known = {"eos_token_id", "bos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}
    known |= seen | ({"decoder_start_token_id"} if seq2seq else set())
    return result, [
        shown(key) for key in config.values if key not in result and key not in known and key in config
    ]


def legacy_generation(config: Config) -> Config:
    """The settings of an encoder-decoder without generation_config.json, which old config.json files hold."""
    names = {*_GENERATION_NUMBERS, *_GENERATION_INTEGERS, *_GENERATION_TOKENS, *_BANS, *_SEARCHING}
    names |= {"do_sample", "max_length", "min_length", "min_new_tokens"}
    return Config({key: value for key, value in config.values.items() if key in names}, config.what)


def eos_token_ids(generation: Config | None, config: Config, n_vocab: int) -> tuple[int, ...] | None:
    """Ids that end a text: generation_config.json's if it has any, else config.json's; none if nobody says.
    None: they are the ones that the class of the model writes down unasked, and not in the vocabulary.
    """
    from tuili.loading.architectures.class_defaults import EOS_OF_CLASS

    usual = EOS_OF_CLASS.get(str(config.values.get("model_type")), ())
    for source in (generation, config):
        value = source.values.get("eos_token_id") if source is not None else None
        if source is None or value is None:
            continue
        if usual and value in (usual[0], list(usual)) and max(usual) >= n_vocab:
            return None
        return source.token_ids("eos_token_id", n_vocab)
    return ()


def decoder_start_id(generation: Config | None, config: Config, n_vocab: int) -> int | None:
    """The token that an encoder-decoder's own begin after: decoder_start_token_id, else bos_token_id, of
    generation_config.json or config.json; None if nobody says.
    """
    for key in ("decoder_start_token_id", "bos_token_id"):
        for source in (generation, config):
            ids = source.token_ids(key, n_vocab) if source is not None else None
            if ids:
                return ids[0]
    return None
