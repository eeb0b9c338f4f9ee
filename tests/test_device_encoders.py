"""Encoders, their heads and pipelines on the CUDA device, or on the CPU that plays it, beside the CPU."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuili
from encoder_models import CASES, Case, write_folder
from test_trained_models import MODELS, sentences
from tiny_core import some_ids
from tuili import InvalidParameterError, _core
from tuili.embedding.encoder import POOLINGS
from tuili.loading.model import load, plan_model

HAS_DEVICE = _core.build_info()["cuda"] != "none"
pytestmark = pytest.mark.skipif(not HAS_DEVICE, reason="a build without CUDA; .ci/run tests an emulated one")

N = 3  # sentences
N_TOKENS = 90  # of a text at most, for the emulator's sake


def on_tensor_cores(name: str) -> Case:
    """The case with heads of 8 elements, where its own are of a size that the device has no kernel for."""
    config = dict(CASES[name].config)
    width = config.get("hidden_size") or config.get("dim") or config["n_embd"]
    for key in ("num_attention_heads", "n_heads", "n_head"):
        if "head_dim" not in config and width // config.get(key, width) % 8:
            config[key] = width // 8
    if "attention_head_size" in config:
        config["attention_head_size"] = 8
    return dataclasses.replace(CASES[name], config=config, ids=CASES[name].ids[:N_TOKENS])


def outputs(model: _core.Model, case: Case) -> list[np.ndarray]:
    """Hidden states of the case's text and of its beginning, and its head's answers if it has one."""

    def sequence(n: int) -> _core.Sequence:
        types = None if case.types is None else np.array(case.types[:n], np.int32)
        return _core.Sequence(np.array(case.ids[:n], np.int32), token_type_ids=types, collect_hidden=True)

    sequences = [sequence(len(case.ids)), sequence(len(case.ids) - 1), sequence(len(case.ids) // 2)]
    runner = _core.Runner(model, max_batch_tokens=256, max_seqs=4, num_threads=1)
    answers = []
    if model.spec.task_head.n_out == 0:
        runner.encode(sequences, "mean", False)
    else:  # a head may answer with one number, which roundings may move by chance little
        answers = [runner.answer(sequences)]
    return [sequences[0].hidden_states()[-1], *answers]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_encoder_and_head_is_beside_the_cpu(name: str, tmp_path: Path) -> None:
    """As tests/test_device_engine.py: rounding the weights once shows how much roundings move the outputs;
    the device rounds the same weights, and eight times in a layer what they meet.
    """
    case = on_tensor_cores(name)
    folder = write_folder(case, tmp_path)
    exact, rounded = (
        load(plan_model(folder, dtype=dtype, compute="float32")).model for dtype in ("float32", "bfloat16")
    )
    on_cpu, moved = outputs(rounded, case), outputs(exact, case)
    for found, expected, other in zip(outputs(exact.upload(), case), on_cpu, moved, strict=True):
        assert np.abs(found - expected).max() <= 6 * np.abs(other - expected).max()


@pytest.mark.parametrize("name", ["DebertaV2Model", "DebertaV2ForMaskedLM-large"])
def test_a_text_of_a_deberta_has_its_bits_in_any_batch(name: str, tmp_path: Path) -> None:
    model = load(plan_model(write_folder(on_tensor_cores(name), tmp_path))).model
    texts = [some_ids(n, seed=n, n_vocab=model.spec.n_vocab) for n in (30, 7, 1)]

    def vectors(
        model: _core.Model, texts: list[np.ndarray], pooling: str = "mean", **options: bool
    ) -> np.ndarray:
        runner = _core.Runner(model, max_batch_tokens=64, max_seqs=4, num_threads=1)
        return runner.encode([_core.Sequence(ids, **options) for ids in texts], pooling, False)

    there = model.upload()
    found = vectors(there, texts)
    for pooling in ("cls", "last"):  # one row of a text, and all of them
        all_rows = vectors(there, texts, pooling, collect_hidden=True)
        assert vectors(there, texts, pooling).tobytes() == all_rows.tobytes()
    assert np.abs(found - vectors(model, texts)).max() <= 0.1 * np.abs(found).max()
    for i, ids in enumerate(texts):
        assert vectors(there, [ids]).tobytes() == found[i : i + 1].tobytes()
    with pytest.raises(InvalidParameterError, match="at most 65535"):
        _core.Runner(there, max_batch_tokens=70_000, max_seqs=4)


def test_vectors_of_every_pooling_are_beside_the_cpus_and_their_own_alone(bert_path: Path) -> None:
    model = load(plan_model(bert_path)).model
    texts = [some_ids(n, seed=n) for n in (5, 33, 1)]
    on_cpu, there = (_core.Runner(one, max_batch_tokens=64, max_seqs=4) for one in (model, model.upload()))

    def vectors(runner: _core.Runner, texts: list[np.ndarray], pooling: str, normalize: bool) -> np.ndarray:
        return runner.encode([_core.Sequence(ids) for ids in texts], pooling, normalize)

    for pooling in POOLINGS:
        for normalize in (False, True):
            found, expected = (vectors(runner, texts, pooling, normalize) for runner in (there, on_cpu))
            assert np.abs(found - expected).max() <= 0.1 * np.abs(expected).max(), pooling
            alone = vectors(there, texts[1:2], pooling, normalize)
            assert alone.tobytes() == found[1:2].tobytes(), pooling
        hidden = [_core.Sequence(ids, collect_hidden=True) for ids in texts]
        there.encode(hidden, pooling, False)
        rows = hidden[1].hidden_states()[-1]
        if pooling == "max":
            assert np.array_equal(vectors(there, texts, pooling, False)[1], rows.max(axis=0))
        if pooling == "last":
            assert np.array_equal(vectors(there, texts, pooling, False)[1], rows[-1])


def test_an_llm_embeds_ranks_and_shows_hidden_states(bert_path: Path) -> None:
    documents = ["the cat", "a dog sat", "the answer is"]
    with (
        tuili.LLM(bert_path, device="cuda", packed_cache=False) as there,
        tuili.LLM(bert_path, packed_cache=False) as on_cpu,
    ):
        assert there.config["device"] == "cuda" and there.kind == "encoder"
        ranked = there.rank("the cat", documents)
        assert ranked[0]["text"] == "the cat" and ranked[0]["score"] == pytest.approx(1, abs=1e-5)
        similar = [llm.similarity(documents, documents) for llm in (there, on_cpu)]
        assert np.abs(similar[0] - similar[1]).max() <= 0.02
        states = [llm.hidden_states([5, 6, 7]) for llm in (there, on_cpu)]
        assert states[0].shape == states[1].shape and np.abs(states[0] - states[1]).max() <= 0.2


def on_device(folder: Path) -> tuili.LLM:
    return tuili.LLM(folder, device="cuda", packed_cache=False, max_num_seqs=4)


def test_trained_encoders_answer_through_pipelines() -> None:
    rng = random.Random(5)
    with on_device(MODELS / "sentiment") as llm:
        texts = [sentences.sentiment(rng) for _ in range(N)]
        answers = tuili.pipeline("sentiment-analysis", llm)([text for text, _ in texts])
        assert [got["label"] for got in answers] == [label for _, label in texts]
        assert [got["label"] for got in llm.classify([text for text, _ in texts])] == [
            label for _, label in texts
        ]
    with on_device(MODELS / "entities") as llm:
        pipe = tuili.pipeline("ner", llm, aggregation_strategy="simple")
        for text, wanted in (sentences.entities(rng) for _ in range(N)):
            assert [(one["entity_group"], text[one["start"] : one["end"]]) for one in pipe(text)] == wanted
    with on_device(MODELS / "questions") as llm:
        pipe = tuili.pipeline("question-answering", llm)
        for question, context, answer, begin in (sentences.question(rng) for _ in range(N)):
            got = pipe(question=question, context=context)
            assert (got["answer"], got["start"]) == (answer, begin)


@pytest.mark.parametrize(
    "name, task, args",
    [
        ("BertForMaskedLM", "fill-mask", ["the [MASK] is in the house"]),
        ("ElectraForSequenceClassification", "zero-shot-classification", ["the cat", ["cat", "river"]]),
        ("DistilBertModel", "feature-extraction", ["the cat"]),
    ],
)
def test_pipelines_give_nearly_what_they_give_on_the_cpu(
    name: str, task: str, args: list[Any], tmp_path: Path
) -> None:
    folder = write_folder(on_tensor_cores(name), tmp_path)
    with on_device(folder) as there, tuili.LLM(folder, packed_cache=False) as on_cpu:
        found, expected = (tuili.pipeline(task, llm)(*args) for llm in (there, on_cpu))
    assert numbers(found) == pytest.approx(numbers(expected), abs=0.1)
    assert len(numbers(found)) > 1


def numbers(result: Any) -> list[float]:
    """The floats of a result, in order, scores sorted by where they stand."""
    if isinstance(result, float):
        return [result]
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, list) else []
    return [number for part in parts for number in numbers(part)]
