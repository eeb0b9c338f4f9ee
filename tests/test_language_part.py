"""Models that also see images: their decoder, loaded alone, is the decoder of a folder that holds no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from architecture_files import Arrays, token_ids, write
from architecture_table import CASES, Case
from tiny_core import run
from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.config import Config
from tuili.loading.language_part import language_part
from tuili.loading.model import LoadPlan, load, plan_model
from tuili.loading.registry import hf_architecture

_KINDS = {"Llama": "llama", "Mistral": "mistral", "Ministral3": "ministral3", "Qwen2": "qwen2"}
_KINDS |= {"Qwen3": "qwen3", "Gemma3": "gemma3_text"}
_OF_EYES = ("vision_tower.post_layernorm.weight", "multi_modal_projector.linear_1.weight")


def _plain(stem: str) -> Case:
    return next(case for case in CASES if case.architecture == f"{stem}ForCausalLM")


def _written(stem: str, folder: Path, name: Callable[[str], str], outer: dict[str, Any]) -> LoadPlan:
    """A folder that holds the case of a family inside, with its tensors under other names."""
    case = _plain(stem)

    def change(stored: Arrays) -> Arrays:
        eyes = {one: np.ones((8, 8), np.float32) for one in _OF_EYES}
        return eyes | {name(theirs): values for theirs, values in stored.items()}

    write(case, folder, change)
    inner = {key: value for key, value in case.config.items() if key not in ("architectures", *outer)}
    config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}
    config |= {"text_config": inner | {"model_type": _KINDS[stem]}, **outer}
    (folder / "config.json").write_text(json.dumps(config))
    return plan_model(folder)


@pytest.mark.parametrize("stem", _KINDS)
def test_the_decoder_inside_gives_the_bits_that_it_gives_alone(stem: str, tmp_path: Path) -> None:
    ids = np.array(token_ids(), np.int32)
    wanted = run(load(plan_model(write(_plain(stem), tmp_path / "alone"))).model, ids).logits()
    names: dict[str, Callable[[str], str]] = {
        "before": lambda theirs: f"language_model.{theirs}",
        "inside": lambda theirs: theirs.replace("model.", "model.language_model.", 1),
        "text": lambda theirs: theirs.replace("model.", "model.text_model.", 1),
    }
    for how, name in names.items():
        plan = _written(stem, tmp_path / how, name, {})
        assert plan.source.architecture == f"{stem}ForCausalLM"
        assert len(plan.warnings) == 1 and "2 tensors are ignored" in plan.warnings[0]
        np.testing.assert_array_equal(run(load(plan).model, ids).logits(), wanted)


def test_what_the_whole_says_of_texts_and_words_stands_before(tmp_path: Path) -> None:
    def name(theirs: str) -> str:
        return f"language_model.{theirs}"

    plan = _written("Llama", tmp_path, name, {"eos_token_id": [3, 5], "tie_word_embeddings": True})
    assert plan.source.eos_token_ids == (3, 5)
    assert "tie_word_embeddings" in plan.warnings[1]  # for the files hold another head


def test_generation_defaults_of_the_whole_stand_before_those_of_the_part(tmp_path: Path) -> None:
    plan = _written("Llama", tmp_path, lambda theirs: f"language_model.{theirs}", {"temperature": 0.6})
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= {"temperature": 0.3, "top_k": 7}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert plan.source.generation_defaults == {"temperature": 0.6}
    assert plan_model(tmp_path).source.generation_defaults == {"temperature": 0.6, "top_k": 7}


@pytest.mark.parametrize(
    "name, text, n_vocab, d_model, n_heads",
    [  # as LLaVA 1.5 and Gemma 3 4B leave their sizes to classes
        ("Llava", {"model_type": "llama", "vocab_size": 32064}, 32064, 4096, 32),
        ("Gemma3", {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
                    "num_hidden_layers": 34, "sliding_window": 1024}, 262208, 2560, 8),
    ],
)  # fmt: skip
def test_sizes_that_files_leave_out(
    name: str, text: dict[str, Any], n_vocab: int, d_model: int, n_heads: int
) -> None:
    whole = {"architectures": [f"{name}ForConditionalGeneration"], "text_config": text}
    part = language_part(Config(whole, "config.json"))
    assert part is not None
    spec = hf_architecture(part)[1].spec(part)
    assert (spec.n_vocab, spec.d_model, spec.layers[0].n_heads) == (n_vocab, d_model, n_heads)


def test_what_is_not_read_is_named() -> None:
    def asked(**settings: Any) -> None:
        config = {"architectures": ["LlavaForConditionalGeneration"], **settings}
        language_part(Config(config, "config.json"))

    with pytest.raises(ModelFormatError, match="text_config is missing"):
        asked()
    with pytest.raises(ModelFormatError, match="text_config must be an object, not 3"):
        asked(text_config=3)
    for kind in ("mllama_text_model", None, ["llama"]):
        with pytest.raises(ModelUnsupportedError, match="text_config: model_type is"):
            asked(text_config={"model_type": kind})


def test_a_tensor_by_two_names_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "twice"
    _written("Qwen3", folder, lambda theirs: f"language_model.{theirs}", {})
    config = (folder / "config.json").read_text()

    def twice(stored: Arrays) -> Arrays:
        return stored | {f"language_model.{name}": values for name, values in stored.items()} | {
            "model.language_model.norm.weight": stored["model.norm.weight"]
        }  # fmt: skip

    write(_plain("Qwen3"), folder, twice)
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelFormatError, match="by two names"):
        plan_model(folder)
