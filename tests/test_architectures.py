"""Every architecture against transformers' logits: a whole prompt at once, and token by token."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import encoder_models
import reference
import seq2seq_models
from architecture_files import Arrays, stored_tensors, token_ids, write
from architecture_table import CASES, COLUMNS, Case
from tiny_core import How, run
from tuili import LLM
from tuili._core import ModelBuilder, Runner, Sequence
from tuili.errors import InvalidParameterError, ModelFormatError, ModelUnsupportedError, PromptTooLongError
from tuili.loading.architectures.class_defaults import CLASS_DEFAULTS, SECOND_NAMES, first_names, second_names
from tuili.loading.config import Config
from tuili.loading.layout import our_names
from tuili.loading.model import load, plan_model
from tuili.loading.registry import HF_ARCHITECTURES, HF_SEQ2SEQ, hf_architecture, with_architecture
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
    ids = np.array(token_ids(), np.int32)
    plan = plan_model(write(case, tmp_path), compute="float32", max_model_len=len(ids))
    assert all("rope_theta is" in text for text in plan.warnings)  # of OLMo 3
    model = load(plan).model
    wanted, spread = goldens[case.name][:, :-1], goldens[case.name][:, -1:]
    for how in (How(), How(chunk=1)):
        logits = run(model, ids, how).logits()
        error = abs(logits[:, COLUMNS] - wanted) / spread
        worst = np.unravel_index(error.argmax(), error.shape)
        assert error.max() <= LIMIT, f"{how.chunk=}: {error.max():.1e} of the range at position {worst[0]}"
        assert np.allclose(np.ptp(logits, axis=1, keepdims=True), spread, rtol=1e-3)


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("DeepseekV2ForCausalLM", "norm_topk_prob", True),
        ("Olmo3ForCausalLM", "rope_scaling", {"type": "linear", "factor": 2.0}),  # for rope_type
        ("Cohere2MoeForCausalLM", "rope_scaling", {"rope_type": "linear", "factor": 2.0}),
    ],
)
def test_what_transformers_does_not_read_changes_nothing_and_is_told(
    name: str, key: str, value: object, tmp_path: Path
) -> None:
    case = next(case for case in CASES if case.architecture == name)
    ids, folder = np.array(token_ids(), np.int32), write(case, tmp_path)
    logits = run(load(plan_model(folder)).model, ids).logits()
    (folder / "config.json").write_text(json.dumps(case.config | {key: value}))
    plan = plan_model(folder)
    assert len(plan.warnings) == 1 and f"{key} is " in plan.warnings[0] and "no effect" in plan.warnings[0]
    np.testing.assert_array_equal(run(load(plan).model, ids).logits(), logits)


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


BERTS = [case for case in CASES if case.config.get("is_decoder") and "decoder_layers" not in case.config]


@pytest.mark.parametrize("case", BERTS, ids=lambda case: case.name)
def test_an_encoders_head_before_a_decoders_words(case: Case, tmp_path: Path) -> None:
    """That of the reference; in chunks of any size, of texts with padding in them too, to the bit."""
    config, module = _parsed(case)
    names = module.tensor_names(config)
    model = load(plan_model(write(case, tmp_path), compute="float32")).model
    weights = {our_names(name, names).names[0]: x for name, x in stored_tensors(case, config, module).items()}
    ids = np.array(token_ids(), np.int32)
    wanted = reference.forward(model.spec, weights, ids)["logits"]
    logits = run(model, ids).logits()
    assert (abs(logits - wanted).max(axis=1) / np.ptp(wanted, axis=1)).max() <= 1e-5
    ids[[3, 9]] = case.config["pad_token_id"]
    whole = run(model, ids).logits()
    for chunk in (1, 5):
        np.testing.assert_array_equal(run(model, ids, How(chunk=chunk, num_threads=2)).logits(), whole)


@pytest.mark.parametrize(
    "name, one, other",
    [
        ("BertLMHeadModel", "cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("CamembertForCausalLM", "lm_head.decoder.bias", "lm_head.bias"),
        ("Data2VecTextForCausalLM", "lm_head.decoder.bias", "lm_head.bias"),
        ("RobertaPreLayerNormForCausalLM", "lm_head.decoder.bias", "lm_head.bias"),
        ("ErnieForCausalLM", "cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("MegatronBertForCausalLM", "cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("RoFormerForCausalLM", "cls.predictions.decoder.bias", "cls.predictions.bias"),
    ],
)
def test_the_bias_of_a_decoders_words_has_two_names(name: str, one: str, other: str, tmp_path: Path) -> None:
    """Files hold either, as transformers writes them, or both, of which the map's own counts."""
    case = next(case for case in CASES if case.architecture == name)
    ids, answers = np.array(token_ids(), np.int32), []
    changes: list[Callable[[Arrays], Arrays]] = [
        dict,
        lambda stored: {other if theirs == one else theirs: x for theirs, x in stored.items()},
        lambda stored: stored | {other: np.zeros_like(stored[one])},
    ]
    for i, change in enumerate(changes):
        plan = plan_model(write(case, tmp_path / str(i), change))
        assert not plan.warnings
        answers.append(run(load(plan).model, ids).logits())
    assert answers[0].tobytes() == answers[1].tobytes() == answers[2].tobytes()


