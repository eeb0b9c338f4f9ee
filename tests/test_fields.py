"""Settings that compare_fields.py found to matter to transformers, one by one: followed, or refused."""

from __future__ import annotations

from typing import Any

import pytest

import architecture_table
import encoder_models
import seq2seq_models
from tuili._core import ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.config import Config
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


@pytest.mark.parametrize("value, scaled", [(True, True), (False, False), (None, False)])
def test_a_scale_of_t5s_head_that_is_null_is_off(value: bool | None, scaled: bool) -> None:
    spec = spec_of("T5ForConditionalGeneration", scale_decoder_outputs=value)
    assert (spec.logit_scale != 1.0) is scaled


def test_hunyuans_experts_have_a_second_name() -> None:
    spec = spec_of("HYV3ForCausalLM", num_local_experts=12)
    assert max(layer.moe.n_experts for layer in spec.layers) == 12


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
