"""What GGUF files of encoders say: settings, and how token vectors become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures.from_gguf import LAYER_NORM_EPS, gguf_config
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata


def encoder_config(metadata: Metadata, numbers: Mapping[str, str]) -> Config:
    """The settings of a GGUF encoder with BERT's words; numbers as `gguf_config` takes them."""
    prefix = metadata.get_str("general.architecture")
    words = metadata.get_str("tokenizer.ggml.model")
    if words != "bert" or metadata.get_bool(f"{prefix}.attention.causal", False):
        raise ModelUnsupportedError(
            f"{metadata.what}: tokenizer.ggml.model is not bert, or {prefix}.attention.causal is true",
            code="config_unsupported",
        )
    config = gguf_config(metadata, LAYER_NORM_EPS | dict(numbers))
    key = "tokenizer.ggml.token_type_count"
    config.update(type_vocab_size=metadata.get_u32(key, None))
    config.names = {**config.names, "type_vocab_size": key}
    return config


def embedding_from_gguf(metadata: Metadata) -> dict[str, Any]:
    """The file's pooling, and vectors of length 1 if it names one: what llama.cpp does, as files do not say.

    One without pooling (0) is plain BERT, for which the default is the mean as it is, as for folders.
    raises  ModelUnsupportedError (pooling), for rerankers (4) among others
    """
    poolings = {0: "mean", 1: "mean", 2: "cls", 3: "last"}
    prefix = metadata.get_str("general.architecture")
    number = metadata.get_u32(f"{prefix}.pooling_type", 0)
    if number not in poolings:
        raise ModelUnsupportedError(
            f"{metadata.what}: {prefix}.pooling_type is {number}; supported: 0 to 3", code="pooling"
        )
    return {"pooling": poolings[number], "normalize": number != 0, "max_seq_length": None}
