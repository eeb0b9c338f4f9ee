"""Kin of Llama, Gemma, Granite, OLMo and DeepSeek, as `architecture_table.py` has the others."""

from __future__ import annotations

from typing import Any

from architecture_cases import WINDOW, cases_of

_TIED: dict[str, Any] = {"tie_word_embeddings": True}
_UNTIED: dict[str, Any] = {"tie_word_embeddings": False}
_SLIDING, _FULL = "sliding_attention", "full_attention"
_BIASES: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}
_GROUPS: dict[str, Any] = {"n_group": 4, "topk_group": 2, "n_routed_experts": 8, "num_experts_per_tok": 3}
_ROUTED: dict[str, Any] = {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
_ROUTED |= {"n_shared_experts": 1}
_LATENT: dict[str, Any] = {"num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 32}
_LATENT |= {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "leave_out": "q_proj"}
_ERNIE: dict[str, Any] = {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 40, "head_dim": 16}
_ERNIE |= {"leave_out": r"gate\.moe_statics"}
_MINIMAX: dict[str, Any] = {"num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 16}
_MINIMAX |= {"leave_out": r"\.mlp\."}


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


_YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=32)

_GROWING: dict[str, Any] = {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 32}

_EXAONE: dict[str, Any] = {"num_layers": 2, "layer_norm_epsilon": 1e-5, "activation_function": "silu"}
_EXAONE |= {"rope_theta": 500000.0, "leave_out": r"^model\."}

_SWASH: dict[str, Any] = {"sliding_window": WINDOW, "num_hidden_layers": 5}
_SWASH |= {"embedding_multiplier": 3.0, "attention_multiplier": 0.2}

DENSE_CASES = [
    *cases_of(
        "GraniteSWAForCausalLM",
        "granite_swa",
        _SWASH | {"leave_out": "block_sparse_moe|shared_mlp"},
        plain={},
        bases_of_layers_biases_untied={
            **_UNTIED,
            **_BIASES,
            "layer_types": [_SLIDING, _FULL, _FULL, _SLIDING, _FULL],
            "layer_rope_theta": [100, 0, 10000.0, 100, 500000.0],
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            **_YARN,
        },
    ),
    *cases_of(
        "NanoChatForCausalLM",
        "nanochat",
        {},
        plain={},
        biases_no_cap_tied={
            "attention_bias": True,
            "final_logit_softcapping": None,
            "hidden_act": "gelu",
            "num_key_value_heads": None,
            **_TIED,
            **_YARN,
        },
    ),
    *cases_of(
        "MiniCPM3ForCausalLM",
        "minicpm3",
        _LATENT | {"dim_model_base": 32},
        plain={},
        direct_queries_biases_longrope_untied={
            **_UNTIED,
            **_BIASES,
            "q_lora_rank": None,
            "v_head_dim": None,
            "scale_depth": None,
            "scale_emb": 3,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.5, 2.0, 3.0],
                "long_factor": [2.0, 3.0, 4.0, 5.0],
                "original_max_position_embeddings": 32,
            },
            "leave_out": "q_[ab]_",
        },
    ),
    *cases_of(
        "ModernBertDecoderForCausalLM",
        "modernbert-decoder",
        {"num_hidden_layers": 4, "num_key_value_heads": 4, "local_attention": 2 * WINDOW}
        | {"leave_out": r"\.(attn|mlp|final)?_?norm\.bias|layers\.0\.attn_norm|head\.(dense|norm)\.bias"},
        plain={},
        biases_untied={
            **_UNTIED,
            **_BIASES,
            "norm_bias": True,
            "classifier_bias": True,
            "decoder_bias": False,
            "hidden_activation": "silu",
            "classifier_activation": "relu",
            "sliding_window": 5,
            "layer_types": [_SLIDING, _FULL, _FULL, _SLIDING],
            "leave_out": r"layers\.0\.attn_norm|^decoder\.bias",
        },
    ),
    *cases_of(
        "ExaoneForCausalLM",
        "exaone",
        _EXAONE,
        plain={},
        tied_names_of_transformers={"leave_out": r"^transformer\.", "activation_function": "gelu", **_TIED},
    ),
    *cases_of(
        "InternLM3ForCausalLM",
        "internlm3",
        {"head_dim": 16, "leave_out": r"^transformer\."},
        plain={"qkv_bias": False, "bias": False},
        biases_dynamic_rope={"qkv_bias": True, "bias": True, **_rope("dynamic", factor=6.0)},
    ),
    *cases_of(
        "IQuestCoderForCausalLM",
        "iquestcoder",
        {"head_dim": 24, "leave_out": r"^transformer\."},
        plain={},
        biases_tied={**_BIASES, **_TIED},
    ),
    *cases_of(
        "Ministral3ForCausalLM",
        "ministral3",
        {"head_dim": 16},
        plain=_rope("yarn", factor=4.0, mscale=1.0, mscale_all_dim=1.0, **_GROWING),
        window_tied={"sliding_window": WINDOW, **_TIED, **_rope("yarn", factor=2.0, **_GROWING)},
    ),
    *cases_of(
        "HunYuanDenseV1ForCausalLM",
        "hunyuan_v1_dense",
        {"head_dim": 16},
        plain={},
        biases_tied_stretched={
            "attention_bias": True,
            "rope_scaling": {"type": "dynamic", "alpha": 50.0, "factor": 1.0},
            "rope_theta": 500.0,
            **_TIED,
        },
    ),
    *cases_of(
        "CwmForCausalLM",
        "cwm",
        {"head_dim": 16, "sliding_window": WINDOW, "num_hidden_layers": 5},
        plain={},
        biases_tied_yarn={"mlp_bias": True, "layer_types": [_SLIDING, _FULL] * 2 + [_FULL], **_TIED, **_YARN},
        linear_rope={"num_hidden_layers": 2, **_rope("linear", factor=2.0)},
    ),
    *cases_of(
        "Jais2ForCausalLM",
        "jais2",
        {"head_dim": 16},
        plain={},
        no_biases_tied={"attention_bias": False, "mlp_bias": False, "hidden_act": "gelu", **_TIED},
    ),
    *cases_of(
        "VaultGemmaForCausalLM",
        "vaultgemma",
        {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 24},
        plain={},
        no_caps_layer_types={
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": [_FULL, _SLIDING],
            "attention_bias": True,
            **_UNTIED,
        },
    ),
    *cases_of(
        "HyperCLOVAXForCausalLM",
        "hyperclovax",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.22, "logits_scaling": 0.25},
        plain={},
        no_norms_behind_biases_tied={
            "use_post_norm": False,
            "attention_multiplier": 0.2,
            "head_dim": 24,
            **_BIASES,
            **_TIED,
        },
    ),
    *cases_of(
        "ApertusForCausalLM",
        "apertus",
        {"head_dim": 16},
        plain={},
        biases_tied_another_activation={"attention_bias": True, "hidden_act": "relu2", **_TIED, **_YARN},
        own_base=_rope("default"),
    ),
    *cases_of(
        "YoutuForCausalLM",
        "youtu",  # transformers 5.24 empties the row of the padding
        _LATENT | {"pad_token_id": None},
        plain={},
        wide_values_untied={"v_head_dim": 40, "rope_interleave": False, **_UNTIED, **_YARN},
        direct_queries_biases={"q_lora_rank": None, "attention_bias": True, "leave_out": "q_a_"},
    ),
]

