"""Rows CF-03 and CF-10 of the catalogue for settings that only encoder-decoders have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuili.errors import ModelFormatError, ModelUnsupportedError

from .cases import CONFIG, Case, folder

F, U = ModelFormatError, ModelUnsupportedError
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
_BART = {"d_model": 32, "max_position_embeddings": 64}
_BART |= {f"{half}_{key}": 2 for half in ("encoder", "decoder") for key in ("layers", "attention_heads")}

_SECOND_NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads")  # which go before the first


def _case(stem: str, name: str, error: Any, code: str, generation: Any = None, **changes: Any) -> Case:
    architecture = f"{stem}ForConditionalGeneration"
    sizes = _T5 if "T5" in stem else _BART
    named = {key: value for key, value in CONFIG.items() if key not in _SECOND_NAMES}
    settings = named | sizes | {"architectures": [architecture]} | changes
    files = {} if generation is None else {"generation_config__json": generation}
    row = "CF-03" if generation is None else "CF-10"
    return Case(row, f"{architecture} {name}", folder(config=settings, **files), error, code)


def encoder_decoders() -> Iterator[Case]:
    value = "config_value"
    yield _case("T5", "without its tensors", F, "tensor_missing")
    yield _case("T5", "another activation", U, "config_unsupported", feed_forward_proj="gated-swiglu")
    yield _case("T5", "is_causal", U, "config_unsupported", is_causal=False)
    yield _case("T5", "two buckets", F, value, relative_attention_num_buckets=2)
    yield _case("T5", "1000 layers", F, "layer_count", num_layers=1000)
    yield _case("UMT5", "many biases", F, value, num_layers=9, num_heads=1024)
    yield _case("Bart", "five heads", F, value, decoder_attention_heads=5)
    yield _case("M2M100", "of two columns", F, value, d_model=2)
    yield _case("M2M100", "many positions", F, value, max_position_embeddings=1 << 24)
    yield _case("Pegasus", "many positions", F, value, max_position_embeddings=1 << 24)
    heads = {"architectures": ["BartForSequenceClassification"], "decoder_start_token_id": 2}
    yield _case("Bart", "classifier without an end", F, value, eos_token_id=None, **heads)
    heads["decoder_start_token_id"] = -1
    yield _case("Bart", "classifier without a start", F, value, eos_token_id=2, **heads)
    for key, values in {
        "bad_words_ids": [5, [5], [[]], [[-1]], [["a"]], [[3, 16]]],
        "sequence_bias": [5, [5], [[[3], 1, 2]], [[[], 1]], [[[16], 1]], [[3, 1]]],
        "suppress_tokens": [5, "no", [-1], [[]], ["a"], [True]],
        "begin_suppress_tokens": [[16], [[3]]],
        "forced_bos_token_id": [16, -1],
        "forced_eos_token_id": [16, [2, 16]],
        "exponential_decay_length_penalty": [1.1, [3], [-1, 1.1], [3, 0]],
        "max_length": [-1],
        "min_length": [-1],
        "min_new_tokens": [-1],
        "length_penalty": [100.0],
        "decoder_start_token_id": [16, -1],
    }.items():
        for bad in values:
            yield _case("T5", f"{key} {bad}", F, value, {key: bad})
    yield _case("T5", "early_stopping", F, "config_type", {"early_stopping": "soon"})
    yield _case("T5", "renormalize_logits", F, "config_type", {"renormalize_logits": 1})
    yield _case("M2M100", "padding that is no token", F, value, pad_token_id=-1)


CASES = list(encoder_decoders())
