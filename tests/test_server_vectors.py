"""The HTTP server's vectors and rankings, which are those of the library."""

from __future__ import annotations

import base64
import json

import numpy as np
import openai
import pytest

import sentence_folders
import tuili
from reranker_folders import DOCUMENTS, QUERY, write
from tiny_server import running


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings_are_those_of_the_library(embedder, vector_server, form):
    texts = ["a cat", "the house in the river"]
    with openai.OpenAI(base_url=f"{vector_server.url}/v1", api_key="unused") as client:
        answer = client.embeddings.create(model="minilm", input=texts, encoding_format=form)
    vectors = [
        np.frombuffer(base64.b64decode(item.embedding), "<f4") if form == "base64" else item.embedding
        for item in answer.data
    ]
    assert np.array_equal(np.array(vectors, np.float32), embedder.embed(texts))
    assert answer.usage.prompt_tokens == sum(len(embedder.tokenizer.encode(text)) for text in texts)


def test_dimensions_are_the_first_numbers_of_length_1(embedder, vector_server):
    texts = ["a cat", "the house in the river"]
    own = embedder.embed(texts)
    for n in (1, 7, own.shape[1]):
        answer = vector_server.ask("/v1/embeddings", {"input": texts, "dimensions": n})
        vectors = np.array([item["embedding"] for item in answer.json()["data"]], np.float32)
        wanted = embedder.embed(texts, normalize=True, truncate_dim=n) if n < own.shape[1] else own
        assert np.array_equal(vectors, wanted)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for wrong in (0, own.shape[1] + 1, "7", 1.5, True):
        answer = vector_server.ask("/v1/embeddings", {"input": texts, "dimensions": wrong})
        assert (answer.status, answer.json()["error"]["param"]) == (400, "dimensions")


def test_a_prompt_stands_before_each_text(tmp_path):
    texts, most = ["a cat", "the house in the river"], 5
    with tuili.LLM(sentence_folders.write("prompts", tmp_path)) as llm, running(llm) as server:
        for how in ({}, {"prompt_name": "query"}, {"prompt": "of the "}, {"prompt": "", "prompt_name": None}):
            answer = server.ask("/v1/embeddings", {"input": texts, **how}).json()
            vectors = [item["embedding"] for item in answer["data"]]
            assert np.array_equal(np.array(vectors, np.float32), llm.embed(texts, **how))
            before = {"query": "the good "}.get(how.get("prompt_name") or "", how.get("prompt", ""))
            n_tokens = sum(len(llm.tokenizer.encode(before + text)) for text in texts)
            assert answer["usage"]["prompt_tokens"] == n_tokens
        cut = {"input": texts, "prompt_name": "query", "truncate_prompt_tokens": most}
        assert server.ask("/v1/embeddings", cut).json()["usage"]["prompt_tokens"] == 2 * most
        for wrong, param in (
            ({"prompt_name": "none"}, "prompt_name"),
            ({"prompt_name": 1}, "prompt_name"),
            ({"prompt": ["a"]}, "prompt"),
            ({"prompt": "a", "prompt_name": "query"}, "prompt"),
        ):
            answer = server.ask("/v1/embeddings", {"input": texts, **wrong})
            assert (answer.status, answer.json()["error"]["param"]) == (400, param)
        long = server.ask("/v1/embeddings", {"input": "a", "prompt": "the " * 600})
        assert long.code == "prompt_too_long"
        many = server.ask(
            "/v1/embeddings", {"input": ["a"] * 1024, "prompt": "é" * 8200}
        )  # 16,400 bytes each
        assert (many.status, many.code, many.json()["error"]["param"]) == (400, "invalid_parameter", "prompt")


@pytest.mark.parametrize("form", ["hex", "", [], {}, False, 1])
def test_a_form_of_vectors_that_is_none_is_400(vector_server, form):
    answer = vector_server.ask("/v1/embeddings", {"input": "a", "encoding_format": form})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "encoding_format")


@pytest.mark.parametrize("texts", [[], [1, 2], [[1]], {"a": 1}, ["a", None]])
def test_what_is_no_text_is_400(vector_server, texts):
    answer = vector_server.ask("/v1/embeddings", {"input": texts})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "input")


def test_a_text_that_is_too_long_is_no_advice_for_python(vector_server):
    answer = vector_server.ask("/v1/embeddings", {"input": "the " * 600})
    assert answer.code == "prompt_too_long" and "truncation" not in answer.json()["error"]["message"]


def test_rerank_ends_when_its_client_has_left(embedder):
    from tuili.server.fields import Served
    from tuili.server.vector_requests import VectorRequests

    batches = []

    def keep_on(done, total):
        batches.append(done)
        raise tuili.RequestCancelled("the client left")

    body = json.dumps({"query": "a", "documents": [f"{i} the cat" for i in range(1000)]}).encode()
    with pytest.raises(tuili.RequestCancelled):
        VectorRequests(Served(embedder, "minilm")).rerank(body, keep_on)
    assert len(batches) == 1 and 0 < batches[0] < 1000


