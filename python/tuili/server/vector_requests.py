"""Requests for vectors and scores: from a body to its answer, batch by batch.

All of it runs on threads beside the event loop. An error is a TuiliError or Refused; a field that has no
effect is one, too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np

from tuili.chat import completions
from tuili.checks import (
    boolean,
    cut_length,
    described,
    integer,
    invalid,
    measured,
    one_of,
    only_known,
)
from tuili.embedding.options import checked_texts
from tuili.server.fields import CUT, Fields, Served, required
from tuili.tasks import classification
from tuili.tasks.encoding import Room
from tuili.tasks.scores import FUNCTIONS, best

MAX_DOCUMENTS = 1024
MAX_PROMPTS_BYTES = 16 << 20  # of a prompt, as often as it stands before a text to embed

KeepOn = Callable[[int, int], None]  # called after each batch; what it raises ends the work


class VectorRequests:
    """Answers requests to one model."""

    def __init__(self, served: Served) -> None:
        self._served, self._llm = served, served.llm

    def embed(self, body: bytes, keep_on: KeepOn) -> dict[str, Any]:
        """POST /v1/embeddings."""
        fields = self._served.fields(body)
        texts = required(fields, "input")
        form = fields.pop("encoding_format", None)
        form = "float" if form is None else one_of("encoding_format", form, ("float", "base64"))
        if (width := fields.pop("dimensions", None)) is not None:
            integer("dimensions", width, 1, self._llm.whole_width())
        prompt = {name: fields.pop(name, None) for name in ("prompt", "prompt_name")}
        most = self._most(fields, ("input", "encoding_format", "dimensions", *prompt))
        items = checked_texts(texts, "input")
        if not 1 <= len(items) <= MAX_DOCUMENTS:
            invalid("input", f"must be a text or a list of 1 to {MAX_DOCUMENTS} texts, not {measured(items)}")
        before = self._llm.prompt_before(**prompt)
        if len(before.encode("utf-8", "surrogatepass")) * len(items) > MAX_PROMPTS_BYTES:
            invalid("prompt", f"is, before {len(items)} texts, more than {MAX_PROMPTS_BYTES} bytes")
        whole = [before + text for text in items]
        self._check_each(whole, most)
        how: dict[str, Any] = {"truncation": most is not None, "max_length": most, "progress": keep_on}
        how |= prompt
        if width is not None and width != self._llm.width():
            how |= {"truncate_dim": width, "normalize": True}
        vectors = self._llm.embed(items, **how)
        data = [
            {"object": "embedding", "index": i, "embedding": _vector(v, form)} for i, v in enumerate(vectors)
        ]
        return {
            "object": "list",
            "data": data,
            "model": self._served.name,
            "usage": self._text_usage(whole, most),
        }

    def rerank(self, body: bytes, keep_on: KeepOn) -> dict[str, Any]:
        """POST /v1/rerank, in the shape that Jina and Cohere gave it."""
        fields = self._served.fields(body)
        query, given = required(fields, "query"), required(fields, "documents")
        if (top_n := fields.pop("top_n", None)) is not None:
            integer("top_n", top_n, 1, 2**31 - 1)
        with_text = fields.pop("return_documents", None)
        most = self._most(fields, ("query", "documents", "top_n", "return_documents"))
        if not isinstance(given, list) or not 1 <= len(given) <= MAX_DOCUMENTS:
            invalid("documents", f"must be a list of 1 to {MAX_DOCUMENTS} texts, not {measured(given)}")
        documents = [
            item["text"] if isinstance(item, dict) and item.keys() == {"text"} else item for item in given
        ]
        with_text = with_text is None or boolean("return_documents", with_text)
        self._check_each([query, *documents], most)
        results = [
            {
                "index": entry["index"],
                "relevance_score": entry["score"],
                **({"document": {"text": entry["text"]}} if with_text else {}),
            }
            for entry in self._ranked(query, documents, most, keep_on, top_n)
        ]
        usage = self._text_usage([query, *documents], most)
        return {
            "id": completions.new_id("rerank"),
            "model": self._served.name,
            "results": results,
            "usage": usage,
        }

    def score(self, body: bytes, keep_on: KeepOn) -> dict[str, Any]:
        """POST /v1/score, in vLLM's shape: what `rerank` says of a text with another, of a text with each of
        several, or of each of several with its own.
        """
        fields = self._served.fields(body)
        names, others = ("text_1", "text_2"), ("queries", "documents")
        if all(fields.get(name) is None for name in names):
            names, others = others, names
        for name in others:
            if name in fields and fields[name] is None:
                del fields[name]
        sides = [given if isinstance(given := required(fields, name), list) else [given] for name in names]
        most = self._most(fields, names)
        for name, side in zip(names, sides, strict=True):
            if not 1 <= len(side) <= MAX_DOCUMENTS or not all(isinstance(text, str) for text in side):
                found = measured(side) if all(isinstance(text, str) for text in side) else "of others"
                invalid(name, f"must be a text or a list of 1 to {MAX_DOCUMENTS} texts, not {found}")
        queries, documents = sides
        if len(queries) not in (1, len(documents)):
            invalid(names[0], f"are {len(queries)}, for {len(documents)} of {names[1]}; one, or as many")
        self._check_each([*queries, *documents], most)
        each = [documents] if len(queries) == 1 else [[document] for document in documents]
        scores = [
            entry["score"]
            for query, those in zip(queries, each, strict=True)
            for entry in sorted(self._ranked(query, those, most, keep_on), key=itemgetter("index"))
        ]
        return {
            **completions.heading("score", "list", self._served.name),
            "data": [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)],
            "usage": self._text_usage([*queries, *documents], most),
        }

    def _ranked(
        self,
        query: Any,
        documents: list[Any],
        most: int | None,
        keep_on: KeepOn,
        top_n: int | None = None,
    ) -> list[dict[str, Any]]:
        return self._llm.rank(
            query, documents, top_n, truncation=most is not None, max_length=most, progress=keep_on
        )

    def classify(self, body: bytes, keep_on: KeepOn) -> dict[str, Any]:
        """POST /v1/classify, in vLLM's shape; a pair of texts is an object of "text" and "text_pair"."""
        fields = self._served.fields(body)
        given = required(fields, "input")
        activated = fields.pop("use_activation", None)
        most = self._most(fields, ("input", "use_activation"))
        model = self._llm.task_model("classify")
        head = model.head("classify", "sequence")
        items = given if isinstance(given, list) else [given]
        if not 1 <= len(items) <= MAX_DOCUMENTS:
            invalid("input", f"must be a text or a list of 1 to {MAX_DOCUMENTS} texts, not {measured(items)}")
        for item in items:
            if not isinstance(item, str | dict):
                invalid("input", f"must hold texts, or objects of text and text_pair, not {described(item)}")
            self._check_each(list(item.values()) if isinstance(item, dict) else [item], most)
        plain = activated is not None and not boolean("use_activation", activated)
        space = Room(most or model.max_len, None if most is None else "longest_first")
        inputs, rows = classification.outputs(model, items, space, keep_on, "input")
        data = []
        for i, row in enumerate(rows):
            scores = FUNCTIONS["none" if plain else head.function](row)
            data.append(
                {
                    "index": i,
                    "label": head.labels[best(scores, 1)[0]],
                    "probs": scores.tolist(),
                    "num_classes": len(scores),
                }
            )
        n_tokens = sum(len(encoded.ids) for encoded in inputs)
        return {
            **completions.heading("classify", "list", self._served.name),
            "data": data,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }

    def _most(self, fields: Fields, taken: tuple[str, ...]) -> int | None:
        """Tokens that truncate_prompt_tokens leaves, the last of the fields to be taken: -1 is the model's
        own limit, as vLLM has it. None: nothing may be cut.
        """
        cut = fields.pop(CUT, None)
        completions.check_names(fields)
        only_known(fields, ("model", *completions.NAMES, *taken, CUT))
        if cut is None:
            return None
        most: int = self._llm.config["max_model_len"]
        limit = cut_length(CUT, cut)
        if limit > most:
            invalid(CUT, f"must be in [1, {most}], or -1, not {described(limit)}")
        return most if limit == -1 else limit

    def _check_each(self, texts: Any, most: int | None) -> None:
        """most: tokens of a text that are read, if it is cut."""
        lengths = self._served.lengths(most)
        for text in texts if isinstance(texts, list) else ():
            lengths.check(text)

    def _text_usage(self, texts: list[str], most: int | None = None) -> dict[str, int]:
        """most: tokens of a text that are read, if it is cut."""
        lengths = [len(ids) for ids in self._llm.tokenizer.encode_batch(texts)]
        n_tokens = sum(length if most is None else min(length, most) for length in lengths)
        return {"prompt_tokens": n_tokens, "total_tokens": n_tokens}


def _vector(vector: np.ndarray, form: str) -> str | list[float]:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
