"""The HTTP server's labels, which are those of the library, in vLLM's shape; and tokens with their texts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import tuili
from encoder_models import CASES, write_folder
from tiny_server import KEY, running
from tuili.server.fields import Served
from tuili.server.vector_requests import MAX_DOCUMENTS, VectorRequests

MODELS = Path(__file__).parent / "models"
TEXTS = ["a good day", "这 是 一个 很 好 的 日子", "", "bad , bad film !", "the \ud83d\ude00 of it"]
PAIR = {"text": "the cat is on the house", "text_pair": "a dog is in the river"}
PATHS = ("/v1/classify", "/classify")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    path = write_folder(CASES["BertForSequenceClassification"], tmp_path_factory.mktemp("models") / "labels")
    with tuili.LLM(path, num_threads=1) as llm, running(llm, served_model_name="labels") as server:
        yield server


@pytest.mark.parametrize("path", PATHS)
def test_labels_are_those_of_the_library(classifier, path):
    llm = classifier.app.llm
    got = classifier.ask(path, {"model": "labels", "input": TEXTS}).json()
    own = llm.classify(TEXTS)
    assert list(got) == ["id", "object", "created", "model", "data", "usage"]
    assert got["object"] == "list" and got["model"] == "labels" and got["id"].startswith("classify-")
    assert got["data"] == [
        {"index": i, "label": one["label"], "probs": list(one["scores"].values()), "num_classes": 3}
        for i, one in enumerate(own)
    ]
    n_tokens = sum(len(llm.tokenizer.encode(text)) for text in TEXTS)
    assert got["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    alone = classifier.ask(path, {"input": TEXTS[1]}).json()["data"]
    assert alone == [got["data"][1] | {"index": 0}], "a text's label does not depend on the others"


def test_a_trained_model_says_what_it_was_trained_to_say():
    with tuili.LLM(MODELS / "sentiment", num_threads=1) as llm, running(llm) as server:
        texts = ["this film is wonderful", "this film is terrible"]
        got = server.ask("/v1/classify", {"input": texts}).json()
        assert [one["label"] for one in got["data"]] == [one["label"] for one in llm.classify(texts)]
        assert {one["label"] for one in got["data"]} == {"positive", "negative"}


def test_pairs_are_read_together(classifier):
    got = classifier.ask("/v1/classify", {"input": [PAIR, {"text": PAIR["text"]}, PAIR["text"]]}).json()
    pair, alone, text = (one["probs"] for one in got["data"])
    assert pair == list(classifier.app.llm.classify(PAIR)["scores"].values()) != alone == text
    whole = classifier.app.llm.task_model("classify").encode(PAIR["text"], PAIR["text_pair"]).ids
    one = classifier.ask("/v1/classify", {"input": PAIR}).json()
    assert one["usage"]["prompt_tokens"] == len(whole) and one["data"][0]["probs"] == pair


def test_scores_may_be_the_heads_own_numbers(classifier):
    plain = classifier.ask("/v1/classify", {"input": "a", "use_activation": False}).json()["data"][0]
    shares = [
        classifier.ask("/v1/classify", {"input": "a", "use_activation": on}).json() for on in (True, None)
    ]
    pipe = tuili.pipeline("text-classification", classifier.app.llm)
    own = {one["label"]: one["score"] for one in pipe("a", top_k=None, function_to_apply="none")}
    assert plain["probs"] == [own[label] for label in classifier.app.llm.config["labels"]]
    assert shares[0]["data"] == shares[1]["data"] and abs(sum(shares[0]["data"][0]["probs"]) - 1) < 1e-12


def test_a_cross_encoder_has_one_class(tmp_path):
    case = CASES["BertForSequenceClassification"]
    case = dataclasses.replace(case, config=case.config | {"id2label": {"0": "relevant"}})
    with tuili.LLM(write_folder(case, tmp_path), num_threads=1) as llm, running(llm) as server:
        [one] = server.ask("/v1/classify", {"input": PAIR}).json()["data"]
        assert (one["label"], one["num_classes"]) == ("relevant", 1)
        assert one["probs"] == [llm.rank(PAIR["text"], [PAIR["text_pair"]])[0]["score"]]


def test_what_is_too_long_is_cut_where_that_is_asked_for(classifier):
    llm = classifier.app.llm
    most = llm.config["max_model_len"]
    long = "the cat " * 6000  # longer than what is refused by its beginning
    assert classifier.ask("/v1/classify", {"input": ["a", long]}).code == "prompt_too_long"
    got = classifier.ask("/v1/classify", {"input": ["a", long], "truncate_prompt_tokens": -1}).json()
    assert got["data"][1]["probs"] == list(llm.classify(long, truncation=True)["scores"].values())
    assert got["usage"]["prompt_tokens"] == most + len(llm.tokenizer.encode("a"))
    pipe = tuili.pipeline("text-classification", llm)
    got = classifier.ask("/v1/classify", {"input": long, "truncate_prompt_tokens": 8}).json()["data"][0]
    [own] = pipe([long], truncation=True, max_length=8, top_k=None)
    assert max(got["probs"]) == own[0]["score"]
    pair = {"text": long, "text_pair": "a dog"}
    assert classifier.ask("/v1/classify", {"input": pair}).code == "prompt_too_long"
    got = classifier.ask("/v1/classify", {"input": pair, "truncate_prompt_tokens": most}).json()
    assert got["data"][0]["probs"] == list(llm.classify(pair, truncation=True)["scores"].values())
    texts = {"input": [long], "truncate_prompt_tokens": 8}
    assert classifier.ask("/v1/embeddings", texts).json()["usage"]["prompt_tokens"] == 8


BAD = [
    ({}, "input"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": [[]]}, "input"),
    ({"input": [["a", "b"]]}, "input"),
    ({"input": [1, 2]}, "input"),
    ({"input": 3.5}, "input"),
    ({"input": True}, "input"),
    ({"input": ["a", None]}, "input"),
    ({"input": {}}, "input"),
    ({"input": {"text_pair": "a"}}, "input"),
    ({"input": {"text": 1}}, "input"),
    ({"input": {"text": ["a"]}}, "input"),
    ({"input": {"text": "a", "text_pair": {}}}, None),
    ({"input": {"text": "a", "text_pair": 5}}, "input"),
    ({"input": {"text": "a", "pair": "b"}}, "input"),
    ({"input": ["a"] * (MAX_DOCUMENTS + 1)}, "input"),
    ({"input": "a", "use_activation": 1}, "use_activation"),
    ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"input": "a", "truncate_prompt_tokens": 10**9}, "truncate_prompt_tokens"),
    ({"input": "a", "truncate_prompt_tokens": "1"}, "truncate_prompt_tokens"),
    ({"input": "a", "truncate_prompt_tokens": 1}, None),  # nothing of the text would be left
    ({"input": "a", "user": "a\nb"}, "user"),
    ({"input": "a", "model": 3}, "model"),
    ({"input": "a", "top_k": 3}, "top_k"),
    ({"input": "a", "stream": True}, "stream"),
    ({"messages": [{"role": "user", "content": "a"}]}, "input"),
]


@pytest.mark.parametrize("i", range(len(BAD)))
def test_what_is_no_input_is_400(classifier, i):
    body, param = BAD[i]
    answer = classifier.ask("/v1/classify", body)
    assert answer.status == 400, answer.body
    assert param is None or answer.json()["error"]["param"] == param
    assert classifier.ask("/v1/classify", {"input": "a", "model": "gpt-4"}).status == 404


def test_models_without_such_a_head_say_what_they_can_do(vector_server, tmp_path):
    answer = vector_server.ask("/v1/classify", {"input": "a"})
    assert (answer.status, answer.code) == (400, "task") and "feature-ext" in answer.json()["error"][
        "message"
    ]
    with tuili.LLM(MODELS / "adder", num_threads=1) as llm, running(llm) as server:
        answer = server.ask("/classify", {"input": "a"})
        assert (answer.status, answer.code) == (400, "task")
    with tuili.LLM(MODELS / "entities", num_threads=1) as llm, running(llm) as server:
        answer = server.ask("/classify", {"input": "a"})
        assert answer.code == "task" and "token-classification" in answer.json()["error"]["message"]


def test_it_ends_when_its_client_has_left(classifier):
    batches = []

    def keep_on(done, total):
        batches.append(done)
        raise tuili.RequestCancelled("the client left")

    body = json.dumps({"input": [f"{i} the cat" for i in range(MAX_DOCUMENTS)]}).encode()
    with pytest.raises(tuili.RequestCancelled):
        VectorRequests(Served(classifier.app.llm, "labels")).classify(body, keep_on)
    assert len(batches) == 1 and 0 < batches[0] < MAX_DOCUMENTS


def test_its_tokens_count_in_the_share_of_a_key(classifier):
    bearer = {"Authorization": f"Bearer {KEY}"}
    with running(classifier.app.llm, api_keys=(KEY,), max_tokens_per_minute=4) as server:
        assert server.ask("/v1/classify", {"input": "the cat " * 9}, **bearer).status == 200
        assert server.ask("/v1/classify", {"input": "a"}, **bearer).code == "token_rate"
        assert server.ask("/v1/classify", {"input": "a"}).status == 401


# --- tokens


def test_tokens_come_with_their_texts_where_that_is_asked_for(classifier):
    body = {"prompt": "the 河 cat"}
    plain = classifier.ask("/tokenize", body).json()
    assert "token_strs" not in plain
    got = classifier.ask("/tokenize", body | {"return_token_strs": True}).json()
    assert got["tokens"] == plain["tokens"] and len(got["token_strs"]) == got["count"]
    loaded = classifier.app.llm.tokenizer.loaded
    assert got["token_strs"] == [loaded.text_of(i) for i in got["tokens"]] and got["token_strs"][0] == "[CLS]"
    answer = classifier.ask("/tokenize", body | {"return_token_strs": "yes"})
    assert answer.json()["error"]["param"] == "return_token_strs"
    got = classifier.ask("/tokenize", body | {"tools": []}).json()["error"]
    assert got["param"] == "tools" and "messages" in got["message"]
    left_out = dict.fromkeys(("messages", "tools", "add_special_tokens", "return_token_strs"))
    assert classifier.ask("/tokenize", body | left_out).json() == plain, "null is what is not given"
    for neither in ({}, {"prompt": None}, body | {"messages": []}):
        assert classifier.ask("/tokenize", neither).json()["error"]["param"] == "prompt"
