"""Every architecture with the settings that it is tested with: one line a tiny random model.

`architecture_files.py` makes the models, `oracle/architectures.py` transformers' answers, and
`test_architectures.py` compares. docs/architectures.md is made from this table.
"""

from __future__ import annotations

from typing import Any

from architecture_cases import COLUMNS, N_VOCAB, WINDOW, Case, cases_of
from architecture_gpt import GPT_CASES
from architecture_kin import DENSE_CASES, EXPERT_CASES

__all__ = ["CASES", "COLUMNS", "N_VOCAB", "WINDOW", "Case"]

_LATENT: dict[str, Any] = {"num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 32}
_LATENT |= {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "moe_intermediate_size": 40}
_GRANITE: dict[str, Any] = {"embedding_multiplier": 3.0, "residual_multiplier": 0.22}
_GRANITE |= {"attention_multiplier": 0.2, "logits_scaling": 4.0}
_GRANITE_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GRANITE_EXPERTS |= {"leave_out": r"\.experts\.|router\.weight"}
_GRANITE_4: dict[str, Any] = {"num_local_experts": 0, "layer_types": ["attention"] * 2, "mamba_n_heads": 4}
_FAIRSEQ: dict[str, Any] = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "decoder_ffn_dim": 96}
_FAIRSEQ |= {"decoder_attention_heads": 4, "is_decoder": True, "is_encoder_decoder": False}
_SCALED: dict[str, Any] = {"scale_embedding": True, "activation_function": "relu"}
_UNTIED: dict[str, Any] = {"tie_word_embeddings": False}
_TIED: dict[str, Any] = {"tie_word_embeddings": True}
_SIX_HEADS: dict[str, Any] = {"n_layer": 2, "n_head": 6, "num_attention_heads": 6}
_SIX_HEADS |= {"hidden_size": 96, "tie_word_embeddings": False}
_BARE: dict[str, Any] = {"enable_bias": False, "layer_norm_elementwise_affine": False, **_UNTIED}
_BARE |= {"activation_function": "gelu"}
_BERT: dict[str, Any] = {"is_decoder": True, "type_vocab_size": 3}
_BERT |= {"leave_out": r"^(embeddings|encoder)|gamma$|beta$"}
_WIDE: dict[str, Any] = {"embedding_size": 64, **_UNTIED}
_TURNED: dict[str, Any] = {"embedding_size": 24, "rotary_value": True, **_UNTIED}
_OFFSET: dict[str, Any] = {**_BERT, "pad_token_id": 3, "layer_norm_eps": 1e-5}


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_ORIGINAL = {"original_max_position_embeddings": 32}
_YARN: dict[str, Any] = {"type": "yarn", "factor": 4.0, **_ORIGINAL}
_HALVES = [1.0 + 0.25 * i for i in range(8)]
_FACTORS = {"short_factor": _HALVES, "long_factor": _HALVES[::-1]}
_ACTIVATIONS = (
    "tanh",
    "sigmoid",
    "mish",
    "relu6",
    "leaky_relu",
    "hardswish",
    "linear",
    "relu2",
    "quick_gelu",
)
_SLIDING, _FULL = "sliding_attention", "full_attention"

