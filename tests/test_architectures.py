"""Every architecture against transformers' logits: a whole prompt at once, and token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from architecture_files import token_ids, write
from architecture_table import CASES, COLUMNS, Case
from tiny_core import How, run
from tuili.loading.model import load, plan_model

LIMIT = 1e-4  # of the range of a position's logits
PATH = Path(__file__).parent / "goldens" / "architectures.npz"


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    return dict(np.load(PATH))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_are_those_of_transformers(case: Case, goldens: dict[str, np.ndarray], tmp_path: Path) -> None:
    plan = plan_model(write(case, tmp_path), compute="float32")
    assert not plan.warnings
    model = load(plan).model
    ids = np.array(token_ids(), np.int32)
    wanted, spread = goldens[case.name][:, :-1], goldens[case.name][:, -1:]
    for how in (How(), How(chunk=1)):
        logits = run(model, ids, how).logits()
        error = abs(logits[:, COLUMNS] - wanted) / spread
        worst = np.unravel_index(error.argmax(), error.shape)
        assert error.max() <= LIMIT, f"{how.chunk=}: {error.max():.1e} of the range at position {worst[0]}"
        assert np.allclose(np.ptp(logits, axis=1, keepdims=True), spread, rtol=1e-3)
