"""Every architecture against transformers' logits: a whole prompt at once, and token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import reference
from architecture_files import stored_tensors, token_ids, write
from architecture_table import CASES, COLUMNS, Case
from tiny_core import How, run
from tuili.loading.config import HF_ARCHITECTURES, Config, hf_architecture
from tuili.loading.layout import our_names
from tuili.loading.model import load, plan_model
from write_architectures import PATH as PAGE
from write_architectures import page

LIMIT = 1e-4  # of the range of a position's logits
PATH = Path(__file__).parent / "goldens" / "architectures.npz"


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    return dict(np.load(PATH))


def cases(verified: str) -> list[Case]:
    return [case for case in CASES if case.verified == verified]


@pytest.mark.parametrize("case", cases("transformers"), ids=lambda case: case.name)
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


def unpacked(case: Case, name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """Our tensors in a stored one, taken apart by hand as the makers' own code does."""
    heads, kv_heads = case.config["num_attention_heads"], case.config["num_key_value_heads"]
    parts = tuple(name.replace("W_pack", part) for part in ("q_proj", "k_proj", "v_proj"))
    if "W_pack" in name:
        return dict(zip(parts, np.split(x, 3), strict=True))
    if "wqkv" not in name:
        return {name: x}
    group = heads // kv_heads
    grouped = x.reshape(kv_heads, group + 2, -1, *x.shape[1:])
    of = (grouped[:, :group], grouped[:, group], grouped[:, group + 1])
    return {
        name.replace("wqkv", part): y.reshape(-1, *x.shape[1:]) for part, y in zip("qkv", of, strict=True)
    }


_BY_HAND = {"attention.q": "query", "attention.k": "key", "attention.v": "value"}
_BY_HAND |= {f"self_attn.{part}_proj": name for part, name in zip("qkv", _BY_HAND.values(), strict=True)}


def by_hand(name: str, case: Case) -> str:
    """Our name of an unpacked tensor."""
    for theirs, ours in _BY_HAND.items():
        if f".{theirs}." in name:
            layer, kind = name.split(".")[2], name.rsplit(".", 1)[1]
            return f"layers.{layer}.{ours}" + (".bias" if kind == "bias" else "")
    _, module = hf_architecture(Config(dict(case.config), ""))
    return our_names(name, module.TENSOR_NAMES).names[0]


@pytest.mark.parametrize("case", cases("reference"), ids=lambda case: case.name)
def test_logits_are_those_of_the_reference(case: Case, tmp_path: Path) -> None:
    plan = plan_model(write(case, tmp_path), compute="float32")
    assert not plan.warnings
    model, ids = load(plan).model, np.array(token_ids(), np.int32)
    config = Config(dict(case.config), "config.json")
    _, module = hf_architecture(config)
    weights = {
        by_hand(name, case): y
        for theirs, x in stored_tensors(case, config, module).items()
        for name, y in unpacked(case, theirs, x).items()
    }
    wanted = reference.forward(model.spec, weights, ids)["logits"]
    for how in (How(), How(chunk=1)):
        error = abs(run(model, ids, how).logits() - wanted).max(axis=1) / np.ptp(wanted, axis=1)
        assert error.max() <= LIMIT


def test_minicpm_scales_by_its_depth_and_widths(tmp_path: Path) -> None:
    """Its report (2024), table 7: embeddings 12, residuals 1.4 / sqrt(layers), logits base / width."""
    case = next(case for case in CASES if case.architecture.startswith("MiniCPM"))
    spec = plan_model(write(case, tmp_path)).spec
    assert spec.embedding_scale == 12 and spec.logit_scale == 16 / 64
    assert spec.layers[0].residual_scale == np.float32(1.4 / 2**0.5)


def test_the_page_of_architectures_is_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/write_architectures.py"


def test_every_decoder_is_in_the_table() -> None:
    tested = {case.architecture for case in CASES} | {"BaiChuanForCausalLM"}  # an old spelling
    decoders = {name for name in HF_ARCHITECTURES if name.endswith(("ForCausalLM", "LMHeadModel"))}
    assert decoders <= tested, f"no test of {sorted(decoders - tested)}"
