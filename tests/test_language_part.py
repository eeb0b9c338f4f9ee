"""Models that also see or hear: their decoder, loaded alone, is that of a folder that holds no more."""

from __future__ import annotations

import dataclasses
import functools
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
_KINDS |= {"Qwen3": "qwen3", "Gemma3": "gemma3_text", "Exaone4": "exaone4"}
_OF_EYES = ("vision_tower.post_layernorm.weight", "multi_modal_projector.linear_1.weight")


def _plain(stem: str) -> Case:
    return next(case for case in CASES if case.architecture == f"{stem}ForCausalLM")


def _placed(place: str, stored: Arrays) -> Arrays:
    return {name.replace("model", place, 1): values for name, values in stored.items()}


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


@pytest.mark.parametrize(
    "stem, kind, plain",
    [
        ("Cohere2", "cohere2", {"logit_scale": 1.0}),
        ("Granite", "granite", {"logits_scaling": 1.0}),
        ("Gemma3", "gemma3_text", {"final_logit_softcapping": None}),
    ],
)
def test_the_head_of_the_whole_neither_scales_nor_caps(
    stem: str, kind: str, plain: dict[str, Any], tmp_path: Path
) -> None:
    """As in transformers, where only HyperCLOVA X's does."""
    case = _plain(stem)
    ids = np.array(token_ids(), np.int32)
    write(dataclasses.replace(case, config=case.config | plain), tmp_path)
    wanted = run(load(plan_model(tmp_path)).model, ids).logits()
    for given in (dict.fromkeys(plain, 0.5), plain):
        config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}
        config |= {"text_config": {**case.config, **given, "model_type": kind}}
        write(case, tmp_path, lambda stored: {f"language_model.{name}": x for name, x in stored.items()})
        (tmp_path / "config.json").write_text(json.dumps(config))
        plan = plan_model(tmp_path)
        assert any("no effect, as in transformers" in text for text in plan.warnings) == (given != plain)
        np.testing.assert_array_equal(run(load(plan).model, ids).logits(), wanted)


@pytest.mark.parametrize(
    "whole, stem, kind, alone",
    [
        ("Qwen2VL", "Qwen2", "qwen2_vl_text", {"rms_norm_eps": 1e-5, "rope_theta": 1e6}),
        ("Qwen2_5_VL", "Qwen2", "qwen2_5_vl_text", {"rms_norm_eps": 1e-5, "rope_theta": 1e6}),
        ("Qwen3VL", "Qwen3", "qwen3_vl_text", {"rope_theta": 500_000.0}),
        ("Glm4v", "Glm4", "glm4v_text", {"rms_norm_eps": 1e-5, "partial_rotary_factor": 1.0}),
    ],
)
def test_positions_along_three_axes_are_those_of_a_text(
    whole: str, stem: str, kind: str, alone: dict[str, Any], tmp_path: Path
) -> None:
    case = _plain(stem)
    ids = np.array(token_ids(), np.int32)
    inner = {
        key: x for key, x in case.config.items() if key not in (*alone, "architectures", "rope_parameters")
    }
    write(dataclasses.replace(case, config=case.config | {"rope_parameters": None} | alone), tmp_path)
    wanted = run(load(plan_model(tmp_path)).model, ids).logits()
    config = {"architectures": [f"{whole}ForConditionalGeneration"], "model_type": whole.lower()}
    sections = {"type": "mrope" if stem == "Qwen2" else "default", "mrope_section": [2, 3, 3]}
    ways = [
        (
            config | {"text_config": inner | {"model_type": kind, "rope_scaling": sections}},
            "model.language_model",
        )
    ]
    if stem == "Qwen2":
        ways.append((inner | config | {"rope_scaling": sections, "vision_config": {"depth": 3}}, "model"))
    for settings, place in ways:
        write(case, tmp_path, functools.partial(_placed, place))
        (tmp_path / "config.json").write_text(json.dumps(settings))
        np.testing.assert_array_equal(run(load(plan_model(tmp_path)).model, ids).logits(), wanted)


@pytest.mark.parametrize(
    "stem, inner, whole, tied",
    [
        ("Mistral3", None, None, True),
        ("Mistral3", None, False, False),
        ("Llava", None, None, False),
        ("Qwen2VL", True, None, True),
        ("Qwen2VL", True, False, True),
        ("Qwen2VL", None, True, True),
        ("Qwen3VL", True, False, False),
        ("Llava", True, False, True),
    ],
)
def test_who_says_that_the_head_is_the_embedding(
    stem: str, inner: bool | None, whole: bool | None, tied: bool
) -> None:
    text = {"model_type": "qwen2", "tie_word_embeddings": inner}
    settings = {"architectures": [f"{stem}ForConditionalGeneration"], "text_config": text}
    part = language_part(Config(settings | {"tie_word_embeddings": whole}, "config.json"))
    assert part is not None
    assert bool(part.values["tie_word_embeddings"]) == tied


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
    for rope in (3, "mrope_section", ["mrope_section"]):
        text = {"model_type": "qwen2_vl_text", "rope_scaling": rope, "num_hidden_layers": 1}
        settings = {"architectures": ["Qwen2VLForConditionalGeneration"], "text_config": text}
        part = language_part(Config(settings, "config.json"))
        assert part is not None
        with pytest.raises(ModelFormatError, match="rope_scaling must be an object"):
            hf_architecture(part)[1].spec(part)
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
