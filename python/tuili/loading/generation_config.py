"""generation_config.json: the sampling defaults that a model's makers chose, and what ends its texts."""

from __future__ import annotations

from typing import Any

from tuili.loading.config import MAX_POSITIONS, MAX_VOCAB, Config
from tuili.loading.files import shown

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
# What old config.json files hold of these, and of what transformers alone reads. It goes before what a
# text_config inside says.
LEGACY = (*_GENERATION_NUMBERS, *_GENERATION_INTEGERS, *_GENERATION_TOKENS, *_BANS, *_SEARCHING)
LEGACY += ("do_sample", "max_length", "min_length", "min_new_tokens")
LEGACY += ("epsilon_cutoff", "eta_cutoff", "num_return_sequences", "num_beam_groups", "diversity_penalty")


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


def _length(config: Config, key: str, *, seq2seq: bool) -> tuple[str, int]:
    """max_length or min_length, which count a decoder's prompt, too, and an encoder-decoder's first token:
    (name, number)."""
    n = min(config.integer(key, 0, 1 << 128), MAX_POSITIONS)  # some files mean none by 10**15, or 10**30
    if not seq2seq:
        return key, n
    n -= 1
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
        elif key in ("max_length", "min_length"):
            seen.add(key)
            name, n = _length(config, key, seq2seq=seq2seq)
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
    """The settings of a model without generation_config.json, which old config.json files hold."""
    return Config({key: value for key, value in config.values.items() if key in LEGACY}, config.what)


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
