"""What transformers' configuration classes fill in where a config.json does not mention a setting, and the
second names that they take.

Only settings whose value is no function of the others, and that have no second name; the rest stands where an
architecture's file asks for it. null is a value: it is not filled in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_LATENT = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}

_ONE_GROUP = {"n_group": 1, "topk_group": 1}
_GLM_MOE = {
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "n_routed_experts": 128,
    "num_experts_per_tok": 8,
    **_ONE_GROUP,
}
_MT5 = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
_BART = {
    "d_model": 1024,
    "max_position_embeddings": 1024,
    **{f"{half}_layers": 12 for half in ("encoder", "decoder")},
    **{f"{half}_ffn_dim": 4096 for half in ("encoder", "decoder")},
    **{f"{half}_attention_heads": 16 for half in ("encoder", "decoder")},
}
_PLBART = {key: {12: 6, 4096: 3072, 16: 12}.get(n, n) for key, n in _BART.items()} | {"d_model": 768}
_BLENDERBOT = {key: {4096: 10240, 16: 32}.get(n, n) for key, n in _BART.items()}
_SMALL = {key: {12: 8, 4096: 2048}.get(n, n) for key, n in _BART.items()}
_SMALL |= {"d_model": 512, "max_position_embeddings": 512}
_BLENDERBOT |= {"d_model": 2560, "max_position_embeddings": 128, "encoder_layers": 2, "decoder_layers": 24}

CLASS_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "LlamaForCausalLM": {"max_position_embeddings": 2048},
    **{
        f"{stem}ForCausalLM": {"max_position_embeddings": 131072, "num_key_value_heads": 8}
        for stem in ("Mistral", "Ministral")
    },
    "Ministral3ForCausalLM": {"max_position_embeddings": 262144, "num_key_value_heads": 8, "head_dim": 128},
    **{f"HunYuan{kind}V1ForCausalLM": {"max_position_embeddings": 2048} for kind in ("Dense", "MoE")},
    "ExaoneForCausalLM": {"max_position_embeddings": 4096, "num_key_value_heads": 8},
    "InternLM3ForCausalLM": {"max_position_embeddings": 32768, "num_key_value_heads": 2, "head_dim": 128},
    "IQuestCoderForCausalLM": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "head_dim": 128},
    "Exaone4ForCausalLM": {"max_position_embeddings": 2048, "num_key_value_heads": 32},
    "HeliumForCausalLM": {"max_position_embeddings": 4096},
    "NemotronForCausalLM": {"max_position_embeddings": 4096},
    "MixtralForCausalLM": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "num_experts_per_tok": 2,
    },
    "Qwen2ForCausalLM": {"max_position_embeddings": 32768, "num_key_value_heads": 32},
    "Qwen3ForCausalLM": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
    "Qwen2MoeForCausalLM": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    "Qwen3MoeForCausalLM": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    "MellumForCausalLM": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 4,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 896,
        "head_dim": 128,
    },
    "FlintForCausalLM": {
        "max_position_embeddings": 262144,
        "num_key_value_heads": 4,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 1024,
        "head_dim": 128,
    },
    "Phi3ForCausalLM": {"max_position_embeddings": 4096},
    "PhiForCausalLM": {"max_position_embeddings": 2048},
    "GemmaForCausalLM": {"max_position_embeddings": 8192, "num_key_value_heads": 16, "head_dim": 256},
    "Gemma2ForCausalLM": {"max_position_embeddings": 8192, "num_key_value_heads": 4, "head_dim": 256},
    "Gemma3ForCausalLM": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
    },
    "SmolLM3ForCausalLM": {"max_position_embeddings": 32768, "num_key_value_heads": 4},
    "OlmoForCausalLM": {"max_position_embeddings": 2048},
    "Olmo2ForCausalLM": {"max_position_embeddings": 2048},
    "Olmo3ForCausalLM": {"max_position_embeddings": 2048},
    "OlmoeForCausalLM": {"max_position_embeddings": 4096, "num_experts_per_tok": 8},
    "GraniteForCausalLM": {"max_position_embeddings": 2048},
    "GraniteMoeForCausalLM": {"max_position_embeddings": 2048, "num_experts_per_tok": 2},
    "GraniteMoeSharedForCausalLM": {"max_position_embeddings": 2048, "num_experts_per_tok": 2},
    "GraniteMoeHybridForCausalLM": {
        "max_position_embeddings": 2048,
        "shared_intermediate_size": 1024,
        "num_experts_per_tok": 2,
    },
    "Starcoder2ForCausalLM": {"max_position_embeddings": 4096, "num_key_value_heads": 2},
    "StableLmForCausalLM": {"max_position_embeddings": 4096, "num_key_value_heads": 32},
    "GlmForCausalLM": {"max_position_embeddings": 131072, "num_key_value_heads": 2, "head_dim": 128},
    "Glm4ForCausalLM": {"max_position_embeddings": 131072, "num_key_value_heads": 2, "head_dim": 128},
    "Ernie4_5ForCausalLM": {"max_position_embeddings": 131072, "num_key_value_heads": 2, "head_dim": 128},
    "CohereForCausalLM": {"max_position_embeddings": 8192},
    "Cohere2ForCausalLM": {"max_position_embeddings": 8192},
    "CwmForCausalLM": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "head_dim": 128},
    "Jais2ForCausalLM": {"max_position_embeddings": 8192},
    "HyperCLOVAXForCausalLM": {"max_position_embeddings": 2048},
    "VaultGemmaForCausalLM": {"max_position_embeddings": 8192, "num_key_value_heads": 4, "head_dim": 256},
    "FlexOlmoForCausalLM": {"max_position_embeddings": 4096, "num_experts_per_tok": 5},
    "MiniMaxM2ForCausalLM": {
        "max_position_embeddings": 196608,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_experts_per_tok": 8,
    },
    "Dots1ForCausalLM": {"max_position_embeddings": 2048, "num_key_value_heads": 32, **_ONE_GROUP}
    | {"moe_intermediate_size": 1408},
    "Glm4MoeForCausalLM": _GLM_MOE | {"moe_intermediate_size": 1408},
    "SolarOpenForCausalLM": _GLM_MOE | {"moe_intermediate_size": 1280, "head_dim": 128},
    "ExaoneMoeForCausalLM": {
        "max_position_embeddings": 2048,
        "num_key_value_heads": 32,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1024,
        **_ONE_GROUP,
    },
    "Ernie4_5_MoeForCausalLM": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 1536,
    },
    "PersimmonForCausalLM": {"max_position_embeddings": 16384},
    "NanoChatForCausalLM": {"max_position_embeddings": 2048},
    "CTRLLMHeadModel": {"n_positions": 256, "dff": 8192},
    "GraniteSWAForCausalLM": {"max_position_embeddings": 8192, "num_key_value_heads": 4},
    "GraniteMoeSWAForCausalLM": {"max_position_embeddings": 2048, "num_experts_per_tok": 2},
    "Cohere2MoeForCausalLM": {"max_position_embeddings": 8192, "num_experts_per_tok": 2, "head_dim": 128},
    "HYV3ForCausalLM": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1536,
    },
    "ApertusForCausalLM": {"max_position_embeddings": 65536},
    "AfmoeForCausalLM": {
        "max_position_embeddings": 16384,
        "head_dim": 128,
        "moe_intermediate_size": 1408,
        "num_experts_per_tok": 6,
    },
    "PhimoeForCausalLM": {"max_position_embeddings": 131072, "num_key_value_heads": 8},
    "GPTNeoXJapaneseForCausalLM": {"max_position_embeddings": 2048},
    "XGLMForCausalLM": {
        "max_position_embeddings": 2048,
        "d_model": 1024,
        "ffn_dim": 4096,
        "num_layers": 24,
        "attention_heads": 16,
    },
    "OpenAIGPTLMHeadModel": {"n_positions": 512},
    "CodeGenForCausalLM": {"n_positions": 2048},
    "GPT2LMHeadModel": {"n_positions": 1024},
    "GPTBigCodeForCausalLM": {"n_positions": 1024},
    "GPTJForCausalLM": {"n_positions": 2048},
    "GPTNeoForCausalLM": {"max_position_embeddings": 2048},
    "ArceeForCausalLM": {"max_position_embeddings": 4096},
    "SeedOssForCausalLM": {"max_position_embeddings": 524288, "num_key_value_heads": 8, "head_dim": 128},
    "GPTNeoXForCausalLM": {"max_position_embeddings": 2048},
    "OPTForCausalLM": {"max_position_embeddings": 2048},
    "MiniCPM3ForCausalLM": {
        "max_position_embeddings": 32768,
        "q_lora_rank": 768,
        "kv_lora_rank": 256,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "dim_model_base": 256,
    },
    "ModernBertDecoderForCausalLM": {"max_position_embeddings": 8192},
    "BioGptForCausalLM": {"max_position_embeddings": 1024},
    "FalconForCausalLM": {"max_position_embeddings": 2048},
    "GptOssForCausalLM": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_experts_per_tok": 4,
    },
    "DeepseekV2ForCausalLM": {
        "max_position_embeddings": 2048,
        "moe_intermediate_size": 1407,
        **_LATENT,
    },
    "DeepseekV3ForCausalLM": {
        "max_position_embeddings": 4096,
        "moe_intermediate_size": 2048,
        "num_experts_per_tok": 8,
        "topk_group": 4,
        **_LATENT,
    },
    "Glm4MoeLiteForCausalLM": {
        **_LATENT,
        "max_position_embeddings": 202752,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        "n_routed_experts": 64,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1536,
        **_ONE_GROUP,
    },
    "YoutuForCausalLM": {"max_position_embeddings": 131072, **_LATENT},
    "T5ForConditionalGeneration": {**_MT5, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "LongT5ForConditionalGeneration": {**_MT5, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "MT5ForConditionalGeneration": _MT5,
    "UMT5ForConditionalGeneration": _MT5,
    "BartForConditionalGeneration": _BART,
    "MBartForConditionalGeneration": _BART,
    "PegasusForConditionalGeneration": _BART,
    "MarianMTModel": _BART,
    "M2M100ForConditionalGeneration": _BART,
    "MvpForConditionalGeneration": _BART,
    "LEDForConditionalGeneration": {key: n for key, n in _BART.items() if "max" not in key},
    **{f"PLBartFor{end}": _PLBART for end in ("ConditionalGeneration", "CausalLM")},
    **{f"BlenderbotSmallFor{end}": _SMALL for end in ("ConditionalGeneration", "CausalLM")},
    **{f"BlenderbotFor{end}": _BLENDERBOT for end in ("ConditionalGeneration", "CausalLM")},
    **{f"{stem}ForCausalLM": _BART for stem in ("Bart", "MBart", "Mvp", "Pegasus", "Marian")},
    # Encoders, whatever head they have.
    "T5Encoder": {**_MT5, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "LongT5Encoder": {**_MT5, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "MT5Encoder": _MT5,
    "UMT5Encoder": _MT5,
    **{
        stem: {"max_position_embeddings": 512}
        for stem in (
            *("Bert", "DPR", "Ernie", "MegatronBert", "Electra", "Albert", "MPNet", "DebertaV2"),
            *(
                "Deberta",
                "RemBert",
                "Roberta",
                "XLMRoberta",
                "Camembert",
                "Data2VecText",
                "RobertaPreLayerNorm",
            ),
        )
    },
    "XLMRobertaXL": {"max_position_embeddings": 512, "type_vocab_size": 1},
    "JinaEmbeddingsV3": {"max_position_embeddings": 8194},
    "OpenAIPrivacyFilter": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "num_experts_per_tok": 4,
    },
    "Longformer": {"max_position_embeddings": 512},
    "BigBird": {"max_position_embeddings": 4096},
    "Gte": {"max_position_embeddings": 8192},
    "RoFormer": {"max_position_embeddings": 1536},
    "ModernBert": {"max_position_embeddings": 8192},
    "EuroBert": {"max_position_embeddings": 8192},
    "NomicBert": {"max_position_embeddings": 2048},
}

# The ids that end a text, by `model_type`; transformers writes them down whatever the size of the vocabulary.
EOS_OF_CLASS: Mapping[str, Sequence[int]] = {
    **dict.fromkeys(("gpt2", "gpt-sw3", "gptj", "gpt_neo", "gpt_bigcode", "starcoder2", "codegen"), (50256,)),
    **dict.fromkeys(("olmo", "olmo2", "olmo3", "olmoe"), (50279,)),
    **dict.fromkeys(("cohere", "cohere2", "cohere2_moe"), (255001,)),
    **dict.fromkeys(("glm", "glm4"), (151329, 151336, 151338)),
    "phi3": (32000,),
    **dict.fromkeys(("smollm3", "eurobert", "arcee", "youtu"), (128001,)),
    **dict.fromkeys(("modernbert", "modernbert-decoder"), (50282,)),
    "exaone": (361,),
    "rembert": (313,),
    "cwm": (128001, 128008, 128009),
    "jais2": (150024,),
    "minimax_m2": (200020,),
    **dict.fromkeys(("flex_olmo", "granite_swa"), (100257,)),
    "exaone_moe": (53,),
    "gpt_neox_japanese": (31999,),
    "openai_privacy_filter": (199999,),
}


# Second names of settings, by the architecture's file or, where its classes differ, its name, that
# transformers' classes take and that go before the first ones, as there (`attribute_map`).
_GPT = {"hidden_size": "n_embd", "max_position_embeddings": "n_positions"}
_GPT |= {"num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
_T5 = {"hidden_size": "d_model", "num_attention_heads": "num_heads"}
_T5 |= {"head_dim": "d_kv"}  # and num_hidden_layers, t5_half.py
_FAIRSEQ = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}
_LAYERS = "num_hidden_layers"
SECOND_NAMES: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("gpt2", "gptj", "gpt_bigcode", "openai_gpt", "codegen", "ctrl"), _GPT),
    "xglm": {"hidden_size": "d_model", "num_attention_heads": "attention_heads", _LAYERS: "num_layers"},
    "gpt_neo": {"num_attention_heads": "num_heads", _LAYERS: "num_layers"},
    **dict.fromkeys(("t5", "t5_encoder"), _T5),
    **{key: {**_FAIRSEQ, _LAYERS: "encoder_layers"} for key in ("bart", "pegasus", "m2m_100", "led")},
    "falcon": {"n_embed": "hidden_size"},
    "mpt": {"hidden_size": "d_model", "num_attention_heads": "n_heads", _LAYERS: "n_layers"},
    "bloom": {"num_attention_heads": "n_head", _LAYERS: "n_layer"},
    "distilbert": {"hidden_size": "dim", "num_attention_heads": "n_heads", _LAYERS: "n_layers"},
    "granite_hybrid": {"layers_block_type": "layer_types"},
    **{key: {"num_experts": "num_local_experts"} for key in ("mixtral", "minimax_m2", "gpt_oss", "mellum")},
    **{
        key: {"num_local_experts": "num_experts"}
        for key in ("olmoe", "flex_olmo", "hy_v3", "Qwen3MoeForCausalLM")
    },
    "DeepseekV2ForCausalLM": {"num_experts": "n_routed_experts"},
    **{
        key: {"num_local_experts": "n_routed_experts"}
        for key in ("DeepseekV3ForCausalLM", "glm4_moe", "dots1")
    },
    "Glm4MoeLiteForCausalLM": {
        "num_local_experts": "n_routed_experts",
        "head_dim": "qk_rope_head_dim",
    },
    "HunYuanMoEV1ForCausalLM": {"num_experts_per_tok": "moe_topk", "num_local_experts": "num_experts"},
    "ExaoneForCausalLM": {
        "num_layers": _LAYERS,
        "layer_norm_epsilon": "rms_norm_eps",
        "activation_function": "hidden_act",
    },
    "InternLM3ForCausalLM": {"qkv_bias": "attention_bias", "bias": "mlp_bias"},
    "ernie_moe": {"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
}


def second_names(name: str, file: str) -> Mapping[str, str]:
    """Those of the architecture `name`, which lies in `file`."""
    return SECOND_NAMES.get(name) or SECOND_NAMES.get(file, {})


def first_names(settings: Mapping[str, Any], second_names: Mapping[str, str]) -> dict[str, Any]:
    """`settings`, with those that have a second name under the first one.

    A `num_hidden_layers` of BART's kin counts where there is no `encoder_layers`: beside it, files of
    transformers 4 may have one that never meant anything.
    """
    named = {
        first: settings[second]
        for second, first in second_names.items()
        if settings.get(second) is not None and not (first == "encoder_layers" and first in settings)
    }
    return {**settings, **named}


def usual_of(name: str) -> Mapping[str, int]:
    """The settings that the class of the architecture `name` fills in."""
    name = name.replace("DoubleHeadsModel", "LMHeadModel")
    encoder = re.sub(r"(For[A-Z]\w*|(LMHead)?Model|(Context|Question)Encoder)$", "", name)
    return CLASS_DEFAULTS.get(name) or CLASS_DEFAULTS.get(encoder, {})