def test_rerank_orders_documents(embedder, vector_server):
    documents = ["the cat", "a house", "rivers and the sea"]
    body = {"query": "the cat", "documents": documents, "top_n": 2}
    answer = vector_server.ask("/v1/rerank", body).json()
    own = embedder.rank("the cat", documents, 2)
    shown = [(r["index"], r["relevance_score"], r["document"]["text"]) for r in answer["results"]]
    assert shown == [(r["index"], r["score"], r["text"]) for r in own]
    assert vector_server.ask("/rerank", body).json()["results"] == answer["results"]
    body |= {"top_n": 0}
    assert vector_server.ask("/v1/rerank", body).json()["error"]["param"] == "top_n"


def test_documents_that_are_too_long_are_cut_where_it_is_asked_for(embedder, vector_server):
    long = "the cat " * 300
    body = {"query": "the cat", "documents": ["a house", long]}
    assert vector_server.ask("/v1/rerank", body).code == "prompt_too_long"
    most = embedder.config["max_model_len"]
    for given, limit in ((-1, most), (most, most), (8, 8)):
        answer = vector_server.ask("/v1/rerank", body | {"truncate_prompt_tokens": given}).json()
        own = embedder.rank("the cat", body["documents"], truncation=True, max_length=limit)
        scores = [(one["index"], one["relevance_score"]) for one in answer["results"]]
        assert scores == [(one["index"], one["score"]) for one in own]
        lengths = [len(embedder.tokenizer.encode(text)) for text in ("the cat", *body["documents"])]
        assert answer["usage"]["prompt_tokens"] == sum(min(length, limit) for length in lengths)
    for wrong in (0, -2, most + 1, "8", True):
        error = vector_server.ask("/v1/rerank", body | {"truncate_prompt_tokens": wrong}).json()["error"]
        assert error["param"] == "truncate_prompt_tokens"
    texts = {"input": [long, "a house"], "truncate_prompt_tokens": 8}
    answer = vector_server.ask("/v1/embeddings", texts).json()
    own = embedder.embed(texts["input"], truncation=True, max_length=8)
    assert [one["embedding"] for one in answer["data"]] == own.tolist()
    assert answer["usage"]["prompt_tokens"] == 8 + len(embedder.tokenizer.encode("a house"))


def scores(server, path="/v1/score", **fields):
    got = server.ask(path, fields)
    assert got.status == 200, got.body
    answer = got.json()
    assert list(answer) == ["id", "object", "created", "model", "data", "usage"]
    assert answer["object"] == "list" and answer["id"].startswith("score-")
    assert [(one["index"], one["object"]) for one in answer["data"]] == [
        (i, "score") for i in range(len(answer["data"]))
    ]
    return [one["score"] for one in answer["data"]]


def ranked(llm, query, documents, **how):
    return [one["score"] for one in sorted(llm.rank(query, documents, **how), key=lambda one: one["index"])]


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_scores_stand_in_the_order_of_the_texts(embedder, vector_server, path):
    many = ["a house", "the cat", "rivers and the sea"]
    own = ranked(embedder, "the cat", many)
    assert own != sorted(own, reverse=True), "which is not that of a ranking"
    assert scores(vector_server, path, text_1="the cat", text_2=many) == own
    assert scores(vector_server, path, queries=["the cat"], documents=many, text_1=None) == own
    assert scores(vector_server, path, text_1="the cat", text_2=many, queries=None, user=None) == own
    assert scores(vector_server, path, text_1="the cat", text_2=many[0]) == own[:1]
    pairs = scores(vector_server, path, text_1=many[::-1], text_2=many)
    assert pairs == [ranked(embedder, a, [b])[0] for a, b in zip(many[::-1], many, strict=True)]


def test_a_reranker_scores_pairs_by_reading_them_together(tmp_path):
    with tuili.LLM(write("classifier", tmp_path / "model"), num_threads=1) as llm, running(llm) as server:
        own = ranked(llm, QUERY, DOCUMENTS)
        assert scores(server, queries=QUERY, documents=DOCUMENTS) == own
        assert scores(server, text_1=[QUERY] * len(DOCUMENTS), text_2=DOCUMENTS) == own
        long = QUERY * 200
        cut = scores(server, text_1=long, text_2="a", truncate_prompt_tokens=9)
        assert cut == ranked(llm, long, ["a"], truncation=True, max_length=9)


@pytest.mark.parametrize(
    "fields, param",
    [
        ({}, "queries"),
        ({"text_1": "a"}, "text_2"),
        ({"text_2": "a"}, "text_1"),
        ({"documents": "a"}, "queries"),
        ({"text_1": "a", "documents": "b"}, "text_2"),
        ({"text_1": "a", "text_2": "b", "queries": "c"}, "queries"),
        ({"text_1": "a", "text_2": "b", "text_3": None}, "text_3"),
        ({"text_1": [], "text_2": []}, "text_1"),
        ({"text_1": "a", "text_2": []}, "text_2"),
        ({"text_1": 5, "text_2": ["a"]}, "text_1"),
        ({"queries": "a", "documents": ["a", None]}, "documents"),
        ({"text_1": ["a", "b"], "text_2": "c"}, "text_1"),
        ({"text_1": ["a", "b"], "text_2": ["c"] * 3}, "text_1"),
        ({"text_1": "a", "text_2": ["b"] * 1025}, "text_2"),
        ({"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ],
)
def test_what_is_no_pair_of_texts_is_400(vector_server, fields, param):
    answer = vector_server.ask("/score", fields)
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)
    assert vector_server.ask("/score", {"text_1": "a", "text_2": "b " * 9999}).code == "prompt_too_long"
