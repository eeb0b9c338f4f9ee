"""What an encoder-decoder's files say about the texts that it reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tuili.errors import ModelFormatError
from tuili.generation.capacity import Capacity
from tuili.generation.intake import SourceLimits
from tuili.loading.model import LoadedModel
from tuili.loading.tokenizers.languages import Languages

ANSWER_LEN = 256  # tokens of an encoder-decoder's answer if neither a request nor the model's files say


def source_limits(loaded: LoadedModel, capacity: Capacity) -> SourceLimits | None:
    """The sources of a model, which are no longer than a max_model_len that was given; None if it reads none.

    raises  ModelFormatError if the files name no token to begin with
    """
    spec = loaded.spec
    if spec.encoder is None:
        return None
    if loaded.decoder_start is None:
        raise ModelFormatError(
            "config.json: decoder_start_token_id and bos_token_id are missing", code="config_key"
        )
    return SourceLimits(spec.encoder.n_vocab, capacity.max_source_len, loaded.decoder_start)


def endings_of(languages: Languages | None, eos_ids: Iterable[int]) -> frozenset[int]:
    """The tokens that stand behind a source: what ends texts, and its language where that comes last."""
    last = languages.ids.values() if languages is not None and languages.where == "after" else ()
    return frozenset((*eos_ids, *last))


def as_config(sources: SourceLimits) -> dict[str, Any]:
    """What `llm.config` says of them."""
    return {"max_source_len": sources.max_len, "decoder_start_token_id": sources.start}
