"""What test_pipelines.py and transformers (tests/oracle/pipeline_goldens.py) call pipelines with."""

from __future__ import annotations

from typing import Any

TEXT = "The cat is on the house in New York."
TEXTS = [TEXT, "a good dog, to the river!", "你好 世界 of good"]
PAIR = {"text": TEXT, "text_pair": "a dog is in the river"}
WORDS = ["the", "house,", "in", "New York", "catdog"]
LONG = "the dog and the cat go to the new house in river. " * 6

# (model of encoder_models.py, task, positional arguments, keywords)
CALLS: list[tuple[str, str, list[Any], dict[str, Any]]] = [
    ("BertForSequenceClassification", "text-classification", [TEXT], {}),
    ("BertForSequenceClassification", "text-classification", [TEXTS], {}),
    ("BertForSequenceClassification", "text-classification", [TEXT], {"top_k": 2}),
    ("BertForSequenceClassification", "text-classification", [TEXTS], {"top_k": None}),
    ("BertForSequenceClassification", "text-classification", [PAIR], {}),
    ("BertForSequenceClassification", "text-classification", [[PAIR, PAIR]], {"top_k": 1}),
    ("BertForSequenceClassification", "text-classification", [TEXT], {"function_to_apply": "sigmoid"}),
    ("BertForSequenceClassification", "text-classification", [TEXTS], {"function_to_apply": "none"}),
    ("ElectraForSequenceClassification", "text-classification", [LONG], {"truncation": True}),
    ("ElectraForSequenceClassification", "zero-shot-classification", [TEXT, ["cat", "river", "dog"]], {}),
    (
        "BertForSequenceClassification",
        "zero-shot-classification",
        [TEXTS, "cat, dog , house"],
        {"multi_label": True, "hypothesis_template": "it is {} in the house"},
    ),
    ("BertForSequenceClassification", "zero-shot-classification", [[TEXT], "cat"], {}),
    *(
        (
            "BertForTokenClassification",
            "token-classification",
            [TEXTS],
            {"aggregation_strategy": strategy, "ignore_labels": ignored},
        )
        for strategy in ("none", "simple", "first", "average", "max")
        for ignored in (["O"], [])
    ),
    ("DistilBertForTokenClassification", "token-classification", [TEXT], {}),
    (
        "DistilBertForTokenClassification",
        "token-classification",
        [LONG],
        {"aggregation_strategy": "max", "stride": 8},
    ),
    ("BertForTokenClassification", "token-classification", [WORDS], {"is_split_into_words": True}),
    (
        "BertForTokenClassification",
        "token-classification",
        [[WORDS, ["a", "dog"]]],
        {"is_split_into_words": True, "delimiter": "", "aggregation_strategy": "simple", "ignore_labels": []},
    ),
    (
        "DistilBertForTokenClassification",
        "token-classification",
        [LONG.split()],
        {"is_split_into_words": True, "aggregation_strategy": "first", "stride": 8},
    ),
    ("BertForMaskedLM", "fill-mask", ["the [MASK] is in the house"], {}),
    ("BertForMaskedLM", "fill-mask", [["the [MASK] is", "[MASK] good"]], {"top_k": 2}),
    ("BertForMaskedLM", "fill-mask", ["the [MASK] is [MASK] ."], {"top_k": 3}),
    ("AlbertForMaskedLM", "fill-mask", ["the [MASK] is"], {"targets": ["cat", "river", "dog"]}),
    ("AlbertForMaskedLM", "fill-mask", [["[MASK] is new, the house"]], {"targets": "cat"}),
    ("DistilBertModel", "feature-extraction", ["the cat"], {}),
    ("ElectraModel", "feature-extraction", [["good", "a dog"]], {}),
]

# For question answering, which transformers 5 has not: what version 4 gives, computed plainly.
QUESTION, DOCUMENT = "the cat?", "The cat is on the house. The dog, in New York, is good to the river."
QUESTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 4},
    {"top_k": 3, "handle_impossible_answer": True},
    {"top_k": 3, "max_answer_len": 2},
    {"top_k": 5, "align_to_words": False},
    {"top_k": 3, "max_seq_len": 20, "doc_stride": 6},
    {"top_k": 3, "max_seq_len": 16, "doc_stride": 0, "handle_impossible_answer": True},
]