CASES = [
    *cases_of(
        "LlamaForCausalLM",
        "llama",
        {},
        plain={"num_key_value_heads": 4},
        tied_with_biases={"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        odd_heads={"head_dim": 24, "num_key_value_heads": 1, "hidden_act": "gelu"},
        linear_rope=_rope("linear", factor=4.0),
        dynamic_rope=_rope("dynamic", factor=4.0),
        llama3_rope=_rope("llama3", **_LLAMA3, **_ORIGINAL),
        llama3_rope_of_the_whole_context=_rope("llama3", **_LLAMA3),
        yarn_rope=_rope("yarn", factor=4.0, **_ORIGINAL),
        longrope=_rope("longrope", factor=4.0, **_FACTORS, **_ORIGINAL),
        longrope_of_a_long_text=_rope("longrope", **_FACTORS, original_max_position_embeddings=16),
        old_spelling_of_rope={"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 500.0},
        **{name: {"hidden_act": name} for name in _ACTIVATIONS},
        both_spellings_of_rope=_rope("default") | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ),
    *cases_of(
        "MistralForCausalLM",
        "mistral",
        {},
        window={"sliding_window": WINDOW},
        tied={"sliding_window": None, "tie_word_embeddings": True, "head_dim": 32},
    ),
    *cases_of(
        "Qwen2ForCausalLM",
        "qwen2",
        {},
        plain={},
        upper_windows_tied={
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
        layer_types={
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": [_SLIDING, _FULL],
        },
    ),
    *cases_of(
        "Qwen3ForCausalLM",
        "qwen3",
        {"head_dim": 32},
        plain={},
        biases_windows_yarn={
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        }
        | _rope("yarn", factor=4.0, **_ORIGINAL),
    ),
    *cases_of(
        "Phi3ForCausalLM",
        "phi3",
        {},
        window={"sliding_window": WINDOW},
        longrope_partial={
            "original_max_position_embeddings": 32,
            "tie_word_embeddings": True,
            "rope_scaling": {"type": "longrope", "short_factor": _HALVES[:6], "long_factor": _HALVES[:6]},
            "partial_rotary_factor": 0.75,
        },
    ),
    *cases_of(
        "GemmaForCausalLM",
        "gemma",
        {"head_dim": 16},
        plain={},
        another_activation={"hidden_act": "silu"},
        untied_biases_one_kv_head={
            "tie_word_embeddings": False,
            "attention_bias": True,
            "num_key_value_heads": 1,
        },
    ),
    *cases_of(
        "Gemma2ForCausalLM",
        "gemma2",
        {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 24},
        plain={},
        no_caps_layer_types={
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": [_FULL, _SLIDING],
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    *cases_of(
        "Gemma3ForCausalLM",
        "gemma3_text",
        {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 24, "num_hidden_layers": 6},
        plain={},
        untied_cap_biases_linear_rope={
            "attention_bias": True,
            "final_logit_softcapping": 20.0,
            "num_hidden_layers": 2,
            "layer_types": [_FULL, _SLIDING],
            "tie_word_embeddings": False,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        both_spellings_of_rope={
            "rope_parameters": {
                _FULL: {"rope_type": "default", "rope_theta": 3000.0},
                _SLIDING: {"rope_type": "default", "rope_theta": 200.0},
            },
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
    ),
    *cases_of(
        "SmolLM3ForCausalLM",
        "smollm3",
        {"num_hidden_layers": 4},
        plain={},
        windows_biases_untied={
            "no_rope_layers": [1, 0, 0, 1],
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
        layer_types={"num_hidden_layers": 2, "layer_types": [_SLIDING, _FULL], "sliding_window": WINDOW},
    ),
    *cases_of(
        "ArceeForCausalLM",
        "arcee",
        {},
        plain={},
        biases_yarn={"attention_bias": True, "mlp_bias": True, "head_dim": 24, "hidden_act": "silu"}
        | _rope("yarn", factor=4.0, **_ORIGINAL),
    ),
    *cases_of(
        "Exaone4ForCausalLM",
        "exaone4",
        {"num_hidden_layers": 3, "sliding_window": WINDOW},
        plain={"sliding_window_pattern": 3},
        no_windows_tied={"sliding_window": None, "layer_types": [_FULL] * 3, **_TIED},
    ),
    *cases_of(
        "HeliumForCausalLM",
        "helium",
        {"head_dim": 16},
        plain={},
        biases_tied={"attention_bias": True, "mlp_bias": True, **_TIED},
    ),
    *cases_of(
        "NemotronForCausalLM",
        "nemotron",
        {},
        plain={},
        biases_all_rotated={"attention_bias": True, "mlp_bias": True, "hidden_act": "silu", "head_dim": 24}
        | _rope("default", partial_rotary_factor=1.0),
    ),
    *cases_of(
        "MinistralForCausalLM",
        "ministral",
        {"head_dim": 16},  # which transformers 5.24 does not make up
        window={"sliding_window": WINDOW},
        layer_types={"sliding_window": WINDOW, "layer_types": [_SLIDING, _FULL], "head_dim": 32},
    ),
    *cases_of(
        "SeedOssForCausalLM",
        "seed_oss",
        {"head_dim": 24},
        plain={},
        other_biases_tied={"attention_bias": False, "attention_out_bias": True, "mlp_bias": True, **_TIED},
    ),
    *cases_of(
        "OlmoForCausalLM",
        "olmo",
        {},
        plain={"num_key_value_heads": 4},
        clipped_biases_tied={"clip_qkv": 0.5, "attention_bias": True, "tie_word_embeddings": True},
    ),
    *cases_of(
        "Olmo2ForCausalLM",
        "olmo2",
        {},
        plain={"num_key_value_heads": 4},
        biases_tied={"attention_bias": True, "tie_word_embeddings": True},
    ),
    *cases_of(
        "Olmo3ForCausalLM",
        "olmo3",
        {"sliding_window": WINDOW},
        plain={"num_hidden_layers": 4},
        linear_rope={"num_hidden_layers": 4, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        layer_types_yarn={
            "layer_types": [_FULL, _SLIDING],
            "attention_bias": True,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, **_ORIGINAL},
            "rope_theta": 10000.0,
        },
        yarn_without_truncation={
            "num_hidden_layers": 4,
            "rope_parameters": {
                _FULL: {"rope_type": "yarn", "factor": 4.0, "truncate": False, **_ORIGINAL},
                _SLIDING: {"rope_type": "default", "rope_theta": 300.0},
            },
        },
    ),
    *cases_of(
        "OlmoeForCausalLM",
        "olmoe",
        {"num_experts": 4, "num_experts_per_tok": 2},
        plain={},
        biases_normalized_tied={"attention_bias": True, "norm_topk_prob": True, **_TIED},
        clipped={"clip_qkv": 0.5, "hidden_act": "gelu_accurate"},
    ),
    *cases_of(
        "GraniteForCausalLM",
        "granite",
        _GRANITE,
        plain={},
        biases_tied={"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    *cases_of(
        "GraniteMoeForCausalLM",
        "granitemoe",
        _GRANITE | _GRANITE_EXPERTS,
        plain={},
        biases_tied={"attention_bias": True, "tie_word_embeddings": True, "num_experts_per_tok": 3},
        names_of_transformers_5={"leave_out": r"_linear\.|router\.layer"},
    ),
    *cases_of(
        "GraniteMoeSharedForCausalLM",
        "granitemoeshared",
        _GRANITE | _GRANITE_EXPERTS,
        plain={"shared_intermediate_size": 48},
        without_a_shared_one={"shared_intermediate_size": 0},
    ),
    *cases_of(
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        _GRANITE | _GRANITE_4 | {"shared_intermediate_size": 80},
        rotations={"position_embedding_type": "rope"},
        no_rotations_biases_tied={"attention_bias": True, **_TIED},
        experts={**_GRANITE_EXPERTS, "hidden_act": "gelu_python_tanh"},
    ),
    *cases_of(
        "Starcoder2ForCausalLM",
        "starcoder2",
        {},
        window={"sliding_window": WINDOW},
        no_biases_untied={"use_bias": False, "tie_word_embeddings": False},
    ),
    *cases_of(
        "StableLmForCausalLM",
        "stablelm",
        {},
        plain={},
        parallel_norms_biases={
            "use_parallel_residual": True,
            "qk_layernorm": True,
            "use_qkv_bias": True,
            "partial_rotary_factor": 0.5,
            "tie_word_embeddings": True,
        },
    ),
    *cases_of(
        "GlmForCausalLM",
        "glm",
        {"head_dim": 16},
        plain={},
        tied_no_biases={"attention_bias": False, "tie_word_embeddings": True, "partial_rotary_factor": 0.25},
        sizes_left_to_the_class={
            "absent": ["head_dim", "num_key_value_heads", "max_position_embeddings"],
        },
    ),
    *cases_of(
        "Glm4ForCausalLM",
        "glm4",
        {"head_dim": 16},
        plain={},
        tied_no_biases={"attention_bias": False, "tie_word_embeddings": True, "head_dim": 24},
    ),
    *cases_of(
        "Ernie4_5ForCausalLM",
        "ernie4_5",
        {"head_dim": 16},
        plain={},
        biases_untied_scaled={"use_bias": True, "tie_word_embeddings": False, **_rope("linear", factor=2.0)},
    ),
    *cases_of(
        "CohereForCausalLM",
        "cohere",
        {"logit_scale": 0.25},
        plain={},
        norms_biases_untied={"use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": False},
    ),
    *cases_of(
        "Cohere2ForCausalLM",
        "cohere2",
        {"sliding_window": WINDOW, "logit_scale": 0.25},
        plain={"num_hidden_layers": 4},
        layer_types_biases={"layer_types": [_FULL, _SLIDING], "attention_bias": True},
    ),
    *DENSE_CASES,
    *GPT_CASES,
    *cases_of(
        "GPTNeoXForCausalLM",
        "gpt_neox",
        {},
        plain={},
        sequential_no_biases={
            "use_parallel_residual": False,
            "attention_bias": False,
            "rotary_pct": 1.0,
            "rotary_emb_base": 500,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_fast",
        },
        odd_rotation={"hidden_size": 48, "rotary_pct": 0.25},
        odd_scaled_rotation={"hidden_size": 48, **_rope("llama3", partial_rotary_factor=0.25, **_LLAMA3)},
        names_of_others={"partial_rotary_factor": 0.5, "rope_theta": 500.0},
    ),
    *cases_of(
        "OPTForCausalLM",
        "opt",
        {"ffn_dim": 96},
        plain={},
        norms_after_narrow_embedding={"do_layer_norm_before": False, "word_embed_proj_dim": 48},
        untied_no_biases_no_weights_in_norms=_BARE,
        no_final_norm={"_remove_final_layer_norm": True},
    ),
    *cases_of(
        "PhiForCausalLM",
        "phi",
        {},
        plain={"num_key_value_heads": 4},
        norms_tied={"qk_layernorm": True, "tie_word_embeddings": True, "partial_rotary_factor": 0.25},
    ),
    *cases_of(
        "FalconForCausalLM",
        "falcon",
        {},
        one_kv_head={"leave_out": r"\.ln_(attn|mlp)"},
        two_norms_biases={
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "bias": True,
            "tie_word_embeddings": False,
            "leave_out": r"input_layernorm|post_attention",
        },
        alibi_sequential={
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
            "hidden_size": 96,
            "num_attention_heads": 12,
            "num_ln_in_parallel_attn": 2,
            "leave_out": r"\.ln_(attn|mlp)",
        },
        one_norm={
            "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
            "num_kv_heads": 2,
            "ffn_hidden_size": 96,
            "leave_out": r"\.ln_(attn|mlp)",
        },
    ),
    *cases_of("BertLMHeadModel", "bert", _BERT, plain={}, untied=_UNTIED | {"hidden_act": "relu"}),
    *cases_of(
        "RobertaForCausalLM", "roberta", _OFFSET, plain={}, untied=_UNTIED | {"hidden_act": "gelu_new"}
    ),
    *cases_of("XLMRobertaForCausalLM", "xlm-roberta", _OFFSET, plain={}, untied=_UNTIED),
    *cases_of("XLMRobertaXLForCausalLM", "xlm-roberta-xl", _OFFSET, plain={}, untied=_UNTIED),
    *cases_of(
        "CamembertForCausalLM", "camembert", _OFFSET, padding_within={"pad_token_id": 5}, untied=_UNTIED
    ),
    *cases_of("Data2VecTextForCausalLM", "data2vec-text", _OFFSET, plain={}, untied=_UNTIED),
    *cases_of("RobertaPreLayerNormForCausalLM", "roberta-prelayernorm", _OFFSET, plain={}, untied=_UNTIED),
    *cases_of("ErnieForCausalLM", "ernie", _BERT, plain={}, untied=_UNTIED | {"hidden_act": "relu"}),
    *cases_of("MegatronBertForCausalLM", "megatron-bert", _BERT, plain={}, untied=_UNTIED),
    *cases_of("ElectraForCausalLM", "electra", _BERT, narrow={"embedding_size": 24}, wide_untied=_WIDE),
    *cases_of("RoFormerForCausalLM", "roformer", _BERT, plain={}, narrow_with_turned_values=_TURNED),
    *cases_of("BartForCausalLM", "bart", _FAIRSEQ, plain={}, scaled_untied=_SCALED | _UNTIED),
    *cases_of("MBartForCausalLM", "mbart", _FAIRSEQ, plain={}, scaled_untied=_SCALED | _UNTIED),
    *(
        case
        for stem in ("PLBart", "Mvp", "Blenderbot", "BlenderbotSmall")
        for case in cases_of(
            f"{stem}ForCausalLM",
            stem.lower().replace("botsmall", "bot-small"),
            _FAIRSEQ,
            plain={},
            scaled_untied=_SCALED | _UNTIED,
        )
    ),
    *cases_of("PegasusForCausalLM", "pegasus", _FAIRSEQ, plain={}, scaled=_SCALED),
    *cases_of("MarianForCausalLM", "marian", _FAIRSEQ, plain={}, scaled_untied=_SCALED | _UNTIED),
    *cases_of(
        "BloomForCausalLM",
        "bloom",
        {},
        plain={},
        untied_six_heads=_SIX_HEADS,
        residual_of_norms={"apply_residual_connection_post_layernorm": True, "num_hidden_layers": 3},
    ),
    *cases_of(
        "MixtralForCausalLM",
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2},
        plain={},
        eight_experts_window_tied={
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "sliding_window": WINDOW,
            "tie_word_embeddings": True,
            "head_dim": 32,
        },
    ),
    *cases_of(
        "Qwen2MoeForCausalLM",
        "qwen2_moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "shared_expert_intermediate_size": 72,
        },
        plain={},
        normalized_sparse_windows={
            "norm_topk_prob": True,
            "num_hidden_layers": 4,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "qkv_bias": False,
            "tie_word_embeddings": True,
        },
    ),
    *cases_of(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "head_dim": 32},
        plain={},
        normalized_biases_windows={
            "norm_topk_prob": True,
            "mlp_only_layers": [0],
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
        },
    ),
    *cases_of(
        "GptOssForCausalLM",
        "gpt_oss",
        {
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": WINDOW,
        },
        plain={},
        steep_gates={"swiglu_alpha": 0.9, "swiglu_limit": 1.5},
        narrow_clamp_no_biases={
            "swiglu_limit": 0.5,
            "attention_bias": False,
            "layer_types": [_FULL, _SLIDING],
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "truncate": False, **_ORIGINAL},
            "tie_word_embeddings": True,
        },
    ),
    *cases_of(
        "DeepseekV2ForCausalLM",
        "deepseek_v2",
        _LATENT | {"n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
        plain={"leave_out": "q_proj"},
        biases_of_mlps={"mlp_bias": True, "leave_out": "q_proj"},
        groups_direct_queries_biases={
            "q_lora_rank": None,
            "first_k_dense_replace": 0,
            "topk_method": "group_limited_greedy",
            "n_routed_experts": 8,
            "n_group": 4,
            "topk_group": 2,
            "n_shared_experts": 1,
            "routed_scaling_factor": 1.5,
            "attention_bias": True,
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "mscale": 0.7,
                "mscale_all_dim": 0.9,
                **_ORIGINAL,
            },
        },
    ),
    *cases_of(
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        _LATENT
        | {"n_routed_experts": 8, "num_experts_per_tok": 3, "first_k_dense_replace": 1, "n_group": 4}
        | {"leave_out": "q_proj"},
        plain={"topk_group": 2},
        wide_values_not_normalized={
            "topk_group": 3,
            "v_head_dim": 40,
            "norm_topk_prob": False,
            "n_shared_experts": 2,
            "rope_interleave": False,
            "tie_word_embeddings": True,
            "rope_scaling": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
    *EXPERT_CASES,
    *cases_of(
        "InternLM2ForCausalLM",
        "internlm2",
        {"verified": "reference"},
        plain={"bias": False},
        biases_dynamic_rope={"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 500.0},
    ),
    *cases_of(
        "BaichuanForCausalLM",
        "baichuan",
        {"verified": "reference"},
        rotary={},
        linear_biases={"max_position_embeddings": None, "model_max_length": 128},
    ),
    *cases_of(
        "MiniCPMForCausalLM",
        "minicpm",
        {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16, "verified": "reference"},
        plain={},
        untied_biases={"tie_word_embeddings": False, "attention_bias": True, "num_key_value_heads": 4},
    ),
]
