"""What an LLM shows of a model's inside: logits, hidden states, log-probabilities of a given text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuili.checks import invalid
from tuili.embedding.encoder import Encoder
from tuili.errors import EngineOutOfMemoryError, ModelUnsupportedError
from tuili.generation import params as parameters
from tuili.generation.engine import Engine
from tuili.generation.params import SamplingParams
from tuili.generation.token_ids import checked_ids
from tuili.loading.memory import available_memory
from tuili.loading.model import LoadedModel


class Introspection:
    """A part of `LLM`, which makes what is declared here."""

    loaded: LoadedModel
    _encoder: Encoder | None

    def _decoder_engine(self) -> Engine:
        raise NotImplementedError

    def logits(
        self,
        token_ids: Sequence[int] | np.ndarray,
        decoder_token_ids: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """float32 [n_tokens, n_vocab], computed as in generation.

        decoder_token_ids  of an encoder-decoder, whose logits they are, while token_ids are the source; by
                           default the token that generated ones come after
        raises             TokenIdError, PromptTooLongError, EngineOutOfMemoryError; ModelUnsupportedError for
                           an encoder
        """
        engine = self._decoder_engine()
        spec = self.loaded.spec
        if spec.encoder is None:
            if decoder_token_ids is not None:
                invalid("decoder_token_ids", "is for encoder-decoders")
            ids = checked_ids(token_ids, spec.n_vocab, "token_ids")
            check_room(len(ids), spec.n_vocab)
            return engine.collect(ids, "logits")
        source = checked_ids(token_ids, spec.encoder.n_vocab, "token_ids")
        if decoder_token_ids is not None:
            decoder_token_ids = checked_ids(decoder_token_ids, spec.n_vocab, "decoder_token_ids")
            check_room(len(decoder_token_ids), spec.n_vocab)
        return engine.collect(source, "logits", decoder_token_ids)

    def hidden_states(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 [n_layers + 1, n_tokens, d_model]: the embedding, and what each layer gives, the last one
        normed.

        raises  as `logits`; ModelUnsupportedError for an encoder-decoder alone
        """
        spec = self.loaded.spec
        ids = checked_ids(token_ids, spec.n_vocab, "token_ids")
        check_room(len(ids), spec.d_model * (len(spec.layers) + 1))
        if self._encoder is not None:
            return self._encoder.hidden_states(ids)
        if spec.encoder is not None:
            raise ModelUnsupportedError("an encoder-decoder keeps no hidden states", code="wrong_kind")
        return self._decoder_engine().collect(ids, "hidden_states")

    def score(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Log-probability of each token given those before it, in nats.

        token_ids  at least 2
        returns    float32 [n_tokens - 1]; entry i belongs to token_ids[i + 1]; exp(-mean) is the perplexity
        raises     as `logits`; InvalidParameterError for fewer ids, or for an encoder-decoder
        """
        engine = self._decoder_engine()
        ids = checked_ids(token_ids, self.loaded.spec.n_vocab, "token_ids")
        if len(ids) < 2:
            invalid("token_ids", f"must hold at least 2 ids, not {len(ids)}")
        params = parameters.resolve(SamplingParams(max_tokens=0, prompt_logprobs=0), {})
        handle = engine.submit(ids, params)
        try:
            entries = handle.result().prompt_logprobs or []
        except BaseException:
            handle.abort()
            raise
        return np.array([entry.logprob for entry in entries if entry is not None], np.float32)


def check_room(n_tokens: int, width: int) -> None:
    """Refuse a result that would not fit into memory twice: once in the core, once copied."""
    available = available_memory()
    needed = 2 * 4 * n_tokens * width
    if available is not None and needed > available[0]:
        raise EngineOutOfMemoryError(
            f"the result takes {needed / 2**20:.0f} MiB while it is made; "
            f"{available[0] / 2**20:.0f} MiB are available"
        )
