"""What is wrong with an option of a pipeline is said when the pipeline is made, not with its first input."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

import tuili
from encoder_models import CASES, write_folder
from pipeline_cases import TEXT
from seq2seq_models import by_name
from seq2seq_models import write as write_seq2seq
from tiny_files import write_hf_folder
from tiny_models import tiny_llama
from tuili.generation.params import NAMES

TASKS: dict[str, tuple[str, list[Any]]] = {
    "text-classification": ("BertForSequenceClassification", [TEXT]),
    "zero-shot-classification": ("BertForSequenceClassification", [TEXT]),
    "token-classification": ("BertForTokenClassification", [TEXT]),
    "question-answering": ("BertForQuestionAnswering", [{"question": "the cat", "context": TEXT}]),
    "fill-mask": ("BertForMaskedLM", ["the [MASK] is"]),
    "feature-extraction": ("BertModel", [TEXT]),
    "text-generation": ("llama", ["the cat"]),
    "text2text-generation": ("T5ForConditionalGeneration", ["the cat"]),
}
WRONG = [object(), -7, 1.5, 10**30, "no such word", b"x", [object()], {"no": "such"}, float("nan")]
RIGHT: dict[str, dict[str, Any]] = {  # what a call needs besides
    "zero-shot-classification": {"candidate_labels": ["cat"]},
    "text-generation": {"max_tokens": 2},
    "text2text-generation": {"max_tokens": 2},
}
# Right where a call searches, or is of messages; or compiled with it.
LATER = ("length_penalty", "chat_template_kwargs", "tokenizer_encode_kwargs", "grammar")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    opened = []

    @functools.cache
    def open_one(name: str) -> tuili.LLM:
        folder = tmp_path_factory.mktemp("model")
        if name == "llama":
            write_hf_folder(tiny_llama(), folder)
        elif name in CASES:
            write_folder(CASES[name], folder)
        else:
            write_seq2seq(by_name(name), folder)
        opened.append(tuili.LLM(folder, num_threads=1))
        return opened[-1]

    yield open_one
    for llm in opened:
        llm.close()


@pytest.mark.parametrize("task", TASKS)
def test_a_value_that_cannot_be_is_refused_when_the_pipeline_is_made(model, task):
    name, args = TASKS[task]
    llm = model(name)
    plain, wrong = tuili.pipeline(task, llm), (tuili.InvalidParameterError, tuili.GrammarError)
    sampled = [*NAMES, "max_new_tokens", "do_sample"] if "generation" in task else []
    n_refused = 0
    for option in (*plain.OPTIONS, *sampled):
        others = {} if option.startswith("max_") else RIGHT.get(task, {})
        others = {known: value for known, value in others.items() if known != option}
        for value in WRONG:
            try:
                pipe = tuili.pipeline(task, llm, **{option: value})
            except wrong:
                n_refused += 1
                with pytest.raises(wrong):
                    plain(*args, **others, **{option: value})
                with pytest.raises(wrong):
                    plain(iter(args[:1]), *args[1:], **others, **{option: value})
                continue
            if option not in LATER:
                pipe(*args, **others)
    assert n_refused


def test_a_tasks_name_is_shown_escaped_and_cut(model):
    with pytest.raises(tuili.ModelUnsupportedError, match=r"^\\x00x+…: LlamaForCausalLM was not made for it"):
        model("llama").task_model("\0" + "x" * 99)