def test_a_decoders_tokens_have_ernies_first_task(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.architecture == "ErnieForCausalLM")
    types, tasks = (f"ernie.embeddings.{kind}_type_embeddings.weight" for kind in ("token", "task"))
    rows = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    asks = dataclasses.replace(case, config=case.config | {"use_task_id": True, "task_type_vocab_size": 4})
    folded = write(case, tmp_path / "folded", lambda stored: stored | {types: stored[types] + rows[0]})
    asked = write(asks, tmp_path / "asked", lambda stored: stored | {tasks: rows})
    ids = np.array(token_ids(), np.int32)
    one, two, without = (
        run(load(plan_model(folder)).model, ids).logits()
        for folder in (folded, asked, write(case, tmp_path / "without"))
    )
    np.testing.assert_array_equal(one, two)
    assert abs(one - without).max() > 0.01


ROTATED = [case for case in CASES if case.architecture.startswith("HunYuan")]


@pytest.mark.parametrize("case", ROTATED, ids=lambda case: case.name)
def test_norms_behind_the_rotation(case: Case, tmp_path: Path) -> None:
    """Those of the reference; in chunks of any size, to the bit."""
    config, module = _parsed(case)
    model = load(plan_model(write(case, tmp_path), compute="float32")).model
    ids = np.array(token_ids(), np.int32)
    logits = run(model, ids).logits()
    for chunk in (1, 5):
        np.testing.assert_array_equal(run(model, ids, How(chunk=chunk, num_threads=2)).logits(), logits)
    if not model.spec.layers[0].moe.n_experts:  # which are stored in stacks
        tensors = stored_tensors(case, config, module).items()
        weights = {our_names(name, module.TENSOR_NAMES).names[0]: x for name, x in tensors}
        wanted = reference.forward(model.spec, weights, ids)["logits"]
        assert (abs(logits - wanted).max(axis=1) / np.ptp(wanted, axis=1)).max() <= 1e-5


def test_minicpm_scales_by_its_depth_and_widths(tmp_path: Path) -> None:
    """Its report (2024), table 7: embeddings 12, residuals 1.4 / sqrt(layers), logits base / width."""
    case = next(case for case in CASES if case.architecture == "MiniCPMForCausalLM")
    spec = plan_model(write(case, tmp_path)).spec
    assert spec.embedding_scale == 12 and spec.logit_scale == 16 / 64
    assert spec.layers[0].residual_scale == np.float32(1.4 / 2**0.5)


