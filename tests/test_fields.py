"""Settings that compare_fields.py found to matter to transformers, one by one: followed, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import architecture_table
import encoder_models
import seq2seq_models
from architecture_files import token_ids, write
from tiny_core import How, run
from tuili._core import ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.config import Config
from tuili.loading.generation_config import eos_token_ids
from tuili.loading.model import load, plan_model
from tuili.loading.registry import hf_architecture

CASES = (*architecture_table.CASES, *encoder_models.CASES.values(), *seq2seq_models.CASES)


def spec_of(architecture: str, **changes: Any) -> ModelSpec:
    """Of the class's first case with other settings."""
    of = architecture.replace("EncoderModel", "ForConditionalGeneration")
    case = next(case for case in CASES if case.config["architectures"] == [of])
    config = Config(case.config | {"architectures": [architecture]} | changes, "config.json")
    return hf_architecture(config)[1].spec(config)


@pytest.mark.parametrize(
    "architecture, changes",
    [
        ("LlamaForCausalLM", {"per_layer_config": {"1": {"sliding_window": 4}}}),
        ("BertModel", {"per_layer_config": {"0": {"hidden_act": "relu"}}}),
        ("LlamaForCausalLM", {"attention_chunk_size": 4}),
        ("BertModel", {"is_causal": True}),
        ("T5EncoderModel", {"is_causal": True}),
        ("DeepseekV3ForCausalLM", {"head_dim": 1}),
        ("YoutuForCausalLM", {"head_dim": 4}),
        ("IQuestCoderForCausalLM", {"clip_qkv": 8.0}),
        ("IQuestCoderForCausalLM", {"use_sliding_window": True}),
        ("T5ForConditionalGeneration", {"is_causal": False}),
        ("T5ForConditionalGeneration", {"is_causal": True}),
        ("BartForConditionalGeneration", {"is_causal": True}),
        ("BartForConditionalGeneration", {"sliding_window": 4}),
    ],
)
def test_a_setting_that_is_not_followed_is_an_error(architecture: str, changes: dict[str, Any]) -> None:
    (key,) = changes
    with pytest.raises(ModelUnsupportedError, match=f"{key} is .*, which is not supported"):
        spec_of(architecture, **changes)


def test_long_t5_is_read_with_local_attention_alone() -> None:
    with pytest.raises(ModelUnsupportedError, match="encoder_attention_type is 'transient-global'"):
        spec_of("LongT5ForConditionalGeneration", encoder_attention_type="transient-global")


@pytest.mark.parametrize("value, scaled", [(True, True), (False, False), (None, False)])
def test_a_scale_of_t5s_head_that_is_null_is_off(value: bool | None, scaled: bool) -> None:
    spec = spec_of("T5ForConditionalGeneration", scale_decoder_outputs=value)
    assert (spec.logit_scale != 1.0) is scaled


def test_hunyuans_experts_have_a_second_name() -> None:
    spec = spec_of("HYV3ForCausalLM", num_local_experts=12)
    assert max(layer.moe.n_experts for layer in spec.layers) == 12


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "FalconForCausalLM", "Qwen2ForCausalLM"])
def test_a_window_where_a_class_has_none_changes_nothing_and_is_told(
    architecture: str, tmp_path: Path
) -> None:
    """Qwen 2 has one that is off, of which there is nothing to tell."""
    case = next(case for case in architecture_table.CASES if case.architecture == architecture)
    folder = write(case, tmp_path)
    plans = []
    for changes in ({}, {"sliding_window": 4}, {"sliding_window": None}):
        (folder / "config.json").write_text(json.dumps(case.config | changes))
        plans.append(plan_model(folder))
    told = ["config.json: sliding_window is 4, which has no effect: models of this kind have no windows"]
    assert [plan.warnings for plan in plans] == [[], [] if architecture[:4] == "Qwen" else told, []]
    ids = np.array(token_ids(), np.int32)
    one, other = (run(load(plan).model, ids, How()).logits() for plan in plans[:2])
    np.testing.assert_array_equal(one, other)


def test_latent_heads_need_no_share_of_the_width() -> None:
    """DeepSeek-V3's have sizes of their own."""
    spec = spec_of("DeepseekV3ForCausalLM", hidden_size=67)
    assert spec.d_model == 67 and 67 % spec.layers[0].n_heads


def test_xlm_roberta_xl_has_one_type_of_token() -> None:
    """Where its config.json does not say, as in its class."""
    case = next(case for case in CASES if case.config["architectures"] == ["XLMRobertaXLForCausalLM"])
    config = Config({key: x for key, x in case.config.items() if key != "type_vocab_size"}, "config.json")
    assert hf_architecture(config)[1].spec(config).n_token_types == 1


@pytest.mark.parametrize("kind, end", [("granite_swa", 100257), ("gpt-sw3", 50256), ("exaone_moe", 53)])
def test_the_end_that_a_class_writes_down_ends_nothing_in_a_smaller_vocabulary(kind: str, end: int) -> None:
    config = Config({"model_type": kind, "eos_token_id": end}, "config.json")
    assert eos_token_ids(None, config, end) is None
    assert eos_token_ids(None, config, end + 1) == (end,)


def test_what_is_null_is_not_what_is_missing() -> None:
    """In transformers as here."""
    assert not spec_of("YoutuForCausalLM", rope_interleave=None).ropes[0].interleaved
    spec = spec_of("Glm4MoeForCausalLM", partial_rotary_factor=None)
    assert 2 * len(spec.ropes[0].inv_freq) == spec.layers[0].head_dim
    (layer, *_) = spec_of("FalconForCausalLM", parallel_attn=None, multi_query=None).layers
    assert layer.norm_placement == "pre" and layer.n_kv_heads == layer.n_heads


@pytest.mark.parametrize("architecture", ["GPTJForCausalLM", "CodeGenForCausalLM"])
def test_gpt_j_turns_by_10000(architecture: str) -> None:
    """Whatever `rope_theta` says, as in transformers."""
    one, other = (spec_of(architecture, **changes).ropes[0] for changes in ({}, {"rope_theta": 50.0}))
    assert one.inv_freq == other.inv_freq


def test_is_causal_is_heard_beside_gemmas_own_switch() -> None:
    both = {"architectures": ["Gemma3TextModel"], "use_bidirectional_attention": True}
    assert not any(layer.causal for layer in spec_of("Gemma3ForCausalLM", **both).layers)
    with pytest.raises(ModelUnsupportedError, match="is_causal is false"):
        spec_of("Gemma3ForCausalLM", **both, is_causal=False)


def test_led_has_no_scale_of_embeddings() -> None:
    plain, scaled = (
        spec_of("LEDForConditionalGeneration", scale_embedding=value).embedding_scale
        for value in (False, True)
    )
    assert plain == scaled == 1.0
