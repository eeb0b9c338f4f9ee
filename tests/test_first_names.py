"""Settings under the names, and with the meanings, that makers gave them before transformers did."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from architecture_files import token_ids, write
from architecture_table import CASES
from tiny_core import run
from tuili.loading.model import load, plan_model


def rewritten(folder: Path, **settings: object) -> Path:
    """The folder with other settings; those of None are left out."""
    path = folder / "config.json"
    values = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


@pytest.mark.parametrize("tries, n_kv_heads", [("one kv head", None), ("two norms biases", 2)])
def test_falcon_is_read_by_its_first_names(tries: str, n_kv_heads: int | None, tmp_path: Path) -> None:
    """As in tiiuae's first files, where the 40B alone tells of grouped keys, and has two norms with them."""
    case = next(case for case in CASES if case.name == f"FalconForCausalLM: {tries}")
    ids, folder = np.array(token_ids(), np.int32), write(case, tmp_path)
    logits = run(load(plan_model(folder)).model, ids).logits()
    names = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "num_kv_heads": "n_head_kv"}
    old = {old: case.config.get(new) for new, old in names.items()} | dict.fromkeys(names)
    old |= {"new_decoder_architecture": None, "architectures": ["RWForCausalLM"], "model_type": "RefinedWeb"}
    rewritten(folder, **old)
    assert old["n_head_kv"] == n_kv_heads
    np.testing.assert_array_equal(run(load(plan_model(folder)).model, ids).logits(), logits)


def test_mpt_has_its_makers_ratio_where_its_class_is_theirs(tmp_path: Path) -> None:
    """transformers' class has 4 whatever the file says."""
    case = next(case for case in CASES if case.architecture == "MptForCausalLM")
    ratio = dataclasses.replace(case, config=case.config | {"expansion_ratio": 2})
    plan = plan_model(write(ratio, tmp_path / "transformers"))
    assert plan.spec.layers[0].d_ff == 4 * plan.spec.d_model and "expansion_ratio is 2" in plan.warnings[0]
    makers = dataclasses.replace(ratio, config=ratio.config | {"architectures": ["MPTForCausalLM"]})
    plan = plan_model(write(makers, tmp_path / "makers"))
    assert plan.spec.layers[0].d_ff == 2 * plan.spec.d_model and not plan.warnings