def test_a_config_without_architectures_is_of_the_class_of_its_model_type() -> None:
    others = {"bart": "BartForConditionalGeneration", "mbart": "MBartForConditionalGeneration"}
    others |= {"marian": "MarianMTModel", "pegasus": "PegasusForConditionalGeneration"}
    others |= {"deberta-v2": "DebertaV2Model", "xlm-roberta": "XLMRobertaModel", "m2m_100": "M2M100For"}
    others |= {"xlm-roberta-xl": "XLMRobertaXLModel", "plbart": "PLBartForConditionalGeneration"}
    others |= {kind: f"{kind.title()}ForConditionalGeneration" for kind in ("mvp", "blenderbot")}
    others |= {"blenderbot-small": "BlenderbotSmallForConditionalGeneration", "ctrl": "CTRLLMHeadModel"}
    others |= {"roformer": "RoFormerModel", "data2vec-text": "Data2VecTextModel", "ernie": "ErnieModel"}
    others |= {"megatron-bert": "MegatronBertModel", "roberta-prelayernorm": "RobertaPreLayerNormModel"}
    others |= {kind: f"{kind.title()}Model" for kind in ("bert", "roberta", "camembert", "electra")}
    wanted = {case.config["model_type"]: case.architecture for case in CASES} | others
    for kind, name in wanted.items():
        config = with_architecture(Config({"model_type": kind}, "config.json"))
        assert config.values["architectures"][0].startswith(name)
        assert config.defaults == {"architectures": config.values["architectures"]}
    assert "architectures" not in with_architecture(Config({"model_type": "gemma3"}, "config.json"))


def test_llamas_of_another_model_type_are_what_that_says(tmp_path: Path) -> None:
    """As transformers writes them; EXAONE turns by 500,000 where its file is silent."""
    case = next(case for case in CASES if case.architecture == "ExaoneForCausalLM")
    ids, answers = np.array(token_ids(), np.int32), []
    folder = write(case, tmp_path)
    for name, theta in ((case.architecture, 500_000.0), ("LlamaForCausalLM", None)):
        settings = case.config | {"architectures": [name], "rope_theta": theta}
        (folder / "config.json").write_text(json.dumps(settings))
        answers.append(run(load(plan_model(folder)).model, ids).logits())
    np.testing.assert_array_equal(*answers)


def test_longrope_has_its_long_factors_where_longer_texts_are_asked_for(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.tries == "longrope of a long text")
    folder, ids = write(case, tmp_path), token_ids()
    for most, factors, limit in (
        (None, "short", 16),
        (16, "short", 16),
        (17, "long", 17),
        (np.int64(17), "long", 17),
        (128, "long", 128),
    ):
        with LLM(folder, max_model_len=most, packed_cache=False) as llm:
            assert (llm.config["longrope"], llm.config["max_model_len"]) == (factors, limit)
            if limit < len(ids):
                with pytest.raises(PromptTooLongError):
                    llm.logits(ids)
                with pytest.raises(PromptTooLongError) as refused:
                    llm.generate(ids)
                assert ("LLM(max_model_len=…)" in str(refused.value)) == (factors == "short")
    with pytest.raises(InvalidParameterError, match="max_model_len"):
        LLM(folder, max_model_len=129, packed_cache=False)


def test_what_is_null_is_off_in_deepseek_v3() -> None:
    case = next(case for case in CASES if case.name == "DeepseekV3ForCausalLM: plain")

    def spec(**more: Any) -> Any:
        config = Config({**case.config, **more}, "config.json")
        layer = hf_architecture(config)[1].spec(config)
        return layer.layers[-1].moe.normalize, layer.ropes[0].interleaved

    assert spec() == (True, True)
    assert spec(norm_topk_prob=None, rope_interleave=None) == (False, False)


def test_the_page_of_architectures_is_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/write_architectures.py"


def test_every_decoder_is_in_the_table() -> None:
    old = {"BaiChuanForCausalLM", "MPTForCausalLM", "RWForCausalLM"}
    tested = {case.architecture for case in CASES} | old
    decoders = {name for name in HF_ARCHITECTURES if name.endswith(("ForCausalLM", "LMHeadModel"))}
    assert decoders <= tested, f"no test of {sorted(decoders - tested)}"


