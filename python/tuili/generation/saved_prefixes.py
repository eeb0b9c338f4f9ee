"""What an LLM keeps of a long prompt for later ones, in this process or another."""

from __future__ import annotations

from typing import Any

from tuili.errors import InvalidParameterError, cutting_helps
from tuili.generation.engine import Engine
from tuili.generation.introspection import check_room
from tuili.generation.params import SamplingParams
from tuili.generation.prefix import Prefixes
from tuili.generation.prompts import Messages, Prompt
from tuili.generation.token_ids import checked_ids
from tuili.loading.model import LoadedModel


class SavedPrefixes:
    """A part of `LLM`, which makes what is declared here."""

    kind: str
    loaded: LoadedModel
    _prefixes: Prefixes | None = None

    def _decoder_engine(self) -> Engine:
        raise NotImplementedError

    def _encode_prompt(self, prompt: Any) -> tuple[str | None, Any]:
        raise NotImplementedError

    def save_prefix(self, prompt: Prompt | Messages, *, cache_salt: str | None = None) -> bytes:
        """The keys and values of a prompt's whole blocks of 32 tokens, for `load_prefix` of an LLM with the
        same model and kv_cache_dtype, in this process or another. Holds the prompt's token ids.

        prompt      what later prompts begin with. A text ends in the middle of a word of theirs, perhaps: the
                    tokens there, hence the last block, may then differ. A model with sliding windows finds
                    it whole or not at all: only what comes after it is seen is saved of a window
        cache_salt  of the requests that are to find it; whoever loads it must give the same
        raises      InvalidParameterError for a prompt of less than a block, and what `generate` raises

        The first call reads all weights, to tell the model from others.
        """
        prefixes = self._prefix_cache()
        salt = SamplingParams(cache_salt=cache_salt).cache_salt
        with cutting_helps(""):
            ids = checked_ids(self._encode_prompt(prompt)[1], self.loaded.spec.n_vocab)
        check_room(prefixes.n_bytes(len(ids)) // 4, 1)
        return prefixes.save(ids, salt)

    def load_prefix(self, data: bytes, *, cache_salt: str | None = None) -> int:
        """Put a saved prefix into the prefix cache; returns its number of tokens.

        Requests that begin with these tokens, under the same cache_salt, find it until its blocks are needed
        for others, and their answers are, to the bit, what they are without.

        data    from `save_prefix`. Not trusted: anything else is an error
        raises  ModelFormatError; InvalidParameterError if it belongs to another model, kv_cache_dtype, salt
                or version of tuili; KVCacheExhaustedError if running requests leave no room
        """
        return self._prefix_cache().load(data, SamplingParams(cache_salt=cache_salt).cache_salt)

    def _prefix_cache(self) -> Prefixes:
        self._decoder_engine().check_usable()
        if self.kind == "encoder-decoder":
            raise InvalidParameterError("an encoder-decoder has no prefixes to keep", param="prompt")
        if self._prefixes is None:
            raise InvalidParameterError(
                "prefixes need enable_prefix_caching=True", param="enable_prefix_caching"
            )
        return self._prefixes
