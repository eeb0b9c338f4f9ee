"""Tiny models of every family as GGUF files, as llama.cpp's converter writes them from the same tensors.

Names of tensors and keys are those of the gguf package, which this writes with; what is done to a tensor on
the way (rows in pairs, experts stacked, 1 added to a gain) is what the converter does for that family.
"""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np

from architecture_files import stored_tensors
from architecture_table import Case
from gguf_family import Family, Tensors, Values
from gguf_kin import KIN
from tiny_files import _llama_tokenizer_metadata
from tuili.loading.config import Config
from tuili.loading.registry import hf_architecture


def _experts(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _more(writer: gguf.GGUFWriter, config: Values) -> None:
    """Keys of the case's own, behind the architecture; an array replaces what is written already."""
    writes = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        list: writer.add_array,
    }
    for key, value in config.get("more", {}).items():
        name = f"{writer.arch}.{key}"
        writer.kv_data[0].pop(name, None)
        writes[type(value)](name, value)


def _llama(writer: gguf.GGUFWriter, config: Values) -> None:
    """A linear factor as files of 2023 have it, and YaRN's settings with those that are not usual."""
    scaling = config.get("rope_scaling") or {}
    _more(writer, config)
    if "divisors" in config:
        writer.add_tensor("rope_freqs.weight", np.array(config["divisors"], np.float32))
    if scaling.get("rope_type") == "linear":
        writer.add_float32("llama.rope.scale_linear", scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])


def _phi3(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_sliding_window(config.get("sliding_window") or 0)
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 1.0)))
    _longrope(writer, config, config.get("original_max_position_embeddings", 128))


def _longrope(writer: gguf.GGUFWriter, config: Values, old: int) -> None:
    scaling = config.get("rope_scaling")
    writer.add_rope_scaling_orig_ctx_len(old)
    if scaling is not None:
        factor = config["max_position_embeddings"] / old
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(factor) / np.log(old))))
        for kind in ("short", "long"):
            writer.add_tensor(f"rope_factors_{kind}.weight", np.array(scaling[f"{kind}_factor"], np.float32))


def _gemma2(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)
    writer.add_sliding_window(config["sliding_window"])


def _gemma3(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_sliding_window(config["sliding_window"])
    if config.get("rope_scaling"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])


def _stablelm(writer: gguf.GGUFWriter, config: Values) -> None:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 0.25)))
    writer.add_parallel_residual(True)  # which the converter writes where config.json is silent


def _olmo(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_layer_norm_eps(1e-5)
    if config.get("clip_qkv"):
        writer.add_clamp_kqv(config["clip_qkv"])


def _olmo3(writer: gguf.GGUFWriter, config: Values) -> None:
    n = config["num_hidden_layers"]
    writer.add_sliding_window(config["sliding_window"])
    writer.add_sliding_window_pattern([(i + 1) % 4 != 0 for i in range(n)])
    if config.get("rope_scaling"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])
        writer.add_rope_scaling_orig_ctx_len(config["rope_scaling"]["original_max_position_embeddings"])


