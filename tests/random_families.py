"""What the settings of each decoder's class are drawn from, for compare_random.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from architecture_table import N_VOCAB

Values = dict[str, Any]
Draw = random.Random
# A setting -> what it is drawn from, or what makes it of those drawn before.
Choices = dict[str, "tuple[Any, ...] | Callable[[Draw, Values], Any]"]

_FLAG = (False, True)
_ACTIVATIONS = (
    "silu",
    "gelu",
    "gelu_pytorch_tanh",
    "relu",
    "gelu_new",
    "tanh",
    "sigmoid",
    "mish",
    "relu6",
    "linear",
)
_KINDS = ("sliding_attention", "full_attention")


def _kinds(draw: Draw, config: Values) -> list[str]:
    return [draw.choice(_KINDS) for _ in range(config["num_hidden_layers"])]


def _some_layers(draw: Draw, config: Values) -> list[int]:
    n = config["num_hidden_layers"]
    return draw.sample(range(n), draw.randrange(n))


def _switches(draw: Draw, config: Values) -> list[int]:
    return [draw.randrange(2) for _ in range(config["num_hidden_layers"])]


def _all_heads(draw: Draw, config: Values) -> int:
    return int(config["num_attention_heads"])


def _even(draw: Draw, config: Values) -> int:
    return int(config["hidden_size"] // config["num_attention_heads"])


def _scaling(*kinds: str) -> Callable[[Draw, Values], Values]:
    def scaling(draw: Draw, config: Values) -> Values:
        values: Values = {"rope_type": draw.choice(kinds), "rope_theta": draw.choice((100.0, 1e4, 1e6))}
        if values["rope_type"] != "default":
            values["factor"] = draw.choice((1.5, 2.0, 8.0))
        if values["rope_type"] in ("llama3", "yarn"):
            values["original_max_position_embeddings"] = draw.choice((16, 32))
        if values["rope_type"] == "llama3":
            values |= {
                "low_freq_factor": draw.choice((1.0, 2.0)),
                "high_freq_factor": draw.choice((4.0, 8.0)),
            }
        if values["rope_type"] == "yarn" and draw.random() < 0.5:
            values |= {"beta_fast": 16.0, "beta_slow": 2.0, "truncate": draw.choice(_FLAG)}
        return values

    return scaling


def _long(draw: Draw, config: Values) -> Values:
    n = int(config["head_dim"] * config["partial_rotary_factor"]) // 2
    factors = ([draw.uniform(1.0, 4.0) for _ in range(n)] for _ in range(2))
    return {"type": "longrope", **dict(zip(("short_factor", "long_factor"), factors, strict=True))}


_ALL: Choices = {"rope_parameters": _scaling("default", "linear", "dynamic", "llama3", "yarn")}
_PARTIAL: Choices = {"rope_parameters": _scaling("default", "linear", "yarn")}
_GATED: Choices = {"hidden_act": _ACTIVATIONS}
_BIAS: Choices = {"attention_bias": _FLAG}
_HEAD_DIM: Choices = {"head_dim": (16, 32)}
_WINDOW: Choices = {"sliding_window": (4, 8)}
_SOMETIMES: Choices = {"use_sliding_window": _FLAG, "max_window_layers": (0, 1, 3), **_WINDOW}
_EXPERTS: Choices = {"num_experts": (4, 8, 16), "num_experts_per_tok": (1, 2, 4)}
_LOCAL_EXPERTS: Choices = {"num_local_experts": (4, 8), "num_experts_per_tok": (1, 2, 4)}
_SPARSE: Choices = {
    **_EXPERTS,
    "moe_intermediate_size": (24, 40),
    "norm_topk_prob": _FLAG,
    "decoder_sparse_step": (1, 2),
    "mlp_only_layers": _some_layers,
}
_GRANITE: Choices = {
    **_ALL,
    **_GATED,
    **_BIAS,
    "embedding_multiplier": (1.0, 12.0),
    "attention_multiplier": (0.0156, 0.25),
    "residual_multiplier": (0.22, 1.0),
    "logits_scaling": (1.0, 8.0),
}
_GROUPS: Choices = {
    "moe_intermediate_size": (24, 40),
    "n_routed_experts": (4, 8),
    "num_experts_per_tok": (1, 2),
    "n_shared_experts": (1, 2),
    "first_k_dense_replace": (0, 1, 2),
    "routed_scaling_factor": (1.0, 2.5),
    "n_group": (1, 2),
    "topk_group": lambda draw, config: draw.randint(1, config["n_group"]),
}
_LATENT: Choices = {
    **_PARTIAL,
    **_GATED,
    **_BIAS,
    "num_key_value_heads": _all_heads,
    "q_lora_rank": (None, 24),
    "kv_lora_rank": (16, 32),
    "qk_nope_head_dim": (8, 16),
    "qk_rope_head_dim": (8, 16),
    "v_head_dim": (8, 12, 24, 32),
    **_GROUPS,
}
_CAPS: Choices = {**_HEAD_DIM, **_WINDOW, **_BIAS, "query_pre_attn_scalar": (16, 32, 50)}
_CAPS |= {"final_logit_softcapping": (None, 3.0, 30.0), "hidden_activation": _ACTIVATIONS}

_ROUTED: Choices = {
    **_PARTIAL,
    **_GATED,
    **_GROUPS,
    "norm_topk_prob": _FLAG,
}
_MLPS: Choices = {
    "mlp_layer_types": lambda draw, config: [
        draw.choice(("dense", "sparse")) for _ in range(config["num_hidden_layers"])
    ]
}
_FREE: Choices = {"layer_norm_epsilon": (1e-5, 1e-3)}
_DIRECT: Choices = {key: choice for key, choice in _LATENT.items() if "expert" not in key}

_SWASH: Choices = {
    **_WINDOW,
    "layer_types": _kinds,
    "layer_rope_theta": lambda draw, config: draw.choice(
        (None, [draw.choice((0, 100, 1e4)) for _ in range(config["num_hidden_layers"])])
    ),
}
_HY: Choices = {"moe_intermediate_size": (24, 40), "num_shared_experts": (1, 2)}
_COMMAND: Choices = {
    **_MLPS,
    "layer_types": _kinds,
    "num_shared_experts": (0, 1, 2),
    "shared_expert_combination_strategy": ("average", "sum"),
    "expert_selection_fn": ("softmax", "sigmoid"),
    "norm_topk_prob": _FLAG,
    "rms_norm_eps": (None, 1e-6),
    "prefix_dense_intermediate_size": (None, 40),
    "prefix_dense_sliding_window_pattern": (1, 2),
}

FAMILIES: dict[str, tuple[str, Choices]] = {
    "Qwen2ForCausalLM": ("qwen2", {**_ALL, **_GATED, **_SOMETIMES}),
    "Qwen3ForCausalLM": ("qwen3", {**_ALL, **_GATED, **_SOMETIMES, **_BIAS, **_HEAD_DIM}),
    "Qwen2MoeForCausalLM": (
        "qwen2_moe",
        {**_ALL, **_SOMETIMES, **_SPARSE, "shared_expert_intermediate_size": (24, 56), "qkv_bias": _FLAG},
    ),
    "Qwen3MoeForCausalLM": ("qwen3_moe", {**_ALL, **_SOMETIMES, **_SPARSE, **_BIAS, **_HEAD_DIM}),
    "DeepseekV2ForCausalLM": (
        "deepseek_v2",
        {**_LATENT, "topk_method": ("greedy", "group_limited_greedy"), "norm_topk_prob": (False,)},
    ),
    "DeepseekV3ForCausalLM": (
        "deepseek_v3",
        {**_LATENT, "norm_topk_prob": _FLAG, "rope_interleave": _FLAG},
    ),
    "Gemma2ForCausalLM": (
        "gemma2",
        {**_ALL, **_CAPS, "attn_logit_softcapping": (None, 5.0, 50.0), "layer_types": _kinds},
    ),
    "Gemma3ForCausalLM": (
        "gemma3_text",
        {**_CAPS, "rope_theta": (1e4, 1e6), "rope_local_base_freq": (100.0, 1e4), "layer_types": _kinds},
    ),
    "Phi3ForCausalLM": (
        "phi3",
        {
            "head_dim": _even,
            "partial_rotary_factor": (0.5, 0.75, 1.0),
            "sliding_window": (None, 4, 8),
            "original_max_position_embeddings": (64,),
            "rope_scaling": _long,
        },
    ),
    "CohereForCausalLM": (
        "cohere",
        {**_ALL, **_GATED, **_BIAS, "logit_scale": (0.0625, 0.5), "use_qk_norm": _FLAG},
    ),
    "Cohere2ForCausalLM": (
        "cohere2",
        {**_ALL, **_GATED, **_BIAS, **_WINDOW, "logit_scale": (0.0625, 0.5), "layer_types": _kinds},
    ),
    "GraniteForCausalLM": ("granite", {**_GRANITE, "mlp_bias": _FLAG}),
    "GraniteMoeForCausalLM": ("granitemoe", {**_GRANITE, **_LOCAL_EXPERTS}),
    "GraniteMoeSharedForCausalLM": (
        "granitemoeshared",
        {**_GRANITE, **_LOCAL_EXPERTS, "shared_intermediate_size": (0, 24, 64)},
    ),
    "GlmForCausalLM": ("glm", {**_PARTIAL, **_BIAS, **_HEAD_DIM, "partial_rotary_factor": (0.25, 0.5, 1.0)}),
    "Glm4ForCausalLM": (
        "glm4",
        {**_PARTIAL, **_BIAS, **_HEAD_DIM, "partial_rotary_factor": (0.25, 0.5, 1.0)},
    ),
    "OlmoForCausalLM": ("olmo", {**_ALL, **_GATED, **_BIAS, "clip_qkv": (None, 0.5, 2.0)}),
    "Olmo2ForCausalLM": ("olmo2", {**_ALL, **_GATED, **_BIAS}),
    "Olmo3ForCausalLM": (
        "olmo3",
        {**_GATED, **_BIAS, **_WINDOW, "layer_types": _kinds, "rope_scaling": _scaling("linear", "yarn")},
    ),
    "OlmoeForCausalLM": ("olmoe", {**_ALL, **_GATED, **_BIAS, **_EXPERTS, "norm_topk_prob": _FLAG}),
    "StableLmForCausalLM": (
        "stablelm",
        {
            **_PARTIAL,
            "partial_rotary_factor": (0.25, 0.5, 1.0),
            **dict.fromkeys(("use_qkv_bias", "qk_layernorm", "use_parallel_residual"), _FLAG),
        },
    ),
    "GptOssForCausalLM": (
        "gpt_oss",
        {
            "rope_parameters": _scaling("default", "yarn"),
            **_HEAD_DIM,
            **_LOCAL_EXPERTS,
            **_WINDOW,
            **_BIAS,
            "swiglu_limit": (1.0, 7.0),
            "layer_types": _kinds,
        },
    ),
    "CwmForCausalLM": (
        "cwm",
        {**_ALL, **_GATED, **_HEAD_DIM, **_WINDOW, "layer_types": _kinds, "mlp_bias": _FLAG},
    ),
    "Jais2ForCausalLM": ("jais2", {**_ALL, **_GATED, **_HEAD_DIM, **_BIAS, "mlp_bias": _FLAG}),
    "VaultGemmaForCausalLM": (
        "vaultgemma",
        {**_ALL, **_CAPS, "attn_logit_softcapping": (None, 5.0), "layer_types": _kinds},
    ),
    "HyperCLOVAXForCausalLM": (
        "hyperclovax",
        {
            **_GRANITE,
            **_HEAD_DIM,
            "mlp_bias": _FLAG,
            "use_post_norm": _FLAG,
            "attention_multiplier": (None, 0.1),
        },
    ),
    "HunYuanDenseV1ForCausalLM": ("hunyuan_v1_dense", {**_ALL, **_GATED, **_BIAS, **_HEAD_DIM}),
    "HunYuanMoEV1ForCausalLM": (
        "hunyuan_v1_moe",
        {**_ALL, **_GATED, **_BIAS, **_HEAD_DIM, "num_experts": (4, 8), "moe_topk": (1, 2, 4)},
    ),
    "YoutuForCausalLM": ("youtu", {**_DIRECT, "rope_interleave": _FLAG, "pad_token_id": (None,)}),
    "FlexOlmoForCausalLM": ("flex_olmo", {**_ALL, **_GATED, **_BIAS, **_EXPERTS, "norm_topk_prob": _FLAG}),
    "Glm4MoeForCausalLM": (
        "glm4_moe",
        {
            **_ROUTED,
            **_BIAS,
            **_HEAD_DIM,
            "use_qk_norm": _FLAG,
            "partial_rotary_factor": (0.25, 0.5, 0.7, 1.0),
        },
    ),
    "SolarOpenForCausalLM": (
        "solar_open",
        {**_ROUTED, **_BIAS, **_HEAD_DIM, "use_qk_norm": _FLAG},
    ),
    "Glm4MoeLiteForCausalLM": (
        "glm4_moe_lite",
        {**_LATENT, "norm_topk_prob": _FLAG, "rope_interleave": _FLAG, **_MLPS},
    ),
    "Dots1ForCausalLM": ("dots1", {**_ROUTED, **_BIAS, **_HEAD_DIM, **_SOMETIMES}),
    "ExaoneMoeForCausalLM": (
        "exaone_moe",
        {
            **_ROUTED,
            **_HEAD_DIM,
            **_WINDOW,
            **_MLPS,
            "num_experts": (4, 8),
            "num_shared_experts": (1, 2),
            "layer_types": _kinds,
        },
    ),
    "Ernie4_5_MoeForCausalLM": (
        "ernie4_5_moe",
        {
            **_ALL,
            **_GATED,
            **_HEAD_DIM,
            "use_bias": _FLAG,
            "moe_num_experts": (4, 8),
            "moe_k": (1, 2, 3),
            "moe_intermediate_size": (24, 40),
            "moe_num_shared_experts": (0, 1, 2),
            "moe_layer_start_index": (0, 1, 2),
            "moe_layer_end_index": (-1, 1, 3),
            "moe_layer_interval": (1, 2),
        },
    ),
    "MiniMaxM2ForCausalLM": (
        "minimax_m2",
        {**_PARTIAL, **_GATED, **_HEAD_DIM, **_LOCAL_EXPERTS, "rotary_dim": (None, 8, 12)},
    ),
    "PersimmonForCausalLM": (
        "persimmon",
        {**_PARTIAL, **_GATED, "partial_rotary_factor": (0.25, 0.5, 1.0), "qk_layernorm": _FLAG},
    ),
    "SmolLM3ForCausalLM": ("smollm3", {**_ALL, **_BIAS, "mlp_bias": _FLAG, "no_rope_layers": _switches}),
    "Starcoder2ForCausalLM": ("starcoder2", {**_ALL, "use_bias": _FLAG, "sliding_window": (None, 4, 8)}),
    "Ernie4_5ForCausalLM": ("ernie4_5", {**_ALL, **_GATED, **_HEAD_DIM, "use_bias": _FLAG}),
    "PhiForCausalLM": ("phi", {**_PARTIAL, "partial_rotary_factor": (0.25, 0.5), "qk_layernorm": _FLAG}),
    "LlamaForCausalLM": ("llama", {**_ALL, **_GATED, **_BIAS, **_HEAD_DIM, "mlp_bias": _FLAG}),
    "MistralForCausalLM": (
        "mistral",
        {**_ALL, **_GATED, **_HEAD_DIM, "sliding_window": (None, 4, 8)},
    ),
    "MixtralForCausalLM": (
        "mixtral",
        {**_ALL, **_GATED, **_HEAD_DIM, **_LOCAL_EXPERTS, "sliding_window": (None, 4, 8)},
    ),
    "GemmaForCausalLM": ("gemma", {**_ALL, **_HEAD_DIM, **_BIAS, "hidden_act": _ACTIVATIONS}),
    "ArceeForCausalLM": ("arcee", {**_ALL, **_GATED, **_BIAS, **_HEAD_DIM, "mlp_bias": _FLAG}),
    "HeliumForCausalLM": ("helium", {**_ALL, **_GATED, **_BIAS, "head_dim": _even, "mlp_bias": _FLAG}),
    "SeedOssForCausalLM": (
        "seed_oss",
        {**_ALL, **_GATED, **_BIAS, **_HEAD_DIM, "mlp_bias": _FLAG, "attention_out_bias": _FLAG},
    ),
    "NemotronForCausalLM": (
        "nemotron",
        {
            **_PARTIAL,
            **_GATED,
            **_BIAS,
            **_HEAD_DIM,
            "mlp_bias": _FLAG,
            "partial_rotary_factor": (0.25, 0.5, 1.0),
        },
    ),
    "MinistralForCausalLM": (
        "ministral",
        {**_ALL, **_GATED, **_HEAD_DIM, **_WINDOW, "layer_types": _kinds},
    ),
    "Exaone4ForCausalLM": (
        "exaone4",
        {**_ALL, **_GATED, **_HEAD_DIM, "sliding_window": (4, 8), "layer_types": _kinds},
    ),
    "GPT2LMHeadModel": (
        "gpt2",
        {
            **_FREE,
            "activation_function": _ACTIVATIONS,
            "n_inner": (None, 40, 96),
            "scale_attn_weights": _FLAG,
            "scale_attn_by_inverse_layer_idx": _FLAG,
            "reorder_and_upcast_attn": _FLAG,
        },
    ),
    "GPTBigCodeForCausalLM": (
        "gpt_bigcode",
        {**_FREE, "activation_function": _ACTIVATIONS, "multi_query": _FLAG, "n_inner": (None, 40)},
    ),
    "GPTJForCausalLM": (
        "gptj",
        {**_FREE, "activation_function": _ACTIVATIONS, "rotary_dim": (4, 8), "n_inner": (None, 40)},
    ),
    "GPTNeoXForCausalLM": (
        "gpt_neox",
        {
            **_PARTIAL,
            **_GATED,
            **_BIAS,
            "rotary_pct": (0.25, 0.5, 1.0),
            "use_parallel_residual": _FLAG,
        },
    ),
    "OPTForCausalLM": (
        "opt",
        {
            "activation_function": _ACTIVATIONS,
            "ffn_dim": (32, 100),
            "word_embed_proj_dim": (16, 48),
            **dict.fromkeys(("do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine"), _FLAG),
        },
    ),
    "FlintForCausalLM": (
        "flint",
        {
            **_ALL,
            **_GATED,
            **_BIAS,
            **_HEAD_DIM,
            **_WINDOW,
            **_SPARSE,
            "shared_expert_intermediate_size": (24, 40),
            "layer_types": _kinds,
        },
    ),
    "MellumForCausalLM": (
        "mellum",
        {
            **_GATED,
            **_BIAS,
            **_HEAD_DIM,
            **_WINDOW,
            **_EXPERTS,
            **_MLPS,
            "moe_intermediate_size": (24, 40),
            "norm_topk_prob": _FLAG,
            "layer_types": _kinds,
        },
    ),
    "MiniCPM3ForCausalLM": (
        "minicpm3",
        {
            **_DIRECT,
            "mlp_bias": _FLAG,
            "v_head_dim": (None, 8, 24),
            "scale_emb": (1, 12),
            "scale_depth": (None, 1.4),
            "dim_model_base": (None, 16),
        },
    ),
    "ModernBertDecoderForCausalLM": (
        "modernbert-decoder",
        {
            **_BIAS,
            **dict.fromkeys(("mlp_bias", "norm_bias", "decoder_bias", "classifier_bias"), _FLAG),
            "hidden_activation": _ACTIVATIONS,
            "classifier_activation": _ACTIVATIONS,
            "local_attention": (4, 9, 16),
            "sliding_window": lambda draw, config: draw.choice((5, config["local_attention"] // 2)),
            "global_attn_every_n_layers": (1, 2, 3),
            "global_rope_theta": (1e4, 1.6e5),
            "local_rope_theta": (100.0, 1e4),
        },
    ),
    "ApertusForCausalLM": (
        "apertus",
        {**_ALL, **_BIAS, **_HEAD_DIM, "hidden_act": ("xielu", "xielu", "gelu")},
    ),
    "AfmoeForCausalLM": (
        "afmoe",
        {
            **_ALL,
            **_GATED,
            **_BIAS,
            **_HEAD_DIM,
            **_WINDOW,
            **_EXPERTS,
            "moe_intermediate_size": (24, 40),
            "layer_types": _kinds,
            "num_dense_layers": (0, 1, 2),
            "num_shared_experts": (0, 1, 2),
            "route_scale": (1.0, 2.5),
            "mup_enabled": _FLAG,
        },
    ),
    "PhimoeForCausalLM": (
        "phimoe",
        {
            **_GATED,
            **_BIAS,
            **_HEAD_DIM,
            "num_local_experts": (2, 4, 8),
            "router_jitter_noise": (0.0, 0.01, 0.2, 1.0),
            "lm_head_bias": _FLAG,
            "sliding_window": (None, 4, 8),
            "original_max_position_embeddings": (64,),
            "partial_rotary_factor": (1.0,),
            "rope_scaling": lambda draw, config: {
                **_long(draw, config),
                "short_mscale": draw.choice((1.0, 1.243)),
                "long_mscale": 1.5,
            },
        },
    ),
    "GraniteSWAForCausalLM": ("granite_swa", {**_GRANITE, **_SWASH, "mlp_bias": _FLAG}),
    "GraniteMoeSWAForCausalLM": (
        "granitemoe_swa",
        {**_GRANITE, **_SWASH, **_LOCAL_EXPERTS, "shared_intermediate_size": (0, 24)},
    ),
    "NanoChatForCausalLM": ("nanochat", {**_ALL, **_GATED, **_BIAS, "final_logit_softcapping": (None, 5.0)}),
    "HYV3ForCausalLM": ("hy_v3", {**_ALL, **_GATED, **_BIAS, **_HEAD_DIM, **_EXPERTS, **_MLPS, **_HY}),
    "Cohere2MoeForCausalLM": (
        "cohere2_moe",
        {**_GATED, **_BIAS, **_HEAD_DIM, **_WINDOW, **_EXPERTS, **_COMMAND},
    ),
    "CTRLLMHeadModel": ("ctrl", {"dff": (40, 96)}),
    "MptForCausalLM": (
        "mpt",
        {
            "d_model": lambda draw, config: config["hidden_size"],
            "n_heads": _all_heads,
            "n_layers": lambda draw, config: config["num_hidden_layers"],
            "max_seq_len": (64, 128),
            "layer_norm_epsilon": (1e-5, 1e-3),
            "attn_config": lambda draw, config: {
                "clip_qkv": draw.choice((None, 0.5)),
                "softmax_scale": draw.choice((None, 0.2)),
            },
        },
    ),
    "GPTNeoForCausalLM": (
        "gpt_neo",
        {
            **_FREE,
            "activation_function": _ACTIVATIONS,
            "window_size": (4, 8),
            "num_heads": _all_heads,
            "num_layers": lambda draw, config: config["num_hidden_layers"],
            "attention_types": lambda draw, config: [
                [[draw.choice(("global", "local"))], 1] for _ in range(config["num_hidden_layers"])
            ],
        },
    ),
    "BioGptForCausalLM": (
        "biogpt",
        {**_GATED, "layer_norm_eps": (1e-12, 1e-5), "scale_embedding": _FLAG},
    ),
    "BloomForCausalLM": (
        "bloom",
        {**_FREE, "apply_residual_connection_post_layernorm": _FLAG, "slow_but_exact": _FLAG},
    ),
    "FalconForCausalLM": (
        "falcon",
        {
            **_PARTIAL,
            **_FREE,
            **dict.fromkeys(("alibi", "new_decoder_architecture", "multi_query", "parallel_attn"), _FLAG),
            "bias": _FLAG,
            "num_ln_in_parallel_attn": (None, 1, 2),
            "num_kv_heads": lambda draw, config: config["num_key_value_heads"],
            "ffn_hidden_size": (40, 100),
            "activation": ("gelu", "relu", "silu"),
        },
    ),
}


def drawn(name: str, seed: int) -> Values:
    """A config.json of the class."""
    draw = random.Random(f"{name} {seed}")
    model_type, choices = FAMILIES[name]
    n_heads = draw.choice((2, 4, 6, 8))
    config: Values = {
        "architectures": [name],
        "model_type": model_type,
        "vocab_size": N_VOCAB,
        "hidden_size": n_heads * draw.choice((8, 16, 24, 32)),
        "num_hidden_layers": draw.choice((1, 2, 3, 5)),
        "num_attention_heads": n_heads,
        "num_key_value_heads": draw.choice([n for n in (1, 2, 3, 4, 6, 8) if n_heads % n == 0]),
        "intermediate_size": draw.choice((32, 64, 100)),
        "max_position_embeddings": draw.choice((64, 128, 512)),
        "tie_word_embeddings": draw.choice(_FLAG),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    for key, choice in choices.items():
        config[key] = choice(draw, config) if callable(choice) else draw.choice(choice)
    return config