@pytest.mark.parametrize("name", sorted(CLASS_DEFAULTS.keys() & HF_ARCHITECTURES.keys() - HF_SEQ2SEQ.keys()))
def test_a_setting_left_out_is_that_of_transformers_class(name: str) -> None:
    usual = CLASS_DEFAULTS[name]
    case = next(case for case in CASES if case.architecture == name)
    experts = dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 16)
    experts = {key: n for key, n in experts.items() if case.config.get(key) != 0}
    stated = case.config | experts | {"hidden_size": 256, "num_attention_heads": 32} | usual
    second = second_names(name, HF_ARCHITECTURES[name])
    stated = {key: value for key, value in stated.items() if key not in second}
    silent = {key: value for key, value in stated.items() if key not in usual}
    configs = [Config(settings, "config.json") for settings in (stated, silent)]
    specs = [hf_architecture(config)[1].spec(config) for config in configs]
    assert ModelBuilder(specs[0]).expected() == ModelBuilder(specs[1]).expected()
    assert specs[0].max_positions == specs[1].max_positions
    assert usual.items() <= configs[1].defaults.items()


def test_sizes_of_bloom_have_two_names_or_none() -> None:
    """Those of bloom-560m's makers, those of transformers 5, and none where the class has them."""
    case = next(case for case in CASES if case.architecture == "BloomForCausalLM")
    sizes = ("hidden_size", "n_embed", "num_hidden_layers", "n_layer", "num_attention_heads", "n_head")
    bare = {key: value for key, value in case.config.items() if key not in sizes}
    for named in (
        {"n_embed": 64, "n_layer": 2, "num_attention_heads": 8},
        {"hidden_size": 64, "num_hidden_layers": 2, "n_head": 8},
        {},
    ):
        config = Config(bare | named, "config.json")
        spec = hf_architecture(config)[1].spec(config)
        assert (spec.d_model, len(spec.layers), spec.layers[0].n_heads) == (64, 2, 8)


def _tested(key: str) -> dict[str, Any]:
    """The settings of a tested model whose architecture is `key` or lies there, by their first names."""
    cases = [*CASES, *seq2seq_models.CASES, *encoder_models.CASES.values()]
    of = {name: case.config for case in reversed(cases) for name in case.config["architectures"]}
    of |= {HF_ARCHITECTURES[name]: of[name] for name in reversed(of) if name in HF_ARCHITECTURES}
    of["t5_encoder"] = {**of["t5"], "architectures": ["T5EncoderModel"]}
    of["bloom"] = {**of["bloom"], "n_layer": 2, "n_head": 4}
    return first_names({"num_experts": 4} | of[key], SECOND_NAMES[key])


@pytest.mark.parametrize("key", SECOND_NAMES)
def test_a_second_name_of_a_setting_goes_before_the_first(key: str) -> None:
    def shapes(settings: dict[str, Any]) -> Any:
        config = Config(settings, "config.json")
        return ModelBuilder(hf_architecture(config)[1].spec(config)).expected()

    settings = _tested(key)
    wanted = shapes(dict(settings))
    for second, first in SECOND_NAMES[key].items():
        alone = {name: value for name, value in settings.items() if name != first}
        assert shapes(alone | {second: settings[first]}) == wanted
        if first == "encoder_layers":  # which files of transformers 4 have beside a number without meaning
            assert shapes(settings | {second: 7}) == wanted
        else:
            assert shapes(settings | {first: "nothing", second: settings[first]}) == wanted


@pytest.mark.parametrize("stem, usual", [("T5", 6), ("MT5", 8), ("UMT5", 8)])
def test_num_hidden_layers_of_t5_are_the_encoders(stem: str, usual: int) -> None:
    """As transformers has it: the decoder's are num_layers, or what is usual."""
    base = {key: value for key, value in _tested("t5").items() if "num_layers" not in key}
    base["architectures"] = [f"{stem}ForConditionalGeneration"]
    for more, n_decoder in (({}, usual), ({"num_layers": 3}, 3), ({"num_decoder_layers": 1}, 1)):
        config = Config({**base, **more, "num_hidden_layers": 2}, "config.json")
        spec = hf_architecture(config)[1].spec(config)
        assert (len(spec.encoder.layers), len(spec.layers)) == (2, n_decoder)


