"""GPT-2 and its kin, whose settings have names of their own, as `architecture_table.py` has the others."""

from __future__ import annotations

from typing import Any

from architecture_cases import N_VOCAB, WINDOW, cases_of

_GPT: dict[str, Any] = {
    "vocab_size": N_VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

GPT_CASES = [
    *cases_of(
        "OpenAIGPTLMHeadModel",
        "openai-gpt",
        _GPT,
        plain={},
        untied_inner_width_of_no_effect={"tie_word_embeddings": False, "afn": "relu", "n_inner": 96},
    ),
    *cases_of(
        "CTRLLMHeadModel",
        "ctrl",
        _GPT,
        plain={"dff": 96},
        odd_width_untied={"dff": 40, "n_embd": 45, "n_head": 3, "tie_word_embeddings": False},
    ),
    *cases_of(
        "CodeGenForCausalLM",
        "codegen",
        _GPT | {"n_head": 8},
        plain={"rotary_dim": 4},
        tied={"rotary_dim": 8, "n_inner": 96, "tie_word_embeddings": True, "activation_function": "relu"},
    ),
    *cases_of(
        "XGLMForCausalLM",
        "xglm",
        {"d_model": 48, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96, "pad_token_id": 1}
        | {"absent": ["hidden_size", "num_attention_heads", "num_hidden_layers"]},
        plain={},
        untied_no_scale_padding_within={
            "scale_embedding": False,
            "activation_function": "relu",
            "pad_token_id": 5,
            "tie_word_embeddings": False,
        },
    ),
    *cases_of(
        "PersimmonForCausalLM",
        "persimmon",
        {},
        plain={},
        no_norms_tied={"qk_layernorm": False, "partial_rotary_factor": 0.25, "tie_word_embeddings": True},
    ),
    *cases_of(
        "GPTNeoXJapaneseForCausalLM",
        "gpt_neox_japanese",
        {"intermediate_multiple_size": 2},
        plain={},
        partly_rotated_untied={
            "rotary_pct": 0.5,
            "rotary_emb_base": 500,
            "num_hidden_layers": 3,
            "tie_word_embeddings": False,
        },
    ),
    *cases_of(
        "GPT2LMHeadModel",
        "gpt2",
        _GPT,
        plain={},
        untied_inverse_scale={
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
            "n_inner": 96,
            "activation_function": "relu",
        },
        no_scale={"scale_attn_weights": False, "activation_function": "gelu"},
        second_names={
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "absent": ["n_head"],
        },
    ),
    *cases_of(
        "GPTBigCodeForCausalLM",
        "gpt_bigcode",
        _GPT,
        plain={},
        keys_of_each_head_untied={
            "multi_query": False,
            "n_inner": 96,
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
        },
    ),
    *cases_of(
        "GPTNeoForCausalLM",
        "gpt_neo",
        {"num_heads": 4, "num_layers": 2, "absent": ["num_attention_heads", "num_hidden_layers"]},
        plain={"window_size": WINDOW, "attention_types": [[["global", "local"], 1]]},
        local_untied={
            "window_size": 5,
            "attention_types": [[["local"], 2]],
            "num_heads": 8,
            "tie_word_embeddings": False,
        },
    ),
    *cases_of(
        "BioGptForCausalLM",
        "biogpt",
        {"num_key_value_heads": 4},
        plain={},
        untied_no_scale={"scale_embedding": False, "hidden_act": "relu", "tie_word_embeddings": False},
    ),
    *cases_of(
        "MptForCausalLM",
        "mpt",
        {"d_model": 48, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}
        | {"absent": ["hidden_size", "num_attention_heads", "num_hidden_layers"]},
        plain={},
        six_heads_clipped={"n_heads": 6, "attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.4}},
    ),
    *cases_of(
        "GPTJForCausalLM",
        "gptj",
        _GPT,
        plain={"rotary_dim": 8},
        whole_heads={"rotary_dim": 16, "n_inner": 96},
    ),
]