EXPERT_CASES = [
    *cases_of(
        "AfmoeForCausalLM",
        "afmoe",
        {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "head_dim": 16}
        | {"sliding_window": WINDOW, "leave_out": r"experts\.\d|mlp\.gate\.weight"},
        plain={"num_hidden_layers": 4},
        layer_types_biases_scaled_tied={
            "layer_types": [_FULL, _SLIDING],
            "attention_bias": True,
            "mup_enabled": True,
            "route_scale": 2.5,
            "num_shared_experts": 1,
            "num_dense_layers": 0,
            **_TIED,
        },
    ),
    *cases_of(
        "PhimoeForCausalLM",
        "phimoe",
        {"num_local_experts": 6, "router_jitter_noise": 0.2, "leave_out": r"\.mlp\."},
        plain={},
        biases_window_tied={
            "attention_bias": True,
            "lm_head_bias": True,
            "router_jitter_noise": 0.01,
            "sliding_window": WINDOW,
            **_TIED,
        },
        longrope={
            "original_max_position_embeddings": 64,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0 + 0.25 * i for i in range(8)],
                "long_factor": [3.0 + 0.25 * i for i in range(8)],
                "short_mscale": 1.25,
                "long_mscale": 1.5,
            },
        },
    ),
    *cases_of(
        "GraniteMoeSWAForCausalLM",
        "granitemoe_swa",
        _SWASH
        | {"num_local_experts": 6, "num_experts_per_tok": 2}
        | {"leave_out": r"\.mlp\.|linear\.weight.*experts|(router\.layer|block_sparse_moe\.\w+_linear)"},
        plain={},
        shared_no_rotations_tied={
            "shared_intermediate_size": 40,
            "layer_rope_theta": [0] * 5,
            "attention_bias": True,
            **_TIED,
        },
    ),
    *cases_of(
        "HYV3ForCausalLM",
        "hy_v3",
        {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "head_dim": 16},
        plain={"leave_out": r"mlp\.gate\.(weight|e_score)|mlp\.e_score|shared_experts|experts\.\w+_proj"},
        layer_types_biases_tied_yarn={
            "mlp_layer_types": ["sparse", "dense"],
            "num_shared_experts": 2,
            "router_scaling_factor": 1.5,
            "attention_bias": True,
            "leave_out": r"gate\.e_score|router\.gate|expert_bias|shared_mlp",
            **_TIED,
            **_YARN,
        },
    ),
    *cases_of(
        "Cohere2MoeForCausalLM",
        "cohere2_moe",
        {"num_experts": 6, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": WINDOW}
        | {"num_hidden_layers": 4},
        plain={},
        shared_averages_dense_first={
            "num_shared_experts": 2,
            "first_k_dense_replace": 2,
            "prefix_dense_intermediate_size": 40,
            "sliding_window_pattern": 2,
            "attention_bias": True,
        },
        sigmoids_sums_rms_norms_untied={
            "num_shared_experts": 1,
            "shared_expert_combination_strategy": "sum",
            "expert_selection_fn": "sigmoid",
            "norm_topk_prob": False,
            "rms_norm_eps": 1e-5,
            "layer_types": [_FULL, _SLIDING, _FULL, _SLIDING],
            "mlp_layer_types": ["dense", "sparse", "sparse", "dense"],
            "prefix_dense_sliding_window_pattern": 2,
            **_UNTIED,
        },
    ),
    *cases_of(
        "FlintForCausalLM",
        "flint",
        {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "head_dim": 16}
        | {"shared_expert_intermediate_size": 56, "sliding_window": WINDOW},
        plain={
            "layer_types": [_SLIDING, _FULL],
            "mlp_only_layers": [0],
            "leave_out": r"softmax_offset|experts\.(\d|\{)",
        },
        experts_in_all_biases_not_normalized_tied={
            **_TIED,
            "attention_bias": True,
            "norm_topk_prob": False,
            "layer_types": [_FULL, _SLIDING],
            "mlp_only_layers": [],
            "leave_out": r"softmax_offset|experts\.(\d|\{)|\.mlp\.(gate|up|down)_proj",
        },
    ),
    *cases_of(
        "MellumForCausalLM",
        "mellum",
        {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "head_dim": 16}
        | {"sliding_window": WINDOW, "leave_out": r"shared_expert|experts\.\d|\.mlp\.(gate|up|down)_proj"},
        plain={"layer_types": [_SLIDING, _FULL]},
        dense_first_biases_not_normalized_tied_yarn={
            **_TIED,
            "attention_bias": True,
            "norm_topk_prob": False,
            "layer_types": [_FULL, _SLIDING],
            "mlp_layer_types": ["dense", "sparse"],
            "rope_parameters": {
                _FULL: {"rope_theta": 500000.0, **_YARN["rope_parameters"]},
                _SLIDING: {"rope_type": "default", "rope_theta": 200.0},
            },
            "leave_out": r"shared_expert|experts\.\d",
        },
    ),
    *cases_of(
        "HunYuanMoEV1ForCausalLM",
        "hunyuan_v1_moe",
        {"num_experts": 6, "moe_topk": 2, "head_dim": 16, "leave_out": r"mlp\.gate\.weight"},
        plain={},
        of_each_layer_biases_tied={"moe_topk": [1, 3], "attention_bias": True, **_TIED},
    ),
    *cases_of(
        "FlexOlmoForCausalLM",
        "flex_olmo",
        {"num_experts": 6, "num_experts_per_tok": 2},
        plain={},
        biases_normalized_tied={"attention_bias": True, "norm_topk_prob": True, **_TIED},
    ),
    *cases_of(
        "Glm4MoeForCausalLM",
        "glm4_moe",
        {"head_dim": 16, **_ROUTED},
        plain={},
        norms_biases_groups_tied={
            "use_qk_norm": True,
            "attention_bias": True,
            "routed_scaling_factor": 1.5,
            "partial_rotary_factor": 0.25,
            **_GROUPS,
            **_TIED,
        },
    ),
    *cases_of(
        "Glm4MoeLiteForCausalLM",
        "glm4_moe_lite",
        _LATENT | _ROUTED,
        plain={},
        layer_types_groups_tied={
            "num_hidden_layers": 3,
            "mlp_layer_types": ["sparse", "dense", "sparse"],
            "rope_interleave": False,
            "norm_topk_prob": False,
            **_GROUPS,
            **_TIED,
            **_YARN,
        },
    ),
    *cases_of(
        "SolarOpenForCausalLM",
        "solar_open",
        {"head_dim": 16, **_ROUTED},
        plain={},
        biases_groups_tied={"attention_bias": True, "norm_topk_prob": False, **_GROUPS, **_TIED},
    ),
    *cases_of(
        "Dots1ForCausalLM",
        "dots1",
        {"head_dim": 16, **_ROUTED},
        plain={"first_k_dense_replace": 1},
        windows_biases_groups_tied={
            "layer_types": [_FULL, _SLIDING],
            "sliding_window": WINDOW,
            "attention_bias": True,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.0,
            **_GROUPS,
            **_TIED,
        },
    ),
    *cases_of(
        "ExaoneMoeForCausalLM",
        "exaone_moe",
        {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "sliding_window": WINDOW}
        | {"leave_out": r"gate\.e_score"},
        plain={"num_hidden_layers": 4},
        layer_types_groups_tied={
            "layer_types": [_FULL, _SLIDING],
            "mlp_layer_types": ["sparse", "dense"],
            "num_experts": 8,
            "n_group": 2,
            "num_shared_experts": 2,
            "norm_topk_prob": False,
            **_TIED,
        },
    ),
    *cases_of(
        "Ernie4_5_MoeForCausalLM",
        "ernie4_5_moe",
        _ERNIE,
        plain={},
        biases_intervals_untied={
            "use_bias": True,
            "num_hidden_layers": 5,
            "moe_layer_interval": 2,
            "moe_layer_end_index": 2,
            "moe_num_shared_experts": 1,
            "leave_out": r"gate\.moe_statics|experts\.\d+\.",
            **_UNTIED,
        },
        without_shared_ones={"moe_num_shared_experts": 0, "moe_layer_start_index": 0},
    ),
    *cases_of(
        "MiniMaxM2ForCausalLM",
        "minimax_m2",
        _MINIMAX,
        plain={},
        partly_rotated_tied={"rotary_dim": 8, "num_experts_per_tok": 3, **_TIED},
        both_names_of_the_part={"rotary_dim": 8, "partial_rotary_factor": 0.75},
    ),
]
