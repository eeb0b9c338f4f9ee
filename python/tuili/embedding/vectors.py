"""What an LLM that is an encoder does: texts to vectors, and what vectors are compared for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, overload

import numpy as np

from tuili import _core
from tuili.checks import (
    boolean,
    described,
    function_or_none,
    integer,
    invalid,
    only_known,
    same,
)
from tuili.embedding.encoder import Encoder, Pooling, Progress, checked_finite
from tuili.embedding.options import checked_texts, in_precision, poolings_of, prompt_of, shortened
from tuili.embedding.similarity import checked_vectors, cosines, ranking
from tuili.errors import CUTTING_HELPS, ModelUnsupportedError
from tuili.loading.model import LoadedModel
from tuili.tasks import classification
from tuili.tasks.encoding import Room, encode, room
from tuili.tasks.head import TaskModel, cannot
from tuili.tasks.pairs import PairReading
from tuili.tokenization.tokenizer import Tokenizer

# What sentence-transformers' `encode` is told, where it asks for what is done anyway.
_AS_IT_IS: dict[str, object] = {
    "convert_to_numpy": True,
    "convert_to_tensor": False,
    "output_value": "sentence_embedding",
    "show_progress_bar": False,
}


class Vectors:
    """The encoder's part of `LLM`, which makes what is declared here."""

    kind: str
    tokenizer: Tokenizer
    loaded: LoadedModel
    _encoder: Encoder | None = None
    _embedding: dict[str, Any]
    _task_model: TaskModel | None = None
    config: dict[str, Any]

    def embed(
        self,
        texts: str | Sequence[str],
        normalize: bool | None = None,
        pooling: str | None = None,
        *,
        truncation: bool = False,
        max_length: int | None = None,
        truncate_dim: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        precision: str = "float32",
        ranges: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Sentence vectors, float32 [n_texts, width]; one str gives [width], an empty list [0, width].

        normalize, pooling  None: as the model's own files say
        truncation          cut texts at the limit (keeping the special tokens around them)
        max_length          the limit, in tokens; None: the model's
        truncate_dim        keep so many numbers of each vector, which are of length 1 only with
                            normalize=True (models trained for it: "matryoshka"); None: as the files say
        prompt_name         which of the model's prompts stands before each text; None: its default, if any
        prompt              the words themselves, in place of one of the model's prompts
        precision, ranges   "int8", "uint8", "binary", "ubinary": see options.in_precision
        progress            called with (texts, texts in all) after each batch
        raises              PromptTooLongError, InvalidParameterError, NumericError
        """
        encoder = self._encoder_engine()
        encoder.expect_work()
        poolings = poolings_of(self._embedding, pooling)
        normalized = self._embedding["normalize"] if normalize is None else boolean("normalize", normalize)
        space = _space(truncation, max_length, encoder.max_len)
        function_or_none("progress", progress)
        width = self._width_of(poolings)
        if truncate_dim is not None:
            integer("truncate_dim", truncate_dim, 1, width)
        kept = truncate_dim or self._embedding.get("truncate_dim")
        none = np.empty((0, min(width, kept or width)), np.float32)
        none = in_precision(none, precision, ranges)  # what is wrong is said before the work
        before = self.prompt_before(prompt_name, prompt)
        items = [self._cased(before + text) for text in checked_texts(texts)]
        if not items:
            return none
        ids = self.tokenizer.each(partial(self._encode_text, encoder, space), [(text,) for text in items])
        dense = self.loaded.dense
        last = not dense and len(poolings) == 1
        n_skipped = self._n_skipped(self._cased(before))
        vectors = self._pooled(
            encoder, ids, poolings, normalize=normalized and last, progress=progress, n_skipped=n_skipped
        )
        for layer in dense:
            vectors = checked_finite(layer(vectors))
        if normalized and not last:
            vectors = _core.ops.l2_normalize(vectors)
        if kept is not None:
            vectors = shortened(vectors, kept, normalize=bool(normalize))
        vectors = in_precision(vectors, precision, ranges)
        return vectors[0] if isinstance(texts, str) else vectors

    def encode(
        self,
        texts: str | Sequence[str] | None = None,
        normalize: bool | None = None,
        pooling: str | None = None,
        *,
        sentences: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        batch_size: int = 32,
        **options: Any,
    ) -> np.ndarray:
        """`embed`, also by sentence-transformers' names of its arguments.

        sentences             the texts
        normalize_embeddings  True: normalize; False: as the model's own files say
        batch_size            changes nothing: batches are made of tokens
        options               the others of `embed`, and what sentence-transformers has by default of
                              convert_to_numpy, convert_to_tensor, output_value and show_progress_bar
        raises                as `embed`; InvalidParameterError for other options
        """
        only_known(options, {*(Vectors.embed.__kwdefaults__ or ()), *_AS_IT_IS})
        for name, value in _AS_IT_IS.items():
            if (given := options.pop(name, None)) is not None and not same(given, value):
                said = "the vectors are a numpy array, and `progress` is told how far they are"
                invalid(name, f"must be {value!r}, not {described(given)}: {said}")
        integer("batch_size", batch_size, 1, 2**31 - 1)
        if boolean("normalize_embeddings", normalize_embeddings):
            if normalize is not None:
                invalid("normalize_embeddings", "is given next to normalize")
            normalize = True
        if texts is not None and sentences is not None:
            invalid("sentences", "are given next to texts")
        chosen: Any = texts if sentences is None else sentences
        return self.embed(chosen, normalize, pooling, **options)

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
        rows = [self._vectors(side, name, truncation=truncation) for side, name in ((a, "a"), (b, "b"))]
        matrix = cosines(*(np.atleast_2d(row) for row in rows))
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
        max_length: int | None = None,
        prompt_name: str | None = None,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """The documents most similar to the query, best first: dicts with "index", "score" and "text".
        A cross-encoder (a sequence classifier with one label, or a decoder that judges by a word) reads query
        and document together, which truncation cuts together. Of a model for multiple choice, the query is
        the question and documents are the choices; scores are the shares of these, 1 in all. prompt_name is
        of the query's prompt. Other arguments as `embed`'s; of no documents it gives [].
        """
        if not isinstance(query, str):
            invalid("query", f"must be a str, not {described(query)}")
        items = checked_texts(documents, "documents")
        top_k = len(items) if top_k is None else integer("top_k", top_k, 1, 2**31 - 1)
        function_or_none("progress", progress)
        if self.loaded.head is not None and self.loaded.head.kind in ("sequence", "choices"):
            how, template = self._embedding, self.loaded.chat_template
            prompt = prompt_of(how.get("pair_prompts", {}), prompt_name) or None
            variables = how.get("pair_variables", {})
            reading = PairReading(prompt, how.get("pair_format"), template, variables)
            model = self.task_model("rank")
            space = _space(truncation, max_length, model.max_len)
            scores = classification.relevance(model, query, items, space, progress, reading)
            return ranking(scores, items, top_k)
        limits: dict[str, Any] = {"truncation": truncation, "max_length": max_length}
        wanted = self.embed([query], prompt_name=prompt_name, **limits)
        found = self.embed(items, progress=progress, **limits)
        return ranking(cosines(wanted, found)[0], items, top_k)

    @overload
    def classify(
        self, texts: list[Any], *, truncation: bool = False, progress: Progress | None = None
    ) -> list[dict[str, Any]]: ...
    @overload
    def classify(
        self,
        texts: str | tuple[str, str] | dict[str, str],
        *,
        truncation: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]: ...
    def classify(
        self, texts: Any, *, truncation: bool = False, progress: Progress | None = None
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """The label of each text, by the model's own head for sequences.

        texts       a str, a pair of them (a tuple, or a dict of "text" and "text_pair"), or a list of these
        truncation  cut texts at the model's limit, the longer of a pair first
        returns     for a list one dict per text, else one: "label", its "score", the "scores" of all labels,
                    and "truncated" if it was cut
        raises      ModelUnsupportedError (task) if the model has no such head, PromptTooLongError,
                    InvalidParameterError, NumericError
        """
        alone = not isinstance(texts, list)
        items = [texts] if alone else texts
        function_or_none("progress", progress)
        results = classification.classify(self.task_model("classify"), items, truncation, progress)
        return results[0] if alone else results

    def task_model(self, task: str) -> TaskModel:
        """The encoder with its task head; ModelUnsupportedError (task) if the model is a decoder."""
        name, loaded = self.config["architecture"], self.loaded
        if not isinstance(task, str):
            invalid("task", f"must be a str, not {described(task)}")
        if self._encoder is None:
            raise cannot(task, name, self.config["tasks"])
        if self._task_model is None:
            self._task_model = TaskModel(self._encoder, self.tokenizer, loaded.head, loaded.spec, name)
        return self._task_model

    def _vectors(self, side: Any, name: str, *, truncation: bool) -> np.ndarray:
        if isinstance(side, np.ndarray):
            return checked_vectors(side, self.width(), name)
        items = checked_texts(side, name)
        vectors = self.embed(items, truncation=truncation)
        return vectors[0] if isinstance(side, str) else vectors

    def prompt_before(self, prompt_name: object = None, prompt: object = None) -> str:
        """What stands before each text, of these as `embed` takes them; ModelUnsupportedError if it makes no
        vectors."""
        self._encoder_engine()
        return prompt_of(self._embedding, prompt_name, prompt)

    def width(self) -> int:
        """Numbers of a sentence vector."""
        width = self.whole_width()
        return min(width, int(self._embedding.get("truncate_dim", width)))

    def whole_width(self) -> int:
        """The width before the model's files cut it; ModelUnsupportedError if the model makes no vectors."""
        self._encoder_engine()
        return self._width_of(poolings_of(self._embedding, None))

    def _width_of(self, poolings: Sequence[Pooling]) -> int:
        """The width that these poolings and the model's further modules give; InvalidParameterError if a
        module takes another."""
        width = self.loaded.spec.d_model * len(poolings)
        for layer in self.loaded.dense:
            if layer.n_in is not None and width != layer.n_in:
                invalid(
                    "pooling", f"gives vectors of {width} numbers; the model's next module takes {layer.n_in}"
                )
            width = width if layer.n_out is None else layer.n_out
        return width

    def _cased(self, text: str) -> str:
        """`text` in lower case if the model's files ask for it."""
        return text.lower() if self._embedding.get("lower_case") else text

    def _pooled(
        self,
        encoder: Encoder,
        ids: list[list[int]],
        poolings: list[Pooling],
        **how: Any,
    ) -> np.ndarray:
        """Vectors of texts, made as `how` tells `Encoder.embed`; zeros for one without tokens where no layers
        stand before pooling."""
        places = [i for i, text in enumerate(ids) if text]
        if len(places) == len(ids) or self.loaded.spec.layers:
            return encoder.embed(ids, poolings, **how)
        vectors = np.zeros((len(ids), self.loaded.spec.d_model * len(poolings)), np.float32)
        if places:
            some = [ids[i] for i in places]
            vectors[places] = encoder.embed(some, poolings, **how)
        return vectors

    def _n_skipped(self, prompt: str) -> int:
        """How many tokens at the beginning, those of the prompt, are not pooled: as sentence-transformers
        counts them, without a special token at the end."""
        if self._embedding.get("include_prompt", True) or not prompt:
            return 0
        ids = self.tokenizer.encode(prompt)
        return len(ids) - sum(token_id in self.tokenizer.special_ids for token_id in ids[-1:])

    def _encode_text(self, encoder: Encoder, space: Room, text: str) -> list[int]:
        if space.cut is None:
            self.tokenizer.check_fits(text, space.max_len, CUTTING_HELPS)
        elif self.tokenizer.loaded.cut_side == "right":
            text = self.tokenizer.beginning(text, space.max_len)
        ids = self.tokenizer.noticed(self.tokenizer.encode(text))
        if len(ids) > space.max_len and (space.cut is not None or space.max_len < encoder.max_len):
            return encode(self.tokenizer, text, max_len=space.max_len, cut=space.cut).ids
        return ids

    def _encoder_engine(self) -> Encoder:
        if self._encoder is None:
            article = "a" if self.kind == "decoder" else "an"
            raise ModelUnsupportedError(
                f"this model is {article} {self.kind}; it makes text, not vectors: generate",
                code="wrong_kind",
            )
        return self._encoder


def _space(truncation: object, max_length: object, max_len: int) -> Room:
    return room({"truncation": boolean("truncation", truncation), "max_length": max_length}, max_len)
