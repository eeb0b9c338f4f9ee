"""What schemathesis makes of the OpenAPI document: nothing is answered by 5xx. Catalogue row SRV-04."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

import tuili
from tiny_files import SIZES, write_hf_folder
from tiny_models import tiny_bert, tiny_llama
from tiny_server import running

MODELS = Path(__file__).parent / "models"
N_EXAMPLES = 25  # for each endpoint


@pytest.mark.slow
@pytest.mark.parametrize("model", [tiny_llama, tiny_bert, "sentiment", "t5-numbers"])
def test_nothing_that_the_document_allows_or_not_is_our_error(tmp_path, model):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: tuili[dev]")
    path = MODELS / model if isinstance(model, str) else write_hf_folder(model(), tmp_path / "model")
    statuses: Counter[int] = Counter()
    sizes = SIZES if model is tiny_llama else {"num_threads": 1}
    with tuili.LLM(path, **sizes) as llm, running(llm) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        modes = list(schemathesis.GenerationMode)
        for operation in (result.ok() for result in schema.get_all_operations()):
            for mode in modes:
                _run(schemathesis, operation, mode, statuses)
    assert sum(statuses.values()) > 200, statuses
    assert {200, 400} <= statuses.keys(), "good and bad ones were among them"


def _run(schemathesis, operation, mode, statuses):
    @hypothesis.settings(
        max_examples=N_EXAMPLES,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        if isinstance(case.body, dict) and "complet" in operation.path:
            case.body.setdefault("max_tokens", 4)
        response = case.call(timeout=30)
        statuses[response.status_code] += 1
        assert response.status_code < 500, f"{operation.path}: {response.text[:300]}"
        if response.status_code >= 400 and operation.path.startswith("/v1"):
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # where there is nothing to get wrong
        send()
