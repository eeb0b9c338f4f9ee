"""What an LLM that is an encoder does: texts to vectors, and what vectors are compared for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tuili import embedding
from tuili.embedding import Encoder
from tuili.errors import InvalidParameterError, ModelUnsupportedError
from tuili.generation.checks import boolean, described, integer
from tuili.loading.model import LoadedModel
from tuili.tokenization import Tokenizer

Progress = Callable[[int, int], None]  # (done, in all)


class Vectors:
    """The encoder's part of `LLM`, which makes what is declared here."""

    kind: str
    tokenizer: Tokenizer
    _loaded: LoadedModel
    _encoder: Encoder | None = None
    _embedding: dict[str, Any]

    def embed(
        self,
        texts: str | Sequence[str],
        normalize: bool | None = None,
        pooling: str | None = None,
        *,
        truncation: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Sentence vectors, float32 [n_texts, d_model]; one str gives [d_model].

        normalize, pooling  None: as the model's own files say
        truncation          cut texts at the model's limit (keeping the special token at the end)
        progress            called with (texts, texts in all) after each batch
        raises              PromptTooLongError, InvalidParameterError
        """
        encoder = self._encoder_engine()
        chosen = embedding.settings(self._embedding, pooling, normalize)
        boolean("truncation", truncation)
        items = embedding.checked_texts(texts)
        ids = [self._encode_text(encoder, text, truncation) for text in items]
        vectors = encoder.embed(ids, *chosen, progress)
        return vectors[0] if isinstance(texts, str) else vectors

    encode = embed

    def similarity(
        self,
        a: str | Sequence[str] | np.ndarray,
        b: str | Sequence[str] | np.ndarray,
        *,
        truncation: bool = False,
    ) -> Any:
        """Cosine similarity of texts or vectors: a float for two of them, float32 [n_a, n_b] for lists.

        raises  InvalidParameterError also for vectors of another width or that are not finite, and as `embed`
        """
        rows = [self._vectors(side, name, truncation) for side, name in ((a, "a"), (b, "b"))]
        matrix = embedding.cosines(*(np.atleast_2d(row) for row in rows))
        if rows[0].ndim == rows[1].ndim == 1:
            return float(matrix[0, 0])
        return matrix

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        *,
        truncation: bool = False,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """The documents most similar to the query, best first: dicts with "index", "score" and "text".
        Arguments as `embed`'s.
        """
        if not isinstance(query, str):
            raise InvalidParameterError(f"query must be a str, not {described(query)}", param="query")
        items = embedding.checked_texts(documents, "documents")
        top_k = len(items) if top_k is None else integer("top_k", top_k, 1, 2**31 - 1)
        wanted = self.embed([query], truncation=truncation)
        found = self.embed(items, truncation=truncation, progress=progress)
        return embedding.ranking(embedding.cosines(wanted, found)[0], items, top_k)

    def _vectors(self, side: Any, name: str, truncation: bool) -> np.ndarray:
        if isinstance(side, np.ndarray):
            return embedding.checked_vectors(side, self._loaded.spec.d_model, name)
        items = embedding.checked_texts(side, name)
        vectors = self.embed(items, truncation=truncation)
        return vectors[0] if isinstance(side, str) else vectors

    def _encode_text(self, encoder: Encoder, text: str, truncation: bool) -> list[int]:
        ids = self.tokenizer.encode(text)
        if truncation and len(ids) > encoder.max_len:
            n_end = len(ids) - len(self.tokenizer.encode(text, add_special=False)) > 1  # [SEP], next to [CLS]
            return ids[: encoder.max_len - 1] + ids[-1:] if n_end else ids[: encoder.max_len]
        return ids

    def _encoder_engine(self) -> Encoder:
        if self._encoder is None:
            raise ModelUnsupportedError(
                f"this model is a {self.kind}; it makes text, not vectors", code="wrong_kind"
            )
        return self._encoder