def _cohere(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_logit_scale(config["logit_scale"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    if "sliding_window" in config:
        writer.add_sliding_window(config["sliding_window"])


def _glm(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_rope_dimension_count(int(config["head_dim"] * config.get("partial_rotary_factor", 0.5)))


def _granite(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])
    if config.get("shared_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config["shared_intermediate_size"])
    _more(writer, config)


def _gpt_oss(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_sliding_window(config["sliding_window"])
    writer.add_expert_feed_forward_length(config["intermediate_size"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(32.0)
    writer.add_rope_scaling_orig_ctx_len(4096)


def _halved(tensors: Tensors, config: Values) -> Tensors:
    """Granite's gates and ups, of experts and of what they share, as two tensors."""
    out: Tensors = {}
    for name, x in tensors.items():
        if not name.endswith("input_linear.weight"):
            out[name] = x
            continue
        stem = name.removesuffix("input_linear.weight").replace("block_sparse_moe", "mlp.experts")
        stem = stem.replace("shared_mlp", "mlp.shared_mlp")
        for part, half in zip(("gate", "up"), np.split(x, 2, axis=-2), strict=True):
            out[f"{stem}{part}_proj.weight"] = np.ascontiguousarray(half)
    return out


def _apart(tensors: Tensors, config: Values) -> Tensors:
    """GPT-OSS's experts [n_in, n_out], whose gate and up take turns, as three tensors [n_out, n_in]."""
    out: Tensors = {}
    for name, x in tensors.items():
        if ".experts." not in name:
            out[f"{name}.weight" if name.endswith("sinks") else name] = x
            continue
        biased = name.endswith("_bias")
        stem, end = name.removesuffix("_bias"), ".bias" if biased else ".weight"
        turned = x if biased else np.ascontiguousarray(x.swapaxes(1, 2))
        if not stem.endswith("gate_up_proj"):
            out[stem + end] = turned
            continue
        for i, part in enumerate(("gate_proj", "up_proj")):
            out[stem.replace("gate_up_proj", part) + end] = np.ascontiguousarray(turned[:, i::2])
    return out


def _absorbed(tensors: Tensors, config: Values) -> Tensors:
    """DeepSeek's keys and values apart, the keys turned, in files since 2025."""
    tensors = {name.replace("correction_bias", "correction.bias"): x for name, x in tensors.items()}
    if not config.get("absorbed"):
        return tensors
    out: Tensors = {}
    nope, heads = config["qk_nope_head_dim"], config["num_attention_heads"]
    for name, x in tensors.items():
        if "kv_b_proj" not in name:
            out[name] = x
            continue
        rows = x.reshape(heads, -1, x.shape[1])
        out[name.replace("kv_b", "k_b")] = np.ascontiguousarray(rows[:, :nope].swapaxes(1, 2))
        out[name.replace("kv_b", "v_b")] = np.ascontiguousarray(rows[:, nope:])
    return out


def _neox(writer: gguf.GGUFWriter, config: Values) -> None:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(head_dim * config.get("rotary_pct", 0.25)))
    writer.add_parallel_residual(config.get("use_parallel_residual", True))


def _phi2(writer: gguf.GGUFWriter, config: Values) -> None:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 0.5)))


def _minicpm(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_embedding_scale(config["scale_emb"])
    writer.add_residual_scale(config["scale_depth"] / config["num_hidden_layers"] ** 0.5)
    writer.add_logit_scale(config["hidden_size"] / config["dim_model_base"])
    if config.get("rope_scaling") is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        _longrope(writer, config, config["original_max_position_embeddings"])


def _in_rows(tensors: Tensors, config: Values) -> Tensors:
    """Fused projections, in which each head has its query, key and value, with all queries first."""
    out: Tensors = {}
    heads = config["num_attention_heads"]
    for name, x in tensors.items():
        if "query_key_value" in name or "wqkv" in name:
            n = config["num_key_value_heads"]
            groups = x.reshape(n, heads // n + 2, -1, *x.shape[1:])
            parts = [groups[:, :-2], groups[:, -2], groups[:, -1]]
            rows = [part.reshape(-1, *x.shape[1:]) for part in parts]
            if "wqkv" in name:
                pairs = [_pairs(rows[0], heads), _pairs(rows[1], n), rows[2]]
                out |= {name.replace("wqkv", f"w{part}"): y for part, y in zip("qkv", pairs, strict=True)}
                continue
            x = np.concatenate(rows)
        out[name] = x
    return out


def _split(tensors: Tensors, config: Values) -> Tensors:
    """Baichuan's fused projection as three."""
    out: Tensors = {}
    for name, x in tensors.items():
        if "W_pack" in name:
            names = [name.replace("W_pack", f"{part}_proj") for part in "qkv"]
            out |= dict(zip(names, np.split(x, 3), strict=True))
        else:
            out[name] = x
    return out


def _turned(tensors: Tensors, config: Values) -> Tensors:
    """GPT-2's matrices, [n_in, n_out] there."""
    return {
        name: np.ascontiguousarray(x.T) if re.search(r"\.c_\w+\.weight$", name) else x
        for name, x in tensors.items()
    }


def _deepseek(writer: gguf.GGUFWriter, config: Values) -> None:
    third = config["architectures"] == ["DeepseekV3ForCausalLM"]
    if config.get("q_lora_rank") is not None:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(config["kv_lora_rank"])
    writer.add_leading_dense_block_count(config.get("first_k_dense_replace", 0))
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_count(config.get("n_shared_experts", 1 if third else 2))
    writer.add_expert_weights_scale(config.get("routed_scaling_factor", 2.5 if third else 1.0))
    writer.add_expert_weights_norm(config.get("norm_topk_prob", third))
    writer.add_expert_gating_func(
        gguf.ExpertGatingFuncType.SIGMOID if third else gguf.ExpertGatingFuncType.SOFTMAX
    )
    if config.get("n_group"):
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])
    rope, nope, value = (config[f"{key}_head_dim"] for key in ("qk_rope", "qk_nope", "v"))
    writer.add_rope_dimension_count(rope)
    if config.get("absorbed"):
        writer.add_key_length(config["kv_lora_rank"] + rope)
        writer.add_value_length(config["kv_lora_rank"])
        writer.add_key_length_mla(nope + rope)
        writer.add_value_length_mla(value)
    else:
        writer.add_key_length(nope + rope)
        writer.add_value_length(value)
    scaling = config.get("rope_scaling")
    if scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])


A = gguf.MODEL_ARCH
_TIED = {"tie_word_embeddings": True}
_LONG = {
    "original_max_position_embeddings": 32,
    "sliding_window": None,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0 + 0.25 * i for i in range(6)],
        "long_factor": [2.0 + 0.25 * i for i in range(6)],
    },
    "partial_rotary_factor": 0.75,
}
_LONG_WHOLE = {
    "original_max_position_embeddings": 32,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0 + 0.25 * i for i in range(8)],
        "long_factor": [2.0 + 0.25 * i for i in range(8)],
    },
}
_NORMALIZED, _NO_WINDOW = {"norm_topk_prob": True}, {"sliding_window": None}
_NORMS_BIASES = {"qk_layernorm": True, "use_qkv_bias": True}
_YARN = {
    "rope_scaling": {
        "type": "yarn",
        "factor": 4.0,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 32,
    }
}
_YARN_OF_4 = {
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "rope_theta": 5e5,
}
_GREEDY, _TOP = {"n_group": None, "topk_group": None}, {"topk_group": 2}
_GROUPS = {
    "topk_method": "group_limited_greedy",
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 24,
    "routed_scaling_factor": 1.5,
    **_YARN,
}
_BIASES = {"attention_bias": True, "mlp_bias": True}
_SCALAR = {"query_pre_attn_scalar": 16}
_LINEAR_ROPE = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
_OTHER_BETAS = {"rope_scaling": _YARN_OF_4["rope_scaling"] | {"beta_fast": 4.0, "beta_slow": 2.0}}
_LINEAR = {"max_position_embeddings": None, "model_max_length": 128}
_FALCONS: tuple[Values, ...] = (
    {},
    {"new_decoder_architecture": True, "num_kv_heads": 2, "leave_out": r"input_layernorm|post_attention"},
    {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
)
FAMILIES = [
    Family(
        "LlamaForCausalLM",
        A.LLAMA,
        ({}, _TIED | _BIASES, _LINEAR_ROPE, _OTHER_BETAS),
        _llama,
        alone={3: "it takes the usual betas, whatever a file of this family says"},
        turned=True,
    ),
    Family("MixtralForCausalLM", A.LLAMA, ({}, {"num_experts_per_tok": 3, **_TIED}), _llama, turned=True),
    Family("Qwen2ForCausalLM", A.QWEN2, ({}, _TIED)),
    Family("Qwen3ForCausalLM", A.QWEN3, ({}, _TIED)),
    Family("Qwen2MoeForCausalLM", A.QWEN2MOE, ({}, {"num_experts": 4, **_TIED}), _experts, alone={1: "tied"}),
    Family("Qwen3MoeForCausalLM", A.QWEN3MOE, (_NORMALIZED, _NORMALIZED | _TIED), _experts),
    Family(
        "Phi3ForCausalLM",
        A.PHI3,
        ({}, _LONG | _TIED, _NO_WINDOW),
        _phi3,
        alone={0: "it leaves windows out"},
    ),
    Family("GemmaForCausalLM", A.GEMMA, ({}, {"num_key_value_heads": 1}), raised=True),
    Family("Gemma2ForCausalLM", A.GEMMA2, ({"query_pre_attn_scalar": 16},), _gemma2, raised=True),
    Family("Gemma3ForCausalLM", A.GEMMA3, (_SCALAR, _SCALAR | _LINEAR_ROPE), _gemma3, raised=True),
    Family("SmolLM3ForCausalLM", A.SMOLLM3, ({}, {"tie_word_embeddings": False}), turned=True),
    Family("OlmoForCausalLM", A.OLMO, ({}, {"clip_qkv": 0.5, **_TIED}), _olmo, turned=True),
    Family("Olmo2ForCausalLM", A.OLMO2, ({}, {"num_key_value_heads": 2, **_TIED}), alone={1: "grouped"}),
    Family("Olmo3ForCausalLM", A.OLMO2, ({}, _YARN_OF_4), _olmo3),
    Family("OlmoeForCausalLM", A.OLMOE, ({"num_key_value_heads": 4}, _TIED), alone={1: "grouped, tied"}),
    Family("GraniteForCausalLM", A.GRANITE, ({}, _TIED), _granite, turned=True),
    Family("GraniteMoeForCausalLM", A.GRANITE_MOE, ({}, _TIED), _granite, _halved, turned=True),
    Family("GraniteMoeSharedForCausalLM", A.GRANITE_MOE, ({},), _granite, _halved, turned=True),
    Family(
        "Starcoder2ForCausalLM",
        A.STARCODER2,
        (_NO_WINDOW, _NO_WINDOW | {"use_bias": False, "tie_word_embeddings": False}),
        alone={1: "no biases"},
    ),
    Family(
        "StableLmForCausalLM",
        A.STABLELM,
        ({}, {"use_parallel_residual": True, **_NORMS_BIASES, "partial_rotary_factor": 0.5}),
        _stablelm,
    ),
    Family("GlmForCausalLM", A.CHATGLM, ({}, {"attention_bias": False, **_TIED}), _glm),
    Family("Glm4ForCausalLM", A.GLM4, ({}, {"attention_bias": False, "head_dim": 24}), _glm),
    Family("Ernie4_5ForCausalLM", A.ERNIE4_5, ({}, {"tie_word_embeddings": False})),
    Family(
        "GptOssForCausalLM", A.GPT_OSS, ({}, {"attention_bias": False}), _gpt_oss, _apart, {1: "no biases"}
    ),
    Family(
        "DeepseekV2ForCausalLM",
        A.DEEPSEEK2,
        (_GREEDY, _GROUPS, _GROUPS | {"absorbed": True}),
        _deepseek,
        _absorbed,
    ),
    Family(
        "DeepseekV3ForCausalLM", A.DEEPSEEK2, (_TOP, _TOP | {"absorbed": True, **_YARN}), _deepseek, _absorbed
    ),
    Family("MistralForCausalLM", A.LLAMA, (_NO_WINDOW,), turned=True),
    Family("GPT2LMHeadModel", A.GPT2, ({}, {"tie_word_embeddings": False, "n_inner": 96}), stored=_turned),
    Family(
        "GPTNeoXForCausalLM",
        A.GPTNEOX,
        ({}, {"use_parallel_residual": False, "rotary_pct": 1.0, "tie_word_embeddings": True}),
        _neox,
        _in_rows,
        {1: "tied"},
    ),
    Family("PhiForCausalLM", A.PHI2, ({}, {"partial_rotary_factor": 0.25}), _phi2),
    Family("FalconForCausalLM", A.FALCON, _FALCONS, stored=_in_rows),
    Family("BloomForCausalLM", A.BLOOM, ({}, {"tie_word_embeddings": False}), stored=_in_rows),
    Family("InternLM2ForCausalLM", A.INTERNLM2, stored=_in_rows),
    Family(
        "BaichuanForCausalLM",
        A.BAICHUAN,
        ({"num_hidden_layers": 32}, {"num_hidden_layers": 40, **_LINEAR}),
        stored=_split,
        turned=True,
    ),
    Family("MiniCPMForCausalLM", A.MINICPM, ({}, _TIED, _LONG_WHOLE), _minicpm, turned=True),
    Family(
        "CohereForCausalLM",
        A.COMMAND_R,
        ({}, {"use_qk_norm": True}),
        _cohere,
        alone={1: "norms of few layers"},
    ),
    Family("Cohere2ForCausalLM", A.COHERE2, ({"num_hidden_layers": 4},), _cohere),
    *KIN,
]


# Class of config.json -> `general.architecture` of GGUF files that are tested.
GGUF_NAMES = {family.architecture: gguf.MODEL_ARCH_NAMES[family.arch] for family in FAMILIES}


def write_widths(writer: gguf.GGUFWriter, config: Values) -> None:
    """What the converter writes for every model."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])


def _write_sizes(writer: gguf.GGUFWriter, config: Values) -> None:
    """What the converter writes for every model of text."""
    write_widths(writer, config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if key in config:
            writer.add_expert_count(config[key])
            writer.add_expert_used_count(config.get("moe_topk") or config["num_experts_per_tok"])


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    values = _llama_tokenizer_metadata()
    writer.add_tokenizer_model(values["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(values["tokenizer.ggml.pre"])
    writer.add_token_list(values["tokenizer.ggml.tokens"])
    writer.add_token_types(values["tokenizer.ggml.token_type"])
    writer.add_token_merges(values["tokenizer.ggml.merges"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def _stacked(tensors: Tensors) -> Tensors:
    """Experts, and norms of single heads, that lie one by one, as one tensor each."""
    out: Tensors = {}
    groups: dict[str, list[np.ndarray]] = {}
    for name, x in tensors.items():
        number = re.search(r"(?<=experts)\.(\d+)(?=\.)|\.norms\.(\d+)(?=\.)", name)
        if number is None:
            out[name] = x
        else:  # in order, as they were made
            groups.setdefault(name[: number.start()] + name[number.end() :], []).append(x)
    return out | {name: np.stack(parts) for name, parts in groups.items()}


def _pairs(x: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of each head: halves side by side become pairs."""
    rows = x.reshape(n_heads, 2, len(x) // n_heads // 2, *x.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(x.shape)


def write(family: Family, case: Case, path: Path, *, mxfp4: bool = False, flat: bool = False) -> Path:
    """The case as a GGUF file.

    mxfp4  experts in this format
    flat   matrices of one row as vectors
    """
    config = Config(dict(case.config), "config.json")
    _, module = hf_architecture(config)
    spec = module.spec(config)
    config_values = case.config | config.values
    config_values["num_key_value_heads"] = 1 if case.config.get("absorbed") else spec.layers[0].n_kv_heads
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[family.arch])
    _write_sizes(writer, config_values)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_layer_norm_eps(spec.norm_eps)
    if (theta := _theta(case)) is not None:
        writer.add_rope_freq_base(theta)
    family.settings(writer, config_values)
    _write_tokenizer(writer)
    names = gguf.get_tensor_name_map(family.arch, config_values["num_hidden_layers"])
    tensors = _stacked(stored_tensors(case, config, module))
    for name, x in family.stored(tensors, config_values).items():
        if family.turned and re.search(r"(q|k)_proj\.(weight|bias)$", name):
            heads = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
            x = _pairs(x, config_values[heads])
        if family.raised and "norm" in name:
            x = x + np.float32(1)
        ends = (".weight", ".bias")
        theirs = names.get_name(name, ends) or names.get_name(name.removeprefix("transformer."), ends)
        assert theirs is not None, f"the gguf package has no name for {name}"
        if mxfp4 and theirs.endswith("_exps.weight"):
            kind = gguf.GGMLQuantizationType.MXFP4
            writer.add_tensor(theirs, gguf.quants.quantize(x, kind), raw_dtype=kind)
        else:
            writer.add_tensor(theirs, x[0] if flat and len(x) == 1 else x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_THETAS = {
    "Ernie4_5_MoeForCausalLM": 5e5,
    "MiniMaxM2ForCausalLM": 5e6,
    "Olmo3ForCausalLM": 5e5,
    "Gemma3ForCausalLM": 1e6,
    "GptOssForCausalLM": 1.5e5,
    "MixtralForCausalLM": 1e6,
    "SmolLM3ForCausalLM": 2e6,
    "CohereForCausalLM": 5e5,
    "Ernie4_5ForCausalLM": 5e5,
}


def _theta(case: Case) -> float | None:
    """The base of rotations; where config.json is silent, the class's own, and none where it is null."""
    theta = case.config.get("rope_theta", _THETAS.get(case.architecture, 10_000.0))
    return None if theta is None else float(theta)
