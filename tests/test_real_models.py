"""The three built-in models give the reference's answers.

The goldens are transformers' (oracle/make_goldens.py). Small enough for every test run: compare_transformers
and compare_embeddings are the full comparisons.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import tuili
from oracle.measures import NEAR_TIE, first_difference, kl_divergence, log_softmax
from oracle.model_files import BUILT_IN
from tuili.errors import ModelIOError

pytestmark = pytest.mark.models

GOLDENS = Path(__file__).parent / "goldens"
LOGIT_TOLERANCE = 1e-4  # of the range of the reference's logits at the position
VECTOR_TOLERANCE = 1e-5
MAX_MEAN_KL = 0.02  # nats, of few positions; compare_quantized.py holds the mean of many to 0.004


def golden(name):
    return json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))


DECODER_CASES = [(model, case) for model in ("smollm2", "gemma3") for case in golden(f"{model}_answers")]
each_prompt = pytest.mark.parametrize(
    "model, case", DECODER_CASES, ids=[f"{m}-{c['name']}" for m, c in DECODER_CASES]
)


def opened(model, **options):
    """The model, pulled if need be; without a network the test is skipped, and pytest counts it."""
    try:
        return tuili.LLM(BUILT_IN[model], **options)
    except ModelIOError as error:
        if error.code != "pull_failed":
            raise
        pytest.skip(f"{BUILT_IN[model]} could not be pulled: {error}")


@pytest.fixture(scope="session")
def smollm2():
    with opened("smollm2", compute="float32", kv_cache_dtype="float32") as llm:
        yield llm


@pytest.fixture(scope="session")
def gemma3():
    with opened("gemma3", compute="float32", kv_cache_dtype="float32") as llm:
        yield llm


@pytest.fixture(scope="session")
def minilm():
    with opened("minilm", compute="float32") as llm:
        yield llm


@each_prompt
def test_token_ids_are_the_references(request, model, case):
    llm = request.getfixturevalue(model)
    assert llm.tokenizer.encode(case["text"]) == case["ids"]
    assert llm.tokenizer.decode(case["ids"]) == case["text"]


@each_prompt
def test_logits_are_the_references(request, model, case):
    logits = request.getfixturevalue(model).logits(case["ids"])
    span, best = np.array(case["range"]), np.array(case["best_ids"])
    errors = abs(np.take_along_axis(logits, best, axis=1) - np.array(case["best_logits"])).max(axis=1) / span
    assert errors.max() <= LOGIT_TOLERANCE, f"best logits: {errors.max():.1e} at position {errors.argmax()}"
    log_sum_exp = logits[:, 0].astype(np.float64) - log_softmax(logits)[:, 0]
    errors = abs(log_sum_exp - np.array(case["log_sum_exp"])) / span
    assert errors.max() <= LOGIT_TOLERANCE, f"their sum: {errors.max():.1e} at position {errors.argmax()}"


@pytest.mark.parametrize("model", ("smollm2", "gemma3"))
def test_greedy_continuations_are_the_references(request, model):
    """Of all prompts at once, which reads the weights once for all of them."""
    cases = golden(f"{model}_answers")
    params = [
        tuili.SamplingParams(max_tokens=len(case["greedy"]), temperature=0, ignore_eos=True) for case in cases
    ]
    outputs = request.getfixturevalue(model).generate([case["ids"] for case in cases], params)
    for case, output in zip(cases, outputs, strict=True):
        tokens, want = output.outputs[0].token_ids, case["greedy"]
        assert len(tokens) == len(want)
        index = first_difference(tokens, want)
        assert index is None or case["gaps"][index] <= NEAR_TIE, f"{tokens} leaves {want} at {index}"


def test_integer_dot_products_stay_close_to_float32(smollm2):
    case = DECODER_CASES[1][1]
    with opened("smollm2", compute="auto") as llm:
        kl = kl_divergence(smollm2.logits(case["ids"]), llm.logits(case["ids"]))
    assert kl.mean() <= MAX_MEAN_KL, f"mean {kl.mean():.4f} nats, worst {kl.max():.4f}"


def test_sentence_vectors_are_the_references(minilm):
    cases = golden("minilm_sentences")
    vectors = minilm.embed([case["text"] for case in cases])
    errors = abs(vectors - np.array([case["vector"] for case in cases])).max(axis=1)
    assert errors.max() <= VECTOR_TOLERANCE, f"worst {errors.max():.1e} in {cases[errors.argmax()]['text']!r}"


@pytest.mark.parametrize("case", golden("minilm_sentences"), ids=range(len(golden("minilm_sentences"))))
def test_encoder_token_ids_are_the_references(minilm, case):
    assert minilm.tokenizer.encode(case["text"]) == case["ids"]
