"""GGUF files of every family give the bits of the Hugging Face folder of the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from architecture_files import token_ids
from architecture_files import write as write_folder
from architecture_table import Case
from gguf_families import FAMILIES, Family, write
from tiny_core import run
from tuili.loading.model import load, plan_model

TRIED = [(family, case) for family in FAMILIES for case in family.cases()]


@pytest.mark.parametrize("family, case", TRIED, ids=lambda x: x.name if isinstance(x, Case) else "")
def test_a_file_gives_the_bits_of_the_folder(family: Family, case: Case, tmp_path: Path) -> None:
    ids = np.array(token_ids(), np.int32)
    folder = run(load(plan_model(write_folder(case, tmp_path / "folder"), compute="float32")).model, ids)
    plan = plan_model(write(family, case, tmp_path / "model.gguf"), compute="float32")
    assert not plan.warnings
    assert run(load(plan).model, ids).logits().tobytes() == folder.logits().tobytes()