def test_a_setting_that_is_null_is_not_filled_in() -> None:
    case = next(case for case in CASES if case.architecture == "DeepseekV3ForCausalLM")
    config = Config(case.config | {"q_lora_rank": None}, "config.json")
    _, module = hf_architecture(config)
    assert module.spec(config).layers[0].latent.query_rank == 0


def test_whole_heads_of_glm_rotate_where_the_part_is_null() -> None:
    case = next(case for case in CASES if case.architecture == "GlmForCausalLM")
    absent = {key: value for key, value in case.config.items() if key != "partial_rotary_factor"}

    def turned(settings: dict[str, Any]) -> int:
        config = Config(absent | settings, "config.json")
        return 2 * len(hf_architecture(config)[1].spec(config).ropes[0].inv_freq)

    whole = turned({"partial_rotary_factor": 1.0})
    assert turned({}) == whole // 2
    assert turned({"partial_rotary_factor": None}) == whole
    both = {"partial_rotary_factor": None, "rope_parameters": {"partial_rotary_factor": 0.25}}
    assert turned(both) == whole // 4


@pytest.mark.parametrize(
    "name, settings, said",
    [
        ("StableLmForCausalLM", {"hidden_size": 24, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("MistralForCausalLM", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("LlamaForCausalLM", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("BloomForCausalLM", {"pretraining_tp": 2, "slow_but_exact": True}, "slow_but_exact"),
        ("MptForCausalLM", {"attn_config": {"alibi": False}}, "attn_config: alibi"),
        ("MptForCausalLM", {"norm_type": "low_precision_rmsnorm"}, "norm_type"),
        ("GPT2LMHeadModel", {"add_cross_attention": True}, "add_cross_attention"),
        ("BertLMHeadModel", {"is_decoder": False}, "is_decoder is not true, and a BertLMHeadModel"),
        ("MegatronBertForCausalLM", {"is_decoder": False}, "is_decoder is not true"),
        ("RoFormerForCausalLM", {"is_decoder": False}, "is_decoder is not true"),
        ("XLMRobertaForCausalLM", {"is_decoder": None}, "is_decoder is not true"),
        ("ElectraForCausalLM", {"add_cross_attention": True}, "add_cross_attention"),
        ("RobertaForCausalLM", {"architectures": ["RobertaForMaskedLM"]}, "is_decoder is true"),
        ("OPTForCausalLM", {"architectures": ["OPTModel"], "word_embed_proj_dim": 48}, "word_embed_proj"),
        ("MistralForCausalLM", {"architectures": ["MistralModel"], "is_causal": False}, "is_causal"),
    ],
)
def test_an_option_that_is_not_supported_is_named(name: str, settings: dict[str, Any], said: str) -> None:
    case = next(case for case in CASES if case.architecture == name)
    config = Config(case.config | settings, "config.json")
    _, module = hf_architecture(config)
    with pytest.raises(ModelUnsupportedError, match=said):
        module.spec(config)


_FLAT = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 77.0}}


@pytest.mark.parametrize(
    "architecture, settings",
    [
        ("GemmaForCausalLM", {"hidden_activation": "relu"}),
        ("Gemma3ForCausalLM", {"attn_logit_softcapping": 2.0}),
        ("Gemma3ForCausalLM", _FLAT),
        ("Olmo3ForCausalLM", _FLAT),
    ],
)
def test_what_transformers_does_not_apply_is_warned_of(
    architecture: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    case = next(case for case in CASES if case.architecture == architecture)
    ids = np.array(token_ids(), np.int32)
    without = write(case, tmp_path / "without")
    given = write(case, tmp_path / "with")
    (given / "config.json").write_text(json.dumps(case.config | settings))
    plans = [plan_model(without), plan_model(given)]
    assert not plans[0].warnings and len(plans[1].warnings) == 1
    assert f"{next(iter(settings))} is" in plans[1].warnings[0]
    one, two = (run(load(plan).model, ids).logits() for plan in plans)
    np.testing.assert_array_equal(one, two)


def test_of_two_types_of_rotations_the_new_spelling_counts() -> None:
    case = next(case for case in CASES if case.name == "LlamaForCausalLM: linear rope")
    rope = case.config["rope_parameters"]
    config = Config(case.config | {"rope_parameters": rope | {"type": "dynamic"}}, "config.json")
    spec, wanted = (module.spec(of) for of, module in ((config, hf_architecture(config)[1]), _parsed(case)))
    assert spec.ropes[0].inv_freq == wanted.ropes[0].inv_freq
    said = "rope_parameters: rope_type, 'linear', goes before type, 'dynamic', as in transformers 5, not 4"
    assert len(config.warnings) == 1 and said in config.warnings[0]


def test_a_part_of_odd_heads_of_nemotron_rotates_as_gpt_neoxs() -> None:
    def inverse(name: str) -> Any:
        case = next(case for case in CASES if case.architecture == name)
        odd = {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 10}
        config = Config(case.config | odd | {"partial_rotary_factor": 0.5, "rotary_pct": 0.5}, "config.json")
        return hf_architecture(config)[1].spec(config).ropes[0].inv_freq

    assert len(inverse("NemotronForCausalLM")) == 3
    assert inverse("NemotronForCausalLM") == inverse("GPTNeoXForCausalLM")


def _windows_of_gpt_neo(**settings: Any) -> list[bool]:
    case = next(case for case in CASES if case.architecture == "GPTNeoForCausalLM")
    absent = {key: value for key, value in case.config.items() if key != "attention_types"}
    config = Config(absent | {"num_layers": 2} | settings, "config.json")
    return [layer.sliding_window > 0 for layer in hf_architecture(config)[1].spec(config).layers]


def test_layers_of_gpt_neo_are_attention_layers_before_attention_types() -> None:
    kinds, types = ["local", "global"], [[["global", "local"], 1]]
    assert _windows_of_gpt_neo(attention_types=types) == [False, True]
    assert _windows_of_gpt_neo(attention_layers=kinds) == [True, False]
    assert _windows_of_gpt_neo(attention_layers=kinds, attention_types=types) == [True, False]
    assert _windows_of_gpt_neo(attention_types=None, num_layers=24) == [False, True] * 12


@pytest.mark.parametrize(
    "key, value",
    [
        *[
            ("attention_layers", value)
            for value in (["local"], ["local", 1], [["local"], []], "local", {}, [])
        ],
        *[
            ("attention_types", value)
            for value in ({}, [], 0, "", [[["local"], 2.0]], [[["local"], 1 << 70]])
        ],
        *[
            ("attention_types", value)
            for value in ([[["local", "both"], 1]], [["local", 2]], [[[], 1 << 70]])
        ],
    ],
)
def test_layers_of_gpt_neo_that_are_none_are_an_error(key: str, value: object) -> None:
    with pytest.raises(ModelFormatError, match=f"{key} must be "):
        _windows_of_gpt_neo(**{key: value})


@pytest.mark.parametrize("key, value", [("is_causal", False), ("use_bidirectional_attention", True)])
def test_a_decoder_that_sees_both_sides_writes_nothing(key: str, value: bool) -> None:
    case = next(case for case in CASES if case.architecture == "Gemma3ForCausalLM")
    with pytest.raises(ModelUnsupportedError, match=key):
        hf_architecture(Config(case.config | {key: value}, "config.json"))


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def test_of_two_matrices_that_are_tied_files_hold_either_or_both(tmp_path: Path) -> None:
    """As in transformers: one that is another than it should be is used."""
    case = next(case for case in CASES if case.name == "LlamaForCausalLM: tied with biases")
    untied = dataclasses.replace(case, config=case.config | {"tie_word_embeddings": False})
    ids = np.array(token_ids(), np.int32)

    def logits(how: str, of: Case, change: Callable[[Arrays], Arrays]) -> tuple[np.ndarray, list[str]]:
        plan = plan_model(write(of, tmp_path / how, change))
        return run(load(plan).model, ids).logits(), plan.warnings

    wanted = {how: logits(how, of, dict)[0] for how, of in (("tied", case), ("untied", untied))}
    assert np.ptp(wanted["tied"] - wanted["untied"]) > 1
    other = stored_tensors(untied, *_parsed(untied))[HEAD]
    for how, change, same, n_warnings in (
        ("both", lambda stored: stored | {HEAD: stored[EMBEDDING]}, "tied", 0),
        ("head", lambda stored: {HEAD if x == EMBEDDING else x: y for x, y in stored.items()}, "tied", 0),
        ("another", lambda stored: stored | {HEAD: other}, "untied", 1),
    ):
        got, warnings = logits(how, case, change)
        np.testing.assert_array_equal(got, wanted[same])
        assert len(warnings) == n_warnings and all("tie_word_embeddings" in text for text in warnings)


def test_of_two_heads_of_gpt2_the_one_for_words_answers(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.architecture == "GPT2LMHeadModel")
    double = dataclasses.replace(case, config=case.config | {"architectures": ["GPT2DoubleHeadsModel"]})
    other = "multiple_choice_head.summary"
    more = {f"{other}.{part}": np.ones((1, 64), np.float32) for part in ("weight", "bias")}
    plans = [
        plan_model(write(case, tmp_path / "one")),
        plan_model(write(double, tmp_path / "two", lambda stored: stored | more)),
    ]
    one, two = (run(load(plan).model, np.array(token_ids(), np.int32)).logits() for plan in plans)
    np.testing.assert_array_equal(one, two)
    assert not plans[0].warnings and len(plans[1].warnings) == 2
    assert all(other in text for text in plans[1].warnings)


def test_a_head_reads_what_opt_maps_its_layers_to(tmp_path: Path) -> None:
    case = next(case for case in CASES if "word_embed_proj_dim" in case.config)
    ids = np.array(token_ids(), np.int32)
    hidden = run(load(plan_model(write(case, tmp_path / "words"))).model, ids).hidden_states()[-1]
    score = np.linspace(-1, 1, 3 * 48, dtype=np.float32).reshape(3, 48)
    folder = write(case, tmp_path / "head", lambda stored: stored | {"score.weight": score})
    own = {"architectures": ["OPTForSequenceClassification"], "num_labels": 3}
    (folder / "config.json").write_text(json.dumps(case.config | own))
    got = Runner(load(plan_model(folder)).model).answer([Sequence(ids)], [[len(ids) - 1]])
    out = stored_tensors(case, *_parsed(case))["model.decoder.project_out.weight"]
    wanted = score @ (out @ hidden[-1])
    assert abs(got[0] - wanted).max() <= 1e-5 * np.ptp(wanted)


def test_names_may_lack_the_prefix_of_the_layers(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "Qwen3ForCausalLM: plain")
    plans = [
        plan_model(write(case, tmp_path / how, change))
        for how, change in (
            ("with", dict),
            ("without", lambda stored: {name.removeprefix("model."): x for name, x in stored.items()}),
        )
    ]
    found = [{tensor.name: tensor.shape for tensor in plan.tensors} for plan in plans]
    assert found[0] == found[1] and not plans[1].warnings


def _parsed(case: Case) -> tuple[Config, Any]:
    config = Config(dict(case.config), "config.json")
    return config, hf_architecture(config)[1]


ALIKE = [
    case
    for case in cases("transformers")
    # without words: refused, both halves, both sides
    if not {"word_embed_proj_dim", "decoder_layers", "is_decoder"} & case.config.keys()
]


@pytest.mark.parametrize("case", ALIKE, ids=lambda case: case.name)
def test_without_words_an_architecture_has_the_same_layers(case: Case) -> None:
    """Two of a file tell themselves apart by the name of their class, which then has another end."""
    stem = case.architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    specs = []
    for name in (case.architecture, f"{stem}Model"):
        config = Config(case.config | {"architectures": [name]}, "config.json")
        specs.append(hf_architecture(config)[1].spec(config))
    parts = ("rope", "sliding_window", "norm_placement", "qk_norm", "attention_scale", "activation", "causal")
    layers = [[[getattr(layer, part) for part in parts] for layer in spec.layers] for spec in specs]
    assert layers[0] == layers[1]
    expected = [dict(ModelBuilder(spec).expected()) for spec in specs]
    assert {name: shape for name, shape in expected[0].items() if "head" not in name} == expected[1]
